//go:build linux && (386 || s390x)

package fanout

import (
	"syscall"
	"unsafe"
)

// send writes iov to a socket. These architectures have no direct system call for
// sendmsg.
func send(fd uintptr, iov []syscall.Iovec) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	return int(n), err
}
