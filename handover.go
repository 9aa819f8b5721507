package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Update replaces f's destination by d: the Forwarder that it returns takes over,
// and f ends. The new connection publishes before the old one is closed, and the
// switch is at a keyframe. The old destination gets everything before it and is
// told that the stream has ended; the new one gets everything from there on. If f
// is not publishing, the new one begins as with Source.Forward.
//
// If the first attempt to reach d fails, or ctx or the stream ends before the
// switch, Update returns the error and f continues unchanged. The same holds if d
// is the place that f already pushes to, with other options: a server refuses to
// have one stream published twice.
//
// Limits on destinations do not apply, although there are two for a moment. Update
// returns ErrDuplicate if another Forwarder pushes the stream to d, and
// ErrUpdating if f is being updated or closed.
//
// From a hook Update returns the new Forwarder with ErrInHook and ignores ctx: the
// new one either takes over, or is closed while f continues.
//
// Refresh does not remove the new one, as with Source.Forward, and brings back a
// destination that the Resolver still gives.
func (f *Forwarder) Update(ctx context.Context, d Destination) (*Forwarder, error) {
	n, err := newForwarder(f.src, d)
	if err != nil {
		return nil, err
	}
	n.begun = make(chan struct{})
	n.replaces.Store(f)
	f.mu.Lock()
	busy := f.heir != nil || f.stop || f.isHeir()
	if !busy {
		f.heir = n
	}
	f.mu.Unlock()
	if busy {
		n.cancel()
		return nil, fmt.Errorf("destination %s: %w", f.dst, ErrUpdating)
	}
	if err := f.src.forward(n); err != nil {
		f.disown(n)
		return nil, err
	}
	if hostcode.Within() {
		f.src.background(func() { f.replace(context.Background(), n) })
		return n, ErrInHook
	}
	if err := f.replace(orBackground(ctx), n); err != nil {
		return nil, err
	}
	return n, nil
}

// replace waits until n has taken over, or does not.
func (f *Forwarder) replace(ctx context.Context, n *Forwarder) error {
	var err error
	select {
	case <-n.begun:
		return nil
	case <-n.done:
		err = first(n.Stats().LastErr, ErrStreamEnded)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if !f.disown(n) {
		<-n.begun
		return nil
	}
	n.cancel()
	return fmt.Errorf("replace %s: %w", f.dst, err)
}

// takeOver begins to send by calling attach: where the forwarder stops that f
// replaces, or where a new one begins.
func (f *Forwarder) takeOver(attach func(from uint64)) {
	old := f.replaces.Load()
	if old == nil {
		attach(0)
		return
	}
	old.yield(f, func(from uint64) {
		attach(from)
		f.replaces.Store(nil)
		close(f.begun)
	})
}

// isHeir reports whether f is to replace another, and has not done so yet.
func (f *Forwarder) isHeir() bool {
	if f.begun == nil {
		return false
	}
	select {
	case <-f.begun:
		return false
	default:
		return true
	}
}

// yield ends f, and then has n begin: at once when f sends nothing, else where
// f has stopped before a keyframe.
func (f *Forwarder) yield(n *Forwarder, succeed func(from uint64)) {
	f.mu.Lock()
	if f.heir != n {
		f.mu.Unlock()
		return
	}
	f.succeed = succeed
	out := f.out
	f.mu.Unlock()
	if out != nil {
		out.StopAtKeyframe()
		return
	}
	f.bequeath(0)
}

// bequeath has the heir begin, and ends f, if there is one that waits, which it
// reports. After the end of the stream there is nothing left for an heir.
func (f *Forwarder) bequeath(from uint64) bool {
	f.mu.Lock()
	succeed := f.succeed
	if f.src.log.Ended() {
		f.heir, f.succeed, succeed = nil, nil, nil
	}
	if succeed != nil {
		f.heir.inherited.Store(true)
		f.src.srv.countPush(f.heir, true)
		f.heir, f.succeed = nil, nil
		f.stop = true
		f.endLocked()
	}
	f.mu.Unlock()
	if succeed == nil {
		return false
	}
	succeed(from)
	return true
}

// disown takes back what Update has promised n. It is false when n has taken
// over, or is about to.
func (f *Forwarder) disown(n *Forwarder) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n.inherited.Load() {
		return false
	}
	if f.heir == n {
		f.heir, f.succeed = nil, nil
	}
	return true
}

// move is how a connection gives way to another one. Its fields are guarded by
// Forwarder.mu.
type move struct {
	done    chan struct{} // closed when next is known; nil: nobody has asked
	cancel  context.CancelFunc
	next    *successor // nil: nobody
	passed  bool       // next has the place
	sending bool       // began in the place of another
}

// successor is who goes on when a connection ends.
type successor struct {
	at   endpoint.Endpoint
	link *link  // nil: to be made
	from uint64 // the message to go on with; 0: as a new one
}

// reconnect does what a ReconnectRequest asks for. It is called by the goroutine
// that watches l, which later waits in successor.
func (f *Forwarder) reconnect(l *link, ref string) {
	at, err := f.redirected(l.At, ref)
	if err != nil {
		f.report(slog.LevelWarn, "request to reconnect not followed", "to", endpoint.Redact(ref, true), "err", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	soon := !f.moved.IsZero() && time.Since(f.moved) < moveEvery
	if soon || l.move.done != nil || f.stop || f.out != l.Out {
		return
	}
	f.moved = time.Now()
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan struct{})
	l.move.done, l.move.cancel = done, cancel
	go func() {
		defer close(done)
		if err := hostcode.Protect(func() { f.prepare(ctx, l, at) }); err != nil {
			f.log.Error("panic", "err", err)
		}
	}()
}

// prepare makes the connection that takes l's place, and has l stop before a
// keyframe.
func (f *Forwarder) prepare(ctx context.Context, l *link, at endpoint.Endpoint) {
	next := &successor{at: at}
	var err *DestinationError
	if next.link, err = f.open(ctx, at, false); err != nil {
		var refused *rtmp.StatusError
		if !errors.As(err.Err, &refused) || refused.Command != "publish" {
			f.report(slog.LevelWarn, "request to reconnect not followed", "err", err)
			return
		}
		next.link = nil // it may well take the stream when l has gone
	}
	f.mu.Lock()
	l.move.next = next
	f.mu.Unlock()
	l.Out.StopAtKeyframe()
}

// moveOn gives l's place, which has stopped before a message, to its successor.
// It is false where there is none.
func (f *Forwarder) moveOn(l *link, from uint64) bool {
	f.mu.Lock()
	next := l.move.next
	if next == nil || f.stop || f.out != l.Out || f.src.log.Ended() {
		f.mu.Unlock()
		return false
	}
	l.move.passed = true
	next.from = from
	n := next.link
	if n != nil {
		n.move.sending = true
		f.total.add(l.Out.Stats())
		f.total.Accepted++
		f.out, f.client = n.Out, n.Client
	}
	f.mu.Unlock()
	if n != nil {
		f.attach(n, from)
		f.stallChanged() // the other connection may have stalled
	}
	return true
}

// successor is who goes on now that l has ended, or nil.
func (f *Forwarder) successor(l *link) *successor {
	f.mu.Lock()
	done, cancel := l.move.done, l.move.cancel
	f.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
	case <-f.ended:
		cancel()
		<-done
	}
	f.mu.Lock()
	next, passed := l.move.next, l.move.passed
	l.move.next = nil
	f.mu.Unlock()
	if next == nil {
		cancel()
		return nil
	}
	if !passed && f.Ending() {
		if next.link != nil {
			next.link.Close()
		}
		return nil
	}
	f.report(slog.LevelInfo, "destination asked to reconnect", "to", endpoint.Redact(next.at.TcURL, true))
	return next
}

// pushKey is what a destination takes for the same publish.
type pushKey struct {
	stream streamKey
	place  string // of the destination
}

// takeTurn waits until an earlier publish of the same stream, or one that is
// being closed, is gone from the same destination, which would refuse a second
// one.
func (f *Forwarder) takeTurn() (release func(), ok bool) {
	key := pushKey{f.src.key, f.place}
	for {
		before := f.src.srv.enterPush(key, f)
		if before == nil {
			return func() { f.src.srv.leavePush(key, f) }, true
		}
		select {
		case <-before.done:
		case <-f.ended:
			return nil, false
		case <-f.ctx.Done():
			return nil, false
		}
	}
}

// enterPush notes that f pushes to the destination of key, or returns whom it has
// to wait for. What f is to replace goes on there, and may outlive it.
func (s *Server) enterPush(key pushKey, f *Forwarder) (before *Forwarder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.pushing[key] {
		if o.src != f.src || o.Ending() {
			return o
		}
	}
	s.pushing[key] = append(s.pushing[key], f)
	return nil
}

func (s *Server) leavePush(key pushKey, f *Forwarder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := slices.DeleteFunc(s.pushing[key], func(o *Forwarder) bool { return o == f })
	if s.pushing[key] = left; len(left) == 0 {
		delete(s.pushing, key)
	}
}
