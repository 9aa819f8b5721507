//go:build darwin || openbsd

package fanout

import "syscall"

// send writes iov to a socket. These systems are called only through their libc, and
// package syscall has no vectored write for it.
func send(fd uintptr, iov []syscall.Iovec) (int, syscall.Errno) { return gather(fd, iov) }
