//go:build !linux

package ingest

import (
	"net"
	"syscall"
)

func rawConn(net.Conn) syscall.RawConn { return nil }

type attempt struct{}

func (a *attempt) init() {}

func (a *attempt) now(syscall.RawConn, []byte) (int, error) {
	panic("read on a connection that can't be tried")
}

func (r *Reader) wait([]byte) (int, error) { panic("wait on a connection that can't be tried") }

func setLowWater(syscall.RawConn, int) {}
