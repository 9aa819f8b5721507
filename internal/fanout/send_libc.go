//go:build darwin || openbsd

package fanout

import "syscall"

// send gives iov to a socket. These systems are reached by way of their libc
// only, of which package syscall has no vectored write to offer.
func send(fd uintptr, iov []syscall.Iovec) (int, syscall.Errno) { return gather(fd, iov) }
