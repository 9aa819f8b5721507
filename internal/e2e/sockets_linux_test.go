package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/dnstest"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// narrow gives accepted sockets nearly no receive buffer.
var narrow = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 128)
	}); cerr != nil {
		return cerr
	}
	return err
}}

// stalls reads nothing after the first message.
var stalls = forwardtest.Script{
	At:       map[int]func(*forwardtest.Session){1: (*forwardtest.Session).Stall},
	Recorder: discarding.Recorder,
}

// conns are the ends of connections, in order.
type conns struct {
	mu  sync.Mutex
	all []*net.TCPConn
}

func (c *conns) add(nc net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, nc.(*net.TCPConn))
}

func (c *conns) get() []*net.TCPConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// dial is a Config.Dial that records its connections without wrapping them.
func (c *conns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		c.add(nc)
	}
	return nc, err
}

// noting is a listener that records the connections it accepts.
type noting struct {
	net.Listener
	conns
}

func (l *noting) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		l.add(nc)
	}
	return nc, err
}

// kernelBytes is the kernel memory of a socket's unsent and unread data: SO_MEMINFO
// (linux/sock_diag.h).
func kernelBytes(nc *net.TCPConn) (n int) {
	const soMemInfo, rmemAlloc, wmemQueued = 55, 0, 5
	raw, err := nc.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Control(func(fd uintptr) {
		// The result has the form of a socket filter: eight numbers.
		if info, err := syscall.GetsockoptICMPv6Filter(int(fd), syscall.SOL_SOCKET, soMemInfo); err == nil {
			n = int(info.Data[rmemAlloc] + info.Data[wmemQueued])
		}
	})
	return n
}

// blackHoleAt listens with a full accept queue of one place, so further connection
// attempts are not answered.
func blackHoleAt(t *testing.T, family int, sa syscall.Sockaddr) (port int) {
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, sa))
	require.NoError(t, syscall.Listen(fd, 0))
	sa, err = syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := net.TCPAddr{}
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		addr.IP, addr.Port = sa.Addr[:], sa.Port
	case *syscall.SockaddrInet6:
		addr.IP, addr.Port = sa.Addr[:], sa.Port
	}
	nc, err := net.DialTCP("tcp", nil, &addr)
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	return addr.Port
}

func TestFault02_BlackHole_Sockets(t *testing.T) {
	t.Parallel()
	healthy := destinationOf(t, discarding)
	deaf := blackHoleAt(t, syscall.AF_INET, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	url := fmt.Sprintf("rtmp://127.0.0.1:%d/live/key", deaf)
	st := &states{began: time.Now()}
	lo := onLoopback(t, forward.Config{Resolver: forward.MustStatic(healthy.URL("live/key"), url), Hooks: forward.Hooks{OnForward: st.note}})
	u := lo.undisturbed(lo.publish("live/ok"), steady, lo.published(healthy, 1))
	f := lo.forwarder("live/ok", url)
	lo.await("the end of the dial", func() bool { _, at := st.losses(f); return len(at) > 0 })
	errs, lost := st.losses(f)
	require.Equal(t, forward.OpDial, errs[0].Op)
	var ne net.Error
	require.ErrorAs(t, errs[0], &ne)
	require.True(t, ne.Timeout())
	measured(2, "sockets: black hole: the dial gives up after", "<= 5 s", "%v", (lost[0] - st.of(f, forward.StateConnecting)[0]).Round(time.Millisecond))
	u.check(2)
}

// If the first of two addresses does not answer, the same attempt reaches the second.
// TestDialer of internal/upstream checks the exact time.
func TestFault02_NextAddress_Sockets(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, first, second string
		family              int
		at                  func(port int) syscall.Sockaddr
	}{
		{"other family", "::1", "127.0.0.1", syscall.AF_INET6, func(port int) syscall.Sockaddr {
			return &syscall.SockaddrInet6{Addr: [16]byte(net.IPv6loopback), Port: port}
		}},
		{"same family", "127.0.0.1", "127.0.0.2", syscall.AF_INET, func(port int) syscall.Sockaddr {
			return &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if !hasAddr(row.first) {
				return // a machine without IPv6
			}
			l, err := net.Listen("tcp", net.JoinHostPort(row.second, "0"))
			require.NoError(t, err)
			d := forwardtest.NewDestinationAt(l)
			t.Cleanup(func() { d.Close() })
			port := blackHoleAt(t, row.family, row.at(l.Addr().(*net.TCPAddr).Port))
			dns := dnstest.New(t)
			dns.Set(map[string][]string{"two.example": {row.first, row.second}}, nil)
			dial := upstream.NewDialer(nil)
			dial.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
				return upstream.LookupAddrs(ctx, dns.Resolver(), host)
			}

			st := &states{began: time.Now()}
			lo := onLoopback(t, forward.Config{
				Resolver: forward.MustStatic(fmt.Sprintf("rtmp://two.example:%d/live/key", port)),
				Dial:     dial.DialContext,
				Hooks:    forward.Hooks{OnForward: st.note},
			})
			lo.publish("live/s")
			f := lo.srv.Source("live/s").Forwarders()[0]
			lo.await("publishing", func() bool { return len(st.of(f, forward.StatePublishing)) > 0 })
			require.Len(t, st.of(f, forward.StateConnecting), 1, "by the first attempt")
			measured(2, "sockets: black hole: then the "+row.name+": reached after", "at 300 ms", "%v",
				(st.of(f, forward.StateHandshaking)[0] - st.of(f, forward.StateConnecting)[0]).Round(time.Millisecond))
		})
	}
}

func hasAddr(ip string) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

func TestFault02_ShutdownWhileDialling_Sockets(t *testing.T) {
	port := blackHoleAt(t, syscall.AF_INET, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	lo := onLoopback(t, forward.Config{Resolver: forward.MustStatic(fmt.Sprintf("rtmp://127.0.0.1:%d/live/key", port))})
	lo.publish("live/s")
	f := lo.srv.Source("live/s").Forwarders()[0]
	lo.await("connecting", func() bool { return f.Stats().State == forward.StateConnecting })
	began := time.Now()
	require.NoError(t, lo.srv.Shutdown(lo.ctx))
	took := time.Since(began)
	require.Less(t, took, f.Destination().DialTimeout, "it does not wait for the dial")
	measured(2, "sockets: black hole: Shutdown during the dial", "<= 100 ms", "%v", took.Round(time.Millisecond))
}

func TestFault05_NeverReads_Sockets(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		rate   int
		figure time.Duration
	}{{8_000_000, 3 * time.Second}, {250_000, 12 * time.Second}} {
		t.Run(fmt.Sprint(row.rate), func(t *testing.T) {
			t.Parallel()
			healthy := destinationOf(t, discarding)
			l, err := narrow.Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			theirs := &noting{Listener: l}
			d := forwardtest.NewDestinationAt(theirs, stalls, forwardtest.Script{Recorder: discarding.Recorder})
			t.Cleanup(func() { d.Close() })
			var ours conns
			st := &states{began: time.Now()}
			lo := onLoopback(t, forward.Config{
				Resolver: forward.MustStatic(healthy.URL("live/key"), d.URL("live/key")), Dial: ours.dial, Hooks: forward.Hooks{OnForward: st.note},
			})
			u := lo.undisturbed(lo.publish("live/ok"), bitrate(row.rate), lo.published(healthy, 1))
			lo.published(d, 1)
			f := lo.forwarder("live/ok", d.URL("live/key"))
			peer := theirs.get()[0]
			var near *net.TCPConn
			for _, nc := range ours.get() {
				if nc.LocalAddr().String() == peer.RemoteAddr().String() {
					near = nc
				}
			}
			kernel, user, stalled := 0, 0, time.Duration(0)
			lo.await("publishing again", func() bool {
				kernel = max(kernel, kernelBytes(near)+kernelBytes(peer))
				user = max(user, lo.srv.Stats().Buffered)
				if stalled == 0 && f.Stats().State == forward.StateStalled {
					stalled = time.Since(st.began)
				}
				return len(st.of(f, forward.StatePublishing)) > 1
			})
			at := st.of(f, forward.StatePublishing)
			errs, _ := st.losses(f)
			require.Equal(t, forward.OpWrite, errs[0].Op)
			require.ErrorIs(t, errs[0], fanout.ErrStalled)
			require.True(t, errs[0].Temporary())
			require.Positive(t, stalled, "it was seen")
			require.Greater(t, kernel, 64<<10)
			require.LessOrEqual(t, kernel, 512<<10)
			require.LessOrEqual(t, user, maxBytes)
			what := fmt.Sprintf("sockets: never reads, %d kbit/s: ", row.rate/1000)
			measured(5, what+"stalled after", "<= "+row.figure.String(), "%v", (stalled - at[0]).Round(time.Millisecond))
			measured(5, what+"then publishing again after", "<= 15 s", "%v", (at[1] - stalled).Round(time.Millisecond))
			measured(5, what+"memory", "user <= log limit, kernel <= 0.5 MB", "%.2f MiB in one log of 16, %d KiB in the kernel",
				float64(user)/(1<<20), kernel>>10)
			u.check(5)
		})
	}
}

// distant gives accepted sockets a small receive buffer and packets as small as those
// of a real network; loopback's are larger.
var distant = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
	var errs [2]error
	if cerr := c.Control(func(fd uintptr) {
		errs[0] = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
		errs[1] = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1400)
	}); cerr != nil {
		return cerr
	}
	return errors.Join(errs[:]...)
}}

// The test in virtual time asserts that it is never more than 10 s late.
func TestFault06_ReadsHalfTheRate_Sockets(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{500_000, 2_000_000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			t.Parallel()
			rec := &forwardtest.Recorder{Gaps: true, Discard: true}
			l, err := distant.Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			slow := forwardtest.NewDestinationAt(l, forwardtest.Script{
				Faults:   forwardtest.Faults{Read: forwardtest.Fault{Rate: rate / 8 / 2}},
				Recorder: func() *forwardtest.Recorder { return rec },
			})
			t.Cleanup(func() { slow.Close() })
			healthy := destinationOf(t, discarding)
			lo := onLoopback(t, forward.Config{Resolver: forward.MustStatic(healthy.URL("live/key"), slow.URL("live/key"))})
			pub := lo.publish("live/ok")
			lo.published(slow, 1)
			s := lo.published(healthy, 1)
			f := lo.forwarder("live/ok", slow.URL("live/key"))
			began := time.Now()
			u := lo.undisturbed(pub, bitrate(rate), s)
			var behind time.Duration
			require.NoError(t, rec.Wait(lo.ctx, func(r forwardtest.Report) bool {
				if r.Last > 0 {
					behind = max(behind, time.Since(began)-time.Duration(r.Last-1)*steadyStep)
				}
				return r.Gaps == 2
			}))
			require.NoError(t, rec.Err(), "decode-clean")
			st := f.Stats()
			require.EqualValues(t, 1, st.Connects, "%v", st.LastErr)
			require.Positive(t, st.DroppedLate)
			require.Zero(t, st.DroppedNoKeyframe)
			measured(6, fmt.Sprintf("sockets: reads half of %d kbit/s: behind at most", rate/1000), "<= 10 s", "%v", behind.Round(time.Millisecond))
			u.check(6)
		})
	}
}

const (
	nobodyReadsEnv   = "FORWARD_TEST_NOBODY_READS"
	nobodyReadsLimit = 4 << 20
)

// The child of TestFault13_NobodyReads_Sockets: a server that pushes to all URLs in its
// environment, and prints its memory use for each line of input.
func TestServeNobodyReads(t *testing.T) {
	if os.Getenv(nobodyReadsEnv) == "" {
		return // only a child runs it
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newServer(t, forward.Config{
		Resolver: forward.MustStatic(strings.Fields(os.Getenv(nobodyReadsEnv))...),
		MaxBytes: nobodyReadsLimit, MaxLatency: -1, WriteTimeout: -1, DrainTimeout: 1,
		FirstMediaTimeout: -1, ReadTimeout: -1,
	})
	go s.Serve(l)
	fmt.Printf("listening %s\n", l.Addr())
	for asked := bufio.NewScanner(os.Stdin); asked.Scan(); {
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Printf("%d %d %d\n", resident(t), m.Sys-m.HeapReleased, s.Stats().Buffered)
	}
}

// resident is the process's RSS in bytes.
func resident(t *testing.T) int {
	b, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	var size, pages int
	_, err = fmt.Sscan(string(b), &size, &pages)
	require.NoError(t, err)
	return pages * os.Getpagesize()
}

func TestFault13_NobodyReads_Sockets(t *testing.T) {
	t.Parallel()
	const n = 64
	healthy := destinationOf(t, discarding)
	l, err := narrow.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	deaf := forwardtest.NewDestinationAt(l, stalls)
	defer deaf.Close()
	urls := []string{healthy.URL("live/key")}
	for i := range n {
		urls = append(urls, deaf.URL(fmt.Sprintf("live/%d", i)))
	}
	c := startChild(t, "TestServeNobodyReads", nobodyReadsEnv+"="+strings.Join(urls, " "))
	ask := func() (rss, mapped, kept int) {
		_, err := fmt.Fprintln(c.stdin)
		require.NoError(t, err)
		_, err = fmt.Fscanln(c.out, &rss, &mapped, &kept)
		require.NoError(t, err)
		return rss, mapped, kept
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pub, err := forwardtest.Client{URL: "rtmp://" + c.addr + "/live/s"}.Publish(ctx)
	require.NoError(t, err)
	defer pub.Close()

	// One GOP, so that nothing is dropped before the log is full. All destinations have
	// received its start before the first measurement. Each step waits for the one that
	// reads.
	const step, frames = 10, 500
	media := bitrate(8_000_000)
	media.KeyframeInterval = time.Hour
	s, err := healthy.WaitSession(ctx, 1)
	require.NoError(t, err)
	messages := slices.Collect(media.Messages(frames * steadyStep))
	var longest time.Duration
	send := func(from, to int) {
		for i := from; i < to; i += step {
			began := time.Now()
			require.NoError(t, pub.Send(ctx, slices.Values(messages[i:min(i+step, to)]), 0))
			require.NoError(t, s.Recorder().Wait(ctx, func(r forwardtest.Report) bool { return r.Messages >= min(i+step, to) }),
				"stalled destinations delay nobody")
			longest = max(longest, time.Since(began))
		}
	}
	send(0, step)
	for i := range n {
		s, err := deaf.WaitSession(ctx, i+1)
		require.NoError(t, err)
		require.NoError(t, s.Recorder().Wait(ctx, func(r forwardtest.Report) bool { return r.Messages > 0 }))
	}
	rss, mapped, _ := ask()
	send(step, len(messages))
	require.Equal(t, frames, s.Recorder().Report().Frames)
	require.NoError(t, s.Recorder().Err())
	fullRSS, fullMapped, kept := ask()
	require.Greater(t, kept, nobodyReadsLimit*3/4)

	// The race detector adds memory to each byte, so then the runtime's own figure
	// counts.
	grown, of := fullRSS-rss, "RSS"
	if raceDetector() {
		grown, of = fullMapped-mapped, "Go's memory"
	}
	measured(13, "sockets: 64 that never read", "RSS grown <= 1 log + 1 MiB", "%s grown %.1f MiB, log of %.1f MiB, healthy one 0 lost",
		of, float64(grown)/(1<<20), float64(kept)/(1<<20))
	measured(13, "sockets: others meanwhile", "0 lost, gap <= 50 ms p99, 200 ms max", "%d frames, 0 lost, each there after %v at most",
		frames, longest.Round(time.Millisecond))
	require.LessOrEqual(t, grown, nobodyReadsLimit+1<<20)
}

// dropAll makes a connection deaf, as if the cable was pulled: a filter drops
// everything that arrives, including FIN and RST.
func dropAll(t *testing.T, nc *net.TCPConn) {
	t.Helper()
	raw, err := nc.SyscallConn()
	require.NoError(t, err)
	nothing := &syscall.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K, K: 0}
	prog := &syscall.SockFprog{Len: 1, Filter: nothing}
	require.NoError(t, raw.Control(func(fd uintptr) {
		value := unsafe.String((*byte)(unsafe.Pointer(prog)), unsafe.Sizeof(*prog))
		err = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_ATTACH_FILTER, value)
	}))
	runtime.KeepAlive(prog)
	require.NoError(t, err)
}

func TestFault17_PublisherVanishes_Sockets(t *testing.T) {
	t.Parallel()
	gone := destinationOf(t)
	healthy := destinationOf(t, discarding)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &noting{Listener: tcp}
	lo := onListener(t, forward.Config{Resolver: forward.ResolverFunc(func(_ context.Context, r *forward.Request) ([]forward.Destination, error) {
		if r.Stream == "ok" {
			return []forward.Destination{{URL: healthy.URL("live/key")}}, nil
		}
		return []forward.Destination{{URL: gone.URL("live/key")}}, nil
	})}, l)
	p := lo.publish("live/s")
	s := lo.published(gone, 1)
	u := lo.undisturbed(lo.publish("live/ok"), steady, lo.published(healthy, 1))
	require.NoError(t, p.Send(lo.ctx, steady.Messages(400*time.Millisecond), 0))
	require.NoError(t, s.Recorder().WaitFrames(lo.ctx, 10))
	dropAll(t, l.get()[0])
	p.Reset()
	began := time.Now()
	src := lo.srv.Source("live/s")
	<-src.Done()
	took := time.Since(began)
	require.LessOrEqual(t, took, 2*readTimeout)
	_, err = s.WaitCommand(lo.ctx, "deleteStream")
	require.NoError(t, err)
	require.Equal(t, []string{"FCUnpublish", "deleteStream"}, names(s)[len(names(s))-2:])
	require.NoError(t, s.Recorder().Err())
	require.Nil(t, lo.srv.Source("live/s"))
	lo.publish("live/s").Close()
	measured(17, "sockets: publisher vanishes, packets dropped", "<= 10 s", "destinations told after %v", took.Round(time.Millisecond))
	u.check(17)
}
