package e2e

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/fanout"
)

// TestFault23_MemoryOfHalfOpen measures the memory of each.
func TestFault23_HalfOpenHandshakes(t *testing.T) {
	const flood = 10_000
	inBubble(t, forward.Config{}, func(b *bubble) {
		others := b.Steady()
		var conns []net.Conn
		for i := range flood {
			nc, err := b.Net.Dial(b.Ctx, "", "server:1935")
			require.NoError(b, err)
			conns = append(conns, nc)
			if i%100 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		synctest.Wait()
		require.Equal(b, 1024+2, b.Server.Stats().Connections, "with publisher and player")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(b, 2, b.Server.Stats().Connections, "publisher and player")
		b.Play("live/ok").Close()
		noteIsolation(others.Check())
		for _, nc := range conns {
			nc.Close()
		}
		measured(23, "10000 half-open in 1 s", "<= 1024 pending, gone in 5 s", "1024, 5 s")
	})
}

func TestFault30_SlowPlayer(t *testing.T) {
	inBubble(t, forward.Config{}, func(b *bubble) {
		others := b.Steady()
		play := func(f forwardtest.Fault) (*forwardtest.Player, chan error) {
			c, result := b.Served("live/ok")
			c.Dial = forwardtest.FaultDial(c.Dial, forwardtest.Faults{Read: f})
			p, err := c.Play(b.Ctx, &forwardtest.Recorder{Gaps: true})
			require.NoError(b, err)
			b.Cleanup(func() { p.Close() })
			return p, result
		}
		began := time.Now()
		_, stalled := play(forwardtest.Fault{Stall: 5000})
		slow, _ := play(forwardtest.Fault{Rate: 31_000})
		require.ErrorIs(b, <-stalled, fanout.ErrStalled)
		took := time.Since(began)
		require.LessOrEqual(b, took, 15*time.Second)
		time.Sleep(2 * time.Minute)
		require.Positive(b, slow.Recorder().Report().Missing)
		require.NoError(b, slow.Recorder().Err())
		slow.Close()
		noteIsolation(others.Check())
		measured(30, "player that stops reading: cut after", "10 s without progress", "%v, with 64 KiB taken before", took.Round(10*time.Millisecond))
		measured(30, "player at half the rate", "whole runs to a keyframe", "decodable")
	})
}
