//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/flv"
)

// TestFaults pushes one stream to a healthy slave and to destinations that are killed,
// stop reading, never answer or refuse: one like nginx-rtmp, which accepts and closes,
// one with a status. The slave misses nothing, and every reconnect starts correctly.
func TestFaults(t *testing.T) {
	c := bigKeyframes(t)
	slave := newServer(t, forward.Config{})
	denying := newServer(t, forward.Config{Hooks: forward.Hooks{
		OnPublish: func(context.Context, *forward.Request) error { return errors.New("wrong key") },
	}})
	killed, stopped, refusing := newNginx(t, ""), newNginx(t, ""), newNginx(t, "")
	killedTap, stoppedTap := newTap(t, killed.addr), newTap(t, stopped.addr)
	urls := map[string]string{
		"slave":    slave.url("live"),
		"killed":   "rtmp://" + killedTap.addr + "/live",
		"stopped":  "rtmp://" + stoppedTap.addr + "/live",
		"refusing": "rtmp://" + refusing.addr + "/deny",
		"denying":  denying.url("live"),
		"silent":   "rtmp://" + silent(t) + "/live",
	}
	master := newServer(t, forward.Config{
		WriteTimeout: time.Second,
		Backoff: forward.Backoff{
			Min: 100 * time.Millisecond, Max: 500 * time.Millisecond,
			RefusedMin: 200 * time.Millisecond, RefusedMax: 500 * time.Millisecond,
		},
		Resolver: forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
			var out []forward.Destination
			for _, u := range urls {
				out = append(out, forward.Destination{URL: u, StreamKey: "cam", SetupTimeout: time.Second})
			}
			return out, nil
		}),
	})

	accepted := make(chan struct{})
	played := make(chan []tag, 1)
	go func() {
		got, err := playRaw(t.Context(), slave.addr, "live", "cam", accepted)
		if err != nil {
			t.Errorf("player: %v", err)
		}
		played <- got
	}()
	<-accepted
	e := newEncoder(t, master, c)
	e.awaitState("slave", urls)
	e.awaitState("killed", urls)
	e.awaitState("stopped", urls)
	e.start()

	begun(t, killedTap, nil)
	killed.kill()
	e.awaitError(urls["killed"], "read", "write")
	killed.start(t)
	begun(t, killedTap, c)

	begun(t, stoppedTap, nil)
	stopped.signal(t, syscall.SIGSTOP)
	e.awaitError(urls["stopped"], "write")
	stopped.signal(t, syscall.SIGCONT)
	begun(t, stoppedTap, c)

	e.awaitError(urls["silent"], "handshake")
	e.awaitError(urls["refusing"], "publish", "read", "write")
	e.awaitError(urls["denying"], "publish")
	for _, name := range []string{"silent", "refusing", "denying"} {
		eventually(t, "another attempt", func() bool { return e.forwarder(urls[name]).Stats().Connects > 1 })
	}
	require.Zero(t, e.forwarder(urls["silent"]).Stats().Accepted)
	require.Zero(t, e.forwarder(urls["denying"]).Stats().Accepted)
	var refused *forward.DestinationError
	require.ErrorAs(t, e.forwarder(urls["denying"]).Stats().LastErr, &refused)
	require.Equal(t, "NetStream.Publish.Denied", refused.Code)
	require.False(t, refused.Temporary())
	healthy := e.forwarder(urls["slave"])
	published := e.stop()
	require.NoError(t, checkAll(published, <-played))
	st := healthy.Stats()
	require.Zero(t, st.DroppedLate+st.DroppedNoKeyframe)
	require.EqualValues(t, 1, st.Connects)
}

// begun waits for a connection through p on which a keyframe has come. With a clip it
// checks how the connection started and what followed.
func begun(t *testing.T, p *tap, c *clip) {
	t.Helper()
	for {
		var conn *tapped
		select {
		case conn = <-p.conns:
		case <-time.After(patience):
			t.Fatal("no connection")
		}
		eventually(t, "a keyframe, or the end", func() bool {
			select {
			case <-conn.ended:
				return true
			default:
				return conn.firstKey.Load() > 0
			}
		})
		key := time.Duration(conn.firstKey.Load())
		if key == 0 {
			continue
		}
		if c != nil {
			require.NoError(t, checkPreface(conn.tags(), 2))
			require.NoError(t, checkSequence(conn.tags()))
			// It must get the last keyframe instead of waiting for the next.
			require.Less(t, key, time.Second)
			t.Logf("%v from accepting the connection to the whole keyframe", key.Round(time.Millisecond))
		}
		return
	}
}

// checkSequence checks that timestamps do not go back, within video and audio.
func checkSequence(tags []tag) error {
	last := make(map[uint8]uint32)
	for i, m := range tags {
		if before, ok := last[m.typ]; ok && int32(m.ms-before) < 0 {
			return fmt.Errorf("message %d goes back in time, from %d to %d ms", i, before, m.ms)
		}
		last[m.typ] = m.ms
	}
	return nil
}

// encoder publishes a clip again and again.
type encoder struct {
	t      *testing.T
	p      *forward.Publisher
	c      *clip
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	sent   []tag
}

func newEncoder(t *testing.T, s *server, c *clip) *encoder {
	e := &encoder{t: t, c: c}
	e.ctx, e.cancel = context.WithCancel(t.Context())
	var err error
	e.p, err = s.Publish(t.Context(), forward.Request{App: "live", Stream: "cam"})
	require.NoError(t, err)
	t.Cleanup(func() {
		e.cancel()
		e.wg.Wait()
	})
	return e
}

func (e *encoder) start() {
	e.wg.Go(func() {
		began := time.Now()
		for offset := uint32(0); ; offset += e.c.ms() + 100 {
			for _, m := range e.c.tags {
				if k := kind(m); offset > 0 && k != flv.KindFrame && k != flv.KindKeyframe {
					continue
				}
				m.ms += offset
				if sleepUntil(e.ctx, began.Add(time.Duration(m.ms)*time.Millisecond)) != nil {
					return
				}
				if err := e.p.WriteTag(m.typ, m.ms, m.body); err != nil {
					e.t.Errorf("publish: %v", err)
					return
				}
				e.sent = append(e.sent, m)
			}
		}
	})
}

// stop ends the stream and returns everything that was published.
func (e *encoder) stop() []tag {
	e.cancel()
	e.wg.Wait()
	require.NoError(e.t, e.p.Close())
	<-e.p.Source().Done()
	return e.sent
}

func (e *encoder) forwarder(url string) *forward.Forwarder {
	all := e.p.Source().Forwarders()
	i := slices.IndexFunc(all, func(f *forward.Forwarder) bool { return strings.HasPrefix(f.Destination().URL, url) })
	require.GreaterOrEqual(e.t, i, 0)
	return all[i]
}

func (e *encoder) awaitState(name string, urls map[string]string) {
	e.t.Helper()
	f := e.forwarder(urls[name])
	eventually(e.t, "publishing to "+name, func() bool { return f.Stats().State == forward.StatePublishing })
}

// awaitError waits until a destination is lost with one of the given errors.
func (e *encoder) awaitError(url string, ops ...string) {
	e.t.Helper()
	f := e.forwarder(url)
	eventually(e.t, fmt.Sprint(ops, " failing"), func() bool {
		var de *forward.DestinationError
		return errors.As(f.Stats().LastErr, &de) && slices.Contains(ops, string(de.Op))
	})
}

// silent accepts connections and never sends anything on them.
func silent(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { nc.Close() })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// dialTo replaces the addresses that are dialled.
func dialTo(addrs map[string]string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if to, ok := addrs[addr]; ok {
			addr = to
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}
