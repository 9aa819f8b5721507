package sys

import (
	"syscall"
	"unsafe"
)

// From linux/tcp.h; package syscall lacks them.
const (
	tcpUserTimeout  = 18
	tcpNotSentLowAt = 25
)

func tune(c syscall.Conn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// Errors are ignored: without these options a dead peer is only noticed later.
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(UserTimeout.Milliseconds()))
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowAt, LowWater)
	})
}

func setLowWater(c syscall.Conn, bytes int) {
	if raw, err := c.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowAt, bytes)
		})
	}
}

// outstanding returns the result of SIOCOUTQ, which equals TIOCOUTQ (tcp(7)).
func outstanding(c syscall.Conn) int {
	var n int32
	if raw, err := c.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
		})
	}
	return int(n)
}
