package forward

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/ingest"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Server accepts publishers and players on one port. Its methods are safe for
// concurrent use and may be called from hooks: see ErrInHook. In this package a nil
// context means context.Background.
type Server struct {
	shown
	cfg     atomic.Pointer[Config] // with defaults; see Reload
	err     error                  // of the first Config
	id      string
	log     *slog.Logger
	notices *notices
	pool    *fanout.Pool
	reads   *ingest.Coalescer
	memory  atomic.Pointer[gop.Budget] // the process's or its own; see setBudget
	auth    *rtmp.Authenticator

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // connections, streams

	refreshes hostcode.Outage // for the log

	mu        sync.Mutex
	closing   bool
	listeners map[*servedListener]struct{}
	conns     map[*conn]struct{} // open ones
	pending   []*conn            // those in their handshake, the oldest first
	sources   map[streamKey]*Source
	audiences map[streamKey]*audience
	pushing   map[pushKey][]*turn  // Forwarders that may be connected to the destination
	pushes    int                  // forwarders
	counted   int                  // forwarders that count in Limits.TotalDestinations
	perAddr   map[netip.Addr]tally // connections
	refusals  refusals

	closingConns int // connections

	calls         calls
	events        events
	resolverFails atomic.Bool // its last answer was an error

	// For Stats, guarded by mu.

	publishes, plays uint64
	known            map[*Source]struct{} // have been live and have not ended
	ended            ended
}

// NewServer returns a Server. It does not fail: the methods that serve return the
// error of an invalid Config.
func NewServer(cfg Config) *Server {
	s := &Server{
		err:       cfg.Validate(),
		id:        randomID(),
		pool:      fanout.NewPool(),
		reads:     ingest.NewCoalescer(),
		listeners: make(map[*servedListener]struct{}),
		conns:     make(map[*conn]struct{}),
		sources:   make(map[streamKey]*Source),
		audiences: make(map[streamKey]*audience),
		pushing:   make(map[pushKey][]*turn),
		perAddr:   make(map[netip.Addr]tally),
		known:     make(map[*Source]struct{}),
	}
	s.shown.text = "Server " + s.id
	cfg = cfg.withDefaults()
	s.cfg.Store(&cfg)
	s.log = slog.New(hostHandler{cfg.Logger.Handler()})
	s.notices = newNotices(s.log)
	s.setBudget(cfg.MemoryBudget)
	s.auth = rtmp.NewAuthenticator(func(user string) (string, bool) {
		password := s.cfg.Load().PublishAuth
		if password == nil { // after a Reload
			return "", false
		}
		secret, ok := password(user)
		return string(secret), ok
	})
	s.ctx, s.cancel = context.WithCancel(withLog(context.Background(), s.log))
	return s
}

// Source returns a live stream by its name (see Request.Name): "live/cam",
// or "//studio.example/live/cam" in a vhost, in any case. It is nil if there is
// none.
func (s *Server) Source(name string) *Source {
	key, ok := parseStreamName(name)
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if src := s.sources[key]; src != nil && src.live {
		return src
	}
	return nil
}

// Sources returns the live streams, sorted by name.
func (s *Server) Sources() []*Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Source
	for _, key := range slices.SortedFunc(maps.Keys(s.sources), compareNames) {
		if src := s.sources[key]; src.live {
			out = append(out, src)
		}
	}
	return out
}

// Logger returns Config.Logger, or its default. It may be called from anywhere.
func (s *Server) Logger() *slog.Logger { return s.log }

// Shutdown closes the listeners and ends every stream: everything that has been
// received is sent, then the destinations are told that the stream has ended. It
// returns when all of this is done, or ctx's error if ctx ends earlier; call Close
// to end the rest. It does not wait for publishers to leave, because a disconnected
// encoder connects elsewhere. From a hook it returns ErrInHook immediately and
// continues in the background without ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.beginClosing()
	if hostcode.Within() {
		go s.shutdown(context.Background())
		return ErrInHook
	}
	return s.shutdown(orBackground(ctx))
}

func (s *Server) shutdown(ctx context.Context) error {
	s.readRest(ctx)
	for _, src := range s.Sources() {
		src.end()
	}
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.finish()
	}
	gone := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		s.Close()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// restLimit is how long Shutdown waits for data that has arrived to be read. That takes
// microseconds, unless the host is deciding or the machine is very busy.
const restLimit = time.Second

// readRest reads everything that has arrived from clients other than players, and ends
// their connections. It waits until that is done.
func (s *Server) readRest(ctx context.Context) {
	var reading sync.WaitGroup
	s.mu.Lock()
	for c := range s.conns {
		if c.player == nil && c.readAll == nil {
			reading.Add(1)
			c.readAll = reading.Done
			s.wg.Go(func() { hostcode.Protect(c.in.Finish) })
		}
	}
	s.mu.Unlock()
	read := make(chan struct{})
	go func() {
		reading.Wait()
		close(read)
	}()
	select {
	case <-read:
	case <-time.After(restLimit):
	case <-ctx.Done():
	}
}

// Close ends everything immediately, including the contexts of hooks. It returns when
// everything has ended and no hook is running. From a hook it returns ErrInHook
// immediately, and everything ends when the hook has returned.
func (s *Server) Close() error {
	s.beginClosing()
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		s.closeLocked(c)
	}
	s.mu.Unlock()
	for _, src := range s.Sources() {
		src.end()
	}
	if hostcode.Within() {
		go s.awaitEnd()
		return ErrInHook
	}
	s.awaitEnd()
	return nil
}

// awaitEnd waits until everything has ended.
func (s *Server) awaitEnd() {
	s.wg.Wait()
	s.pool.Close()
	s.reads.Close()
	s.notices.close()
	s.events.close()
}

// orBackground replaces a nil context with context.Background.
func orBackground(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	return ctx
}

// beginClosing stops accepting connections and streams. If the host is deciding about a
// publish, its stream ends after the decision.
func (s *Server) beginClosing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return
	}
	s.closing = true
	for l := range s.listeners {
		s.wg.Go(func() { l.Close() })
	}
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// publish accepts a publisher, or returns the reason for the refusal. It reserves the
// name before it asks the host, so that a second publisher changes nothing. cfg is the
// Config that req was made with.
func (s *Server) publish(ctx context.Context, cfg *Config, req *Request) (*publication, error) {
	s.memory.Load().Shed(fanout.Clock()) // without publishers nothing else calls it
	src, err := s.reserve(cfg, req)
	if src == nil {
		return nil, err
	}
	next := err != nil
	if next {
		defer s.wg.Done()
	}
	p := src.claim(cfg, req, next)
	if p == nil {
		return nil, err
	}
	started, accepted := false, next // a next publisher has nothing to release
	defer func() {                   // runs also if the host's code panics
		switch {
		case accepted:
		case started:
			src.end()
		default:
			s.release(src)
			src.abandon()
		}
	}()
	ctx, cancel := context.WithCancel(withLog(ctx, s.log))
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	if f := cfg.Hooks.OnPublish; f != nil {
		if err := s.guard("OnPublish", func() error { return f(ctx, req) }); err != nil {
			return nil, fmt.Errorf("publish of %s: %w", req.logName(), refusedError{req.hide(err)})
		}
	}
	p.hooked.Store(true)
	if next {
		if err := p.succeed(); err != nil {
			return nil, err
		}
		return p, nil
	}
	dests, ttl, err := src.resolve(ctx)
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("destinations of %s: %w", req.logName(), req.hide(err))
	}
	started = true
	if err := src.start(dests, ttl); err != nil {
		return nil, err
	}
	accepted = true
	return p, nil
}

var errMemory = fmt.Errorf("%w: %d %% of the memory budget is in use", ErrLimit, gop.RefuseAt)

// processMemory is the budget of all Servers that have none of their own.
var processMemory = sync.OnceValue(func() *gop.Budget { return gop.NewBudget(defaultMemoryBudget()) })

// setBudget applies Config.MemoryBudget. Memory that is already counted stays in its
// budget.
func (s *Server) setBudget(limit int) {
	shared := processMemory()
	switch old := s.memory.Load(); {
	case limit == 0:
		s.memory.Store(shared)
	case old == nil || old == shared:
		s.memory.Store(gop.NewBudget(limit))
	default:
		old.SetLimit(limit)
	}
}

// busyGrace is how long a publisher over the network waits for a name that is taken.
// When an encoder reconnects immediately, the end of its old connection may be noticed
// after its new publish.
const busyGrace = 200 * time.Millisecond

// awaitName waits until the name of req is free, for at most busyGrace.
func (s *Server) awaitName(ctx context.Context, req *Request) {
	s.mu.Lock()
	src := s.sources[req.key()]
	s.mu.Unlock()
	if src == nil || src.isClaimable(req) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, busyGrace)
	defer cancel()
	select {
	case <-src.publishing.Done():
	case <-ctx.Done():
	}
}

// reserve reserves the name of req for a new stream. If a live stream has the name, it
// returns that stream and ErrStreamBusy. The returned stream counts in wg: a new one
// until it is done, a live one until the host has decided about its next publisher.
func (s *Server) reserve(cfg *Config, req *Request) (*Source, error) {
	key := req.key()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch l := s.cfg.Load().Limits.Streams; {
	case s.closing:
		return nil, ErrServerClosed
	case s.sources[key] != nil:
		if src := s.sources[key]; src.live {
			s.wg.Add(1)
			return src, ErrStreamBusy
		}
		return nil, ErrStreamBusy
	case l >= 0 && len(s.sources) >= l:
		return nil, fmt.Errorf("%w: %d streams", ErrLimit, l)
	case s.memory.Load().Above(gop.RefuseAt):
		return nil, errMemory
	}
	src := newSource(s, cfg, req)
	s.sources[key] = src
	s.wg.Add(1) // until src.done
	return src, nil
}

// release frees a stream's name. If it has players, the end of its timestamps is kept
// for the next stream.
func (s *Server) release(src *Source) {
	ended := src.lastMoment()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sources[src.key] != src {
		return
	}
	delete(s.sources, src.key)
	if a := s.audiences[src.key]; a != nil && ended.at != 0 {
		a.ended = ended
	}
}

// lastEnd is the end of the timestamps that the players of a name have seen.
func (s *Server) lastEnd(key streamKey) moment {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.audiences[key]; a != nil {
		return a.ended
	}
	return moment{}
}

// enliven makes src visible and returns the players that wait for it.
func (s *Server) enliven(src *Source) (players []*player, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, ErrServerClosed
	}
	if src.dropped(s.cfg.Load()) { // by a Reload in the meantime
		return nil, errNoVhost
	}
	src.live = true
	s.publishes++
	s.known[src] = struct{}{}
	if a := s.audiences[src.key]; a != nil {
		players = slices.Collect(maps.Keys(a.waiting))
	}
	for _, p := range players {
		p.endWaitLocked()
	}
	return players, nil
}

// guard calls the host's code on a goroutine of its own, and waits for it. If the code
// panics or ends the goroutine, guard returns an error.
func (s *Server) guard(what string, f func() error) error {
	err := fmt.Errorf("%s ended its goroutine", what)
	done := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				s.notices.write(slog.LevelError, "panic in host code", what, "in", what, "panic", v, "stack", stack())
				err = fmt.Errorf("%s panicked", what)
			}
		}()
		hostcode.Call(func() { err = f() })
	}()
	<-done
	call := s.calls.of(what)
	call.took.Observe(time.Since(began))
	if err != nil {
		call.failed.Add(1)
	}
	return err
}

const (
	// tellTimeout limits the context of a hook that only reports an end;
	// tellAfterClose does so after the beginning of Server.Close.
	tellTimeout    = 30 * time.Second
	tellAfterClose = 5 * time.Second
)

// tell calls a hook that only reports an end, with a context that has the values of ctx.
func (s *Server) tell(ctx context.Context, what string, f func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, func() {
		select {
		case <-ctx.Done():
		case <-time.After(tellAfterClose):
			cancel()
		}
	})()
	s.guard(what, func() error { f(ctx); return nil })
}

// errGoexit is the error of a connection whose code, the host's, ended its goroutine.
var errGoexit = errors.New("forward: the connection has ended its goroutine")

// errEvicted is the error of a connection that was ended by evict.
var errEvicted = fmt.Errorf("%w: of the connections without an accepted publish it held the most memory for unfinished messages", ErrLimit)

// lingerTime is how long a client has to read why it was refused.
const lingerTime = time.Second

var errNoVhost = errors.New("no such vhost")

// goneError says that a client left while the host was deciding about it, and why.
type goneError struct{ error }

func (e goneError) Unwrap() error { return e.error }

// orGone returns the goneError that has ended ctx, a context of asking, or else err: a
// client that has left was not refused.
func orGone(ctx context.Context, err error) error {
	var gone goneError
	if err != nil && errors.As(context.Cause(ctx), &gone) {
		return gone
	}
	return err
}

var errNoUser = errors.New("not authenticated")

func randomID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
