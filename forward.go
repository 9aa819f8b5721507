package forward

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"iter"
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
	"github.com/rtmp-forward/forward/internal/joy"
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
	places    places          // that are connected to

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
	s.reads.WakeAll = fanout.WakeAll[ingest.Waker]
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
	s.calls = calls{ctx: s.ctx, notices: s.notices, what: make(map[string]*call)}
	return s
}

// Publish publishes a stream from inside the process. It is treated like an encoder's
// publish: hooks and the resolver decide, and the name must be free. req must have App
// and Stream. Publish sets ServerID, and Vhost and ClientID if they are empty. Vhost is
// not case-sensitive and need not be in Config.Vhosts. Set Hops and PublishID for a stream
// that comes from another Server. The stream ends with Close, with ctx, or with the Server.
//
// Errors wrap ErrStreamBusy, ErrLimit, ErrLoop, ErrRefused, ErrServerClosed, or the
// error of a hook or the resolver.
func (s *Server) Publish(ctx context.Context, req Request) (*Publisher, error) {
	if s.err != nil {
		return nil, s.err
	}
	def(&req.ClientID, randomID())
	req.ServerID = s.id
	if !isPublishID(req.PublishID) {
		req.PublishID = randomID()
	}
	def(&req.Vhost, DefaultVhost)
	if err := checkRequest(&req); err != nil {
		return nil, err
	}
	cfg := s.cfg.Load()
	req.Vhost, req.named = cfg.vhostName(req.Vhost), cfg.LogNames
	if err := checkHops(req.Hops, s.id); err != nil {
		return nil, err
	}
	p := new(Publisher)
	p.ctx, p.cancel = context.WithCancelCause(orBackground(ctx))
	pub, err := s.publish(p.ctx, cfg, &req)
	if err != nil {
		p.cancel(err)
		return nil, err
	}
	p.shown, p.pub = pub.src.shown, pub
	p.enc = joy.NewEncoder(p.write)
	pub.begin(p)
	context.AfterFunc(p.ctx, func() { pub.leave(false) })
	return p, nil
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

// Play accepts a player of the live stream that req names. It is treated like a player
// over RTMP: Limits apply, OnConnect and OnPlay decide, and OnStop and OnClose follow. A
// refusal is counted, and returned 250 ms after the request at the earliest. The Player
// ends with Close, with the Server and, until ServeFLV, with ctx. It does not wait for
// another stream of the name.
//
// req must have App and Stream. If Vhost is empty, Param (the query) and TcURL (the URL up
// to App) tell the vhost, as those of an RTMP client do. RemoteAddr counts in Limits. Play
// sets ServerID, and ClientID if it is empty.
//
// Errors wrap ErrNotLive, ErrLimit, ErrServerClosed, ctx's error, or that of a hook, which
// has refused the player.
func (s *Server) Play(ctx context.Context, req Request) (*Player, error) {
	if s.err != nil {
		return nil, s.err
	}
	cfg := s.cfg.Load()
	if err := nameStream(cfg, &req); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotLive, err)
	}
	p, err := newPlayer(ctx, s, &req)
	if err != nil {
		return nil, err
	}
	if err := p.ask(cfg, &req); err != nil {
		p.end(err)
		return nil, err
	}
	src := s.Source(req.Name())
	if src == nil {
		if f := cfg.Hooks.OnStop; f != nil {
			s.calls.tell(p.c.ctx, "OnStop", func(ctx context.Context) { f(ctx, &req) })
		}
		p.end(nil)
		return nil, fmt.Errorf("play of %s: %w", req.logName(), ErrNotLive)
	}
	return p.begin(cfg, &req, src)
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

// Stats returns a snapshot.
func (s *Server) Stats() ServerStats {
	s.mu.Lock()
	memory := s.memory.Load()
	st := ServerStats{
		Connections: len(s.conns), Streams: len(s.sources), Destinations: s.pushes, States: make(map[State]int),
		Buffered: memory.Used(), MemoryBudget: max(memory.Limit(), 0),
		Publishes: s.publishes, Plays: s.plays,
		ReceivedBytes: s.ended.bytes, ReceivedMessages: s.ended.messages,
		Refused: s.refusals.total, RefusedFrom: maps.Collect(s.refusals.counts),
	}
	st.Sent.addAll(s.ended.sent)
	for _, a := range s.audiences {
		st.Players += a.players
	}
	known := slices.Collect(maps.Keys(s.known))
	s.mu.Unlock()
	for _, src := range known {
		st.ReceivedBytes += src.bytes.Load()
		st.ReceivedMessages += src.messages.Load()
		st.Sent.addAll(src.totals())
		src.addStates(st.States)
	}
	st.Latency, st.FirstKeyframe = durations(&s.pool.Latency), durations(&s.pool.FirstPicture)
	st.Calls = s.calls.stats()
	return st
}

// Events returns the events from the call on, in their order, until ctx ends or the
// Server has ended and everything is read. Each call has a reader of its own, which may
// be ranged over once. A reader that falls behind by more than 1024 events misses the
// oldest, of which EventMissed tells; nobody waits for it. Without readers events cost
// nothing.
//
// A stream's events begin with EventPublish and end with EventUnpublish; those of a
// destination are in the order of its states.
func (s *Server) Events(ctx context.Context) iter.Seq[Event] {
	return s.events.read(ctx)
}

// Logger returns Config.Logger, or its default. It may be called from anywhere.
func (s *Server) Logger() *slog.Logger { return s.log }

// Reload replaces the Server's Config for connections, publishes and plays that begin
// from now on. If cfg is not valid, Reload returns the error of Validate and changes
// nothing.
//
// A live stream keeps the Config that it began with, and the end of a client is reported
// to the Hooks that have accepted it. Only the destinations of live streams change: if the
// RefreshInterval or the Resolver of its vhost differs, a stream is refreshed as by
// Source.Refresh. Reload does not wait for that. Destinations that are still in the
// answer are not disturbed. If the new Resolver returns an error, the error is logged,
// all destinations stay, and the Resolver is asked again after about a minute. A stream
// whose vhost is no longer served is closed as by Source.Shutdown; its players, and those
// that wait for it, are told and disconnected.
//
// Resolvers are the same if they are equal in Go. Resolvers that cannot be compared, such
// as a ResolverFunc, count as changed, which costs one call per stream.
//
// Addr and Logger need a restart; a warning names those that differ.
func (s *Server) Reload(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if s.err != nil {
		return s.err
	}
	live, gone, fixed, err := s.reload(cfg.withDefaults())
	if err != nil {
		return err
	}
	if len(fixed) > 0 {
		s.log.Warn("reload: needs a restart", "fields", fixed)
	}
	for _, src := range live {
		src.adopt()
	}
	for _, p := range gone {
		p.dismiss()
	}
	return nil
}

// reload applies cfg. It returns the streams and players that it may affect, and the
// names of fields that cannot change.
func (s *Server) reload(cfg Config) (live []*Source, gone []*player, fixed []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, nil, nil, ErrServerClosed
	}
	old := s.cfg.Load()
	if cfg.Addr != old.Addr {
		fixed = append(fixed, "Addr")
	}
	if cfg.Logger != old.Logger {
		fixed = append(fixed, "Logger")
	}
	cfg.Addr, cfg.Logger = old.Addr, old.Logger
	s.cfg.Store(&cfg)
	s.setBudget(cfg.MemoryBudget)
	for _, src := range s.sources {
		if src.live {
			live = append(live, src) // other streams check when they become live
		}
	}
	for c := range s.conns {
		if p := c.player; p != nil && p.dropped(&cfg) && (p.stopped.Load() || p.waitsLocked()) {
			gone = append(gone, p) // other players check when their stream ends
		}
	}
	return live, gone, fixed, nil
}

// Probe connects to a destination and publishes as a Forwarder does, with the same
// options, timeouts and rules for addresses, and leaves 300 ms after the publish has been
// accepted, without sending media. It makes one attempt. It returns nil if the destination
// has accepted and has not refused meanwhile, and a *DestinationError if not. Package probe
// describes each step.
//
// To the destination a probe is a publish without media. Platforms that start a
// broadcast when an encoder connects may do so, and a destination that takes the newest
// publisher disconnects one with the same stream key. A destination to which a Forwarder
// of this Server is connected, or is connecting, is therefore not probed: the error wraps
// ErrDuplicate, also if it is being probed or a Forwarder begins to connect meanwhile. The
// probe also ends with ctx, and with ErrServerClosed when the Server begins to shut down.
//
// It announces Enhanced RTMP, so that the destination lists the codecs that it takes.
func (s *Server) Probe(ctx context.Context, d Destination) error {
	ep, err := d.endpoint()
	if err != nil {
		return err
	}
	ctx, leave, err := s.places.probe(orBackground(ctx), ep.Place(), &s.wg)
	if err != nil {
		return fmt.Errorf("destination %s: %w", d, err)
	}
	defer leave()
	return probe(ctx, s, d, ep)
}

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
	s.places.close()
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// keepCounts keeps the counters of src, which has ended.
func (s *Server) keepCounts(src *Source) {
	sent := src.totals()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.known[src]; !ok {
		return
	}
	delete(s.known, src)
	s.ended.bytes += src.bytes.Load()
	s.ended.messages += src.messages.Load()
	s.ended.sent.addAll(sent)
}

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

// orBackground replaces a nil context with context.Background.
func orBackground(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	return ctx
}

func randomID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
