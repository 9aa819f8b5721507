//go:build !linux

package fanout

import (
	"net"
	"syscall"
)

type ioScratch struct{}

func (s *ioScratch) reset() {}

// rawConn returns nil: where raw writes are not implemented each sender has
// its goroutine.
func rawConn(net.Conn) syscall.RawConn { return nil }

type attempt struct{}

func (a *attempt) init(*Sender) {}

func (a *attempt) write([][]byte, *walk) (int, error) {
	panic("write on a connection that can't be tried")
}

func (s *Sender) wait(iov [][]byte, w *walk) (int, error) { return s.writeAll(iov, w) }
