package forward

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/leaktest"
)

// bubble is a Server at server:1935 of a network in memory, in virtual time.
// A goroutine that does not end fails the test, and a timer that still holds
// the Server does.
type bubble struct {
	*testing.T
	ctx context.Context
	net *forwardtest.Network
	srv *Server
	cfg Config // of srv
}

func inBubble(t *testing.T, cfg Config, f func(b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{T: t, net: new(forwardtest.Network)}
		var cancel context.CancelFunc
		b.ctx, cancel = context.WithTimeout(t.Context(), 48*time.Hour)
		defer cancel()
		if cfg.Dial == nil {
			cfg.Dial = b.net.Dial
		}
		b.cfg = watched(t, cfg)
		b.srv = NewServer(b.cfg)
		leaktest.Track(t, b.srv)
		l, err := b.net.Listen("server:1935")
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- b.srv.Serve(l) }()
		defer func() {
			inspect(t, b.srv)
			b.srv.Close()
			require.ErrorIs(t, <-served, ErrServerClosed)
		}()
		f(b)
	})
}

// client is for the stream of that name, such as live/s.
func (b *bubble) client(name string) forwardtest.Client {
	return forwardtest.Client{URL: "rtmp://server/" + name + "?token=" + canary, Dial: b.net.Dial}
}

func (b *bubble) publish(name string) *forwardtest.Publisher {
	b.Helper()
	p, err := b.client(name).Publish(b.ctx)
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

func (b *bubble) play(name string) *forwardtest.Player {
	b.Helper()
	p, err := b.client(name).Play(b.ctx, nil)
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

func (b *bubble) destination(address string, scripts ...forwardtest.Script) *forwardtest.Destination {
	d := b.net.NewDestination(address, scripts...)
	b.Cleanup(func() { d.Close() })
	return d
}

func (b *bubble) session(d *forwardtest.Destination, n int) *forwardtest.Session {
	b.Helper()
	s, err := d.WaitSession(b.ctx, n)
	require.NoError(b, err)
	return s
}

// published waits for the n-th connection to publish.
func (b *bubble) published(d *forwardtest.Destination, n int) *forwardtest.Session {
	b.Helper()
	s := b.session(d, n)
	_, err := s.WaitCommand(b.ctx, "publish")
	require.NoError(b, err)
	synctest.Wait()
	return s
}

// served is a client whose connection leads straight into the Server, and what
// ServeConn returns.
func (b *bubble) served(name string) (forwardtest.Client, chan error) {
	result := make(chan error, 1)
	c := b.client(name)
	c.Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := forwardtest.Pipe()
		go func() { result <- b.srv.ServeConn(context.Background(), far) }()
		return near, nil
	}
	return c, result
}

// isolation is rule R0: a publisher of live/ok at its own speed, and who gets
// its stream. Whatever happens to others, nothing is lost and nothing is late.
type isolation struct {
	b     *bubble
	pub   *forwardtest.Publisher
	stop  context.CancelFunc
	sent  chan error
	began time.Time
	all   []*arrivals
}

// steady is the stream of rule R0: a frame is due every 40 ms, and may be held
// back for the merge window.
var steady = forwardtest.Media{ID: 1, KeyframeInterval: time.Second, AudioBitrate: -1}

const (
	steadyStep = 40 * time.Millisecond
	maxAdded   = 200 * time.Millisecond
)

// neighbours begins to publish. The recorders are of those who are connected.
func (b *bubble) neighbours(pub *forwardtest.Publisher, media forwardtest.Media, recs ...*forwardtest.Recorder) *isolation {
	b.Helper()
	synctest.Wait()
	i := &isolation{b: b, pub: pub, sent: make(chan error, 1), began: time.Now()}
	var ctx context.Context
	ctx, i.stop = context.WithCancel(b.ctx)
	for _, rec := range recs {
		i.all = append(i.all, watchArrivals(b.ctx, rec))
	}
	go func() { i.sent <- pub.Send(ctx, media.Messages(-1), 1) }()
	return i
}

// steady publishes live/ok to a player.
func (b *bubble) steady() *isolation {
	b.Helper()
	pub := b.publish("live/ok")
	player := b.play("live/ok")
	return b.neighbours(pub, steady, player.Recorder())
}

// check ends publishing and says what the longest gap was beyond what the
// stream itself and the merge window make.
func (i *isolation) check() (added time.Duration) {
	i.b.Helper()
	time.Sleep(time.Second) // some frames after the fault
	lasted := time.Since(i.began)
	i.stop()
	require.ErrorIs(i.b, <-i.sent, context.Canceled, "the publisher was disturbed")
	time.Sleep(time.Second)
	synctest.Wait()
	for _, a := range i.all {
		a.stop()
		require.NoError(i.b, a.rec.Err())
		r := a.rec.Report()
		require.Equal(i.b, uint64(1), r.First)
		require.Equal(i.b, uint64(r.Frames), r.Last, "frames are missing")
		require.GreaterOrEqual(i.b, r.Frames, int(lasted/steadyStep)-1, "the publisher was held up")
		added = max(added, a.longest()-steadyStep-mergeWindow(i.b.cfg))
	}
	require.LessOrEqual(i.b, added, maxAdded)
	return max(added, 0)
}

// mergeWindow is how long cfg has messages held back at most.
func mergeWindow(cfg Config) time.Duration {
	if cfg.MergeWindow == 0 {
		return 50 * time.Millisecond
	}
	return max(cfg.MergeWindow, 0)
}

// arrivals notes when frames arrive.
type arrivals struct {
	rec  *forwardtest.Recorder
	stop context.CancelFunc

	mu   sync.Mutex
	last time.Time
	gaps []time.Duration
}

func watchArrivals(ctx context.Context, rec *forwardtest.Recorder) *arrivals {
	a := &arrivals{rec: rec}
	ctx, a.stop = context.WithCancel(ctx)
	frames := 0
	go rec.Wait(ctx, func(r forwardtest.Report) bool {
		if r.Frames == frames {
			return false
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		frames = r.Frames
		now := time.Now()
		if !a.last.IsZero() {
			a.gaps = append(a.gaps, now.Sub(a.last))
		}
		a.last = now
		return false
	})
	return a
}

func (a *arrivals) longest() time.Duration { return a.gap(1) }

// gap is the one that so large a part of the gaps does not exceed.
func (a *arrivals) gap(part float64) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.gaps) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(a.gaps))[int(part*float64(len(a.gaps)-1))]
}
