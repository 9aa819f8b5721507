package e2e

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// OnForward reports when a destination stalls and when it continues, which is not a new
// publish.
func TestOnForwardIsToldOfAStall(t *testing.T) {
	var network forwardtest.Network
	gate := make(chan struct{}, 1)
	var mu sync.Mutex
	var told []forward.State
	cfg := forward.Config{
		Resolver: forward.MustStatic("rtmp://a/live/" + canary), WriteTimeout: time.Minute, MergeWindow: -1,
		Dial: func(ctx context.Context, n, addr string) (net.Conn, error) {
			nc, err := network.Dial(ctx, n, addr)
			return gated{nc, gate}, err
		},
		Hooks: forward.Hooks{OnForward: func(f *forward.Forwarder, s forward.State, err error) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, s)
			require.NoError(t, err)
			require.Equal(t, s, f.Stats().State)
		}},
	}
	synctest.Test(t, func(t *testing.T) {
		gate = make(chan struct{}, 1)
		told = nil
		d := network.NewDestination("a:1935")
		defer d.Close()
		s := newServer(t, cfg)
		p := publish(t, s, "live", canary)
		f := p.Source().Forwarders()[0]
		time.Sleep(time.Second)
		want := []forward.State{forward.StateConnecting, forward.StateHandshaking, forward.StatePublishing}
		check := func(more ...forward.State) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			want = append(want, more...)
			require.Equal(t, want, told)
		}
		feed(t, p, 0, 5)
		check()
		for n := range 3 {
			gate <- struct{}{}
			at := time.Now()
			feed(t, p, 10*n+5, 10*n+10)
			time.Sleep(time.Until(at.Add(stalledAfter - time.Millisecond)))
			check()
			time.Sleep(time.Millisecond)
			check(forward.StateStalled)
			require.Equal(t, at.Add(stalledAfter), f.Stats().Since)
			time.Sleep(3 * time.Second)
			<-gate
			check(forward.StatePublishing)
			require.EqualValues(t, 1, f.Stats().Accepted)
			feed(t, p, 10*n+10, 10*n+15)
			time.Sleep(10 * time.Second)
			check()
		}
		gate <- struct{}{}
		feed(t, p, 50, 55)
		time.Sleep(stalledAfter)
		check(forward.StateStalled)
		p.Close()
		check(forward.StateDraining)
		<-gate
		<-f.Done()
		check(forward.StateClosed)
	})
}

// gated is a connection whose writes block while the channel is full.
type gated struct {
	net.Conn
	gate chan struct{}
}

func (c gated) Write(p []byte) (int, error) {
	c.gate <- struct{}{}
	defer func() { <-c.gate }()
	return c.Conn.Write(p)
}
