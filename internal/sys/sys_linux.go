package sys

import (
	"net"
	"syscall"
)

// From linux/tcp.h; package syscall lacks them.
const (
	tcpUserTimeout  = 18
	tcpNotSentLowAt = 25
)

func tune(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// Best effort: without them a dead peer is found later, no more.
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(UserTimeout.Milliseconds()))
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowAt, LowWater)
	})
}
