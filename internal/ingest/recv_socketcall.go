//go:build linux && (386 || s390x)

package ingest

import (
	"syscall"
	"unsafe"
)

// recv reads from a socket. These architectures have no direct system call for recvfrom.
func recv(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall(syscall.SYS_READ, fd,
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), err
}
