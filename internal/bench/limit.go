//go:build linux

package main

import (
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

// The limit is a child that makes the streams itself and writes them to its
// receivers with raw non-blocking writes from one goroutine: no publisher to
// read from, no protocol, one shared buffer. It is what the system's TCP
// costs for the same writes.

const (
	limitChunkSize = 60000
	limitBatch     = 64 << 10 // written at once when flat out
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
		"-bitrate", strconv.Itoa(need.profile.bitrate),
		"-audio", strconv.Itoa(need.profile.audioBytes),
		"-window", max(s.window, 0).String(),
		"-flat="+strconv.FormatBool(need.flat))
	cmd.ExtraFiles = []*os.File{listener}
	return cmd, nil
}

// limitMain is the child that limitCommand runs.
func limitMain(args []string) error {
	var prof profile
	flags := flag.NewFlagSet(argLimit, flag.ExitOnError)
	streams := flags.Int("streams", 1, "")
	receivers := flags.Int("receivers", 1, "")
	flags.IntVar(&prof.bitrate, "bitrate", 0, "")
	flags.IntVar(&prof.audioBytes, "audio", 0, "")
	window := flags.Duration("window", 0, "")
	flat := flags.Bool("flat", false, "")
	flags.Parse(args)

	const listener = 3 // the first of ExtraFiles
	if err := syscall.SetNonblock(listener, false); err != nil {
		return err
	}
	outs := make([]limitStream, *streams)
	for i := range *streams * *receivers {
		fd, _, err := syscall.Accept4(listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("accept", err)
		}
		if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		o := &outs[i%*streams]
		o.fds = append(o.fds, fd)
	}
	runtime.LockOSThread()
	start := now()
	for i := range outs {
		o := &outs[i]
		o.stream = stream{profile: prof, id: uint32(i), chunkSize: limitChunkSize}
		o.stream.start = start + stagger(i, *streams)
		o.buf = o.stream.appendHeaders(nil, 1)
	}
	if *flat {
		return outs[0].flood()
	}
	return pace(outs, int64(*window))
}

// limitStream is one stream of the limit and its receivers.
type limitStream struct {
	stream stream
	fds    []int
	rest   []int // how much of the batch each of fds still has to take
	buf    []byte
	since  int64 // when the first frame in buf was due
}

// pace writes each stream's frames when they are due, gathered for window.
func pace(outs []limitStream, window int64) error {
	for {
		at, next := now(), int64(1<<63-1)
		for i := range outs {
			o := &outs[i]
			for due := o.stream.due(); due <= at; due = o.stream.due() {
				if o.since == 0 {
					o.since = due
				}
				o.buf = o.stream.appendFrame(o.buf, 1, at)
			}
			if o.since != 0 && o.since+window <= at {
				if err := o.write(); err != nil {
					return err
				}
			}
			wake := o.stream.due()
			if o.since != 0 {
				wake = min(wake, o.since+window)
			}
			next = min(next, wake)
		}
		if d := next - now(); d > 0 {
			sleep(d)
		}
	}
}

// flood writes the stream's frames as fast as they are taken.
func (o *limitStream) flood() error {
	for {
		for len(o.buf) < limitBatch {
			o.buf = o.stream.appendFrame(o.buf, 1, now())
		}
		if err := o.write(); err != nil {
			return err
		}
	}
}

// write writes buf to all, in turn, and waits for those whose sockets are
// full.
func (o *limitStream) write() error {
	o.rest = o.rest[:0]
	for range o.fds {
		o.rest = append(o.rest, len(o.buf))
	}
	for left := len(o.fds); left > 0; {
		moved := false
		for i, fd := range o.fds {
			if o.rest[i] == 0 {
				continue
			}
			b := o.buf[len(o.buf)-o.rest[i]:]
			b = b[:min(len(b), limitBatch)]
			n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
			if errno == syscall.EAGAIN {
				continue
			}
			if errno != 0 {
				return fmt.Errorf("write to receiver %d: %w", i, errno)
			}
			moved = true
			if o.rest[i] -= int(n); o.rest[i] == 0 {
				left--
			}
		}
		if left > 0 && !moved {
			sleep(int64(50 * time.Microsecond))
		}
	}
	o.buf, o.since = o.buf[:0], 0
	return nil
}

// sleep sleeps without telling the runtime, whose monitor thread would
// otherwise wake up too; there is no other goroutine to run.
func sleep(ns int64) {
	ts := syscall.NsecToTimespec(ns)
	syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}
