//go:build (linux && !386 && !s390x) || dragonfly || freebsd || netbsd

package fanout

import (
	"syscall"
	"unsafe"
)

// sendFlags: do not wait for a full socket, and do not raise a signal for a closed one.
const sendFlags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL

// send writes iov to a socket. The socket's own calls are faster than write and writev,
// which go through the file system's layer.
func send(fd uintptr, iov []syscall.Iovec) (int, syscall.Errno) {
	var n uintptr
	var err syscall.Errno
	if len(iov) == 1 {
		n, _, err = syscall.RawSyscall6(syscall.SYS_SENDTO, fd,
			uintptr(unsafe.Pointer(iov[0].Base)), uintptr(iov[0].Len), sendFlags, 0, 0)
	} else {
		var m syscall.Msghdr
		m.Iov = &iov[0]
		setLen(&m.Iovlen, len(iov))
		n, _, err = syscall.RawSyscall(syscall.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&m)), sendFlags)
	}
	return int(n), err
}

// setLen sets a length, whose type depends on the system.
func setLen[T int32 | uint32 | uint64](to *T, n int) { *to = T(n) }
