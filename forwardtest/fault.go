package forwardtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ErrFault is wrapped by the errors of a connection that a Fault has ended.
var ErrFault = errors.New("forwardtest: fault")

// Fault is a fault in one direction of a connection. Zero fields are no fault.
// Positions are counted in bytes of that direction, from the start of the connection; a
// negative one is before the first byte.
type Fault struct {
	// Cut closes the connection after this many bytes. Reset ends it with a TCP RST
	// where possible.
	Cut, Reset int64
	// Stall lets nothing pass after this many bytes. Stalled calls end with the
	// connection's deadline or Close.
	Stall int64
	// Delay is the time before each Read, or each piece of a Write.
	Delay time.Duration
	// Rate is in bytes per second, passed in about 20 pieces a second.
	Rate int
	// Max is the most bytes that pass in one call: reads are short, writes are split.
	Max int
}

// Faults are the faults of both directions, as seen by the owner of the connection.
type Faults struct {
	Read, Write Fault // of the data read from the connection, and written to it
}

// FaultConn is a connection with faults. It is not a *net.TCPConn, so that its faults
// cannot be bypassed.
type FaultConn struct {
	net.Conn
	read, write lane
	once        sync.Once
	closed      chan struct{}
}

// NewFaultConn returns nc with faults. If reads are slow or stall, TCP gets small
// buffers.
func NewFaultConn(nc net.Conn, f Faults) *FaultConn {
	if tcp, ok := nc.(*net.TCPConn); ok && (f.Read.Rate > 0 || f.Read.Stall != 0) {
		tcp.SetReadBuffer(4 << 10)
	}
	c := &FaultConn{Conn: nc, closed: make(chan struct{})}
	c.read.init(c, f.Read)
	c.write.init(c, f.Write)
	return c
}

// FaultDial returns dial with faults: the n-th connection has the n-th Faults,
// later ones have none.
func FaultDial(
	dial func(ctx context.Context, network, address string) (net.Conn, error), faults ...Faults,
) func(ctx context.Context, network, address string) (net.Conn, error) {
	var count atomic.Int64
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if n := count.Add(1); n <= int64(len(faults)) {
			return NewFaultConn(nc, faults[n-1]), nil
		}
		return nc, nil
	}
}

// Read reads as net.Conn says, with the faults of Faults.Read.
func (c *FaultConn) Read(p []byte) (int, error) {
	l := &c.read
	if err := l.enter(); err != nil {
		return 0, err
	}
	defer l.leave()
	n, err := l.admit(len(p))
	if err != nil {
		return 0, err
	}
	n, err = c.Conn.Read(p[:n])
	l.passed(n)
	return n, err
}

// Write writes as net.Conn says, with the faults of Faults.Write.
func (c *FaultConn) Write(p []byte) (written int, err error) {
	l := &c.write
	if err := l.enter(); err != nil {
		return 0, err
	}
	defer l.leave()
	for {
		n, err := l.admit(len(p))
		if err != nil {
			return written, err
		}
		n, err = c.Conn.Write(p[:n])
		l.passed(n)
		written, p = written+n, p[n:]
		if err != nil || len(p) == 0 {
			return written, err
		}
	}
}

// Close closes the connection and ends stalled calls.
func (c *FaultConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// CloseWrite closes the connection for writing if that is possible, else completely.
func (c *FaultConn) CloseWrite() error { return closeWrite(c.Conn) }

// Reset ends the connection with a TCP RST where that is possible.
func (c *FaultConn) Reset() error {
	c.once.Do(func() { close(c.closed) })
	return reset(c.Conn)
}

// SetDeadline implements net.Conn.
func (c *FaultConn) SetDeadline(t time.Time) error {
	c.read.limit.set(t)
	c.write.limit.set(t)
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *FaultConn) SetReadDeadline(t time.Time) error {
	c.read.limit.set(t)
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *FaultConn) SetWriteDeadline(t time.Time) error {
	c.write.limit.set(t)
	return c.Conn.SetWriteDeadline(t)
}

// lane is one direction.
type lane struct {
	c     *FaultConn
	f     Fault
	limit deadline

	busy  chan struct{} // held while reading or writing
	bytes int64         // passed
	next  time.Time     // when Rate lets more pass
}

func (l *lane) init(c *FaultConn, f Fault) {
	for _, at := range []*int64{&f.Cut, &f.Reset, &f.Stall} {
		switch {
		case *at == 0:
			*at = math.MaxInt64
		case *at < 0:
			*at = 0
		}
	}
	l.c, l.f, l.busy = c, f, make(chan struct{}, 1)
}

func (l *lane) enter() error {
	select {
	case l.busy <- struct{}{}:
		return nil
	default:
	}
	select {
	case l.busy <- struct{}{}:
		return nil
	case <-l.limit.wait():
		return os.ErrDeadlineExceeded
	case <-l.c.closed:
		return net.ErrClosed
	}
}

func (l *lane) leave() { <-l.busy }

// admit waits until bytes may pass, and returns how many of n.
func (l *lane) admit(n int) (int, error) {
	if err := l.trip(); err != nil {
		return 0, err
	}
	if l.bytes == l.f.Stall {
		return 0, l.wait(nil)
	}
	if l.f.Delay > 0 {
		if err := l.sleep(l.f.Delay); err != nil {
			return 0, err
		}
	}
	if l.f.Rate > 0 {
		if err := l.sleep(time.Until(l.next)); err != nil {
			return 0, err
		}
		n = min(n, max(1, l.f.Rate/20))
	}
	if l.f.Max > 0 {
		n = min(n, l.f.Max)
	}
	return int(min(int64(n), min(l.f.Cut, l.f.Reset, l.f.Stall)-l.bytes)), nil
}

// passed counts n bytes and ends the connection if they were the last.
func (l *lane) passed(n int) {
	l.bytes += int64(n)
	if l.f.Rate > 0 {
		if now := time.Now(); l.next.Before(now) {
			l.next = now
		}
		l.next = l.next.Add(time.Duration(float64(n) / float64(l.f.Rate) * float64(time.Second)))
	}
	l.trip()
}

// trip ends the connection if its fault is due.
func (l *lane) trip() error {
	switch l.bytes {
	case l.f.Cut:
		l.c.Close()
		return fmt.Errorf("%w: cut at byte %d", ErrFault, l.bytes)
	case l.f.Reset:
		l.c.Reset()
		return fmt.Errorf("%w: reset at byte %d", ErrFault, l.bytes)
	}
	return nil
}

// sleep waits for d.
func (l *lane) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	return l.wait(t.C)
}

// wait waits for over, nil to wait for the connection's end.
func (l *lane) wait(over <-chan time.Time) error {
	select {
	case <-over:
		return nil
	case <-l.limit.wait():
		return os.ErrDeadlineExceeded
	case <-l.c.closed:
		return net.ErrClosed
	}
}
