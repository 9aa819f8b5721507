package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/fanout"
)

// One stream holds most of the budget and receives nothing more. Of the other stream,
// the receiver that does not read is cut off and the one that reads is not disturbed.
func TestMemoryBudgetCutsTheSlowest(t *testing.T) {
	const budget = 8 << 20
	inBubble(t, forward.Config{MergeWindow: -1, MemoryBudget: budget, WriteTimeout: -1}, func(b *bubble) {
		holds := b.PublishInProcess("holds")
		b.FillUp(holds, 16<<10, budget*72/100, 1000)

		p := b.PublishInProcess("s")
		healthy := b.Destination("healthy:1935")
		stalled := b.Destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 8 << 10}}})
		var fs []*forward.Forwarder
		for _, to := range []string{"healthy", "stalled"} {
			f, err := p.Source().Forward(forward.Destination{URL: "rtmp://" + to + "/live/s"})
			require.NoError(b, err)
			fs = append(fs, f)
		}
		b.Published(healthy, 1)
		b.Published(stalled, 1)
		b.FillUp(p, 4<<10, budget*94/100, 2000)
		require.NoError(b, fs[1].Stats().LastErr)
		b.FillUp(p, 4<<10, 1<<30, 200)
		time.Sleep(time.Millisecond)

		err := fs[1].Stats().LastErr
		require.ErrorIs(b, err, fanout.ErrMemory)
		require.ErrorContains(b, err, "too slow while memory is short")
		st := fs[0].Stats()
		require.Equal(b, forward.StatePublishing, st.State)
		require.NoError(b, st.LastErr)
		require.Zero(b, st.Lag)
		require.Zero(b, st.DroppedLate)
		require.Less(b, b.Server.Stats().Buffered, budget)
	})
}

// While logs are short, a publisher faster than real time waits earlier for its healthy
// receivers, which miss nothing.
func TestMemoryBudgetHoldsFastPublishersBack(t *testing.T) {
	const budget, size = 4 << 20, 4 << 10
	for _, held := range []int{0, 50, 89} { // percent, used by others
		inBubble(t, forward.Config{MergeWindow: -1, MemoryBudget: budget}, func(b *bubble) {
			others := b.PublishInProcess("others")
			p := b.PublishInProcess("s")
			b.FillUp(others, size, budget*held/100, 1000)
			d := b.Destination("slow:1935", forwardtest.Script{
				Faults:   forwardtest.Faults{Read: forwardtest.Fault{Rate: 1 << 20}},
				Recorder: func() *forwardtest.Recorder { return &forwardtest.Recorder{Discard: true} },
			})
			_, err := p.Source().Forward(forward.Destination{URL: "rtmp://slow/live/s"})
			require.NoError(b, err)
			rec := b.Published(d, 1).Recorder()
			n := 0
			for m := range (forwardtest.Media{VideoBitrate: 800_000, AudioBitrate: -1}).Messages(60 * time.Second) {
				require.NoError(b, p.WriteTag(m.Type, m.Timestamp, m.Payload))
				if n++; n%25 == 0 {
					synctest.Wait()
				}
			}
			require.NoError(b, rec.WaitFrames(b.Ctx, 60*25))
			require.NoError(b, rec.Err())
			require.LessOrEqual(b, b.Server.Stats().Buffered, budget)
		})
	}
}

// TestFault25_MemoryIsShort stalls half of the destinations of 200 streams. The steps
// come one after the other, and healthy destinations lose nothing.
func TestFault25_MemoryIsShort(t *testing.T) {
	const (
		budget  = 8 << 20
		streams = 200
		begins  = 15 // publishers that each start a large message
	)
	var cuts []string // hosts
	var mu sync.Mutex
	cut := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(cuts)
	}
	cfg := forward.Config{
		MemoryBudget: budget, WriteTimeout: -1, MaxLatency: time.Hour,
		Resolver: forward.ResolverFunc(func(_ context.Context, req *forward.Request) ([]forward.Destination, error) {
			if req.App != "live" {
				return nil, nil
			}
			return []forward.Destination{{URL: "rtmp://healthy/live/" + req.Stream}, {URL: "rtmp://stalled/live/" + req.Stream}}, nil
		}),
		Hooks: forward.Hooks{OnForward: func(f *forward.Forwarder, _ forward.State, err error) {
			if errors.Is(err, fanout.ErrMemory) {
				mu.Lock()
				defer mu.Unlock()
				cuts = append(cuts, hostOf(f))
			}
		}},
	}
	inBubble(t, cfg, func(b *bubble) {
		healthy := b.Destination("healthy:1935", forwardtest.Script{Recorder: func() *forwardtest.Recorder {
			return &forwardtest.Recorder{Discard: true}
		}})
		b.Destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 4000}}})

		// Streams of 160 kbit/s, which first fill the buffers of the stalled
		// connections.
		sending, stop := context.WithCancel(b.Ctx)
		var pubs []*forwardtest.Publisher
		var sent sync.WaitGroup
		for i := range streams {
			p := b.Publish(fmt.Sprintf("live/%d", i))
			pubs = append(pubs, p)
			media := forwardtest.Media{ID: uint32(i), FPS: 4, KeyframeInterval: time.Second, VideoBitrate: 160_000, AudioBitrate: -1}
			// The publishers of unfinished messages have stopped sending.
			length := time.Duration(-1)
			if i < begins {
				length = 10 * time.Second
			}
			sent.Go(func() { p.Send(sending, media.Messages(length), 1) })
		}
		var most int
		var steps []string
		seen := func(step string) {
			if !slices.Contains(steps, step) {
				steps = append(steps, step)
			}
		}
		kept := make(map[*forward.Source]int)
		// look records what has been shed, while nothing moves.
		look := func() {
			synctest.Wait()
			used := b.Server.Stats().Buffered
			most = max(most, used)
			require.LessOrEqual(b, used, budget)
			p, err := b.Server.Publish(b.Ctx, forward.Request{App: "other", Stream: "s"})
			if require.Equal(b, used*10 >= budget*8, err != nil, "%d bytes: %v", used, err); err != nil {
				require.ErrorIs(b, err, forward.ErrLimit)
				seen("refused")
			} else {
				p.Close()
				<-p.Source().Done()
			}
			for _, src := range b.Server.Sources() {
				n := src.Stats().LogBytes
				// Stalled destinations keep the log from shrinking by itself.
				if n < kept[src] && kept[src] > budget*8/10/streams {
					require.GreaterOrEqual(b, most*100, budget*85, "with %d bytes at most", most)
					seen("shortened")
				}
				kept[src] = n
			}
			if len(cut()) > 0 {
				seen("cut")
			}
		}
		for range 100 {
			time.Sleep(97 * time.Millisecond)
			look()
		}
		require.Equal(b, []string{"refused", "shortened"}, steps)
		require.Less(b, most*100, budget*95)
		time.Sleep(time.Second) // the first publishers have sent everything
		for _, p := range pubs[:begins] {
			require.NoError(b, p.WritePart(forwardtest.Message{Type: forward.TagVideo, Timestamp: 11000, Payload: make([]byte, 48<<10)}, 1000))
		}
		look()
		require.GreaterOrEqual(b, most*100, budget*95)
		for range 20 {
			time.Sleep(97 * time.Millisecond)
			look()
		}
		require.Equal(b, []string{"refused", "shortened", "cut"}, steps)
		require.NotContains(b, cut(), "healthy")

		stop()
		sent.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		frames := 0
		require.Len(b, healthy.Sessions(), streams)
		for _, s := range healthy.Sessions() {
			require.NoError(b, s.Recorder().Err())
			r := s.Recorder().Report()
			require.EqualValues(b, 1, r.First)
			require.EqualValues(b, r.Frames, r.Last)
			require.GreaterOrEqual(b, r.Frames, 4*10)
			frames += r.Frames
		}
		measured(25, "budget of 8 MiB, 200 streams, 200 of 400 stalled", "refuse at 80 %, shorten at 90 %, cut at 95 %",
			"%v in this order, %d cut off, at most %.1f %% held", steps, len(cut()), float64(most)*100/budget)
		measured(25, "healthy destinations meanwhile", "0 lost", "%d frames, 0 lost", frames)
	})
}
