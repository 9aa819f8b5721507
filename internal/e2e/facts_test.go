package e2e

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// forwards resolves to URLs.
func forwards(urls ...string) forward.DestinationResolver { return forward.MustStatic(urls...) }

// The statistics count received and sent media, and describe the stream and the lag of a
// destination. The counters stay after the stream has ended.
func TestStats(t *testing.T) {
	cfg := forward.Config{MergeWindow: -1, MaxLatency: time.Minute, WriteTimeout: time.Minute, Resolver: forwards("rtmp://a/live/x", "rtmp://b/live/y")}
	inBubble(t, cfg, func(b *bubble) {
		b.Destination("a:1935")
		b.Destination("b:1935", forwardtest.Script{At: map[int]func(*forwardtest.Session){
			500: func(s *forwardtest.Session) { time.Sleep(4 * time.Second) },
		}})
		player := make(chan *forwardtest.Player, 1)
		go func() { player <- b.Play("live/s") }()
		synctest.Wait()
		require.Equal(t, 1, b.Server.Stats().Players)

		p := b.Publish("live/s")
		sent := make(chan error, 1)
		go func() { sent <- p.Send(b.Ctx, forwardtest.Media{}.Messages(20*time.Second), 1) }()
		time.Sleep(9990 * time.Millisecond)
		synctest.Wait()
		src := b.Server.Source("live/s")
		st := src.Stats()
		require.Equal(t, forward.Format{Width: 320, Height: 180, Profile: "High", SampleRate: 48000, Channels: 1}, st.Format)
		require.InDelta(t, 25, st.FrameRate, 0.5)
		require.InDelta(t, 72, st.MessageRate, 1)
		require.InDelta(t, 564_000, st.Bitrate, 60_000)
		require.EqualValues(t, 250, st.Frames)
		require.EqualValues(t, 5, st.Keyframes)
		require.Equal(t, 2*time.Second, st.GOP)
		require.Equal(t, 50, st.GOPFrames)
		require.Equal(t, 1, st.Players)

		byURL := map[string]forward.ForwarderStats{}
		for _, f := range src.Forwarders() {
			byURL[f.Destination().URL[:len("rtmp://a")]] = f.Stats()
		}
		a, lagging := byURL["rtmp://a"], byURL["rtmp://b"]
		require.InDelta(t, 25, a.FrameRate, 0.5)
		require.InDelta(t, st.Bitrate, a.Bitrate, 10_000)
		require.Zero(t, a.Lag)
		require.Zero(t, a.LagAge)
		require.Less(t, a.FirstKeyframe, 100*time.Millisecond)
		require.NotZero(t, a.FirstKeyframe)
		require.NotZero(t, lagging.Lag)
		require.InDelta(t, lagging.LagAge, lagging.LagMedia, float64(50*time.Millisecond))
		require.Greater(t, lagging.LagAge, time.Second)
		require.Greater(t, lagging.LagBytes, 10_000)

		require.NoError(t, <-sent)
		require.NoError(t, p.Unpublish())
		<-src.Done()
		ended := src.Stats()
		require.EqualValues(t, 500, ended.Frames)
		all := b.Server.Stats()
		require.EqualValues(t, 1, all.Publishes)
		require.EqualValues(t, 1, all.Plays)
		require.Equal(t, ended.Bytes, all.ReceivedBytes)
		require.Equal(t, ended.Messages, all.ReceivedMessages)
		require.Equal(t, ended.Sent, all.Sent)
		require.EqualValues(t, 2, all.Sent.Accepted)
		require.EqualValues(t, 2, all.FirstKeyframe.Count)
		require.InDelta(t, 3*ended.Messages, all.Sent.Messages, 3*3, "of two destinations and a player, without headers")
		require.NotZero(t, all.Latency.Count)
		(<-player).Close()
		synctest.Wait()
		require.Zero(t, b.Server.Stats().Players)
	})
}

// Each loss counts under its cause, for the destination, its stream and its Server, even
// after the destination has been removed.
func TestStatsOfLosses(t *testing.T) {
	cfg := forward.Config{Backoff: forward.Backoff{Min: time.Second, Max: time.Second}}
	inBubble(t, cfg, func(b *bubble) {
		refuses := forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Refuse: "NetStream.Publish.BadName"}}}
		closes := forwardtest.Script{At: map[int]func(*forwardtest.Session){20: func(s *forwardtest.Session) { s.Close() }}}
		b.Destination("a:1935", refuses, closes, forwardtest.Script{})
		p := b.Publish("live/s")
		sent := make(chan error, 1)
		go func() { sent <- p.Send(b.Ctx, forwardtest.Media{}.Messages(2*time.Minute), 1) }()
		synctest.Wait()
		src := b.Server.Source("live/s")
		f, err := src.Forward(forward.Destination{URL: "rtmp://a/live/x"})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		synctest.Wait()
		want := map[forward.Op]uint64{forward.OpPublish: 1, forward.OpRead: 1}
		st := f.Stats()
		require.Equal(t, forward.StatePublishing, st.State)
		require.Equal(t, want, st.Lost)
		require.EqualValues(t, 3, st.Connects)
		require.EqualValues(t, 2, st.Accepted)
		st.Lost[forward.OpRead] = 100 // the map belongs to the caller
		require.NoError(t, f.Shutdown(context.Background()))
		require.Equal(t, want, src.Stats().Sent.Lost)
		require.Equal(t, want, b.Server.Stats().Sent.Lost)
		require.NoError(t, <-sent)
		require.NoError(t, p.Unpublish())
		<-src.Done()
		require.Equal(t, want, b.Server.Stats().Sent.Lost)
	})
}

// Calls of the host's code are counted by name, with their time.
func TestStatsOfCalls(t *testing.T) {
	cfg := forward.Config{Hooks: forward.Hooks{
		OnPublish: func(_ context.Context, req *forward.Request) error {
			time.Sleep(3 * time.Second)
			if req.Stream == "no" {
				return forward.ErrRefused
			}
			return nil
		},
	}}
	inBubble(t, cfg, func(b *bubble) {
		b.PublishFor("live/s", forwardtest.Media{}, time.Second)
		_, err := b.Client("live/no").Publish(b.Ctx)
		require.Error(t, err)
		st := b.Server.Stats().Calls["OnPublish"]
		require.EqualValues(t, 2, st.Count)
		require.EqualValues(t, 1, st.Failed)
		require.Equal(t, 6*time.Second, st.Sum)
		for _, bucket := range st.Buckets {
			want := uint64(0)
			if bucket.UpTo >= 3*time.Second {
				want = 2
			}
			require.Equal(t, want, bucket.Count, bucket.UpTo)
		}
	})
}

// BenchmarkStats reads the statistics of 1,000 destinations that receive a stream.
func BenchmarkStats(b *testing.B) {
	const n = 1000
	dest := forwardtest.NewDestination()
	defer dest.Close()
	s := newServer(b, forward.Config{Limits: forward.Limits{Destinations: n}})
	p := publish(b, s, "live", canary)
	var all []*forward.Forwarder
	for i := range n {
		f, err := p.Source().Forward(forward.Destination{URL: dest.URL(fmt.Sprintf("live/%d", i))})
		require.NoError(b, err)
		all = append(all, f)
	}
	for _, f := range all {
		require.Eventually(b, func() bool { return f.Stats().State == forward.StatePublishing }, 30*time.Second, time.Millisecond)
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, f := range all {
			if st := f.Stats(); st.RTT == 0 {
				b.Fatal("no round-trip time")
			}
		}
	}
}

// Messages that players miss are counted by cause. The counts stay after the players and
// their stream have ended.
func TestStatsOfPlayersThatMiss(t *testing.T) {
	inBubble(t, forward.Config{MaxLatency: 2 * time.Second}, func(b *bubble) {
		p := b.Publish("live/s")
		healthy := b.Play("live/s")
		slow := b.PlayAtRate("live/s", 10_000)
		media := forwardtest.Media{}
		require.NoError(b, p.Send(b.Ctx, media.Messages(20*time.Second), 1))
		src := b.Server.Source("live/s")
		late := src.Stats().Sent.PlayersDroppedLate
		require.Positive(b, late)
		require.Zero(b, src.Stats().Sent.DroppedLate, "of destinations")
		require.NoError(b, healthy.Recorder().Err())
		slow.Close()
		require.NoError(b, p.Unpublish())
		<-src.Done()
		require.GreaterOrEqual(b, b.Server.Stats().Sent.PlayersDroppedLate, late)
	})
}

// A Server counts its destinations by state until the last one has drained. The host of each
// contains no secrets.
func TestStatsOfStates(t *testing.T) {
	cfg := forward.Config{MemoryBudget: 1 << 24, DrainTimeout: 3 * time.Second, Resolver: forwards("rtmp://a/live/"+canary, "rtmp://u:"+canary+"@B:1936/live/"+canary, "rtmp://c/live/x")}
	inBubble(t, cfg, func(b *bubble) {
		b.Destination("a:1935")
		b.Destination("B:1936", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 20_000}}})
		p := b.Publish("live/s")
		require.NoError(t, p.Send(b.Ctx, forwardtest.Media{}.Messages(5*time.Second), 1))
		synctest.Wait()
		src := b.Server.Source("live/s")
		hosts := map[string]forward.State{}
		for _, f := range src.Forwarders() {
			hosts[f.Host()] = f.Stats().State
		}
		require.Equal(t, map[string]forward.State{"a": forward.StatePublishing, "b:1936": forward.StateStalled, "c": forward.StateWaiting}, hosts)
		st := b.Server.Stats()
		require.Equal(t, map[forward.State]int{forward.StatePublishing: 1, forward.StateStalled: 1, forward.StateWaiting: 1}, st.States)
		require.Equal(t, 1<<24, st.MemoryBudget)

		require.NoError(t, p.Unpublish())
		time.Sleep(time.Second)
		require.Empty(t, b.Server.Sources())
		require.Equal(t, map[forward.State]int{forward.StateDraining: 1}, b.Server.Stats().States)
		<-src.Done()
		require.Empty(t, b.Server.Stats().States)
	})
}
