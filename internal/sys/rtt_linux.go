//go:build linux && !386 && !s390x

package sys

import (
	"encoding/binary"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Offsets in struct tcp_info (linux/tcp.h).
const (
	tcpInfoUnacked = 24  // segments that were sent and are not acknowledged
	tcpInfoRTT     = 68  // the smoothed round-trip time, in microseconds
	tcpInfoNotSent = 144 // bytes that were not sent yet; from Linux 4.6 on
	tcpInfoSize    = tcpInfoNotSent + 4
)

// question is a call of getsockopt. It is reused, because the function for a RawConn would
// otherwise be allocated for each call.
type question struct {
	ask    func(fd uintptr)
	info   [tcpInfoSize]byte
	size   uint32
	failed syscall.Errno
}

var questions = sync.Pool{New: func() any {
	q := new(question)
	q.ask = func(fd uintptr) {
		q.size = uint32(len(q.info))
		_, _, q.failed = syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&q.info)), uintptr(unsafe.Pointer(&q.size)), 0)
	}
	return q
}}

func (q *question) field(at int) uint32 { return binary.NativeEndian.Uint32(q.info[at:]) }

// info returns the round-trip time, and whether the peer has certainly received
// everything.
func info(c syscall.Conn) (rtt time.Duration, idle bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	q := questions.Get().(*question)
	defer questions.Put(q)
	if err := raw.Control(q.ask); err != nil || q.failed != 0 || q.size < tcpInfoRTT+4 {
		return 0, false
	}
	idle = q.size >= tcpInfoSize && q.field(tcpInfoUnacked) == 0 && q.field(tcpInfoNotSent) == 0
	return time.Duration(q.field(tcpInfoRTT)) * time.Microsecond, idle
}
