package forward_test

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hosttest"
)

// The test covers when the place of a next publisher without a keyframe may be claimed, and by
// which publishers.
func TestPlaceOfANextPublisher(t *testing.T) {
	for _, row := range []struct {
		name  string
		from  string
		after time.Duration
		ok    bool
	}{
		{"another address, soon", "192.0.2.8", forward.NextHold - time.Millisecond, false},
		{"another address, later", "192.0.2.8", forward.NextHold, true},
		{"the same address", "192.0.2.7", 0, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			hosttest.InBubble(t, forward.Config{Takeover: true}, func(b *hosttest.Bubble) {
				pub, err := b.PublishAt("192.0.2.6", "live/s")
				require.NoError(b, err)
				go pub.Send(b.Ctx, hosttest.Steady.Messages(-1), 1)
				idle, err := b.PublishAt("192.0.2.7", "live/s")
				require.NoError(b, err)
				b.SendWithoutKeyframes(idle)
				time.Sleep(row.after)
				from := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(row.from + ":1"))
				require.Equal(b, row.ok, b.Server.Source("live/s").IsClaimable(&forward.Request{RemoteAddr: from}))
			})
		})
	}
}

// The timer of an earlier grace does not end the stream if the publisher that has continued it
// is lost as well.
func TestEndOfAnEarlierGrace(t *testing.T) {
	hosttest.InBubble(t, forward.Config{PublishGrace: 5 * time.Second}, func(b *hosttest.Bubble) {
		pub := b.Publish("live/s")
		require.NoError(b, pub.Send(b.Ctx, hosttest.Steady.Messages(time.Second), 1))
		src := b.Server.Source("live/s")
		pub.Close()
		synctest.Wait()
		src.GraceOver()
		require.Same(b, src, b.Server.Source("live/s"))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Nil(b, b.Server.Source("live/s"))
	})
}
