package e2e

import (
	"context"
	"iter"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/sys"
)

// loopback is a Server on a port of 127.0.0.1, with real sockets and real time.
// Durations are measured; tests only assert that something happens within seconds.
type loopback struct {
	*testing.T
	ctx  context.Context
	srv  *forward.Server
	cfg  forward.Config // of srv
	addr string
}

func onLoopback(t *testing.T, cfg forward.Config) *loopback {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return onListener(t, cfg, l)
}

func onListener(t *testing.T, cfg forward.Config, l net.Listener) *loopback {
	t.Helper()
	lo := &loopback{T: t, srv: newServer(t, cfg), cfg: cfg, addr: l.Addr().String()}
	var cancel context.CancelFunc
	lo.ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	served := make(chan error, 1)
	go func() { served <- lo.srv.Serve(l) }()
	t.Cleanup(func() {
		cancel()
		lo.srv.Close()
		require.ErrorIs(t, <-served, forward.ErrServerClosed)
	})
	return lo
}

func (lo *loopback) client(name string) forwardtest.Client {
	return forwardtest.Client{URL: "rtmp://" + lo.addr + "/" + name}
}

func (lo *loopback) publish(name string) *forwardtest.Publisher {
	lo.Helper()
	p, err := lo.client(name).Publish(lo.ctx)
	require.NoError(lo, err)
	lo.Cleanup(func() { p.Close() })
	return p
}

// published waits until a live stream is pushed to d by its n-th connection, which gets
// everything from then on.
func (lo *loopback) published(d *forwardtest.Destination, n int) *forwardtest.Session {
	lo.Helper()
	s, err := d.WaitSession(lo.ctx, n)
	require.NoError(lo, err)
	lo.await("publishing", func() bool {
		for _, src := range lo.srv.Sources() {
			for _, f := range src.Forwarders() {
				if st := f.Stats().State; hostOf(f) == hostOfURL(d.URL("")) && (st == forward.StatePublishing || st == forward.StateStalled) {
					return true
				}
			}
		}
		return false
	})
	return s
}

// forwarder returns the Forwarder of a live stream to a URL, with the key in the URL or
// apart.
func (lo *loopback) forwarder(name, url string) *forward.Forwarder {
	lo.Helper()
	for _, f := range lo.srv.Source(name).Forwarders() {
		if d := f.Destination(); d.URL == url || d.URL+"/"+string(d.StreamKey) == url {
			return f
		}
	}
	require.FailNow(lo, "no forwarder", name)
	return nil
}

// await polls a condition every few milliseconds.
func (lo *loopback) await(what string, done func() bool) {
	lo.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-lo.ctx.Done():
			require.FailNow(lo, "has not come", what)
		}
	}
}

// destinationOf is a Destination that is closed when the test ends.
func destinationOf(t *testing.T, scripts ...forwardtest.Script) *forwardtest.Destination {
	d := forwardtest.NewDestination(scripts...)
	t.Cleanup(func() { d.Close() })
	return d
}

// discarding is a healthy destination that discards everything.
var discarding = forwardtest.Script{Recorder: func() *forwardtest.Recorder {
	return &forwardtest.Recorder{Discard: true}
}}

// undisturbed checks rule R0 over sockets: a stream with a healthy destination that
// gets all of it, whatever happens to others.
type undisturbed struct {
	lo   *loopback
	pub  *forwardtest.Publisher
	to   *forwardtest.Session
	stop context.CancelFunc
	done chan error
	sent atomic.Int64
	gaps *hosttest.Arrivals
}

// undisturbed starts the stream. to is the session of its destination.
func (lo *loopback) undisturbed(pub *forwardtest.Publisher, media forwardtest.Media, to *forwardtest.Session) *undisturbed {
	u := &undisturbed{lo: lo, pub: pub, to: to, done: make(chan error, 1)}
	var ctx context.Context
	ctx, u.stop = context.WithCancel(lo.ctx)
	u.gaps = watchArrivals(lo.ctx, to.Recorder())
	go func() { u.done <- pub.Send(ctx, u.counted(media.Messages(-1)), 1) }()
	return u
}

func (u *undisturbed) counted(messages iter.Seq[forwardtest.Message]) iter.Seq[forwardtest.Message] {
	return func(yield func(forwardtest.Message) bool) {
		for m := range messages {
			if !yield(m) {
				return
			}
			if m.Type != forwardtest.TypeData && len(m.Payload) >= 64 { // a frame, no header
				u.sent.Add(1)
			}
		}
	}
}

// check sends a few more frames, ends the stream and checks the result.
func (u *undisturbed) check(row int) {
	u.lo.Helper()
	rec := u.to.Recorder()
	require.NoError(u.lo, rec.WaitFrames(u.lo.ctx, rec.Report().Frames+10))
	u.stop()
	require.ErrorIs(u.lo, <-u.done, context.Canceled, "the publisher was disturbed")
	u.pub.Close()
	_, err := u.to.WaitCommand(u.lo.ctx, "deleteStream")
	require.NoError(u.lo, err)
	u.gaps.Stop()
	require.NoError(u.lo, rec.Err())
	r := rec.Report()
	require.Equal(u.lo, uint64(1), r.First)
	require.Equal(u.lo, uint64(r.Frames), r.Last, "frames are missing")
	require.GreaterOrEqual(u.lo, int64(r.Frames), u.sent.Load())
	added := func(part float64) time.Duration {
		return max(0, u.gaps.Gap(part)-steadyStep-mergeWindow(u.lo.cfg)).Round(time.Millisecond)
	}
	measured(row, "sockets: others meanwhile", "0 lost, gap <= 50 ms p99, 200 ms max", "%d frames, 0 lost, added gap %v p99, at most %v",
		r.Frames, added(.99), added(1))
}

// slow is a listener whose connections have small buffers and are read at 5 MB/s at
// most.
type slow struct{ net.Listener }

func (l slow) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		nc.(*net.TCPConn).SetReadBuffer(32 << 10)
		nc = slowConn{nc}
	}
	return nc, err
}

type slowConn struct{ net.Conn }

func (c slowConn) Read(p []byte) (int, error) {
	<-time.After(3 * time.Millisecond)
	return c.Conn.Read(p[:min(len(p), 16<<10)])
}

// The publisher sends a file several times as large as the log and the kernel's buffers
// together. The healthy destination takes seconds for it and misses nothing, because
// the publisher is held back for it. The destination that does not read delays nobody.
func TestFault18_FasterThanRealTime_Sockets(t *testing.T) {
	t.Parallel()
	const limit, length = 4 << 20, 16 * time.Second
	messages, largest := slices.Collect(bitrate(8_000_000).Messages(length)), 0
	for _, m := range messages {
		largest = max(largest, len(m.Payload))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	reads := forwardtest.NewDestinationAt(slow{l}, discarding)
	defer reads.Close()
	deaf := destinationOf(t, forwardtest.Script{At: map[int]func(*forwardtest.Session){1: (*forwardtest.Session).Stall}})
	lo := onLoopback(t, forward.Config{
		Resolver: forward.MustStatic(reads.URL("live/key"), deaf.URL("live/key")), MaxBytes: limit, WriteTimeout: -1, DrainTimeout: time.Minute,
	})
	pub := lo.publish("live/fast")
	s := lo.published(reads, 1)
	lo.published(deaf, 1)
	src := lo.srv.Source("live/fast")
	began := time.Now()
	sent := make(chan error, 1)
	go func() { sent <- pub.Send(lo.ctx, slices.Values(messages), 0) }()
	kept := 0
	lo.await("the end of the stream", func() bool {
		kept = max(kept, src.Stats().LogBytes)
		return len(sent) > 0
	})
	require.NoError(t, <-sent)
	took := time.Since(began)
	// The newest message is appended before the oldest ones are dropped.
	require.LessOrEqual(t, kept, limit+2*largest)
	require.NoError(t, s.Recorder().WaitFrames(lo.ctx, int(length/steadyStep)))
	require.NoError(t, s.Recorder().Err())
	r := s.Recorder().Report()
	require.Equal(t, uint64(1), r.First)
	require.Equal(t, uint64(length/steadyStep), r.Last)
	require.Zero(t, r.Missing)
	measured(18, "sockets: as fast as the server reads, 16 MB of media", "nothing lost, bounded by bytes",
		"%d frames, 0 lost, in %v, log at most %.1f of %d MiB", r.Frames, took.Round(time.Millisecond), float64(kept)/(1<<20), limit>>20)
}

// The next publisher comes when the previous one's socket has just been closed or
// reset.
func TestFault19_RepublishAtOnce_Sockets(t *testing.T) {
	t.Parallel()
	const n = 100
	d := destinationOf(t)
	lo := onLoopback(t, forward.Config{Resolver: forward.MustStatic(d.URL("live/key"))})
	var longest time.Duration
	for i := range n {
		began := time.Now() // the previous socket has been closed
		p, err := lo.client("live/s").Publish(lo.ctx)
		require.NoError(t, err, i)
		longest = max(longest, time.Since(began))
		media := steady
		media.ID = uint32(i + 1)
		require.NoError(t, p.Send(lo.ctx, media.Messages(400*time.Millisecond), 0))
		s, err := d.WaitSession(lo.ctx, i+1)
		require.NoError(t, err)
		require.NoError(t, s.Recorder().WaitFrames(lo.ctx, 10))
		if i%2 == 0 {
			p.Reset()
		}
		p.Close()
	}
	for _, s := range d.Sessions() {
		_, err := s.WaitCommand(lo.ctx, "deleteStream")
		require.NoError(t, err)
		require.NoError(t, s.Recorder().Err(), "no old frame after a new header")
		require.Equal(t, 10, s.Recorder().Report().Frames)
	}
	require.Len(t, d.Sessions(), n, "each publish opened its destination once")
	measured(19, "sockets: republished immediately: accepted", "100 of 100, <= 200 ms", "%d of %d, at most %v", n, n, longest.Round(time.Millisecond))
}

// More connections than may be pending, from a bounded number of sockets, send nothing
// or stop in the middle of the handshake.
func TestFault23_HalfOpenHandshakes_Sockets(t *testing.T) {
	t.Parallel()
	open := 2000
	if files := sys.MaxFiles(); files > 0 {
		open = min(open, files/4) // of ours, and as many of the Server's
	}
	pending := min(1024, open/2)
	healthy := destinationOf(t, discarding)
	lo := onLoopback(t, forward.Config{Resolver: forward.MustStatic(healthy.URL("live/key")), Limits: forward.Limits{PendingHandshakes: pending}})
	pub := lo.publish("live/ok")
	u := lo.undisturbed(pub, steady, lo.published(healthy, 1))

	began := time.Now()
	begun := append([]byte{3}, make([]byte, 699)...) // C0 and C1 have 1537 bytes
	held := make([]*net.TCPConn, 0, 2*open)
	for i := range 2 * open {
		nc, err := net.Dial("tcp", lo.addr)
		require.NoError(t, err)
		held = append(held, nc.(*net.TCPConn))
		nc.Write(begun[:[]int{0, 1, 700}[i%3]]) // it may have been closed already
		if i >= open {
			held[i-open].SetLinger(0)
			held[i-open].Close()
		}
	}
	flooded := time.Now()
	lo.await("the end of all handshakes", func() bool { return lo.srv.Stats().Connections == 1 })
	gone := time.Since(flooded)
	require.LessOrEqual(t, gone, 3*handshakeTimeout)
	for _, nc := range held[open:] {
		nc.SetLinger(0)
		nc.Close()
	}
	measured(23, "sockets: half-open handshakes", "pending <= cap, gone in 5 s", "%d in %v, at most %d pending, gone %v after the last",
		2*open, flooded.Sub(began).Round(time.Millisecond), pending, gone.Round(time.Millisecond))
	u.check(23)
}

func TestFault27_Loops_Sockets(t *testing.T) {
	for _, row := range []struct{ name, to, back string }{
		{"A to A", "/live/[stream]", ""},
		{"A to A, renamed", "/live/[stream]-again", ""},
		{"A to B to A", "/live/[stream]", "/live/[stream]"},
		{"A to B to A, renamed", "/live/[stream]-b", "/live/[stream]-again"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var got calls
			ours, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			a, next := "rtmp://"+ours.Addr().String(), ours.Addr().String()
			var last *loopback
			if row.back != "" {
				last = onLoopback(t, forward.Config{Resolver: forward.MustStatic(a + row.back)})
				next = last.addr
			}
			lo := onListener(t, forward.Config{Hooks: got.Hooks(), Resolver: forward.MustStatic("rtmp://" + next + row.to)}, ours)
			if last == nil {
				last = lo
			}
			lo.publish("live/s")
			var st forward.ForwarderStats
			lo.await("a refusal", func() bool {
				for _, src := range last.srv.Sources() {
					for _, f := range src.Forwarders() {
						st = f.Stats()
					}
				}
				return st.LastErr != nil
			})
			var de *forward.DestinationError
			require.ErrorAs(t, st.LastErr, &de)
			require.Equal(t, forward.OpConnect, de.Op)
			require.Equal(t, "NetConnection.Connect.Rejected", de.Code)
			require.False(t, de.Temporary())
			require.Len(t, last.srv.Sources(), 1)
			require.Equal(t, 1, got.Get()["publish"])
			require.Equal(t, 1, got.Get()["connect"])
			measured(27, "sockets: loop "+row.name, "refused in 1 round trip, 0 hooks", "refused at connect, 0 hooks")
		})
	}
}
