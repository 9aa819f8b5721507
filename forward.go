package forward

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/ingest"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/webhook"
)

var (
	// ErrServerClosed is returned by Serve and its kin after Shutdown or
	// Close.
	ErrServerClosed = errors.New("forward: server closed")
	// ErrStreamBusy says that a stream of this name is being published. A
	// client is told so after 200 ms, in which the name may become free.
	ErrStreamBusy = errors.New("forward: stream is being published")
	// ErrLimit is wrapped by errors that say a limit of Config is reached.
	ErrLimit = errors.New("forward: limit reached")
	// ErrDuplicate says that a stream is pushed to a destination already.
	ErrDuplicate = errors.New("forward: the stream is pushed to this destination already")
	// ErrInHook is returned by the methods that wait for something, where they
	// are called from a hook or from other code that a Server calls: a
	// resolver, a dialer, a logger, a listener or a connection. The Server waits
	// for that code, so that it must not wait for the Server. What the method
	// begins is begun, and goes on without its caller. A goroutine that such
	// code starts may wait, but then that code must not wait for it.
	ErrInHook = errors.New("forward: called from a hook: begun, but not waited for")
	// ErrLoop says that a stream has come back to a Server that it has
	// passed, or has passed too many. Its publisher is refused.
	ErrLoop = errors.New("forward: the stream goes in a circle")
)

// Server accepts publishers and players, on one port. Its methods are safe
// for concurrent use, and may be called from hooks: see ErrInHook. A context
// that is nil stands for context.Background, here and in all of this package.
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

	refreshes outage // for the log

	mu        sync.Mutex
	closing   bool
	listeners map[*servedListener]struct{}
	conns     map[*conn]struct{}
	pending   []*conn // in their handshake, the oldest first
	sources   map[streamKey]*Source
	audiences map[streamKey]*audience
	pushing   map[pushKey]*Forwarder
	pushes    int                // forwarders
	counted   int                // of them, those that Limits.TotalDestinations counts
	perAddr   map[netip.Addr]int // connections
	refusals  refusals
}

// NewServer returns a Server. A Config that is not valid is reported by the
// methods that serve.
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
		pushing:   make(map[pushKey]*Forwarder),
		perAddr:   make(map[netip.Addr]int),
	}
	s.shown.text = "Server " + s.id
	cfg = cfg.withDefaults()
	s.cfg.Store(&cfg)
	s.log = slog.New(hostHandler{cfg.Logger.Handler()})
	s.notices = newNotices(s.log)
	s.setBudget(cfg.MemoryBudget)
	s.auth = rtmp.NewAuthenticator(func(user string) (string, bool) {
		password := s.cfg.Load().PublishAuth
		if password == nil { // since a Reload
			return "", false
		}
		secret, ok := password(user)
		return string(secret), ok
	})
	s.ctx, s.cancel = context.WithCancel(withLog(context.Background(), s.log))
	return s
}

// ListenAndServe listens on Config.Addr and serves until Shutdown or Close,
// after which it returns ErrServerClosed.
func (s *Server) ListenAndServe() error {
	l, err := net.Listen("tcp", s.cfg.Load().Addr)
	if err != nil {
		return err
	}
	return s.Serve(l)
}

// Accept errors back off from acceptMin to acceptMax: the listener outlives a
// lack of file descriptors.
const (
	acceptMin = 5 * time.Millisecond
	acceptMax = time.Second
)

// Serve accepts connections on l until Shutdown or Close, after which it
// returns ErrServerClosed, or until l is closed by others. It closes l. Errors
// of l that may pass, such as a lack of file descriptors, are waited out. With
// a listener of crypto/tls it serves RTMPS; DynamicRecordSizingDisabled in its
// tls.Config suits what is sent, which is large, and SessionTicketsDisabled is
// needed by librtmp on GnuTLS, which takes a ticket of TLS 1.3 for the end.
func (s *Server) Serve(l net.Listener) error {
	own := &servedListener{Listener: l}
	defer own.Close()
	if s.err != nil {
		return s.err
	}
	hostcode.Call(func() { own.addr = l.Addr() })
	if err := s.addListener(own); err != nil {
		return err
	}
	defer s.removeListener(own)

	spare := openSpare()
	defer func() { spare.Close() }()
	var delay time.Duration
	var logged time.Time
	for {
		nc, err := own.Accept()
		if err == nil {
			delay = 0
			if c, err := s.admit(nc); err == nil {
				c.start(s.ctx)
			} else {
				hangUp(nc)
			}
			continue
		}
		if s.isClosing() {
			return ErrServerClosed
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if now := time.Now(); now.Sub(logged) >= acceptMax {
			logged = now
			s.log.Warn("accept", "err", err)
		}
		delay = min(max(2*delay, acceptMin), acceptMax)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			if spare.Close() == nil && turnAway(own, delay) {
				spare = openSpare()
				continue
			}
			spare = openSpare()
		}
		select {
		case <-time.After(delay):
		case <-s.ctx.Done():
			return ErrServerClosed
		}
	}
}

// servedListener is a host's listener that is served.
type servedListener struct {
	net.Listener
	addr   net.Addr
	closed atomic.Bool
}

func (l *servedListener) Accept() (nc net.Conn, err error) {
	hostcode.Call(func() { nc, err = l.Listener.Accept() })
	return nc, err
}

// Close closes the host's listener once: Serve does, as well as Close and
// Shutdown.
func (l *servedListener) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	return hostcode.Close(l.Listener)
}

func (s *Server) addListener(l *servedListener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	return nil
}

func (s *Server) removeListener(l *servedListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// hangUp closes a connection for a caller who must not wait: TLS says goodbye,
// for which the peer may take 5 s, and a host's connection may do anything.
func hangUp(nc net.Conn) {
	if tcp, ok := nc.(*net.TCPConn); ok {
		tcp.Close()
		return
	}
	go hostcode.Close(nc)
}

// openSpare opens a file whose descriptor is given up when there is no other.
// It is nil, which can be closed in vain, where there is none even for it.
func openSpare() *os.File {
	f, _ := os.Open(os.DevNull)
	return f
}

// turnAway closes the connections that wait at l, so that their clients know,
// for so long. It is false where l can't be asked for a time.
func turnAway(l *servedListener, d time.Duration) bool {
	t, ok := l.Listener.(interface{ SetDeadline(time.Time) error })
	if !ok || t.SetDeadline(time.Now().Add(d)) != nil {
		return false
	}
	defer t.SetDeadline(time.Time{})
	for {
		nc, err := l.Accept()
		if err != nil {
			return errors.Is(err, os.ErrDeadlineExceeded)
		}
		hangUp(nc)
	}
}

// ServeConn serves one connection, which it closes, and returns when
// everything that the connection started has ended, with the reason: nil when
// the peer has just gone. ctx ends it early.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	if s.err != nil {
		nc.Close()
		return s.err
	}
	c, err := s.admit(nc)
	if err != nil {
		nc.Close()
		return err
	}
	ctx, cancel := context.WithCancel(withLog(orBackground(ctx), s.log))
	defer cancel()
	defer context.AfterFunc(ctx, func() { hostcode.Close(nc) })()
	defer context.AfterFunc(s.ctx, cancel)()
	c.result = make(chan error, 1)
	c.start(ctx)
	return <-c.result
}

// Source returns a live stream by its name, as PublishRequest.Name gives it:
// "live/cam", or "//studio.example/live/cam" in a vhost, which is taken in any
// case. It is nil when there is none.
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

// Shutdown closes the listeners and ends every stream: what is in its log is
// sent, with what publishers have sent and was not read yet, then its destinations
// are told that it has ended. It returns when all of it is gone, or with ctx's error when that ends before; then Close ends
// the rest. It does not wait for publishers to leave: an encoder that is cut
// off connects elsewhere. From a hook it returns ErrInHook at once, and all of
// this is done without its caller and without ctx.
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

// restLimit bounds how long Shutdown waits for what has arrived to be read, which
// takes microseconds, unless the host decides about something or the machine is
// very busy.
const restLimit = time.Second

// readRest ends the connections of all but players when what has arrived over them
// is read, and waits for that.
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

// Close ends everything at once and returns when all of it is gone, and no hook
// is running any more; the contexts of hooks end. From a hook it returns
// ErrInHook at once, and everything ends when the hook has returned.
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

// awaitEnd waits until everything that was begun has ended.
func (s *Server) awaitEnd() {
	s.wg.Wait()
	s.pool.Close()
	s.reads.Close()
	s.notices.close()
}

// closeLocked closes a connection that is in conns, and so counts in wg, without
// waiting. s.mu is held.
func (s *Server) closeLocked(c *conn) { s.wg.Go(func() { hostcode.Close(c.nc) }) }

// orBackground takes a context that is nil for context.Background.
func orBackground(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	return ctx
}

// beginClosing stops accepting connections and streams. A stream about whose
// publish the host still decides ends when that is decided.
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

// admit makes room for a connection, which counts in wg until its caller is
// done with it.
func (s *Server) admit(nc net.Conn) (*conn, error) {
	var remote net.Addr
	if err := hostcode.Protect(func() { remote = nc.RemoteAddr() }); err != nil {
		return nil, fmt.Errorf("address of a connection: %w", err)
	}
	c := &conn{srv: s, nc: nc, remote: remote, peer: logAddr(remote), id: randomID(), in: ingest.NewReader(nc)}
	c.addr = clientAddr(remote)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, ErrServerClosed
	}
	if l := s.cfg.Load().Limits.Connections; l >= 0 && len(s.conns) >= l {
		return nil, fmt.Errorf("%w: %d connections", ErrLimit, l)
	}
	if l := s.cfg.Load().Limits.ConnectionsPerAddress; l >= 0 && c.addr.IsValid() && s.perAddr[c.addr] >= l {
		return nil, fmt.Errorf("%w: %d connections of an address", ErrLimit, l)
	}
	if l := s.cfg.Load().Limits.RefusalsPerAddress; l >= 0 && s.refusals.shut(c.addr, time.Now()) {
		return nil, fmt.Errorf("%w: %d refusals of an address within a minute", ErrLimit, l)
	}
	s.wg.Add(1)
	s.conns[c] = struct{}{}
	s.perAddr[c.addr]++
	s.pending = append(s.pending, c)
	if l := s.cfg.Load().Limits.PendingHandshakes; l >= 0 && len(s.pending) > l {
		s.closeLocked(s.pending[0])
		s.pending = slices.Delete(s.pending, 0, 1) // not to keep it
	}
	return c, nil
}

// shaken takes c out of those in their handshake.
func (s *Server) shaken(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.pending, c); i >= 0 {
		s.pending = slices.Delete(s.pending, i, i+1)
	}
}

// publish accepts a publisher or says why not. The name is taken before
// anybody is asked, so that a second publisher changes nothing. cfg is the
// Config that req was made with.
func (s *Server) publish(ctx context.Context, cfg *Config, req *PublishRequest) (*publication, error) {
	s.memory.Load().Shed(fanout.Clock()) // nobody may be left who appends
	src, err := s.reserve(cfg, req)
	if src == nil {
		return nil, err
	}
	next := err != nil
	if next {
		defer s.wg.Done()
	}
	p := src.claim(req, next)
	if p == nil {
		return nil, err
	}
	started, accepted := false, next // one that is next has nothing to give back
	// Also where the host's code panics.
	defer func() {
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

// processMemory counts for all Servers that have no budget of their own.
var processMemory = sync.OnceValue(func() *gop.Budget { return gop.NewBudget(defaultMemoryBudget()) })

// setBudget puts Config.MemoryBudget into force. What is counted stays where it
// is.
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

// busyGrace is how long a publisher over the network waits for a name that is
// taken. Where an encoder reconnects at once, the end of its old connection may
// be seen after its new publish.
const busyGrace = 200 * time.Millisecond

// awaitName waits until a name is free, for busyGrace at most.
func (s *Server) awaitName(ctx context.Context, req *PublishRequest) {
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

// reserve takes a stream's name. With ErrStreamBusy it returns the live stream
// that has it. What it returns counts in wg: a new stream until it is done, a live
// one until the host has decided about its next publisher.
func (s *Server) reserve(cfg *Config, req *PublishRequest) (*Source, error) {
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

// release gives a stream's name back. Where it has players, what they have seen
// of its times is kept for the next stream.
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

// lastEnd is where the times have ended that the players of a stream
// have seen.
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
	if src.dropped(s.cfg.Load()) { // by a Reload meanwhile
		return nil, errNoVhost
	}
	src.live = true
	if a := s.audiences[src.key]; a != nil {
		players = slices.Collect(maps.Keys(a.waiting))
	}
	for _, p := range players {
		s.leaveLocked(p)
	}
	return players, nil
}

// guard calls the host's code, on a goroutine of its own, for which it waits. A
// panic there, or an end of the goroutine, ends what it was called for, not the
// process and not the caller's goroutine.
func (s *Server) guard(what string, f func() error) error {
	err := fmt.Errorf("%s ended its goroutine", what)
	done := make(chan struct{})
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
	return err
}

const (
	// tellTimeout is how long the context of a hook lasts that is only told, and
	// tellAfterClose how long after the beginning of Server.Close.
	tellTimeout    = 30 * time.Second
	tellAfterClose = 5 * time.Second
)

// tell calls a hook that is only told of what has ended. It has a context with
// the values of ctx.
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

// hostHandler is the host's slog.Handler. One that panics costs its line.
type hostHandler struct{ h slog.Handler }

func (h hostHandler) Enabled(ctx context.Context, l slog.Level) (enabled bool) {
	hostcode.Protect(func() { enabled = h.h.Enabled(ctx, l) })
	return enabled
}

func (h hostHandler) Handle(ctx context.Context, r slog.Record) (err error) {
	if perr := hostcode.Protect(func() { err = h.h.Handle(ctx, r) }); perr != nil {
		return perr
	}
	return err
}

func (h hostHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	hostcode.Protect(func() { h.h = h.h.WithAttrs(attrs) })
	return h
}

func (h hostHandler) WithGroup(name string) slog.Handler {
	hostcode.Protect(func() { h.h = h.h.WithGroup(name) })
	return h
}

// conn is a client's connection. Its fields belong to the goroutine that
// reads it, unless they say otherwise.
type conn struct {
	srv     *Server
	nc      net.Conn
	remote  net.Addr   // of nc, which is asked once: it may be the host's
	peer    string     // the same for the log
	addr    netip.Addr // see clientAddr
	id      string
	ctx     context.Context
	cancel  context.CancelFunc // of ctx; nil until the first byte
	in      *ingest.Reader
	out     *fanout.Sender // nil until the handshake is done
	rt      *rtmp.Server   // nil until the handshake is done
	held    *gop.Account   // what it holds in unfinished messages; as rt
	evicted atomic.Bool    // to give that back
	tcURL   string
	page    string
	app     string
	hops    []string        // that the stream has passed
	caps    bool            // says that it speaks Enhanced RTMP
	user    string          // that PublishAuth knows
	hooked  *ConnectRequest // accepted by OnConnect, for onClose
	shake   time.Time       // when the handshake must be done
	setup   time.Time       // when publish or play must be accepted
	// onClose is that of the Hooks that have accepted, nil before.
	onClose func(context.Context, *ConnectRequest)
	result  chan error // of ServeConn, nil for others

	pubs  map[uint32]*publication
	ended []*Source // to be waited for
	// unpublished: a stream of it has ended.
	unpublished bool
	last        *publication // that got the last message,
	lastID      uint32       // on this message stream
	touched     bool         // since the last flush
	media       int64        // when the last message came
	limit       int64        // media time that the read deadline counts from
	// lost is how long media might take of a publish that the connection has
	// ended with.
	lost time.Duration

	// Guarded by srv.mu, and written by the reading goroutine alone.
	player    *player
	stopDrain func() // the timer of closeWithin
	readAll   func() // tells readRest that reading has ended
}

// start begins to serve the connection. When it has ended, srv.wg and result
// are told.
func (c *conn) start(ctx context.Context) {
	c.ctx = ctx
	cfg, now := c.srv.cfg.Load(), time.Now()
	c.shake, c.setup = now.Add(orForever(cfg.HandshakeTimeout)), now.Add(orForever(cfg.SetupTimeout))
	go c.run((*conn).pend)
}

// stage is a part of a connection's life. It returns the next one; nil at the
// end, and why.
type stage func(*conn) (stage, error)

// run goes through one stage and starts the next. A stack that has grown stays
// so, and waiting connections are many: each stage has a stack of its own, and
// those that wait are so shallow that the smallest one does.
func (c *conn) run(st stage) {
	err := errGoexit
	var next stage
	defer func() {
		if v := recover(); v != nil {
			next, err = nil, c.panicked(v)
		}
		if next != nil {
			go c.run(next)
			return
		}
		c.end(err)
	}()
	// Its connection may be the host's.
	hostcode.Call(func() { next, err = st(c) })
}

// errGoexit is of a connection of the host's that has ended the goroutine.
var errGoexit = errors.New("forward: the connection has ended its goroutine")

// evict ends a connection that holds more of the memory for those who have not
// been let in than any other. A hook that is being asked is told.
func (c *conn) evict() {
	c.evicted.Store(true)
	c.cancel()
	s := c.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.conns[c]; open {
		s.closeLocked(c) // that of TLS may wait
	}
}

// errEvicted is why evict ends a connection.
var errEvicted = fmt.Errorf("%w: of all that have not been let in, it held most of the memory for unfinished messages", ErrLimit)

func (c *conn) panicked(v any) error {
	c.logger().Error("panic", "panic", v, "stack", stack())
	return errors.New("forward: internal error")
}

// pend waits for the first byte, which many never send.
func (c *conn) pend() (stage, error) {
	c.in.SetDeadline(c.shake)
	c.in.Await()
	return (*conn).open, nil
}

// open does the handshake and begins to read.
func (c *conn) open() (stage, error) {
	s := c.srv
	c.ctx, c.cancel = context.WithCancel(c.ctx)
	c.nc.SetWriteDeadline(c.shake)
	err := rtmp.ServerHandshake(struct {
		io.Reader
		io.Writer
	}{c.in, c.nc})
	s.shaken(c)
	if err != nil {
		return nil, inTime(err, "no handshake", s.cfg.Load().HandshakeTimeout)
	}
	c.nc.SetWriteDeadline(time.Time{})
	cfg := s.cfg.Load()
	c.in.Flush = c.flush
	c.in.SetDeadline(c.setup)
	c.out = fanout.NewSender(c.nc, orForever(cfg.WriteTimeout))
	rc := rtmp.NewConn(c.in, c.out.Send, setupBuffer, cfg.ChunkSize, connectLimits)
	rc.Framer = c.framer
	c.held = s.memory.Load().Account(c.evict)
	rc.Charge = c.held.Charge
	c.rt = rtmp.NewServer(rc, c)
	if s.isClosing() {
		return nil, ErrServerClosed
	}
	return c.read()
}

// read serves the client until the connection ends, or until a player has
// nothing more to say.
func (c *conn) read() (stage, error) {
	err := c.rt.ServeUntil(c.quiet)
	if err == nil {
		return (*conn).rest, nil
	}
	if werr := c.out.Err(); werr != nil && !errors.Is(werr, fanout.ErrClosed) {
		err = werr
	}
	var refused *rtmp.StatusError
	if errors.As(err, &refused) {
		c.linger()
	}
	what, limit := "neither publish nor play", c.srv.cfg.Load().SetupTimeout
	if c.lost > 0 {
		what, limit = "no media", c.lost
	}
	return nil, inTime(err, what, limit)
}

// inTime says in place of a deadline what has not come in time.
func inTime(err error, what string, limit time.Duration) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return hidden{err, fmt.Sprintf("%s within %v", what, limit)}
}

// quiet reports whether all is read of a client that does nothing but play.
func (c *conn) quiet() bool {
	return c.player != nil && len(c.pubs) == 0 && c.rt.Buffered() == 0
}

// rest waits for something from a player, which says next to nothing.
func (c *conn) rest() (stage, error) {
	c.in.Await()
	return (*conn).read, nil
}

// lingerTime is how long a client that was told why it is refused may take to
// read it.
const lingerTime = time.Second

// linger waits until the client has closed: closing first would throw away
// what it has not read yet.
func (c *conn) linger() {
	c.out.Shutdown()
	c.in.SetDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.in, 1<<20)
}

// end releases what the connection has and tells why it has ended.
func (c *conn) end(err error) {
	s := c.srv
	defer func() {
		if c.cancel != nil {
			c.cancel()
		}
		s.wg.Done()
		if c.result != nil {
			c.result <- err
		}
	}()
	s.mu.Lock()
	read := c.readAll
	c.readAll = func() {}
	s.mu.Unlock()
	if read != nil {
		read()
	}
	hostcode.Close(c.nc)
	c.leave()
	if c.out != nil {
		c.out.Close()
		c.out.Wait()
	}
	if c.rt != nil {
		c.rt.Release()
	}
	if f := c.onClose; f != nil {
		req := *c.hooked
		req.Sent, req.Received = c.out.Stats().Bytes, c.rt.Received()
		s.tell(c.ctx, "OnClose", func(ctx context.Context) { f(ctx, &req) })
	}
	for _, src := range c.ended {
		<-src.done
	}
	evicted := c.evicted.Load()
	if evicted {
		err = errEvicted
	}
	switch {
	case evicted:
		s.notices.write(slog.LevelInfo, "connection ended", "evicted", "client", c.id, "addr", c.peer, "err", err)
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, ingest.ErrFinished), errors.Is(err, rtmp.ErrAsked), c.ctx.Err() != nil,
		c.unpublished && errors.Is(err, syscall.ECONNRESET): // FFmpeg leaves so
		c.logger().Debug("connection ended", "err", err)
		err = nil
	default:
		s.notices.write(slog.LevelInfo, "connection ended", c.causeOf(err), "client", c.id, "addr", c.peer, "err", err)
	}
}

// leave has a connection that is closed count no more, whatever it still waits
// for.
func (c *conn) leave() {
	s := c.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.pending, c); i >= 0 {
		s.pending = slices.Delete(s.pending, i, i+1)
	}
	delete(s.conns, c)
	if s.perAddr[c.addr]--; s.perAddr[c.addr] == 0 {
		delete(s.perAddr, c.addr)
	}
	if c.stopDrain != nil {
		c.stopDrain()
	}
}

func (c *conn) logger() *slog.Logger {
	return c.srv.log.With("client", c.id, "addr", c.peer)
}

// finish ends the connection for Shutdown: a player when it has got all, any
// other at once.
func (c *conn) finish() {
	s := c.srv
	s.mu.Lock()
	p := c.player
	waits := p != nil && s.waits(p)
	idle := p == nil || p.stopped.Load() || waits
	told := waits && p.played.Load()
	if _, open := s.conns[c]; open && idle && !told {
		s.closeLocked(c)
	}
	s.mu.Unlock()
	switch {
	case told:
		p.tellEnd()
		c.out.Shutdown()
		c.closeWithin(lingerTime)
	case !idle:
		c.closeWithin(orForever(s.cfg.Load().DrainTimeout))
	}
}

// closeWithin closes the connection unless it ends by itself before.
func (c *conn) closeWithin(d time.Duration) {
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	if _, open := c.srv.conns[c]; open && c.stopDrain == nil {
		c.stopDrain = later(d, func() { hostcode.Close(c.nc) })
	}
}

var errNoVhost = errors.New("no such vhost")

// request parses what a publish or play asks for.
func (c *conn) request(cfg *Config, name string) (*PublishRequest, error) {
	r, err := rtmp.ParseRequest(c.tcURL, c.app, name)
	if err != nil {
		return nil, err
	}
	vhost, ok := cfg.resolveVhost(r.Vhost, r.Host)
	if !ok {
		named := r.Vhost
		def(&named, r.Host)
		return nil, fmt.Errorf("%w: %.100q", errNoVhost, named)
	}
	return &PublishRequest{
		ServerID: c.srv.id, ClientID: c.id, RemoteAddr: c.remote, LocalAddr: c.nc.LocalAddr(),
		Vhost: vhost, App: r.App, Stream: r.Stream, Param: r.Param, TcURL: r.TcURL,
		PageURL: c.page, User: c.user, Hops: c.hops, enhanced: c.caps,
	}, nil
}

// Connect implements rtmp.Handler.
func (c *conn) Connect(m *rtmp.Connect) error {
	asked := time.Now()
	c.hops = hops(m)
	if err := c.srv.checkHops(c.hops); err != nil {
		return c.refused("connect", "NetConnection.Connect.Rejected", "The stream goes in a circle.", err)
	}
	if err := c.authenticate(m); err != nil {
		return err
	}
	c.tcURL, c.app, c.caps = m.TcURL, m.App, m.Enhanced()
	c.rt.Limits = setupLimits
	c.page, _ = m.Properties.GetString("pageUrl")
	cfg := c.srv.cfg.Load()
	req := &ConnectRequest{
		ServerID: c.srv.id, ClientID: c.id, RemoteAddr: c.remote,
		Vhost: DefaultVhost, TcURL: m.TcURL, App: m.App, PageURL: c.page, FlashVer: m.FlashVer,
	}
	// The name is not known yet; any will do to find vhost and app. Whether
	// the vhost is served is decided with the name, which may name another.
	if r, err := rtmp.ParseRequest(c.tcURL, c.app, "stream"); err == nil {
		req.App = r.App
		if vhost, ok := cfg.resolveVhost(r.Vhost, r.Host); ok {
			req.Vhost = vhost
		}
	}
	if f := cfg.Hooks.OnConnect; f != nil {
		began := time.Now()
		err := c.ask("OnConnect", func(ctx context.Context) error { return f(ctx, req) })
		switch {
		case errors.As(err, new(goneError)):
			return err
		case err != nil:
			c.delayRefusal(asked)
			return c.refused("connect", "NetConnection.Connect.Rejected", "The connection is refused.", hide(err, []string{c.page}, []string{m.TcURL, m.App, c.page}))
		}
		c.setup = c.setup.Add(time.Since(began))
		c.in.SetDeadline(c.setup)
	}
	if f := cfg.Hooks.OnClose; f != nil {
		c.hooked, c.onClose = req, f
	}
	if req.Vhost != "" {
		c.rt.SetChunkSize(cfg.vhost(req.Vhost).ChunkSize)
	}
	return nil
}

// asking returns a context for what the host is asked about the client. It ends
// when the client leaves. done comes before anything is read.
func (c *conn) asking() (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(c.ctx)
	stop := c.in.Watch(func(err error) { cancel(goneError{err}) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// goneError is why a client has gone while the host was asked about it.
type goneError struct{ error }

func (e goneError) Unwrap() error { return e.error }

// orGone is the error of what was asked in a context of asking: that the client
// has gone is no refusal.
func orGone(ctx context.Context, err error) error {
	var gone goneError
	if err != nil && errors.As(context.Cause(ctx), &gone) {
		return gone
	}
	return err
}

// ask asks a hook about the client.
func (c *conn) ask(what string, f func(context.Context) error) error {
	ctx, done := c.asking()
	defer done()
	return orGone(ctx, c.srv.guard(what, func() error { return f(ctx) }))
}

// askPublish asks for a publish.
func (c *conn) askPublish(cfg *Config, req *PublishRequest) (*publication, error) {
	ctx, done := c.asking()
	defer done()
	c.srv.awaitName(ctx, req)
	p, err := c.srv.publish(ctx, cfg, req)
	return p, orGone(ctx, err)
}

var errNoUser = errors.New("not authenticated")

// authenticate asks a publisher for user and password, where that is wanted,
// and takes the answer out of m. Who may be a player is not asked, but can't
// publish then.
func (c *conn) authenticate(m *rtmp.Connect) error {
	asked := time.Now()
	if c.srv.cfg.Load().PublishAuth == nil {
		return nil
	}
	var auth, tcAuth string
	m.App, auth = rtmp.CutAuth(m.App)
	m.TcURL, tcAuth = rtmp.CutAuth(m.TcURL)
	def(&auth, tcAuth)
	// Encoders say "FMLE/3.0 (compatible; FMSc/1.0)" or the like, since
	// Flash Media Server tells them from players by that.
	if auth == "" && !strings.HasPrefix(m.FlashVer, "FMLE/") && !strings.Contains(m.FlashVer, "FMSc/") {
		return nil
	}
	method := string(c.srv.cfg.Load().PublishAuthMethod)
	err := c.srv.guard("PublishAuth", func() (err error) {
		c.user, err = c.srv.auth.Check(method, m.App, auth)
		return err
	})
	if errors.Is(err, rtmp.ErrWrong) {
		c.delayRefusal(asked)
	}
	return err
}

// refused makes the error that tells the client, and the log. The words of a
// host's StatusError are for the client: the log has them in cause.
func (c *conn) refused(command, code, description string, cause error) error {
	var st *StatusError
	if !errors.As(cause, &st) {
		told := &rtmp.StatusError{Command: command, Code: code, Description: description}
		both := fmt.Errorf("%w (%w)", told, cause)
		if strings.Contains(description, cause.Error()) { // the log has it once
			return hidden{both, told.Error()}
		}
		return both
	}
	told := &rtmp.StatusError{Command: command, Code: st.Code, Description: st.Description}
	def(&told.Code, code)
	return hidden{fmt.Errorf("%w (%w)", told, cause), fmt.Sprintf("%s refused: %v", command, cause)}
}

// Publish implements rtmp.Handler.
func (c *conn) Publish(streamID uint32, name string) error {
	const badName, denied = "NetStream.Publish.BadName", "NetStream.Publish.Denied"
	asked := time.Now()
	cfg := c.srv.cfg.Load()
	if cfg.PublishAuth != nil && c.user == "" {
		return c.refused("publish", denied, "User and password are needed.", errNoUser)
	}
	req, err := c.request(cfg, name)
	if err != nil {
		return c.refused("publish", badName, "The stream's name can't be used: "+err.Error()+".", err)
	}
	p, err := c.askPublish(cfg, req)
	switch {
	case errors.As(err, new(goneError)):
		return err
	case errors.Is(err, ErrStreamBusy):
		return c.refused("publish", badName, "A stream of this name is being published.", err)
	case errors.Is(err, errMemory):
		return c.refused("publish", denied, "The server is short of memory, try again later.", err)
	case errors.Is(err, webhook.ErrBusy):
		return c.refused("publish", denied, "The server is busy, try again later.", err)
	case errors.Is(err, ErrLimit):
		return c.refused("publish", denied, "The server has no room for another stream.", err)
	case errors.Is(err, ErrServerClosed):
		return c.refused("publish", denied, "The server is shutting down.", err)
	case err != nil:
		if errors.As(err, new(refusedError)) || errors.Is(err, ErrRefused) {
			c.delayRefusal(asked)
		}
		return c.refused("publish", denied, "Publishing is refused.", err)
	}
	p.begin(c)
	if c.pubs == nil {
		c.pubs = make(map[uint32]*publication)
	}
	c.excuse(time.Since(asked))
	p.heard = fanout.Clock()
	c.rejectSilent(p.heard)
	c.pubs[streamID] = p
	c.rt.Limits = cfg.mediaLimits()
	c.held.Accept()
	c.rt.Resize(publishBuffer)
	c.in.SetWindow(p.src.vhost.MergeWindow)
	c.in.Coalesce(c.srv.reads)
	c.in.SetDeadline(deadline(p.src.vhost.FirstMediaTimeout))
	// The first media moves the deadline, whatever the clock began with.
	c.limit = p.heard - 2*int64(time.Second)
	return nil
}

// Unpublish implements rtmp.Handler.
func (c *conn) Unpublish(streamID uint32, lost bool) {
	p := c.pubs[streamID]
	delete(c.pubs, streamID)
	if lost {
		if c.lost = p.src.vhost.FirstMediaTimeout; p.begun {
			c.lost = p.src.vhost.ReadTimeout
		}
	}
	if c.last == p {
		c.last = nil
	}
	if len(c.pubs) == 0 {
		c.in.SetWindow(0)
		c.in.Coalesce(nil)
		c.idle()
	}
	if p.leave(lost) {
		c.unpublished = true
		c.ended = append(slices.DeleteFunc(c.ended, (*Source).isDone), p.src)
	}
}

// idle sets the read deadline of a connection that does not publish any more,
// or does not play any more. A player has nothing to say; the system's
// keep-alive and our writes find out when it has gone.
func (c *conn) idle() {
	switch {
	case len(c.pubs) > 0: // its media counts
	case c.player != nil:
		c.in.SetDeadline(time.Time{})
	default:
		c.in.SetDeadline(deadline(c.srv.cfg.Load().SetupTimeout))
	}
}

// publication is what is published on a message stream, or nil.
func (c *conn) publication(streamID uint32) *publication {
	if c.last != nil && c.lastID == streamID {
		return c.last
	}
	return c.pubs[streamID]
}

// framer places the media of a stream.
func (c *conn) framer(streamID uint32) *chunk.Framer {
	if p := c.publication(streamID); p != nil {
		return p.framer.Load()
	}
	return nil
}

// Message implements rtmp.Handler.
func (c *conn) Message(m chunk.Message) error {
	p := c.publication(m.StreamID)
	now := fanout.Clock()
	p.heard, p.begun = now, true
	if p != c.last {
		c.flush()
		c.last, c.lastID = p, m.StreamID
	}
	c.touched = true
	c.media = now
	err := p.message(m, now)
	switch {
	case p.pace.tight:
		c.flush()
	case p.pace.due():
		c.holdBack(p)
	}
	return err
}

// flush passes on what has been read.
func (c *conn) flush() {
	if !c.touched {
		return
	}
	c.touched = false
	p := c.last
	if p == nil {
		return
	}
	src := p.src
	// Moved now and then only: a deadline costs more than a message.
	if limit := src.vhost.ReadTimeout; c.media-c.limit >= int64(min(orForever(limit)/10, time.Second)) {
		c.limit = c.media
		c.in.SetDeadline(deadline(limit))
		c.rejectSilent(c.media)
	}
	if src.group.Early() {
		c.in.SetWindow(0)
	} else {
		c.in.SetWindow(src.vhost.MergeWindow)
	}
	if c.in.Merging() {
		src.group.Wake()
	} else {
		src.group.WakeWithin(src.vhost.MergeWindow)
	}
	c.holdBack(p)
}

// rejectSilent ends those of several publishes that send no media. Where none
// does, the read deadline ends the connection.
func (c *conn) rejectSilent(now int64) {
	if len(c.pubs) < 2 {
		return
	}
	for id, p := range c.pubs {
		if limit, silent := p.silent(now); silent {
			c.srv.notices.write(slog.LevelInfo, "publish without media", "", "source", p.req.logName(), "limit", limit)
			c.rt.Reject(id, fmt.Sprintf("No media for %v.", limit))
		}
	}
}

func randomID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// deadline is the time d from now; never where d is negative.
func deadline(d time.Duration) time.Time {
	if d < 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// later calls do after a time, unless what it returns is called before. A timer
// that was stopped may be kept until its time; it holds nothing then.
func later(d time.Duration, do func()) (stop func()) {
	pending := new(atomic.Pointer[func()])
	pending.Store(&do)
	t := time.AfterFunc(d, func() {
		if do := pending.Load(); do != nil {
			(*do)()
		}
	})
	return func() {
		t.Stop()
		pending.Store(nil)
	}
}

// stopTimer stops a timer of later, if there is one.
func stopTimer(stop *func()) {
	if *stop != nil {
		(*stop)()
		*stop = nil
	}
}

// orForever turns "negative means none" into a time that is never reached.
func orForever(d time.Duration) time.Duration {
	if d < 0 {
		return 100 * 365 * 24 * time.Hour
	}
	return d
}
