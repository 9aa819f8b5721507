//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// The limit is a child process that copies bytes from its publishers to their
// receivers. It uses raw non-blocking reads and writes from one goroutine and no
// protocol: connections carry plain chunks. It shows what TCP costs for the same reads
// and writes.

const (
	limitChunkSize = 60000
	limitBatch     = 256 << 10 // most bytes per read and per write
	limitFlat      = 128 << 10 // least bytes per read from publishers without pacing
)

// limitCommand returns the command that runs the limit with listener.
func limitCommand(s server, need launch, listener *os.File) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, argLimit,
		"-streams", strconv.Itoa(need.streams),
		"-receivers", strconv.Itoa(need.receivers),
		"-window", max(s.window, 0).String(),
		"-flat="+strconv.FormatBool(need.flat))
	cmd.ExtraFiles = []*os.File{listener}
	return cmd, nil
}

// limitMain is the child that limitCommand runs. The publishers connect first, in the
// order of their streams.
func limitMain(args []string) error {
	flags := flag.NewFlagSet(argLimit, flag.ExitOnError)
	streams := flags.Int("streams", 1, "")
	receivers := flags.Int("receivers", 1, "")
	window := flags.Duration("window", 0, "")
	flat := flags.Bool("flat", false, "")
	flags.Parse(args)

	const listener = 3 // the first of ExtraFiles
	if err := syscall.SetNonblock(listener, false); err != nil {
		return err
	}
	relays := make([]relay, *streams)
	for i := range relays {
		fd, err := acceptRaw(listener)
		if err != nil {
			return err
		}
		if *flat {
			if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, limitFlat); err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
		}
		relays[i].in = fd
	}
	for i := range *streams * *receivers {
		fd, err := acceptRaw(listener)
		if err != nil {
			return err
		}
		r := &relays[i%*streams]
		r.outs = append(r.outs, fd)
	}
	runtime.LockOSThread()
	if *window > 0 && !*flat {
		return relayByWindow(relays, int64(*window))
	}
	return relayImmediately(relays)
}

func acceptRaw(listener int) (fd int, err error) {
	fd, _, err = syscall.Accept4(listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
	if err == nil {
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	}
	return fd, os.NewSyscallError("accept", err)
}

// relay is one stream of the limit.
type relay struct {
	in   int
	outs []int // its receivers
	rest []int // bytes of the batch that each of outs still has to take
}

// relayImmediately copies data as soon as it arrives.
func relayImmediately(relays []relay) error {
	epfd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	for i := range relays {
		e := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)}
		if err := syscall.EpollCtl(epfd, syscall.EPOLL_CTL_ADD, relays[i].in, &e); err != nil {
			return os.NewSyscallError("epoll_ctl", err)
		}
	}
	buf := make([]byte, limitBatch)
	const timeout = 50 // ms, after which less than limitFlat is copied too
	var events [128]syscall.EpollEvent
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(epfd),
			uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), timeout, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return os.NewSyscallError("epoll_pwait", errno)
		}
		if n == 0 {
			for i := range relays {
				if err := relays[i].copy(buf); err != nil {
					return err
				}
			}
		}
		for _, e := range events[:n] {
			if err := relays[e.Fd].copy(buf); err != nil {
				return err
			}
		}
	}
}

// relayByWindow copies, once per window, everything that arrived in it.
func relayByWindow(relays []relay, window int64) error {
	buf := make([]byte, limitBatch)
	for {
		for i := range relays {
			if err := relays[i].copy(buf); err != nil {
				return err
			}
		}
		at := now()
		sleep(window - at%window)
	}
}

var errPublisherEnded = errors.New("a publisher has ended")

// copy sends the next batch, at most the size of buf, to all receivers in turn, and
// waits for receivers whose sockets are full.
func (r *relay) copy(buf []byte) error {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(r.in), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	switch {
	case errno == syscall.EAGAIN:
		return nil
	case errno != 0:
		return fmt.Errorf("read from a publisher: %w", errno)
	case n == 0:
		return errPublisherEnded
	}
	buf = buf[:n]
	r.rest = r.rest[:0]
	for range r.outs {
		r.rest = append(r.rest, len(buf))
	}
	for left := len(r.outs); left > 0; {
		moved := false
		for i, fd := range r.outs {
			if r.rest[i] == 0 {
				continue
			}
			b := buf[len(buf)-r.rest[i]:]
			n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
			if errno == syscall.EAGAIN {
				continue
			}
			if errno != 0 {
				return fmt.Errorf("write to receiver %d: %w", i, errno)
			}
			moved = true
			if r.rest[i] -= int(n); r.rest[i] == 0 {
				left--
			}
		}
		if left > 0 && !moved {
			sleep(int64(50 * time.Microsecond))
		}
	}
	return nil
}

// sleep sleeps without the runtime's timers, which would also wake its monitor thread.
// There is no other goroutine to run.
func sleep(ns int64) {
	ts := syscall.NsecToTimespec(ns)
	syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}
