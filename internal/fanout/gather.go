//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package fanout

import (
	"sync"
	"syscall"
	"unsafe"
)

// gathered is how many bytes gather sends in one call.
const gathered = 64 << 10

var gathers = sync.Pool{New: func() any { return new([gathered]byte) }}

// gather writes iov to a socket without a vectored write: it copies the slices into one
// buffer and sends that, until the socket is full. The buffer is used only during the
// call, so that waiting connections need none. A single slice is not copied.
func gather(fd uintptr, iov []syscall.Iovec) (n int, err syscall.Errno) {
	if len(iov) == 1 {
		return write(fd, unsafe.Slice(iov[0].Base, iov[0].Len))
	}
	buf := gathers.Get().(*[gathered]byte)
	defer gathers.Put(buf)
	at := 0 // in iov[0]
	for len(iov) > 0 {
		filled := 0
		for len(iov) > 0 && filled < len(buf) {
			p := unsafe.Slice(iov[0].Base, iov[0].Len)[at:]
			copied := copy(buf[filled:], p)
			filled += copied
			if at += copied; copied == len(p) {
				iov, at = iov[1:], 0
			}
		}
		sent, err := write(fd, buf[:filled])
		n += sent
		switch {
		case n > 0 && sent < filled:
			return n, 0 // the next call returns the error, if there is one
		case err != 0:
			return 0, err
		}
	}
	return n, 0
}

// write writes p to a socket. Go's sockets do not block.
func write(fd uintptr, p []byte) (int, syscall.Errno) {
	n, err := syscall.Write(int(fd), p)
	if err != nil {
		return 0, err.(syscall.Errno) // all errors of system calls are
	}
	return n, 0
}
