package forward

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

// slowClose is a connection that takes its time to close, as TLS does whose peer
// does not read.
type slowClose struct {
	net.Conn
	takes time.Duration
}

func (c slowClose) Close() error {
	time.Sleep(c.takes)
	return c.Conn.Close()
}

// closesSlowly is a client whose connection, at the Server's end, takes 5 s to close.
func (b *bubble) closesSlowly(name string) (c forwardtest.Client, served chan error, cancel func()) {
	served = make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	c = b.client(name)
	c.Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := forwardtest.Pipe()
		go func() {
			served <- b.srv.ServeConn(ctx, addressed{slowClose{far, 5 * time.Second}, textAddr("198.51.100.1:1000")})
		}()
		return near, nil
	}
	return c, served, cancel
}

// A connection that the Server has ended counts no more, and those that are told of
// its end are, however long it takes to be closed.
func TestConnectionThatClosesSlowlyMakesRoom(t *testing.T) {
	for name, row := range map[string]struct {
		end   func(b *bubble, c forwardtest.Client, cancel func())
		after time.Duration
	}{
		"publisher leaves": {end: func(b *bubble, c forwardtest.Client, _ func()) {
			p, err := c.Publish(b.ctx)
			require.NoError(b, err)
			p.Close()
		}},
		"player leaves": {end: func(b *bubble, c forwardtest.Client, _ func()) {
			p, err := c.Play(b.ctx, nil)
			require.NoError(b, err)
			p.Close()
		}},
		"publisher is closed": {after: LingerTime, end: func(b *bubble, c forwardtest.Client, _ func()) {
			_, err := c.Publish(b.ctx)
			require.NoError(b, err)
			go b.srv.Source("live/s").Shutdown(b.ctx)
		}},
		"context of ServeConn": {end: func(b *bubble, c forwardtest.Client, cancel func()) {
			_, err := c.Publish(b.ctx)
			require.NoError(b, err)
			cancel()
		}},
		"handshake is pushed out": {end: func(b *bubble, c forwardtest.Client, _ func()) {
			_, err := c.Dial(b.ctx, "", "")
			require.NoError(b, err)
			synctest.Wait()
			other, _ := b.served("live/x")
			nc, err := other.Dial(b.ctx, "", "")
			require.NoError(b, err)
			synctest.Wait()
			nc.Close()
		}},
		"no handshake in time": {after: time.Second, end: func(b *bubble, c forwardtest.Client, _ func()) {
			_, err := c.Dial(b.ctx, "", "")
			require.NoError(b, err)
		}},
		"player takes nothing": {after: 4 * time.Second, end: func(b *bubble, c forwardtest.Client, _ func()) {
			dial := c.Dial
			c.Dial = forwardtest.FaultDial(dial, forwardtest.Faults{Read: forwardtest.Fault{Stall: 20_000}})
			player, err := c.Play(b.ctx, nil)
			require.NoError(b, err)
			b.Cleanup(player.Reset)
			p := publish(b.T, b.srv, "live", "s")
			require.NoError(b, p.WriteTag(TagVideo, 0, append(frame(true, 0), make([]byte, 1<<20)...)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var tell calls
			cfg := Config{
				Limits: Limits{PendingHandshakes: 1}, HandshakeTimeout: time.Second, WriteTimeout: 2 * time.Second, Hooks: tell.hooks(),
			}
			inBubble(t, cfg, func(b *bubble) {
				c, served, cancel := b.closesSlowly("live/s")
				defer cancel()
				row.end(b, c, cancel)
				time.Sleep(row.after)
				synctest.Wait()
				require.Zero(b, b.srv.Stats().Connections)
				open, closing := b.srv.ConnectionsFrom(netip.MustParseAddr("198.51.100.1"))
				require.Zero(b, open)
				require.Equal(b, 1, closing)
				told := tell.get()
				require.Equal(b, told["connect"], told["close"])
				require.Equal(b, told["publish"], told["unpublish"]+len(b.srv.Sources()))
				require.Equal(b, told["play"], told["stop"])
				require.Empty(b, served, "ServeConn waits for the end of closing")
				time.Sleep(5 * time.Second)
				synctest.Wait()
				require.Len(b, served, 1)
				open, closing = b.srv.ConnectionsFrom(netip.MustParseAddr("198.51.100.1"))
				require.Zero(b, open+closing)
				require.Zero(b, b.srv.Left()["closing"])
			})
		})
	}
}

// As many as an eighth of the limit, and 8 at least, may be closing beside it: a
// connection takes a descriptor until it is closed.
func TestConnectionsThatCloseSlowlyAreBounded(t *testing.T) {
	for name, limits := range map[string]Limits{
		"in all": {Connections: 2}, "of an address": {ConnectionsPerAddress: 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{Limits: limits}, func(b *bubble) {
				began := time.Now()
				for n := range 2 + leastClosing {
					c, _, cancel := b.closesSlowly("live/s")
					defer cancel()
					p, err := c.Play(b.ctx, nil)
					require.NoError(b, err, n)
					p.Close()
					synctest.Wait()
				}
				c, served, cancel := b.closesSlowly("live/s")
				defer cancel()
				_, err := c.Play(b.ctx, nil)
				require.Error(b, err)
				require.ErrorIs(b, <-served, ErrLimit)
				time.Sleep(time.Until(began.Add(5 * time.Second)))
				synctest.Wait()
				p := b.play("live/s") // there is room again
				p.Close()
			})
		})
	}
}

// TLS says goodbye, for which a peer that does not read has 5 s.
func TestClosedTLSConnectionMakesRoom(t *testing.T) {
	const within = 2 * time.Second
	inBubble(t, Config{WriteTimeout: within}, func(b *bubble) {
		ca := newAuthority(b.T)
		own := &tls.Config{Certificates: []tls.Certificate{ca.issue(b.T, "dest.example", nil)}}
		served := make(chan error, 1)
		c := b.client("live/s")
		c.Dial = func(context.Context, string, string) (net.Conn, error) {
			near, far := forwardtest.Pipe()
			go func() { served <- b.srv.ServeConn(b.ctx, tls.Server(far, own)) }()
			stalls := forwardtest.NewFaultConn(near, forwardtest.Faults{Read: forwardtest.Fault{Stall: 20_000}})
			b.Cleanup(func() { stalls.Reset() })
			return tls.Client(stalls, &tls.Config{RootCAs: ca.pool, ServerName: "dest.example"}), nil
		}
		_, err := c.Play(b.ctx, nil)
		require.NoError(b, err)
		p := publish(b.T, b.srv, "live", "s")
		began := time.Now()
		require.NoError(b, p.WriteTag(TagVideo, 0, append(frame(true, 0), make([]byte, 1<<20)...)))
		for b.srv.Stats().Connections > 0 {
			require.Less(b, time.Since(began), time.Minute)
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		require.GreaterOrEqual(b, time.Since(began), within)
		began = time.Now()
		require.ErrorContains(b, <-served, "write stalled")
		require.Greater(b, time.Since(began), 4*time.Second)
	})
}
