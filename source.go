package forward

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nareix/joy4/av"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/joy"
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
	vhost Vhost // when the stream began; but see routing.resolver
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

	live bool // guarded by srv.mu

	latest  atomic.Pointer[Request] // of the last publish that was accepted
	inputs  inputs
	routing routing
	codecs  codecChanges

	mu         sync.Mutex
	forwarders []*Forwarder
	ending     bool
	closed     bool // by Close or Shutdown

	reason   Reason         // why the stream has ended; set before finish
	left     Totals         // of forwarders that have ended
	formatOf *gop.HeaderSet // formatIs was read from it
	formatIs Format

	watching atomic.Int64 // Players to which the host sends

	missed          gop.Skipped // by players
	rate            fanout.Rate
	messages, bytes atomic.Uint64
}

func newSource(s *Server, cfg *Config, req *Request) *Source {
	vhost := cfg.vhost(req.Vhost)
	src := &Source{
		shown: shown{req.logName()}, // as in the log
		srv:   s, cfg: cfg, req: req, key: req.key(), vhost: vhost, began: time.Now(),
		memory: s.memory.Load(),
		log:    gop.New(cfg.logLimits(vhost)),
		ctx:    s.ctx,
		done:   make(chan struct{}),
	}
	src.inputs.src, src.codecs.src = src, src
	src.routing = routing{src: src, busy: make(chan struct{}, 1), resolver: vhost.Resolver, current: cfg}
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

// Play accepts a player of s that the host has authorized itself: OnConnect and OnPlay are
// not asked. req needs no names. Everything else is as described at Server.Play.
func (s *Source) Play(ctx context.Context, req Request) (*Player, error) {
	req.Vhost, req.App, req.Stream = s.req.Vhost, s.req.App, s.req.Stream
	p, err := newPlayer(ctx, s.srv, &req)
	if err != nil {
		return nil, err
	}
	return p.begin(s.srv.cfg.Load(), &req, s)
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
	return s.routing.refresh(ctx)
}

// Subscribe reads the stream from its last keyframe on: metadata and sequence
// headers first, then every message as it comes. A subscriber that falls behind
// skips to the newest keyframe, like a slow player. The Subscription ends with
// ctx, with Close, or after the last message of a stream that has ended. If the stream
// has ended and Next is not called for Config.DrainTimeout, the Subscription is closed
// and releases the stream's memory.
func (s *Source) Subscribe(ctx context.Context) *Subscription {
	return newSubscription(ctx, s)
}

// Demuxer reads the stream from its last keyframe on as packets of joy4, which supports
// H.264, AAC and Speex; for other codecs use Subscribe. It ends with ctx, with Close or
// with the stream. One goroutine may use it; Close may be called from any, and returns
// nil.
//
// Streams waits until the stream's codecs are known, at most for 2 s of media, and
// returns them, video first. ReadPacket waits for the next packet. It returns io.EOF
// when the stream has ended, and otherwise the errors of Subscription.Next.
func (s *Source) Demuxer(ctx context.Context) av.DemuxCloser {
	return &demuxer{sub: s.Subscribe(ctx), dec: joy.NewDecoder()}
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
	publishers := s.inputs.publications()
	s.end()
	for _, p := range publishers {
		p.kick(ErrKicked)
	}
}

// start makes an accepted stream live.
func (s *Source) start(dests []Destination, ttl time.Duration) error {
	s.routing.begin(dests, ttl)
	s.inputs.goOnFrom(s.srv.lastEnd(s.key))
	players, err := s.srv.enliven(s)
	if err != nil {
		return err
	}
	s.report(s.req, Event{Kind: EventPublish}, "destinations", len(dests))
	for _, p := range players {
		p.attach(s)
	}
	s.adopt()
	if f := s.cfg.Hooks.OnSource; f != nil {
		s.srv.calls.do("OnSource", func() error { f(s); return nil })
	}
	return nil
}

// adopt applies the Server's current Config to a live stream.
func (s *Source) adopt() {
	if s.dropped(s.srv.cfg.Load()) {
		s.srv.log.Info("vhost no longer served", "source", s.req.logName())
		s.beginClose()
		return
	}
	s.routing.adopt()
}

// dropped reports whether the stream's vhost was served when the stream began, and is
// not served by cfg.
func (s *Source) dropped(cfg *Config) bool {
	return s.cfg.serves(s.req.Vhost, false) && !cfg.serves(s.req.Vhost, s.cfg.lists(s.req.Vhost))
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

func (s *Source) isEnding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
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
		stopTimer(&s.routing.stop)
		s.mu.Unlock()
		s.unpublish()
		for _, f := range forwarders {
			f.sourceEnded() // first: a destination may close as soon as it is told
		}
		s.reason = s.inputs.end(cause)
		s.group.End()
		go s.finish()
	})
}

// finish waits for everything that the stream has started.
func (s *Source) finish() {
	defer s.srv.wg.Done()
	s.wg.Wait()
	s.group.Release()
	for _, p := range s.inputs.publications() {
		p.tell()
	}
	s.inputs.forget()
	s.srv.keepCounts(s)
	if s.log.Ended() {
		s.report(nil, Event{Kind: EventUnpublish, Reason: s.reason, After: time.Since(s.began)}, "bytes", s.bytes.Load())
	}
	close(s.done)
}

// event fills in the stream, and its publisher if req is not nil.
func (s *Source) event(req *Request, ev Event) Event {
	ev.Time = time.Now()
	ev.Stream, ev.StreamID, ev.name = s.req.logName(), s.ID(), s.key.String
	ev.PublishID = s.Request().PublishID
	if req != nil {
		ev.ClientID, ev.Addr, ev.PublishID = req.ClientID, logAddr(req.RemoteAddr), req.PublishID
	}
	return ev
}

// emit adds an event of a stream. The caller may hold locks.
func (s *Source) emit(ev Event) {
	s.srv.events.emit(func() Event { return s.event(nil, ev) })
}

// report adds an event of a stream, and of a publisher if req is not nil, and logs it with
// more attributes. The caller holds no locks.
func (s *Source) report(req *Request, ev Event, more ...any) {
	ev = s.event(req, ev)
	s.srv.events.emit(func() Event { return ev })
	s.logEvent(ev, more...)
}

// logEvent logs an event of report, or one that was added under a lock.
func (s *Source) logEvent(ev Event, more ...any) {
	s.srv.log.Log(context.Background(), slog.LevelInfo, eventLines[ev.Kind], append(ev.attrs(), more...)...)
}

// cursorOptions are the options of a player's cursor.
func (s *Source) cursorOptions(streamID uint32, chunkSize int) gop.Options {
	return gop.Options{
		Layout: chunk.Layout{StreamID: streamID, Size: chunkSize},
		Size:   s.vhost.ChunkSize,
		Live:   s.vhost.NoGOPCache,
		All:    &s.missed,
	}
}
