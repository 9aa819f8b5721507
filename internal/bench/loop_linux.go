package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// The number of epoll_pwait2 on every architecture (Linux 5.11).
const sysEpollPwait2 = 441

// handler is called by a loop when its descriptor is ready.
type handler interface {
	ready(events uint32)
}

// timed is called by a loop when it is due.
type timed interface {
	run(at int64) (next int64)
}

// loop drives the whole load from one goroutine: sockets by epoll, publishers by the
// clock. All receivers share one read buffer, which stays in the CPU's cache and keeps
// receivers small.
//
// The goroutine that runs the scenario holds mu except while it waits. Only the
// goroutines of TLS connections contend for it.
type loop struct {
	ctx      context.Context
	crcEvery uint64 // the CRC is checked for each frame whose number is a multiple of it

	mu       sync.Mutex
	epfd     int
	handlers []handler // by descriptor
	events   [128]syscall.EpollEvent
	buf      []byte
	paced    []*pace
	clients  sync.WaitGroup // goroutines of players over TLS
}

// pace is when something timed is due.
type pace struct {
	timed
	next int64
}

// newLoop returns a locked loop that ends with ctx.
func newLoop(ctx context.Context, crcEvery int) (*loop, error) {
	epfd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	l := &loop{ctx: ctx, crcEvery: uint64(crcEvery), epfd: epfd, buf: make([]byte, 256<<10)}
	l.mu.Lock()
	return l, nil
}

// close resets the connections that the loop still watches, and unlocks mu.
func (l *loop) close() {
	for fd, h := range l.handlers {
		if h == nil {
			continue
		}
		if c, ok := h.(*conn); ok {
			c.reset()
			continue
		}
		syscall.Close(fd)
	}
	syscall.Close(l.epfd)
	l.mu.Unlock()
}

// pace runs t now, and then whenever it is due.
func (l *loop) pace(t timed) { l.paced = append(l.paced, &pace{timed: t}) }

// run runs the loop for d.
func (l *loop) run(d time.Duration) error {
	_, err := l.until(d, func() bool { return false })
	return err
}

// until runs the loop until cond holds or d has passed. It reports whether cond holds.
func (l *loop) until(d time.Duration, cond func() bool) (bool, error) {
	for end := now() + int64(d); ; {
		if cond() {
			return true, nil
		}
		at := now()
		if at >= end {
			return false, nil
		}
		if l.ctx.Err() != nil {
			return false, context.Cause(l.ctx)
		}
		next := min(end, at+int64(50*time.Millisecond))
		for _, p := range l.paced {
			if p.next <= at {
				p.next = p.run(at)
			}
			next = min(next, p.next)
		}
		if err := l.wait(time.Duration(next - now())); err != nil {
			return false, err
		}
	}
}

func (l *loop) wait(d time.Duration) error {
	ts := syscall.NsecToTimespec(int64(max(d, 0)))
	l.mu.Unlock()
	n, _, errno := syscall.Syscall6(sysEpollPwait2, uintptr(l.epfd),
		uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)),
		uintptr(unsafe.Pointer(&ts)), 0, 0)
	l.mu.Lock()
	if errno == syscall.EINTR {
		return nil
	}
	if errno != 0 {
		return os.NewSyscallError("epoll_pwait2", errno)
	}
	for i := range l.events[:n] {
		e := &l.events[i]
		if h := l.handlers[e.Fd]; h != nil {
			h.ready(e.Events)
		}
	}
	return nil
}

// watch adds fd, or changes the events it is watched for.
func (l *loop) watch(fd int, h handler, events uint32) error {
	if fd >= len(l.handlers) {
		l.handlers = append(l.handlers, make([]handler, fd+1-len(l.handlers))...)
	}
	op := syscall.EPOLL_CTL_MOD
	if l.handlers[fd] == nil {
		op = syscall.EPOLL_CTL_ADD
	}
	l.handlers[fd] = h
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(l.epfd, op, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd)}))
}

// forget closes fd.
func (l *loop) forget(fd int) {
	l.handlers[fd] = nil
	syscall.Close(fd)
}

// clockBase makes the results of now comparable between processes.
var (
	clockStart = time.Now()
	clockBase  = clock(1) // CLOCK_MONOTONIC
)

// now is the system's monotonic clock in nanoseconds.
func now() int64 { return int64(clockBase + time.Since(clockStart)) }

// clock reads a clock of the system.
func clock(id uintptr) time.Duration {
	var ts syscall.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, id, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		return math.MinInt64
	}
	return time.Duration(ts.Nano())
}

// listenSocket returns a non-blocking listener on port of 127.0.0.1, or on
// any if it is 0.
func listenSocket(port int) (fd, bound int, err error) {
	if fd, bound, err = boundSocket(port); err != nil {
		return 0, 0, err
	}
	if err = syscall.Listen(fd, 4096); err != nil {
		syscall.Close(fd)
		return 0, 0, os.NewSyscallError("listen", err)
	}
	return fd, bound, nil
}

// boundSocket returns a socket bound as by listenSocket, which does not listen: the
// system refuses connections.
func boundSocket(port int) (fd, bound int, err error) {
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			syscall.Close(fd)
		}
	}()
	if err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, 0, os.NewSyscallError("setsockopt", err)
	}
	if err = syscall.Bind(fd, loopback(port)); err != nil {
		return 0, 0, os.NewSyscallError("bind", err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, 0, os.NewSyscallError("getsockname", err)
	}
	in, ok := sa.(*syscall.SockaddrInet4)
	if !ok {
		return 0, 0, fmt.Errorf("listener's address is %T", sa)
	}
	return fd, in.Port, nil
}

func loopback(port int) *syscall.SockaddrInet4 {
	return &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
}
