//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package fanout

import (
	"net"
	"syscall"
	"unsafe"

	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/sys"
)

// maxIOV is the largest number of slices that one system call accepts.
const maxIOV = 1024

// ioScratch is the system's form of a batch, made once for all senders that send the same
// batch.
type ioScratch struct {
	iov     []syscall.Iovec
	batch   *gop.Batch // the batch that iov was made from, or nil
	filling uint64
}

func (s *ioScratch) reset() {
	clear(s.iov)
	s.iov, s.batch = s.iov[:0], nil
}

// rawConn returns the connection of c for writes that do not block, nil if c is not a
// plain TCP connection.
func rawConn(c net.Conn) syscall.RawConn { return sys.RawConn(c) }

// attempt is one write. It is a part of the Sender and makes its functions once, so that
// a write does not allocate.
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

// send makes a raw system call: it does not block, so the scheduler need not be told.
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

// write writes iov to the socket and returns how many bytes it accepted. It uses Control,
// which only keeps the descriptor open: a call that does not wait does not need the
// poller.
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

// wait waits until the socket accepts data, and writes some of iov. If the connection has
// no writes that do not block, it writes limit bytes at most.
func (s *Sender) wait(iov [][]byte, batch *gop.Batch, limit int, w *walk) (int, error) {
	if s.raw == nil {
		return s.writeAll(iov, limit, w)
	}
	return s.try.wait(iov, batch, w)
}

// write makes the system calls of a round.
func (r *round) write() {
	for i := range r.entries {
		x := &r.entries[i]
		if x.held == nil {
			continue
		}
		for {
			if x.n, x.err = send(x.fd, x.load.scratch.iov); x.err != syscall.EINTR {
				break
			}
		}
	}
}

// convert returns the system's form of iov. If batch is not nil, iov is that of batch.
func (s *ioScratch) convert(iov [][]byte, batch *gop.Batch) []syscall.Iovec {
	if batch != nil && s.batch == batch && s.filling == batch.Filling() {
		return s.iov
	}
	s.batch = batch
	if batch != nil {
		s.filling = batch.Filling()
	}
	clear(s.iov) // a pool may keep s, but must not keep a stream's memory
	s.iov = s.iov[:0]
	for _, p := range iov[:min(len(iov), maxIOV)] {
		v := syscall.Iovec{Base: unsafe.SliceData(p)}
		v.SetLen(len(p))
		s.iov = append(s.iov, v)
	}
	return s.iov
}
