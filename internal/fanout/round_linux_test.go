package fanout

import (
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/sys"
)

// BenchmarkRound sends a frame of each stream to receivers that keep up, in four ways: all
// streams in the same rounds, one stream after the other, one sender after the other, and
// plain writes to the same sockets. The ways alternate, so that other load on the machine
// affects all of them. It reports the median CPU time per receiver, in µs.
func BenchmarkRound(b *testing.B) {
	for _, bench := range []struct {
		name                     string
		size, streams, receivers int
	}{
		{"300 bytes to 50", 300, 1, 50},
		{"5000 bytes to 50", 5000, 1, 50},
		{"300 bytes of 20 to 2 each", 300, 20, 2},
	} {
		b.Run(bench.name, func(b *testing.B) { benchmarkRound(b, bench.size, bench.streams, bench.receivers) })
	}
}

func benchmarkRound(b *testing.B, size, streams, receivers int) {
	pool := NewPool()
	var logs []*stream
	var groups []*Group
	var senders []*Sender
	var holders []sys.Holder
	var fds []uintptr
	for range streams {
		s := newStream(1 << 20)
		g := NewGroup(s.log, pool)
		logs, groups = append(logs, s), append(groups, g)
		for range receivers {
			here, peer := tcpPair(b)
			go io.Copy(io.Discard, peer)
			snd := newSender(here, time.Minute)
			snd.Measure(func(time.Duration) {}, func() {})
			g.Add(snd, options, end)
			defer snd.Wait()
			defer snd.Close()
			d := snd.holder.Hold()
			fds = append(fds, d.FD())
			d.Release()
			senders, holders = append(senders, snd), append(holders, snd.holder)
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	bare := make([]byte, size+20)
	each := func() {
		for _, g := range groups {
			g.Wake()
		}
	}
	ways := []struct {
		name        string
		send        func()
		bare, alone bool
	}{
		{name: "rounds-µs", send: func() { WakeAll(groups) }},
		{name: "streams-µs", send: each},
		{name: "alone-µs", send: each, alone: true},
		{name: "bare-µs", bare: true, send: func() {
			for _, fd := range fds {
				syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&bare[0])), uintptr(len(bare)))
			}
		}},
	}
	took := make([][]float64, len(ways))
	for b.Loop() {
		for _, i := range rand.Perm(len(ways)) {
			way := ways[i]
			time.Sleep(2 * time.Millisecond) // as between the frames of a stream
			for k, snd := range senders {
				if snd.holder = holders[k]; way.alone {
					snd.holder = nil
				}
			}
			for _, s := range logs {
				if !way.bare {
					s.frame(size)
				}
			}
			began := threadTime(b)
			way.send()
			took[i] = append(took[i], float64(threadTime(b)-began)/1e3/float64(len(senders)))
		}
	}
	for i, way := range ways {
		slices.Sort(took[i])
		b.ReportMetric(took[i][len(took[i])/2], way.name)
	}
}

// threadTime returns the CPU time of the thread, in nanoseconds.
func threadTime(t testing.TB) int64 {
	const threadCPU = 3 // CLOCK_THREAD_CPUTIME_ID
	var at syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, threadCPU, uintptr(unsafe.Pointer(&at)), 0)
	require.Zero(t, errno)
	return at.Nano()
}
