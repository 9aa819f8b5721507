//go:build linux && !386 && !s390x

package sys

import (
	"encoding/binary"
	"syscall"
	"time"
	"unsafe"
)

const (
	// tcpInfoRTT is where struct tcp_info (linux/tcp.h) has the smoothed round-trip
	// time, in microseconds.
	tcpInfoRTT = 68
	// tcpInfoSize is how much of it is read.
	tcpInfoSize = tcpInfoRTT + 4
)

func rtt(c syscall.Conn) time.Duration {
	var info [tcpInfoSize]byte
	size := uint32(len(info))
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	var failed syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, failed = syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err != nil || failed != 0 || size < tcpInfoSize {
		return 0
	}
	return time.Duration(binary.NativeEndian.Uint32(info[tcpInfoRTT:])) * time.Microsecond
}
