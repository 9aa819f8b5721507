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

// attempt is one read, with its functions made once.
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
	// What has come meanwhile is left where it is, unless the poller will
	// not tell of it any more.
	a.much = func(fd uintptr) bool {
		if !a.awoken && arrived(fd) < windowDrain {
			a.awoken = true
			return false
		}
		return a.waiting(fd)
	}
}

// arrived is how many bytes wait to be read.
func arrived(fd uintptr) int {
	var n int32
	syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	return int(n)
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

// now reads what is there. As it does not wait it goes by Control, which only
// keeps the descriptor open: the poller need not know.
func (a *attempt) now(raw syscall.RawConn, p []byte) (int, error) {
	a.p = p
	return a.result(raw.Control(a.once))
}

// wait waits for something.
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

// epoch is where windows are counted from, on the clock that never jumps.
var epoch = time.Now()

// wait waits until something arrives, and then for the window's end.
func (r *Reader) wait(p []byte) (int, error) {
	if r.window <= 0 {
		return r.waitForAny(p)
	}
	// The window's end is a deadline; until then the socket is not readable
	// unless much arrives. Windows of all connections end together: one
	// wake-up of the process for all of them.
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

// waitForAny waits until something arrives.
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
