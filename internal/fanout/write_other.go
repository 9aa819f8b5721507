//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd)

package fanout

import (
	"net"
	"syscall"

	"github.com/rtmp-forward/forward/internal/gop"
)

type ioScratch struct{}

func (s *ioScratch) reset() {}

// rawConn returns nil: on these systems each Sender with something to send has a
// goroutine, which waits in the connection's Write.
func rawConn(net.Conn) syscall.RawConn { return nil }

// convert is for writes that do not block.
func (s *ioScratch) convert([][]byte, *gop.Batch) {}

// write makes no system calls: no connection can be held.
func (r *round) write() {}

type attempt struct{}

func (a *attempt) init(*Sender) {}

func (a *attempt) write([][]byte, *gop.Batch, *walk) (int, error) {
	panic("write on a connection that can't be tried")
}

func (s *Sender) wait(iov [][]byte, _ *gop.Batch, limit int, w *walk) (int, error) {
	return s.writeAll(iov, limit, w)
}
