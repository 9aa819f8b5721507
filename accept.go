package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/ingest"
	"github.com/rtmp-forward/forward/internal/sys"
)

// ListenAndServe listens on Config.Addr and serves until Shutdown or Close,
// after which it returns ErrServerClosed.
func (s *Server) ListenAndServe() error {
	l, err := net.Listen("tcp", s.cfg.Load().Addr)
	if err != nil {
		return err
	}
	return s.Serve(l)
}

// The delay after an error of Accept doubles from acceptMin to acceptMax. The listener
// thus survives a lack of file descriptors.
const (
	acceptMin = 5 * time.Millisecond
	acceptMax = time.Second
)

// Serve accepts connections on l, and closes l before it returns. After Shutdown or Close
// it returns ErrServerClosed; if other code closes l, the error of Accept. It retries
// after temporary errors of l, such as a lack of file descriptors.
//
// For RTMPS use ServeTLS. A listener of crypto/tls also works, but then each player costs
// a goroutine and its wake-ups.
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

// ServeTLS is Serve with TLS on top of l, which is usually a TCP listener. cfg must have a
// certificate and is not changed. Its DynamicRecordSizingDisabled has no effect: all
// records are as large as possible. Set SessionTicketsDisabled for GnuTLS builds of
// librtmp, which mistake a TLS 1.3 ticket for the end of the stream.
func (s *Server) ServeTLS(l net.Listener, cfg *tls.Config) error {
	if cfg == nil || len(cfg.Certificates) == 0 && cfg.GetCertificate == nil && cfg.GetConfigForClient == nil {
		hostcode.Close(l)
		return errNoCertificate
	}
	cfg = cfg.Clone()
	cfg.DynamicRecordSizingDisabled = true
	return s.Serve(tlsListener{l, cfg})
}

var errNoCertificate = errors.New("forward: ServeTLS: the tls.Config has no certificate")

func (s *Server) addListener(l *servedListener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	return nil
}

// Listening returns how many listeners the Server accepts connections from. It is 0 from
// the beginning of Shutdown or Close on.
func (s *Server) Listening() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return 0
	}
	return len(s.listeners)
}

func (s *Server) removeListener(l *servedListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// ServeConn serves one connection and closes it. It returns when everything that the
// connection started has ended: nil if the peer has left, else the reason. The end of
// ctx ends the connection.
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
	defer context.AfterFunc(ctx, c.shut)()
	defer context.AfterFunc(s.ctx, cancel)()
	c.result = make(chan error, 1)
	c.start(ctx)
	return <-c.result
}

// admit makes room for a connection, which counts in wg until its caller releases it.
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
	if l := s.cfg.Load().Limits.Connections; l >= 0 && (tally{len(s.conns), s.closingConns}).counted(l) >= l {
		return nil, fmt.Errorf("%w: %d connections", ErrLimit, l)
	}
	if l := s.cfg.Load().Limits.ConnectionsPerAddress; l >= 0 && c.addr.IsValid() && s.perAddr[c.addr].counted(l) >= l {
		return nil, fmt.Errorf("%w: %d connections of an address", ErrLimit, l)
	}
	if l := s.cfg.Load().Limits.RefusalsPerAddress; l >= 0 && s.refusals.shut(c.addr, time.Now()) {
		return nil, fmt.Errorf("%w: %d refusals of an address within a minute", ErrLimit, l)
	}
	s.wg.Add(1)
	s.conns[c] = struct{}{}
	s.countLocked(c.addr, tally{open: 1})
	s.pending = append(s.pending, c)
	if l := s.cfg.Load().Limits.PendingHandshakes; l >= 0 && len(s.pending) > l {
		s.closeLocked(s.pending[0])
	}
	return c, nil
}

// tally counts connections that are open and connections that are being closed.
type tally struct{ open, closing int }

// leastClosing is the smallest number of closing connections that do not count in a
// limit.
const leastClosing = 8

// counted returns how many connections count in a limit. A connection that is being closed
// may hold its descriptor for some seconds: those beyond an eighth of the limit count.
func (p tally) counted(limit int) int {
	return p.open + max(p.closing-max(limit/8, leastClosing), 0)
}

// countLocked counts connections.
func (s *Server) countLocked(addr netip.Addr, more tally) {
	s.closingConns += more.closing
	p := s.perAddr[addr]
	if p = (tally{p.open + more.open, p.closing + more.closing}); p == (tally{}) {
		delete(s.perAddr, addr)
	} else {
		s.perAddr[addr] = p
	}
}

// shaken removes c from the connections in their handshake.
func (s *Server) shaken(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.pending, c); i >= 0 {
		s.pending = slices.Delete(s.pending, i, i+1)
	}
}

// closeLocked closes a connection that is in conns, and so counts in wg, without
// waiting.
func (s *Server) closeLocked(c *conn) {
	c.leaveLocked()
	s.wg.Go(c.shut)
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
	p := src.inputs.claim(cfg, req, next)
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
		if err := s.calls.do("OnPublish", func() error { return f(ctx, req) }); err != nil {
			return nil, fmt.Errorf("publish of %s: %w", req.logName(), refusedError{req.hide(err)})
		}
	}
	p.hooked.Store(true)
	if standby := src.vhost.Standby; standby != nil && standby.Rank != nil {
		if err := s.calls.do("Standby.Rank", func() error { p.rank = standby.Rank(req); return nil }); err != nil {
			return nil, fmt.Errorf("publish of %s: %w", req.logName(), err)
		}
	}
	if next {
		if err := p.succeed(); err != nil {
			return nil, err
		}
		return p, nil
	}
	dests, ttl, err := src.routing.ask(ctx)
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

// busyGrace is how long a publisher over the network waits for a name that is taken.
// When an encoder reconnects immediately, the end of its old connection may be noticed
// after its new publish.
const busyGrace = 200 * time.Millisecond

// awaitName waits until the name of req is free, for at most busyGrace.
func (s *Server) awaitName(ctx context.Context, req *Request) {
	s.mu.Lock()
	src := s.sources[req.key()]
	s.mu.Unlock()
	if src == nil || src.inputs.isClaimable(req) {
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
	ended := src.inputs.lastMoment()
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

var errNoVhost = errors.New("no such vhost")

// addressRules returns the rules for the addresses of destinations of an origin.
func (s *Server) addressRules(from origin) addressRules {
	return addressRules{from, &s.cfg, s.listensAt}
}

// listensAt reports whether one of the Server's listeners accepts connections to that
// address.
func (s *Server) listensAt(ip netip.Addr, port uint16) bool {
	var anywhere bool
	s.mu.Lock()
	for l := range s.listeners {
		t, ok := l.addr.(*net.TCPAddr)
		if !ok || t.AddrPort().Port() != port {
			continue
		}
		at := t.AddrPort().Addr().Unmap().WithZone("")
		if at == ip || ip.IsUnspecified() && at.IsLoopback() { // the system connects 0.0.0.0 to loopback
			s.mu.Unlock()
			return true
		}
		anywhere = anywhere || at.IsUnspecified()
	}
	s.mu.Unlock()
	return anywhere && sys.IsOurs(ip)
}
