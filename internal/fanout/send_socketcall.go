//go:build linux && (386 || s390x)

package fanout

import (
	"syscall"
	"unsafe"
)

// send gives iov to a socket. These architectures reach the socket's own calls
// only by way of another one.
func send(fd uintptr, iov []syscall.Iovec) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	return int(n), err
}
