package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/hostcode"
)

// Source is one live stream, from its publish to its unpublish. With
// Config.PublishGrace or Takeover it may continue with another publisher. Its
// methods are safe for concurrent use.
type Source struct {
	shown
	srv   *Server
	cfg   *Config  // when the stream began
	req   *Request // of the first publisher: all have the same names
	key   streamKey
	vhost Vhost // when the stream began; but see resolver
	began time.Time

	log    *gop.Log
	group  *fanout.Group
	memory *gop.Budget     // counts log
	ctx    context.Context // ends with Close of the Server
	done   chan struct{}
	once   sync.Once // end
	wg     sync.WaitGroup

	publishing context.Context // ends with the publish
	unpublish  context.CancelFunc
	refreshing chan struct{} // full while a refresh is in progress
	again      atomic.Bool   // a hook has asked for another one
	ttl        time.Duration // of the last answer; belongs to the refresh
	failing    atomic.Bool   // the last refresh of the Server's own has failed
	untried    atomic.Bool   // the resolver is new and has not answered

	live bool // guarded by srv.mu

	latest atomic.Pointer[Request] // of the last publish that was accepted
	turns

	mu          sync.Mutex
	forwarders  []*Forwarder
	ending      bool
	closed      bool   // by Close or Shutdown
	stopRefresh func() // stops the timer of the next refresh
	resolver    DestinationResolver
	current     *Config // of the last Reload, else cfg; for RefreshInterval

	reason   Reason         // why the stream has ended; set before finish
	left     Totals         // of forwarders that have ended
	formatOf *gop.HeaderSet // formatIs was read from it
	formatIs Format

	rate                          fanout.Rate
	messages, bytes, codecChanges atomic.Uint64
	tellsChange                   atomic.Bool // a goroutine is in tellChanges
	toldChanges                   uint64      // owned by that goroutine
}

func newSource(s *Server, cfg *Config, req *Request) *Source {
	vhost := cfg.vhost(req.Vhost)
	src := &Source{
		shown: shown{req.logName()}, // as in the log
		srv:   s, cfg: cfg, req: req, key: req.key(), vhost: vhost, began: time.Now(),
		resolver: vhost.Resolver, current: cfg,
		memory:     s.memory.Load(),
		log:        gop.New(cfg.logLimits(vhost)),
		ctx:        s.ctx,
		done:       make(chan struct{}),
		refreshing: make(chan struct{}, 1),
	}
	src.latest.Store(req)
	src.publishing, src.unpublish = context.WithCancel(s.ctx)
	src.group = fanout.NewGroup(src.log, s.pool)
	src.log.SetBudget(src.memory)
	src.rate.Note(fanout.Clock(), fanout.Counts{})
	return src
}

// Name returns the stream's name: see Request.Name.
func (s *Source) Name() string { return s.key.String() }

// ID identifies the stream where its name, which may be a secret, must not be
// shown: 16 hex digits that reveal nothing about it, the same for the same name for
// as long as the process lives.
func (s *Source) ID() string { return s.req.ID() }

// Request returns the publisher's request, or that of the last publisher if there were
// several. It must not be changed.
func (s *Source) Request() *Request { return s.latest.Load() }

// Done returns a channel that is closed when the stream and everything that sent it have
// ended.
func (s *Source) Done() <-chan struct{} { return s.done }

func (s *Source) isDone() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Forwarders returns the Forwarders that push the stream now.
func (s *Source) Forwarders() []*Forwarder {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.forwarders)
}

// Forward pushes the stream to one more destination, from its last keyframe on,
// until the stream ends or the Forwarder is closed. Refresh does not remove it.
//
// It returns ErrDuplicate if the stream is already pushed to the same server, app
// and key, whatever the other options; an error that wraps ErrLimit if
// Limits.Destinations or TotalDestinations is reached; ErrStreamEnded; or the error
// of an invalid Destination. A Forwarder that is being closed does not count.
func (s *Source) Forward(d Destination) (*Forwarder, error) {
	f, err := newForwarder(s, d)
	if err != nil {
		return nil, err
	}
	if err := s.forward(f); err != nil {
		return nil, err
	}
	return f, nil
}

// forward starts f.
func (s *Source) forward(f *Forwarder) (err error) {
	defer func() {
		if err != nil {
			f.cancel()
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return s.errEnded()
	}
	if err := s.checkPlaceLocked(f.to.Load(), f); err != nil {
		return err
	}
	counted := 0
	for _, o := range s.forwarders {
		if !o.Ending() {
			counted++
		}
	}
	// Forwarders that drain do not count, but their number has the same limit.
	if l := s.srv.cfg.Load().Limits.Destinations; l >= 0 && (counted >= l || len(s.forwarders)-l >= l) {
		return fmt.Errorf("%w: %d destinations of a stream", ErrLimit, l)
	}
	if err := f.count(); err != nil {
		return err
	}
	s.forwarders = append(s.forwarders, f)
	s.wg.Go(f.now.do)
	return nil
}

// errEnded is why nothing is pushed any more.
func (s *Source) errEnded() error {
	return fmt.Errorf("push of %s: %w", s.req.logName(), ErrStreamEnded)
}

// checkPlaceLocked returns ErrDuplicate if a forwarder other than f pushes to t's
// place, or is about to.
func (s *Source) checkPlaceLocked(t *target, f *Forwarder) error {
	for _, o := range s.forwarders {
		if o != f && !o.Ending() && slices.ContainsFunc(o.targets(), func(u *target) bool { return u.place == t.place }) {
			return fmt.Errorf("%w: %s", ErrDuplicate, t.dst)
		}
	}
	return nil
}

// remove takes out a forwarder that has ended.
func (s *Source) remove(f *Forwarder) {
	f.forget()
	st := f.counters()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left.add(&st)
	s.forwarders = slices.DeleteFunc(s.forwarders, func(o *Forwarder) bool { return o == f })
}

// Shutdown ends the stream: the publisher is told and disconnected (a connection that
// publishes other streams keeps those), the rest of the stream is sent, and the
// destinations are told. It returns when this is done (see Done and
// Config.DrainTimeout), or ctx's error if ctx ends earlier; the stream ends in either
// case. From a hook it returns ErrInHook immediately.
func (s *Source) Shutdown(ctx context.Context) error {
	ctx = orBackground(ctx)
	s.beginClose()
	if hostcode.Within() {
		return ErrInHook
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends the stream immediately: the publisher is told and disconnected as with
// Shutdown, and so are the destinations, which do not get the rest of the stream. It
// returns when they are disconnected. From a hook it returns ErrInHook immediately.
func (s *Source) Close() error {
	s.beginClose()
	for _, f := range s.Forwarders() {
		f.cancel()
	}
	if hostcode.Within() {
		return ErrInHook
	}
	<-s.done
	return nil
}

// beginClose is Shutdown without waiting.
func (s *Source) beginClose() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	publishers := s.publications()
	s.end()
	for _, p := range publishers {
		p.kick(ErrKicked)
	}
}

// start makes an accepted stream live.
func (s *Source) start(dests []Destination, ttl time.Duration) error {
	s.forwardAll(dests)
	s.ttl = ttl
	s.refreshAfter(ttl)
	s.goOnFrom(s.srv.lastEnd(s.key))
	players, err := s.srv.enliven(s)
	if err != nil {
		return err
	}
	s.emitBy(s.req, Event{Kind: EventPublish})
	s.srv.log.Info("publish", "source", s.req.logName(), "addr", logAddr(s.req.RemoteAddr), "destinations", len(dests))
	for _, p := range players {
		p.attach(s)
	}
	s.adopt()
	if f := s.cfg.Hooks.OnSource; f != nil {
		s.srv.calls.do("OnSource", func() error { f(s); return nil })
	}
	return nil
}

// refreshRetry is the longest delay before the Resolver is asked again after it has
// failed, if its last answer had a TTL.
const refreshRetry = time.Minute

// minRefresh is the shortest time between two questions to the Resolver.
const minRefresh = time.Second

// resolve asks the resolver where the stream goes. Of duplicates it keeps the first.
func (s *Source) resolve(ctx context.Context) (dests []Destination, ttl time.Duration, err error) {
	s.mu.Lock()
	r := s.resolver
	s.mu.Unlock()
	err = s.srv.calls.do("Resolver", func() (err error) {
		dests, ttl, err = ResolveTTL(ctx, r, s.Request())
		return err
	})
	s.resolverAnswered(ctx, err)
	return distinctPlaces(slices.Clone(dests)), ttl, err
}

// Refresh asks the Resolver again where the stream goes. Destinations that are
// still in the answer are not disturbed, new ones begin with the last keyframe,
// and the others are told that the stream has ended and are disconnected; Refresh
// does not wait for that. Destinations added with Forward stay. If the Resolver
// returns an error, so does Refresh, and nothing changes.
//
// The Server calls Refresh itself every RefreshInterval, or when the TTL of an
// answer (TTLResolver) has passed, whichever is earlier.
//
// From a hook it returns ErrInHook; the refresh runs in the background, after one that
// is in progress.
func (s *Source) Refresh(ctx context.Context) error {
	if hostcode.Within() && s.publishing.Err() == nil {
		if !s.again.Swap(true) {
			s.background(s.refreshSelf)
		}
		return ErrInHook
	}
	ctx, cancel := context.WithCancelCause(withLog(orBackground(ctx), s.srv.log))
	defer cancel(nil)
	defer context.AfterFunc(s.publishing, func() { cancel(ErrStreamEnded) })()
	select {
	case s.refreshing <- struct{}{}:
		defer func() { <-s.refreshing }()
	case <-ctx.Done():
		return fmt.Errorf("refresh %s: %w", s.req.logName(), context.Cause(ctx))
	}
	s.again.Store(false)
	dests, ttl, err := s.resolve(asRefresh(ctx))
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		again := min(s.ttl, refreshRetry)
		if s.untried.Load() {
			again = refreshRetry
		}
		s.refreshAfter(again)
		return fmt.Errorf("refresh %s: %w", s.req.logName(), err)
	}
	s.untried.Store(false)
	s.ttl = ttl
	s.refreshAfter(ttl)
	fresh, gone := s.compare(dests)
	for _, t := range gone {
		t.turn.f.beginClose(t)
	}
	s.forwardAll(fresh)
	if len(fresh)+len(gone) > 0 {
		s.srv.log.Info("refresh", "source", s.req.logName(), "new", len(fresh), "gone", len(gone))
	}
	return nil
}

// compare returns the destinations that have no forwarder yet, and the targets from the
// resolver that are no longer wanted.
func (s *Source) compare(dests []Destination) (fresh []Destination, gone []*target) {
	running := make(map[string][]*target)
	places := make(map[string]bool) // true: a target that the host has added is there
	for _, f := range s.Forwarders() {
		if f.Ending() {
			continue
		}
		now := f.to.Load()
		running[now.id] = append(running[now.id], now)
		for _, t := range f.targets() {
			places[t.place] = places[t.place] || !t.resolved
		}
	}
	wanted := make(map[*target]bool)
	for _, d := range dests {
		same := running[d.id()]
		if i := slices.IndexFunc(same, func(t *target) bool { return t.dst.Equal(d.withDefaults()) }); i >= 0 {
			wanted[same[i]] = true
		} else if ep, err := d.endpoint(); err != nil || !places[ep.Place()] {
			fresh = append(fresh, d)
		}
	}
	for _, same := range running {
		for _, t := range same {
			if t.resolved && !wanted[t] {
				gone = append(gone, t)
			}
		}
	}
	return fresh, gone
}

// forwardAll adds destinations that the resolver has returned.
func (s *Source) forwardAll(dests []Destination) {
	for _, d := range dests {
		f, err := newForwarder(s, d)
		if err == nil {
			f.to.Load().resolved = true
			err = s.forward(f)
		}
		if err != nil {
			s.srv.notices.write(slog.LevelWarn, "destination skipped", hostcode.CauseOf(err), "source", s.req.logName(), "destination", d, "err", err)
		}
	}
}

// refreshAfter schedules the next refresh, if there is one.
func (s *Source) refreshAfter(ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopRefresh != nil {
		s.stopRefresh()
	}
	d := ttl
	if every := s.current.vhost(s.req.Vhost).RefreshInterval; every > 0 && (d <= 0 || every < d) {
		d = every
	}
	if d <= 0 || s.ending {
		return
	}
	d = max(d, minRefresh) + rand.N(max(d/10, 1))
	s.stopRefresh = later(d, func() { s.background(s.refreshSelf) })
}

// refreshSelf is a refresh by the Server.
func (s *Source) refreshSelf() {
	err := s.Refresh(context.WithoutCancel(s.publishing)) // Refresh ends it with a cause
	if errors.Is(err, ErrStreamEnded) {
		return
	}
	log := s.srv.log
	switch failed := s.failing.Swap(err != nil); {
	case err == nil && !failed:
	case err == nil:
		if lasted, notLogged, ok := s.srv.refreshes.Over(); ok {
			log.Info("refresh works again", hostcode.WithLeftOut(notLogged, "source", s.req.logName(), "after", lasted.Round(time.Millisecond))...)
		}
	case isLogged(err):
		log.Debug("refresh", "err", err)
	default:
		if notLogged, ok := s.srv.refreshes.Note(refreshCause(err)); ok {
			log.Warn("refresh", hostcode.WithLeftOut(notLogged, "err", err)...)
		}
	}
}

// background runs f in a goroutine that the stream's end waits for, unless the stream
// has ended.
func (s *Source) background(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.wg.Go(f)
	}
}

// abandon ends a stream whose publish was not accepted.
func (s *Source) abandon() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.unpublish()
	first := false
	s.once.Do(func() { first = true })
	if first {
		s.finish() // calls the host, so it must not run inside once
	}
}

// end ends the stream. It may be called more than once. When it returns, the name is
// free.
func (s *Source) end() {
	s.once.Do(func() {
		s.srv.release(s)
		s.mu.Lock()
		s.ending = true
		cause := ErrStreamEnded
		if s.closed {
			cause = ErrKicked
		} else if s.ctx.Err() != nil {
			cause = ErrServerClosed
		}
		forwarders := slices.Clone(s.forwarders)
		if s.stopRefresh != nil {
			s.stopRefresh()
		}
		s.mu.Unlock()
		s.unpublish()
		for _, f := range forwarders {
			f.sourceEnded() // first: a destination may close as soon as it is told
		}
		closing := s.srv.isClosing()
		s.turn.Lock()
		switch {
		case cause == ErrKicked:
			s.why = ReasonKicked
		case closing:
			s.why = ReasonShutdown
		}
		s.reason = s.why
		stopTimer(&s.grace)
		if s.now != nil && cause == ErrKicked {
			s.now.over = cause
		}
		if s.next != nil {
			stopTimer(&s.next.late)
			s.next.over = cause
		}
		s.log.End() // under turn: nothing is appended after it
		s.turn.Unlock()
		s.group.End()
		go s.finish()
	})
}

// finish waits for everything that the stream has started.
func (s *Source) finish() {
	defer s.srv.wg.Done()
	s.wg.Wait()
	s.group.Release()
	for _, p := range s.publications() {
		p.tell()
	}
	s.forget()
	s.srv.keepCounts(s)
	if s.log.Ended() {
		s.emit(Event{Kind: EventUnpublish, Reason: s.reason, After: time.Since(s.began)})
		s.srv.log.Info("unpublish", "source", s.req.logName(),
			"reason", s.reason, "after", time.Since(s.began).Round(time.Millisecond), "bytes", s.bytes.Load())
	}
	close(s.done)
}

// cursorOptions are the options of a player's cursor.
func (s *Source) cursorOptions(streamID uint32, chunkSize int) gop.Options {
	return gop.Options{
		Layout: chunk.Layout{StreamID: streamID, Size: chunkSize},
		Size:   s.vhost.ChunkSize,
		Live:   s.vhost.NoGOPCache,
	}
}
