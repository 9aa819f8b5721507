package hosttest

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// Bubble is a Server at server:1935 of an in-memory network, in virtual time. A
// goroutine that does not end fails the test, and so does a timer that still refers to
// the Server.
type Bubble struct {
	*testing.T
	Ctx    context.Context
	Net    *forwardtest.Network
	Server *forward.Server
	Config forward.Config // of srv
}

// InBubble calls f in virtual time with a Server at server:1935, and closes the Server.
func InBubble(t *testing.T, cfg forward.Config, f func(b *Bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &Bubble{T: t, Net: new(forwardtest.Network)}
		var cancel context.CancelFunc
		b.Ctx, cancel = context.WithTimeout(t.Context(), 48*time.Hour)
		defer cancel()
		if cfg.Dial == nil {
			cfg.Dial = b.Net.Dial
		}
		b.Config = Watched(t, cfg)
		b.Server = forward.NewServer(b.Config)
		leaktest.Track(t, b.Server)
		l, err := b.Net.Listen("server:1935")
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- b.Server.Serve(l) }()
		defer func() {
			Inspect(t, b.Server)
			b.Server.Close()
			require.ErrorIs(t, <-served, forward.ErrServerClosed)
		}()
		f(b)
	})
}

// Client returns a client for a stream name such as live/s.
func (b *Bubble) Client(name string) forwardtest.Client {
	return forwardtest.Client{URL: "rtmp://server/" + name + "?token=" + secretscan.Canary, Dial: b.Net.Dial}
}

// Publish publishes a stream until the test ends, at the latest.
func (b *Bubble) Publish(name string) *forwardtest.Publisher {
	b.Helper()
	p, err := b.Client(name).Publish(b.Ctx)
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

// Play plays a stream until the test ends, at the latest.
func (b *Bubble) Play(name string) *forwardtest.Player {
	b.Helper()
	p, err := b.Client(name).Play(b.Ctx, nil)
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

// Destination returns a Destination at an address, which is closed when the test ends.
func (b *Bubble) Destination(address string, scripts ...forwardtest.Script) *forwardtest.Destination {
	d := b.Net.NewDestination(address, scripts...)
	b.Cleanup(func() { d.Close() })
	return d
}

// Session waits for the n-th connection of a destination.
func (b *Bubble) Session(d *forwardtest.Destination, n int) *forwardtest.Session {
	b.Helper()
	s, err := d.WaitSession(b.Ctx, n)
	require.NoError(b, err)
	return s
}

// Published waits until the n-th connection of a destination publishes.
func (b *Bubble) Published(d *forwardtest.Destination, n int) *forwardtest.Session {
	b.Helper()
	s := b.Session(d, n)
	_, err := s.WaitCommand(b.Ctx, "publish")
	require.NoError(b, err)
	synctest.Wait()
	return s
}

// Served returns a client connected directly to the Server, and the result of
// ServeConn.
func (b *Bubble) Served(name string) (forwardtest.Client, chan error) {
	result := make(chan error, 1)
	c := b.Client(name)
	c.Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := forwardtest.Pipe()
		go func() { result <- b.Server.ServeConn(context.Background(), far) }()
		return near, nil
	}
	return c, result
}

// Neighbours starts to publish live/ok to connected receivers, whose recorders it gets.
func (b *Bubble) Neighbours(pub *forwardtest.Publisher, media forwardtest.Media, recs ...*forwardtest.Recorder) *Isolation {
	b.Helper()
	synctest.Wait()
	i := &Isolation{b: b, pub: pub, sent: make(chan error, 1), began: time.Now()}
	var ctx context.Context
	ctx, i.stop = context.WithCancel(b.Ctx)
	for _, rec := range recs {
		i.all = append(i.all, WatchArrivals(b.Ctx, rec))
	}
	go func() { i.sent <- pub.Send(ctx, media.Messages(-1), 1) }()
	return i
}

// Steady publishes live/ok to a player.
func (b *Bubble) Steady() *Isolation {
	b.Helper()
	pub := b.Publish("live/ok")
	player := b.Play("live/ok")
	return b.Neighbours(pub, Steady, player.Recorder())
}

// MergeWindow is the longest time for which cfg holds messages back.
func MergeWindow(cfg forward.Config) time.Duration {
	if cfg.MergeWindow == 0 {
		return 50 * time.Millisecond
	}
	return max(cfg.MergeWindow, 0)
}

// FillUp writes a keyframe and then other frames of that size until the Server holds
// this many bytes, or n frames are written.
func (b *Bubble) FillUp(p *forward.Publisher, size, until, n int) {
	b.Helper()
	body := slices.Concat(rtmptest.Frame(true, 0), make([]byte, size))
	for range n {
		require.NoError(b, p.WriteTag(forward.TagVideo, 0, body))
		body[0] = 0x27
		synctest.Wait()
		if b.Server.Stats().Buffered >= until {
			return
		}
	}
}

// PublishInProcess publishes a stream of the app live from inside the process.
func (b *Bubble) PublishInProcess(name string) *forward.Publisher {
	b.Helper()
	p, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: name})
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

// ClosesSlowly is a client whose connection takes 5 s to close at the Server's end.
func (b *Bubble) ClosesSlowly(name string) (c forwardtest.Client, served chan error, cancel func()) {
	served = make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	c = b.Client(name)
	c.Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := forwardtest.Pipe()
		go func() {
			served <- b.Server.ServeConn(ctx, ConnFrom{slowClose{far, 5 * time.Second}, Addr("198.51.100.1:1000")})
		}()
		return near, nil
	}
	return c, served, cancel
}

// PlayAtRate plays a stream and reads this many bytes per second.
func (b *Bubble) PlayAtRate(name string, rate int) *forwardtest.Player {
	b.Helper()
	c := b.Client(name)
	c.Dial = forwardtest.FaultDial(b.Net.Dial, ReadsAt(rate).Faults)
	p, err := c.Play(b.Ctx, nil)
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

// WaitResult returns the value from result. It fails the test after d.
func (b *Bubble) WaitResult(d time.Duration, result chan error) error {
	b.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(d):
		require.FailNow(b, "still going on", "after %v", d)
		return nil
	}
}

// ServeAt runs another Server in the bubble's network and records who publishes to it.
func (b *Bubble) ServeAt(address string, cfg forward.Config) (*forward.Server, *[]*forward.Request) {
	b.Helper()
	var asked []*forward.Request
	cfg.Dial, cfg.FirstMediaTimeout = b.Net.Dial, -1
	cfg.Hooks.OnPublish = func(_ context.Context, req *forward.Request) error {
		asked = append(asked, req)
		return nil
	}
	s := forward.NewServer(Watched(b.T, cfg))
	l, err := b.Net.Listen(address)
	require.NoError(b, err)
	go s.Serve(l)
	b.Cleanup(func() {
		Inspect(b.T, s)
		s.Close()
	})
	return s, &asked
}

// Hear plays a name at the server of that address.
func (b *Bubble) Hear(address, name string, rec *forwardtest.Recorder) (*forwardtest.Player, *Heard) {
	b.Helper()
	c, h := b.Client(name), new(Heard)
	c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		nc, err := b.Net.Dial(ctx, network, address)
		h.Conn = nc
		return h, err
	}
	p, err := c.Play(b.Ctx, rec)
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	synctest.Wait() // until it plays, or waits for a publisher
	return p, h
}

// PublishFor publishes for d and unpublishes.
func (b *Bubble) PublishFor(name string, media forwardtest.Media, d time.Duration) {
	b.Helper()
	p := b.Publish(name)
	require.NoError(b, p.Send(b.Ctx, media.Messages(d), 1))
	require.NoError(b, p.Unpublish())
	synctest.Wait()
}

// ClientAt is Client from another address.
func (b *Bubble) ClientAt(ip, name string) forwardtest.Client {
	c := b.Client(name)
	c.Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := forwardtest.Pipe()
		addr := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 1024))
		var served sync.WaitGroup
		served.Go(func() { b.Server.ServeConn(context.Background(), ConnFrom{far, addr}) })
		b.Cleanup(served.Wait)
		return near, nil
	}
	return c
}

// PublishAt is Publish from another address.
func (b *Bubble) PublishAt(ip, name string) (*forwardtest.Publisher, error) {
	p, err := b.ClientAt(ip, name).Publish(b.Ctx)
	if err == nil {
		b.Cleanup(func() { p.Close() })
	}
	return p, err
}

// SendWithoutKeyframes sends a stream without keyframes until it is disconnected.
func (b *Bubble) SendWithoutKeyframes(p *forwardtest.Publisher) {
	go p.Send(b.Ctx, WithoutKeyframes(OtherStream), 1)
	synctest.Wait()
}

// ServedFrom is Served for a client at an address.
func (b *Bubble) ServedFrom(addr, name string) (forwardtest.Client, chan error) {
	served := make(chan error, 1)
	c := b.Client(name)
	c.Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := forwardtest.Pipe()
		go func() { served <- b.Server.ServeConn(context.Background(), ConnFrom{far, Addr(addr)}) }()
		return near, nil
	}
	return c, served
}
