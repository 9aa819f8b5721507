package sys

import (
	"syscall"
	"time"
)

// tcpMaxUnackTime is TCP_MAXUNACKTIME from netinet/tcp.h, since FreeBSD 14;
// package syscall lacks it.
const tcpMaxUnackTime = 68

func tune(c syscall.Conn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// Errors are ignored, as on Linux.
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpMaxUnackTime, int(UserTimeout/time.Second))
	})
}
