package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward/internal/fanout"
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

// tlsListener is a listener whose connections speak TLS.
type tlsListener struct {
	net.Listener
	cfg *tls.Config
}

func (l tlsListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return fanout.TLSServer(nc, l.cfg), nil
}

// SetDeadline sets the deadline of the listener below, if it has deadlines: see turnAway.
func (l tlsListener) SetDeadline(t time.Time) error {
	if d, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		return d.SetDeadline(t)
	}
	return errors.ErrUnsupported
}

// servedListener is a listener of the host that Serve accepts from.
type servedListener struct {
	net.Listener
	addr   net.Addr
	closed atomic.Bool
}

// Accept accepts a connection. One of the system's own listener is nobody else's.
func (l *servedListener) Accept() (nc net.Conn, err error) {
	if tcp, ok := l.Listener.(*net.TCPListener); ok {
		own, err := tcp.AcceptTCP()
		if err != nil {
			return nil, err
		}
		return sys.Own(own), nil
	}
	hostcode.Call(func() { nc, err = l.Listener.Accept() })
	return nc, err
}

// Close closes the host's listener once: Serve, Close and Shutdown all call it.
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

// hangUp closes a connection for a caller that must not wait: closing TLS may wait 5 s
// for the peer, and a host's connection may take any time.
func hangUp(nc net.Conn) {
	if sys.Plain(nc) {
		nc.Close()
		return
	}
	go hostcode.Close(nc)
}

// openSpare opens a file whose descriptor is released when no other one is free. If no
// descriptor is left it returns nil, which is safe to Close.
func openSpare() *os.File {
	f, _ := os.Open(os.DevNull)
	return f
}

// turnAway accepts and immediately closes connections that wait at l, for the time d, so
// that their clients notice. It returns false if l has no deadlines.
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

// refusals counts refused requests, in all and by address.
type refusals struct {
	total  uint64
	byAddr map[netip.Addr]refusal
}

// note counts a refusal. If there are too many addresses, it forgets the oldest. It
// reports whether the address is shut out from now on: after limit refusals within a
// minute, if limit is not negative.
func (r *refusals) note(addr netip.Addr, now time.Time, limit int) (shut bool) {
	r.total++
	if !addr.IsValid() {
		return false
	}
	if r.byAddr == nil {
		r.byAddr = make(map[netip.Addr]refusal)
	}
	n, known := r.byAddr[addr]
	if !known && len(r.byAddr) >= maxRefusedAddrs {
		var oldest netip.Addr
		for a, n := range r.byAddr {
			if !oldest.IsValid() || n.last.Before(r.byAddr[oldest].last) {
				oldest = a
			}
		}
		delete(r.byAddr, oldest)
	}
	if now.Sub(n.began) >= refusalTime {
		n.began, n.recent = now, 0
	}
	n.count, n.last, n.recent = n.count+1, now, n.recent+1
	was := now.Before(n.until)
	if limit >= 0 && (was || n.recent >= limit) {
		n.until = now.Add(refusalTime)
		shut = !was
	}
	r.byAddr[addr] = n
	return shut
}

// shut reports whether an address is shut out.
func (r *refusals) shut(addr netip.Addr, now time.Time) bool {
	return now.Before(r.byAddr[addr].until)
}

func (r *refusals) counts(yield func(netip.Addr, uint64) bool) {
	for a, n := range r.byAddr {
		if !yield(a, n.count) {
			return
		}
	}
}

type refusal struct {
	count  uint64
	last   time.Time
	began  time.Time // when the current minute began
	recent int       // refusals in that minute
	until  time.Time // until when the address is shut out
}

// refusedError is an error with which OnPublish has refused a publish.
type refusedError struct{ error }

func (e refusedError) Unwrap() error { return e.error }

const (
	// refusalDelay slows down guessing of keys and passwords. It is the time from the
	// request to its refusal.
	refusalDelay = 250 * time.Millisecond
	// maxRefusedAddrs bounds the addresses that are counted.
	maxRefusedAddrs = 1024
	// refusalTime is the minute of Limits.RefusalsPerAddress.
	refusalTime = time.Minute
)

// clientAddr returns the part of an address that counts as one client: of IPv6 the first
// 64 bits. It is invalid if the connection has no address.
func clientAddr(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(logAddr(a))
	if err != nil {
		return netip.Addr{}
	}
	ip := at.Addr().Unmap()
	if ip.Is6() {
		p, _ := ip.WithZone("").Prefix(64)
		return p.Addr()
	}
	return ip
}
