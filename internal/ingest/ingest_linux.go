package ingest

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

func rawConn(c net.Conn) syscall.RawConn {
	if tcp, ok := c.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// attempt is one read, with its functions made once.
type attempt struct {
	once    func(fd uintptr)
	waiting func(fd uintptr) bool

	p   []byte
	n   int
	err syscall.Errno
}

func (a *attempt) init() {
	a.once = a.read
	a.waiting = func(fd uintptr) bool { a.read(fd); return a.err != syscall.EAGAIN }
}

// read makes the system call raw: it does not block, and the scheduler would
// only be disturbed by being told of it.
func (a *attempt) read(fd uintptr) {
	for {
		if a.n, a.err = recv(fd, a.p); a.err != syscall.EINTR {
			return
		}
	}
}

// do reads what is there, or waits for something. What does not wait goes by
// Control, which only keeps the descriptor open: the poller need not know.
func (a *attempt) do(raw syscall.RawConn, p []byte, wait bool) (int, error) {
	a.p = p
	var err error
	if wait {
		err = raw.Read(a.waiting)
	} else {
		err = raw.Control(a.once)
	}
	a.p = nil
	if err != nil {
		return 0, err
	}
	if a.err != 0 {
		return 0, a.err
	}
	return a.n, nil
}

// epoch is where windows are counted from, on the clock that never jumps.
var epoch = time.Now()

// wait waits until something arrives, and then for the window's end.
func (r *Reader) wait(p []byte) (int, error) {
	if r.window <= 0 {
		return r.try.do(r.raw, p, true)
	}
	// The window's end is a deadline; until then the socket is not readable
	// unless much arrives. Windows of all connections end together: one
	// wake-up of the process for all of them.
	for {
		end := time.Now().Add(r.window - time.Since(epoch)%r.window)
		if !r.limit.IsZero() && end.After(r.limit) {
			end = r.limit
		}
		r.conn.SetReadDeadline(end)
		n, err := r.try.do(r.raw, p, true)
		r.conn.SetReadDeadline(r.limit)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if n, err = r.try.do(r.raw, p, false); err != syscall.EAGAIN {
			return n, err
		}
		if r.late() {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// setLowWater makes the socket readable only when n bytes have arrived.
func setLowWater(raw syscall.RawConn, n int) {
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n)
	})
}
