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

// The limit is a child that copies what its publishers send to their receivers, with
// raw non-blocking reads and writes from one goroutine and no protocol: every
// connection carries nothing but chunks. It is what the system's TCP costs for the
// same reads and writes.

const (
	limitChunkSize = 60000
	limitBatch     = 256 << 10 // read, and written, at once at most
	limitFlat      = 128 << 10 // at least, of publishers that are as fast as they are let
)

// limitCommand returns the command that runs the limit on listener.
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

// limitMain is the child that limitCommand runs. The first connections are the
// publishers', in the order of their streams.
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
		return relayTogether(relays, int64(*window))
	}
	return relayAtOnce(relays)
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
	rest []int // how much of the batch each of outs still has to take
}

// relayAtOnce copies what arrives as it comes.
func relayAtOnce(relays []relay) error {
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
	const timeout = 50 // ms, after which too little for limitFlat is copied, too
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

// relayTogether copies every window what has arrived in it.
func relayTogether(relays []relay, window int64) error {
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

// copy copies what has arrived, up to buf's size, to all receivers in turn, and waits
// for those whose sockets are full.
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

// sleep sleeps without telling the runtime, whose monitor thread would
// otherwise wake up too; there is no other goroutine to run.
func sleep(ns int64) {
	ts := syscall.NsecToTimespec(ns)
	syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}
