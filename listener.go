package forward

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/sys"
)

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
