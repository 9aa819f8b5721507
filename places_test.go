package forward

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

// neverDials is a Dial that never succeeds.
func neverDials(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("connection refused")
}

func TestForwardRefusesTheSameDestinationTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, Config{Dial: neverDials})
		src := publish(t, s, "live", canary).Source()
		var wg sync.WaitGroup
		var mu sync.Mutex
		added, refused := 0, 0
		for range 20 {
			wg.Go(func() {
				_, err := src.Forward(Destination{URL: "rtmp://a/app", StreamKey: canary})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					added++
				} else {
					require.ErrorIs(t, err, ErrDuplicate)
					require.NotContains(t, err.Error(), canary)
					refused++
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, added)
		require.Equal(t, 19, refused)
		require.Equal(t, 1, s.Stats().Destinations)

		// It is the same place, however it is written.
		for _, d := range []Destination{
			{URL: "rtmp://a/app/" + canary}, {URL: "rtmp://A:1935/app", StreamKey: canary},
			{URL: "rtmp://a/app", StreamKey: canary, NoMetadata: true},
			{URL: "rtmp://user:pass@a/app", StreamKey: canary},
		} {
			_, err := src.Forward(d)
			require.ErrorIs(t, err, ErrDuplicate)
		}
		other, err := src.Forward(Destination{URL: "rtmp://b/app", StreamKey: canary})
		require.NoError(t, err)
		err = other.Update(t.Context(), Destination{URL: "rtmp://a/app", StreamKey: canary})
		require.ErrorIs(t, err, ErrDuplicate)

		// One that is closed leaves the place at once.
		f := src.Forwarders()[0]
		f.BeginClose()
		_, err = src.Forward(f.Destination())
		require.NoError(t, err)
	})
}

// A resolver that gives a destination twice, or one that the host has added,
// changes nothing and fills no log.
func TestResolverGivesADestinationTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, Config{Dial: neverDials, Resolver: MustStatic(
			"rtmp://a/app/"+canary, "rtmp://a:1935/app/"+canary, "rtmp://b/app/"+canary)})
		src := publish(t, s, "live", canary).Source()
		require.Len(t, src.Forwarders(), 2)
		host := src.Forwarders()[1]
		require.NoError(t, host.Shutdown(t.Context()))
		added, err := src.Forward(Destination{URL: "rtmp://b/app", StreamKey: canary, NoMetadata: true})
		require.NoError(t, err)
		before := src.Forwarders()
		require.Len(t, before, 2)
		require.NoError(t, src.Refresh(t.Context()))
		require.Equal(t, before, src.Forwarders())
		require.Contains(t, before, added)
	})
}

func TestUpdateAtTheLimitOfDestinations(t *testing.T) {
	for name, limits := range map[string]Limits{
		"of a stream": {Destinations: 1}, "in all": {TotalDestinations: 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{Limits: limits}, func(b *bubble) {
				first, second := b.destination("a:1935"), b.destination("b:1935")
				pub := b.publish("live/s")
				i := b.neighbours(pub, steady)
				src := b.srv.Source("live/s")
				f, err := src.Forward(Destination{URL: "rtmp://a/app", StreamKey: canary})
				require.NoError(b, err)
				b.published(first, 1)
				_, err = src.Forward(Destination{URL: "rtmp://b/app", StreamKey: canary})
				require.ErrorIs(b, err, ErrLimit)

				require.NoError(b, f.Update(b.ctx, Destination{URL: "rtmp://b/app", StreamKey: canary}))
				b.published(second, 1)
				require.Equal(b, 1, b.srv.Stats().Destinations)
				_, err = src.Forward(Destination{URL: "rtmp://c/app", StreamKey: canary})
				require.ErrorIs(b, err, ErrLimit, "it counts as before")
				err = f.Update(b.ctx, Destination{URL: "rtmp://down/app", StreamKey: canary})
				require.Error(b, err)
				require.NotErrorIs(b, err, ErrLimit)
				require.NoError(b, f.Shutdown(b.ctx))
				third, err := src.Forward(Destination{URL: "rtmp://a/app", StreamKey: canary})
				require.NoError(b, err)
				require.NoError(b, third.Shutdown(b.ctx))
				require.Zero(b, b.srv.Left()["counted"])
				i.check()
			})
		})
	}
}

// A destination that drains is not in the way of those of the stream's next
// publish, but there are not more of those than of others.
func TestDrainingDestinationsDoNotCount(t *testing.T) {
	cfg := Config{Limits: Limits{TotalDestinations: 1}, DrainTimeout: time.Minute, WriteTimeout: time.Minute}
	inBubble(t, cfg, func(b *bubble) {
		b.destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
		for n, want := range []error{nil, nil, ErrLimit} {
			p := b.publish("live/" + string(rune('a'+n)))
			_, err := b.srv.Sources()[0].Forward(Destination{URL: "rtmp://stalled/app", StreamKey: Secret(rune('a' + n))})
			require.ErrorIs(b, err, want)
			time.Sleep(time.Second)
			require.NoError(b, p.Send(b.ctx, bitrate(4_000_000).Messages(time.Second), 0))
			time.Sleep(time.Second)
			p.Close()
			synctest.Wait()
			require.Equal(b, min(n+1, 2), b.srv.Stats().Destinations)
		}
	})
}
