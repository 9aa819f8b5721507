package forward_test

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// There are never more pending handshakes than the limit, in any order of arrival.
func TestPendingHandshakesAreBounded_Sockets(t *testing.T) {
	const pending = 64
	s := hosttest.NewServer(t, forward.Config{Limits: forward.Limits{PendingHandshakes: pending}})
	addr := hosttest.ServeLoopback(t, s)
	most := 0
	look := func() int {
		n := s.PendingHandshakes()
		most = max(most, n)
		return n
	}
	for i := range 4 * pending {
		nc, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer nc.Close()
		nc.Write([]byte("\x03\x00")[:i%3]) // it may have been closed already
		look()
	}
	require.Eventually(t, func() bool { return look() == pending }, time.Minute, time.Millisecond)
	require.Equal(t, pending, most)
}

func TestLimitOfConnectionsPerAddress(t *testing.T) {
	const limit = 2
	hosttest.InBubble(t, forward.Config{Limits: forward.Limits{ConnectionsPerAddress: limit}}, func(b *hosttest.Bubble) {
		play := func(from string) (*forwardtest.Player, chan error, error) {
			c, served := b.ServedFrom(from, "live/"+secretscan.Canary)
			p, err := c.Play(b.Ctx, nil)
			return p, served, err
		}
		var players []*forwardtest.Player
		for i := range limit {
			p, _, err := play(fmt.Sprintf("198.51.100.1:%d", 1000+i))
			require.NoError(b, err)
			players = append(players, p)
		}
		_, served, err := play("198.51.100.1:3000")
		require.Error(b, err)
		require.ErrorIs(b, <-served, forward.ErrLimit)
		for range limit + 1 { // no address, no count
			p, _, err := play("pipe")
			require.NoError(b, err)
			players = append(players, p)
		}
		p, _, err := play("198.51.100.2:1000")
		require.NoError(b, err, "another address")
		players = append(players, p)

		players[0].Close()
		synctest.Wait()
		p, _, err = play("198.51.100.1:3000")
		require.NoError(b, err, "there is room again")
		for _, p := range append(players, p) {
			p.Close()
		}
		synctest.Wait()
		require.Empty(b, b.Server.Left())
		require.Zero(b, b.Server.Stats().Connections)
	})
}
