package forward_test

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// A connection that the Server has ended no longer counts, and the hooks for its end are
// called, however long its Close takes.
func TestConnectionThatClosesSlowlyMakesRoom(t *testing.T) {
	for name, row := range map[string]struct {
		end   func(b *hosttest.Bubble, c forwardtest.Client, cancel func())
		after time.Duration
	}{
		"publisher leaves": {end: func(b *hosttest.Bubble, c forwardtest.Client, _ func()) {
			p, err := c.Publish(b.Ctx)
			require.NoError(b, err)
			p.Close()
		}},
		"player leaves": {end: func(b *hosttest.Bubble, c forwardtest.Client, _ func()) {
			p, err := c.Play(b.Ctx, nil)
			require.NoError(b, err)
			p.Close()
		}},
		"publisher is closed": {after: forward.LingerTime, end: func(b *hosttest.Bubble, c forwardtest.Client, _ func()) {
			_, err := c.Publish(b.Ctx)
			require.NoError(b, err)
			go b.Server.Source("live/s").Shutdown(b.Ctx)
		}},
		"context of ServeConn": {end: func(b *hosttest.Bubble, c forwardtest.Client, cancel func()) {
			_, err := c.Publish(b.Ctx)
			require.NoError(b, err)
			synctest.Wait() // the Server reads again
			cancel()
		}},
		"handshake is pushed out": {end: func(b *hosttest.Bubble, c forwardtest.Client, _ func()) {
			_, err := c.Dial(b.Ctx, "", "")
			require.NoError(b, err)
			synctest.Wait()
			other, _ := b.Served("live/x")
			nc, err := other.Dial(b.Ctx, "", "")
			require.NoError(b, err)
			synctest.Wait()
			nc.Close()
		}},
		"no handshake in time": {after: time.Second, end: func(b *hosttest.Bubble, c forwardtest.Client, _ func()) {
			_, err := c.Dial(b.Ctx, "", "")
			require.NoError(b, err)
		}},
		"player takes nothing": {after: 4 * time.Second, end: func(b *hosttest.Bubble, c forwardtest.Client, _ func()) {
			dial := c.Dial
			c.Dial = forwardtest.FaultDial(dial, forwardtest.Faults{Read: forwardtest.Fault{Stall: 20_000}})
			player, err := c.Play(b.Ctx, nil)
			require.NoError(b, err)
			b.Cleanup(player.Reset)
			p := hosttest.Publish(b.T, b.Server, "live", "s")
			require.NoError(b, p.WriteTag(forward.TagVideo, 0, append(rtmptest.Frame(true, 0), make([]byte, 1<<20)...)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var tell hosttest.Calls
			cfg := forward.Config{
				Limits: forward.Limits{PendingHandshakes: 1}, HandshakeTimeout: time.Second, WriteTimeout: 2 * time.Second, Hooks: tell.Hooks(),
			}
			hosttest.InBubble(t, cfg, func(b *hosttest.Bubble) {
				c, served, cancel := b.ClosesSlowly("live/s")
				defer cancel()
				row.end(b, c, cancel)
				time.Sleep(row.after)
				synctest.Wait()
				require.Zero(b, b.Server.Stats().Connections)
				open, closing := b.Server.ConnectionsFrom(netip.MustParseAddr("198.51.100.1"))
				require.Zero(b, open)
				require.Equal(b, 1, closing)
				told := tell.Get()
				require.Equal(b, told["connect"], told["close"])
				require.Equal(b, told["publish"], told["unpublish"]+len(b.Server.Sources()))
				require.Equal(b, told["play"], told["stop"])
				require.Empty(b, served, "ServeConn waits for the end of closing")
				time.Sleep(5 * time.Second)
				synctest.Wait()
				require.Len(b, served, 1)
				open, closing = b.Server.ConnectionsFrom(netip.MustParseAddr("198.51.100.1"))
				require.Zero(b, open+closing)
				require.Zero(b, b.Server.Left()["closing"])
			})
		})
	}
}

// Listening reports whether all listeners of a host accept, until the Server begins to end.
func TestListeningCountsListeners(t *testing.T) {
	s := hosttest.NewServer(t, forward.Config{})
	served := make(chan error, 2)
	var listeners []net.Listener
	for n := range 2 {
		require.Equal(t, n, s.Listening())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listeners = append(listeners, l)
		go func() { served <- s.Serve(l) }()
		require.Eventually(t, func() bool { return s.Listening() == n+1 }, 5*time.Second, time.Millisecond)
	}
	listeners[0].Close()
	require.ErrorIs(t, <-served, net.ErrClosed)
	require.Equal(t, 1, s.Listening())

	require.NoError(t, s.Close())
	require.Zero(t, s.Listening())
	require.ErrorIs(t, <-served, forward.ErrServerClosed)
}
