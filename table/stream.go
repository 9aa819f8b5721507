package table

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
)

// again is when a destination that could not be added is tried again.
const again = time.Second

// stream is a live stream. Its goroutine alone adds and ends the destinations that the
// Table has on it.
type stream struct {
	t    *Table
	src  *forward.Source
	wake chan struct{} // holds one

	mu     sync.Mutex
	begun  map[string]beginning // by GoLive
	pushes map[string]*push     // by the names of entries; changed by the goroutine alone
}

// beginning is a call of GoLive.
type beginning struct {
	turned uint64 // of the item: a later switch ends it
	call   uint64
}

// push is an entry's destination on a stream. It is not changed.
type push struct {
	of   *item
	call uint64             // the last one of GoLive
	f    *forward.Forwarder // nil with err
	err  error
}

// OnSource pushes a live stream to the entries that are on, and follows changes until the
// stream ends. It is forward.Hooks.OnSource, or is called by that.
func (t *Table) OnSource(src *forward.Source) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.live[src] != nil {
		return
	}
	s := &stream{
		t: t, src: src, wake: make(chan struct{}, 1),
		begun: make(map[string]beginning), pushes: make(map[string]*push),
	}
	t.live[src] = s
	t.wg.Go(s.run)
}

// look makes the stream's goroutine look at the table.
func (s *stream) look() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// begin starts an entry that is held.
func (s *stream) begin(i *item, call uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun[i.Name] = beginning{i.turned, call}
	s.look()
}

// wants reports whether the stream is to be pushed to an entry that is for it.
func (s *stream) wants(i *item) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return i.State == On || i.State == Held && s.begun[i.Name].turned == i.turned
}

// pushed returns an entry's Forwarder.
func (s *stream) pushed(name string) (*forward.Forwarder, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pushes[name]
	if p == nil {
		return nil, nil
	}
	return p.f, p.err
}

func (s *stream) run() {
	defer func() {
		s.t.mu.Lock()
		defer s.t.mu.Unlock()
		delete(s.t.live, s.src)
	}()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		retry.Stop()
		if s.follow() {
			retry.Reset(again)
		}
		select {
		case <-s.wake:
		case <-retry.C:
		case <-s.src.Done():
			return
		case <-s.t.done:
			return
		}
	}
}

// follow makes the stream's destinations those of the table. It reports whether some could
// not be added and are to be tried again.
func (s *stream) follow() (retry bool) {
	items := *s.t.items.Load()
	for name, p := range s.pushes {
		if i := items[name]; i == nil || !i.covers(s.src.Name()) || !s.wants(i) {
			s.end(p)
			s.set(name, nil)
		}
	}
	for _, i := range sorted(items) {
		if !i.covers(s.src.Name()) || !s.wants(i) {
			continue
		}
		p := s.push(i)
		if errors.Is(p.err, forward.ErrStreamEnded) {
			return false
		}
		s.set(i.Name, p)
		retry = retry || p.err != nil
	}
	return retry
}

// push returns the push of an entry, which it begins unless it is there.
func (s *stream) push(i *item) *push {
	s.mu.Lock()
	old, call := s.pushes[i.Name], s.begun[i.Name].call
	s.mu.Unlock()
	p := &push{of: i, call: call}
	if old != nil && old.f != nil {
		asked := old.of != i || old.call != call
		same := old.of.put == i.put || old.of.Destination.Equal(i.Destination)
		if same && !(asked && old.f.Ending()) {
			p.f = old.f
			return p
		}
		s.end(old)
	}
	var d forward.Destination
	if d, p.err = i.destination(s.src.Request()); p.err == nil {
		p.f, p.err = s.src.Forward(d)
	}
	if p.err != nil && !errors.Is(p.err, forward.ErrStreamEnded) && (old == nil || old.err == nil || old.err.Error() != p.err.Error()) {
		s.t.log.Warn("destination of the table not pushed", "source", s.src, "name", i.Name, "err", p.err)
	}
	return p
}

// end ends a push without waiting for it.
func (s *stream) end(p *push) {
	if p.f == nil {
		return
	}
	s.t.wg.Go(func() {
		p.f.Shutdown(context.Background())
		s.look() // the place is free
	})
}

func (s *stream) set(name string, p *push) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == nil {
		delete(s.pushes, name)
	} else {
		s.pushes[name] = p
	}
}
