package ingest

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/rtmp-forward/forward/internal/sys"
)

func rawConn(c net.Conn) syscall.RawConn { return sys.RawConn(c) }

// attempt is one read. It makes its functions once, so that a read does not allocate.
type attempt struct {
	once    func(fd uintptr)
	waiting func(fd uintptr) bool
	much    func(fd uintptr) bool

	p      []byte
	n      int
	err    syscall.Errno
	awoken bool
}

func (a *attempt) init() {
	a.once = a.read
	a.waiting = func(fd uintptr) bool { a.read(fd); return a.err != syscall.EAGAIN }
	// Data that has come meanwhile stays in the socket, unless the poller has
	// already reported it and will not do so again.
	a.much = func(fd uintptr) bool {
		if !a.awoken && arrived(fd) < windowDrain {
			a.awoken = true
			return false
		}
		return a.waiting(fd)
	}
}

// arrived returns how many bytes wait to be read.
func arrived(fd uintptr) int {
	var n int32
	syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	return int(n)
}

// read makes a raw system call: it does not block, so the scheduler need not be told.
func (a *attempt) read(fd uintptr) {
	for {
		if a.n, a.err = recv(fd, a.p); a.err != syscall.EINTR {
			return
		}
	}
}

// now reads the data that has arrived, without waiting. It uses Control, which only keeps
// the descriptor open: a call that does not wait does not need the poller.
func (a *attempt) now(raw syscall.RawConn, p []byte) (int, error) {
	a.p = p
	return a.result(raw.Control(a.once))
}

// wait waits for data and reads it.
func (a *attempt) wait(raw syscall.RawConn, p []byte) (int, error) {
	a.p = p
	return a.result(raw.Read(a.waiting))
}

// waitForMuch waits until the socket is readable by its low-water mark.
func (a *attempt) waitForMuch(raw syscall.RawConn, p []byte) (int, error) {
	a.p, a.awoken = p, false
	return a.result(raw.Read(a.much))
}

func (a *attempt) result(err error) (int, error) {
	a.p = nil
	if err != nil {
		return 0, err
	}
	if a.err != 0 {
		return 0, a.err
	}
	return a.n, nil
}

// epoch is the beginning of all windows, on the monotonic clock.
var epoch = time.Now()

// wait waits until data arrives, and then for the end of the window.
func (r *Reader) wait(p []byte) (int, error) {
	if r.window <= 0 {
		return r.waitForAny(p)
	}
	// The end of the window is a deadline. Until then the socket is readable only
	// if much data arrives. The windows of all connections end together, so that the
	// process wakes up once for all of them.
	for {
		end := time.Now().Add(r.window - time.Since(epoch)%r.window)
		if !r.limit.IsZero() && end.After(r.limit) {
			end = r.limit
		}
		r.setDeadline(end)
		n, err := r.try.waitForMuch(r.raw, p)
		r.setDeadline(r.limit)
		if r.finish.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if n, err = r.try.now(r.raw, p); err != syscall.EAGAIN {
			return n, err
		}
		if r.late() {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// waitForAny waits until any data arrives.
func (r *Reader) waitForAny(p []byte) (int, error) {
	if r.join(); r.shard != nil {
		n, err, ok := r.shard.together(r, p)
		r.since = 0
		if ok {
			return n, err
		}
	}
	r.setLow(1)
	return r.try.wait(r.raw, p)
}

// setLowWater makes the socket readable only when n bytes have arrived.
func setLowWater(raw syscall.RawConn, n int) {
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, n)
	})
}
