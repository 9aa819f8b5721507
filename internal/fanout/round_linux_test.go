package fanout

import (
	"io"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/sys"
)

// BenchmarkRound sends a frame to 50 receivers that keep up: in rounds, by one sender
// after the other, and by bare writes to the same sockets. They alternate, so that what
// else the machine does disturbs all alike. It reports the median CPU time for each
// receiver, in µs.
func BenchmarkRound(b *testing.B) {
	for _, bench := range []struct {
		name string
		size int
	}{{"300 bytes", 300}, {"5000 bytes", 5000}} {
		b.Run(bench.name, func(b *testing.B) { benchmarkRound(b, bench.size) })
	}
}

func benchmarkRound(b *testing.B, size int) {
	const receivers = 50
	s := newStream(1 << 23)
	g := NewGroup(s.log, NewPool())
	var senders []*Sender
	var holders []sys.Holder
	var fds []uintptr
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
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	bare := make([]byte, size+20)
	ways := []struct {
		name string
		send func()
	}{
		{"round-µs", g.Wake},
		{"alone-µs", g.Wake},
		{"bare-µs", func() {
			for _, fd := range fds {
				syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&bare[0])), uintptr(len(bare)), sendFlags, 0, 0)
			}
		}},
	}
	took := make([][]float64, len(ways))
	for b.Loop() {
		for i, way := range ways {
			time.Sleep(2 * time.Millisecond) // as between the frames of a stream
			for k, snd := range senders {
				if snd.holder = holders[k]; way.name == "alone-µs" {
					snd.holder = nil
				}
			}
			if way.name != "bare-µs" {
				s.frame(size)
			}
			began := threadTime(b)
			way.send()
			took[i] = append(took[i], float64(threadTime(b)-began)/1e3/receivers)
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
