package e2e

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// Besides the limit, an eighth of it but at least 8 connections may be closing: each
// takes a descriptor until it is closed.
func TestConnectionsThatCloseSlowlyAreBounded(t *testing.T) {
	for name, limits := range map[string]forward.Limits{
		"in all": {Connections: 2}, "of an address": {ConnectionsPerAddress: 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, forward.Config{Limits: limits}, func(b *bubble) {
				began := time.Now()
				for n := range 2 + leastClosing {
					c, _, cancel := b.ClosesSlowly("live/s")
					defer cancel()
					p, err := c.Play(b.Ctx, nil)
					require.NoError(b, err, n)
					p.Close()
					synctest.Wait()
				}
				c, served, cancel := b.ClosesSlowly("live/s")
				defer cancel()
				_, err := c.Play(b.Ctx, nil)
				require.Error(b, err)
				require.ErrorIs(b, <-served, forward.ErrLimit)
				time.Sleep(time.Until(began.Add(5 * time.Second)))
				synctest.Wait()
				p := b.Play("live/s") // there is room again
				p.Close()
			})
		})
	}
}

// TLS sends close_notify, for which a peer that does not read has 5 s.
func TestClosedTLSConnectionMakesRoom(t *testing.T) {
	const within = 2 * time.Second
	inBubble(t, forward.Config{WriteTimeout: within}, func(b *bubble) {
		ca := newAuthority(b.T)
		own := &tls.Config{Certificates: []tls.Certificate{ca.issue(b.T, "dest.example", nil)}}
		served := make(chan error, 1)
		c := b.Client("live/s")
		c.Dial = func(context.Context, string, string) (net.Conn, error) {
			near, far := forwardtest.Pipe()
			go func() { served <- b.Server.ServeConn(b.Ctx, tls.Server(far, own)) }()
			stalls := forwardtest.NewFaultConn(near, forwardtest.Faults{Read: forwardtest.Fault{Stall: 20_000}})
			b.Cleanup(func() { stalls.Reset() })
			return tls.Client(stalls, &tls.Config{RootCAs: ca.pool, ServerName: "dest.example"}), nil
		}
		_, err := c.Play(b.Ctx, nil)
		require.NoError(b, err)
		p := publish(b.T, b.Server, "live", "s")
		began := time.Now()
		require.NoError(b, p.WriteTag(forward.TagVideo, 0, append(rtmptest.Frame(true, 0), make([]byte, 1<<20)...)))
		for b.Server.Stats().Connections > 0 {
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
