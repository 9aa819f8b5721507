package forwardtest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipeSize is the buffer size of each direction of an in-memory connection, in bytes.
const pipeSize = 64 << 10

// Pipe returns the two ends of an in-memory connection. Unlike net.Pipe, each direction
// has a buffer, of 64 KiB: a write blocks only if the other end does not read. Both
// ends have deadlines, CloseWrite, Reset and Unsent, and are safe for concurrent use.
func Pipe() (net.Conn, net.Conn) { return pipe("pipe", "pipe") }

func pipe(here, there addr) (net.Conn, net.Conn) {
	a, b := new(half), new(half)
	return newPipeConn(a, b, here, there), newPipeConn(b, a, there, here)
}

// addr is the address of a connection in memory.
type addr string

func (addr) Network() string  { return "memory" }
func (a addr) String() string { return string(a) }

// half is one direction of a connection.
type half struct {
	mu       sync.Mutex
	changed  signal
	buf      []byte
	end      bool  // nothing will follow
	readErr  error // instead of what is in buf
	writeErr error
}

type pipeConn struct {
	in, out        *half
	local, remote  addr
	writing        chan struct{} // held while writing
	rlimit, wlimit deadline
}

func newPipeConn(in, out *half, local, remote addr) *pipeConn {
	return &pipeConn{in: in, out: out, local: local, remote: remote, writing: make(chan struct{}, 1)}
}

func (c *pipeConn) LocalAddr() net.Addr  { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr { return c.remote }

func (c *pipeConn) Read(p []byte) (int, error) {
	h := c.in
	for {
		expired := c.rlimit.wait()
		if isClosed(expired) {
			return 0, c.error("read", os.ErrDeadlineExceeded)
		}
		h.mu.Lock()
		switch {
		case h.readErr != nil:
			defer h.mu.Unlock()
			return 0, c.error("read", h.readErr)
		case len(p) == 0:
			h.mu.Unlock()
			return 0, nil
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			h.changed.notify()
			h.mu.Unlock()
			return n, nil
		case h.end:
			h.mu.Unlock()
			return 0, io.EOF
		}
		changed := h.changed.wait()
		h.mu.Unlock()
		select {
		case <-changed:
		case <-expired:
		}
	}
}

func (c *pipeConn) Write(p []byte) (n int, err error) {
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	case <-c.wlimit.wait():
		return 0, c.error("write", os.ErrDeadlineExceeded)
	}
	h := c.out
	for {
		expired := c.wlimit.wait()
		if isClosed(expired) {
			return n, c.error("write", os.ErrDeadlineExceeded)
		}
		h.mu.Lock()
		if h.writeErr != nil {
			defer h.mu.Unlock()
			return n, c.error("write", h.writeErr)
		}
		if m := min(len(p), pipeSize-len(h.buf)); m > 0 {
			h.buf = append(h.buf, p[:m]...)
			h.changed.notify()
			n, p = n+m, p[m:]
		}
		changed := h.changed.wait()
		h.mu.Unlock()
		if len(p) == 0 {
			return n, nil
		}
		select {
		case <-changed:
		case <-expired:
		}
	}
}

// Unsent returns how many bytes the other end has not read yet.
func (c *pipeConn) Unsent() int {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return len(c.out.buf)
}

// Close ends both directions. The other end reads what it has not read yet.
func (c *pipeConn) Close() error {
	c.SetDeadline(time.Time{}) // whose timers would keep c
	c.in.abandon(net.ErrClosed, syscall.EPIPE)
	c.out.finish(net.ErrClosed)
	return nil
}

// CloseWrite ends the direction from this end to the other.
func (c *pipeConn) CloseWrite() error {
	c.out.finish(syscall.EPIPE)
	return nil
}

// Reset ends the connection as a TCP RST does: what the other end has not read
// is lost.
func (c *pipeConn) Reset() error {
	c.SetDeadline(time.Time{})
	c.in.abandon(net.ErrClosed, syscall.ECONNRESET)
	c.out.abandon(syscall.ECONNRESET, net.ErrClosed)
	return nil
}

// finish ends a direction after the bytes written.
func (h *half) finish(writeErr error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end, h.writeErr = true, writeErr
	h.changed.notify()
}

// abandon ends a direction immediately.
func (h *half) abandon(readErr, writeErr error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readErr == nil {
		h.readErr = readErr
	}
	if h.writeErr == nil {
		h.writeErr = writeErr
	}
	h.buf = nil
	h.changed.notify()
}

func (c *pipeConn) SetDeadline(t time.Time) error {
	c.rlimit.set(t)
	c.wlimit.set(t)
	return nil
}

func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.rlimit.set(t)
	return nil
}

func (c *pipeConn) SetWriteDeadline(t time.Time) error {
	c.wlimit.set(t)
	return nil
}

func (c *pipeConn) error(op string, err error) error {
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}

// deadline is a time that may be moved while calls wait for it. The zero deadline never
// comes.
type deadline struct {
	mu     sync.Mutex
	moved  int // counts set
	timer  *time.Timer
	passed chan struct{} // closed when it has come
}

// wait returns what is closed when the deadline comes.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passedLocked()
}

func (d *deadline) passedLocked() chan struct{} {
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.moved++
	if d.passed != nil && isClosed(d.passed) {
		d.passed = nil
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.passedLocked())
		return
	}
	moved := d.moved
	d.timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.moved == moved {
			close(d.passedLocked())
		}
	})
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// reset ends a connection with a TCP RST where that is possible.
func reset(nc net.Conn) error {
	switch c := nc.(type) {
	case interface{ Reset() error }:
		return c.Reset()
	case *net.TCPConn:
		return errors.Join(c.SetLinger(0), c.Close())
	}
	return nc.Close()
}

func closeWrite(nc net.Conn) error {
	if c, ok := nc.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nc.Close()
}
