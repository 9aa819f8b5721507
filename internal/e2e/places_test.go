package e2e

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// A resolver that returns a destination twice, or one that the host has added, changes
// nothing and does not fill the log.
func TestResolverGivesADestinationTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, forward.Config{Dial: neverDials, Resolver: forward.MustStatic(
			"rtmp://a/app/"+canary, "rtmp://a:1935/app/"+canary, "rtmp://b/app/"+canary)})
		src := publish(t, s, "live", canary).Source()
		require.Len(t, src.Forwarders(), 2)
		host := src.Forwarders()[1]
		require.NoError(t, host.Shutdown(t.Context()))
		added, err := src.Forward(forward.Destination{URL: "rtmp://b/app", StreamKey: canary, NoMetadata: true})
		require.NoError(t, err)
		before := src.Forwarders()
		require.Len(t, before, 2)
		require.NoError(t, src.Refresh(t.Context()))
		require.Equal(t, before, src.Forwarders())
		require.Contains(t, before, added)
	})
}

// Draining destinations do not count against those of the stream's next publish, but
// their own number has the same limit.
func TestDrainingDestinationsDoNotCount(t *testing.T) {
	cfg := forward.Config{Limits: forward.Limits{TotalDestinations: 1}, DrainTimeout: time.Minute, WriteTimeout: time.Minute}
	inBubble(t, cfg, func(b *bubble) {
		b.Destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
		for n, want := range []error{nil, nil, forward.ErrLimit} {
			p := b.Publish("live/" + string(rune('a'+n)))
			_, err := b.Server.Sources()[0].Forward(forward.Destination{URL: "rtmp://stalled/app", StreamKey: forward.Secret(rune('a' + n))})
			require.ErrorIs(b, err, want)
			time.Sleep(time.Second)
			require.NoError(b, p.Send(b.Ctx, bitrate(4_000_000).Messages(time.Second), 0))
			time.Sleep(time.Second)
			p.Close()
			synctest.Wait()
			require.Equal(b, min(n+1, 2), b.Server.Stats().Destinations)
		}
	})
}
