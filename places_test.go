package forward_test

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestForwardRefusesTheSameDestinationTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := hosttest.NewServer(t, forward.Config{Dial: hosttest.NeverDials})
		src := hosttest.Publish(t, s, "live", secretscan.Canary).Source()
		var wg sync.WaitGroup
		var mu sync.Mutex
		added, refused := 0, 0
		for range 20 {
			wg.Go(func() {
				_, err := src.Forward(forward.Destination{URL: "rtmp://a/app", StreamKey: secretscan.Canary})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					added++
				} else {
					require.ErrorIs(t, err, forward.ErrDuplicate)
					require.NotContains(t, err.Error(), secretscan.Canary)
					refused++
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, added)
		require.Equal(t, 19, refused)
		require.Equal(t, 1, s.Stats().Destinations)

		// These are all spellings of the same place.
		for _, d := range []forward.Destination{
			{URL: "rtmp://a/app/" + secretscan.Canary}, {URL: "rtmp://A:1935/app", StreamKey: secretscan.Canary},
			{URL: "rtmp://a/app", StreamKey: secretscan.Canary, NoMetadata: true},
			{URL: "rtmp://user:pass@a/app", StreamKey: secretscan.Canary},
		} {
			_, err := src.Forward(d)
			require.ErrorIs(t, err, forward.ErrDuplicate)
		}
		other, err := src.Forward(forward.Destination{URL: "rtmp://b/app", StreamKey: secretscan.Canary})
		require.NoError(t, err)
		err = other.Update(t.Context(), forward.Destination{URL: "rtmp://a/app", StreamKey: secretscan.Canary})
		require.ErrorIs(t, err, forward.ErrDuplicate)

		// A Forwarder that is being closed frees the place immediately.
		f := src.Forwarders()[0]
		f.BeginClose()
		_, err = src.Forward(f.Destination())
		require.NoError(t, err)
	})
}

func TestUpdateAtTheLimitOfDestinations(t *testing.T) {
	for name, limits := range map[string]forward.Limits{
		"of a stream": {Destinations: 1}, "in all": {TotalDestinations: 1},
	} {
		t.Run(name, func(t *testing.T) {
			hosttest.InBubble(t, forward.Config{Limits: limits}, func(b *hosttest.Bubble) {
				first, second := b.Destination("a:1935"), b.Destination("b:1935")
				pub := b.Publish("live/s")
				i := b.Neighbours(pub, hosttest.Steady)
				src := b.Server.Source("live/s")
				f, err := src.Forward(forward.Destination{URL: "rtmp://a/app", StreamKey: secretscan.Canary})
				require.NoError(b, err)
				b.Published(first, 1)
				_, err = src.Forward(forward.Destination{URL: "rtmp://b/app", StreamKey: secretscan.Canary})
				require.ErrorIs(b, err, forward.ErrLimit)

				require.NoError(b, f.Update(b.Ctx, forward.Destination{URL: "rtmp://b/app", StreamKey: secretscan.Canary}))
				b.Published(second, 1)
				require.Equal(b, 1, b.Server.Stats().Destinations)
				_, err = src.Forward(forward.Destination{URL: "rtmp://c/app", StreamKey: secretscan.Canary})
				require.ErrorIs(b, err, forward.ErrLimit, "it counts as before")
				err = f.Update(b.Ctx, forward.Destination{URL: "rtmp://down/app", StreamKey: secretscan.Canary})
				require.Error(b, err)
				require.NotErrorIs(b, err, forward.ErrLimit)
				require.NoError(b, f.Shutdown(b.Ctx))
				third, err := src.Forward(forward.Destination{URL: "rtmp://a/app", StreamKey: secretscan.Canary})
				require.NoError(b, err)
				require.NoError(b, third.Shutdown(b.Ctx))
				require.Zero(b, b.Server.Left()["counted"])
				i.Check()
			})
		})
	}
}
