//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package fanout

import (
	"net"
	"syscall"
	"unsafe"

	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/sys"
)

// maxIOV is the most slices one system call takes.
const maxIOV = 1024

// ioScratch is the system's form of a batch, made once for all senders that
// send the same.
type ioScratch struct {
	iov     []syscall.Iovec
	batch   *gop.Batch // that iov is of, if it is of one
	filling uint64
}

func (s *ioScratch) reset() {
	clear(s.iov)
	s.iov, s.batch = s.iov[:0], nil
}

// rawConn returns the connection below c that writes can be tried on, nil
// where c is not a plain TCP connection.
func rawConn(c net.Conn) syscall.RawConn { return sys.RawConn(c) }

// attempt is one write. It lives in the Sender, with its functions made once,
// so that a write allocates nothing.
type attempt struct {
	raw     syscall.RawConn
	once    func(fd uintptr)
	waiting func(fd uintptr) bool

	iov []syscall.Iovec
	n   int
	err syscall.Errno
}

func (a *attempt) init(s *Sender) {
	a.raw = s.raw
	a.once = a.send
	a.waiting = func(fd uintptr) bool { a.send(fd); return a.err != syscall.EAGAIN }
}

// send makes the system call raw: it does not block, and the scheduler would
// only be disturbed by being told of it.
func (a *attempt) send(fd uintptr) {
	for {
		n, err := send(fd, a.iov)
		if err == syscall.EINTR {
			continue
		}
		a.n, a.err = n, err
		return
	}
}

// write gives iov to the socket and returns how much it took. It goes by
// Control, which only keeps the descriptor open: what does not wait need not
// tell the poller.
func (a *attempt) write(iov [][]byte, batch *gop.Batch, w *walk) (int, error) {
	a.iov = w.scratch.convert(iov, batch)
	return a.result(a.raw.Control(a.once))
}

func (a *attempt) wait(iov [][]byte, batch *gop.Batch, w *walk) (int, error) {
	a.iov = w.scratch.convert(iov, batch)
	return a.result(a.raw.Write(a.waiting))
}

func (a *attempt) result(err error) (int, error) {
	a.iov = nil
	switch {
	case err != nil:
		return 0, err
	case a.err == syscall.EAGAIN:
		return 0, nil
	case a.err != 0:
		return 0, a.err
	}
	return a.n, nil
}

// wait writes some of iov, when the socket takes something: limit bytes at most,
// where it can't be known what it takes.
func (s *Sender) wait(iov [][]byte, batch *gop.Batch, limit int, w *walk) (int, error) {
	if s.raw == nil {
		return s.writeAll(iov, limit, w)
	}
	return s.try.wait(iov, batch, w)
}

// convert returns the system's form of iov, which is batch's where batch is
// not nil.
func (s *ioScratch) convert(iov [][]byte, batch *gop.Batch) []syscall.Iovec {
	if batch != nil && s.batch == batch && s.filling == batch.Filling() {
		return s.iov
	}
	s.batch = batch
	if batch != nil {
		s.filling = batch.Filling()
	}
	clear(s.iov) // a pool may keep s, and nothing of a stream
	s.iov = s.iov[:0]
	for _, p := range iov[:min(len(iov), maxIOV)] {
		v := syscall.Iovec{Base: unsafe.SliceData(p)}
		v.SetLen(len(p))
		s.iov = append(s.iov, v)
	}
	return s.iov
}
