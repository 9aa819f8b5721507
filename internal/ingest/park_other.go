//go:build !linux

package ingest

import (
	"net"
	"time"
)

func (r *Reader) park() bool { return false }

func unpark(net.Conn) {}

type poller struct{}

func (*poller) add(int, *seat) bool { return false }

func (*poller) remove(int) {}

func (*poller) read(to []*seat) []*seat { return to }

func (*poller) due(to []*seat, _ time.Time, _ bool) []*seat { return to }

func (*poller) close() {}
