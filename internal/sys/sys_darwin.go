package sys

import (
	"syscall"
	"time"
)

// tcpNotSentLowAt is TCP_NOTSENT_LOWAT from netinet/tcp.h; package syscall lacks it. On this
// system it only delays when a full socket becomes writable again. A writable socket accepts
// as much as its buffer holds.
const tcpNotSentLowAt = 0x201

func tune(c syscall.Conn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// Errors are ignored, as on Linux.
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_RXT_CONNDROPTIME, int(UserTimeout/time.Second))
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowAt, LowWater)
	})
}
