package forward

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

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// fillUp writes a keyframe and then other frames of that size until the
// Server holds that many bytes, or n frames.
func (b *bubble) fillUp(p *Publisher, size, until, n int) {
	b.Helper()
	body := slices.Concat(rtmptest.Frame(true, 0), make([]byte, size))
	for range n {
		require.NoError(b, p.WriteTag(TagVideo, 0, body))
		body[0] = 0x27
		synctest.Wait()
		if b.srv.Stats().Buffered >= until {
			return
		}
	}
}

func (b *bubble) publishHere(name string) *Publisher {
	b.Helper()
	p, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: name})
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

func TestMemoryBudgetRefusesAndShortens(t *testing.T) {
	const budget, size = 1 << 20, 4 << 10
	const slab = budget / 16 // memory comes in slabs of less
	inBubble(t, Config{MergeWindow: -1, MemoryBudget: budget}, func(b *bubble) {
		// Just below 80 %, at it and above.
		a := b.publishHere("a")
		b.fillUp(a, size, budget*8/10-slab-size, 1000)
		require.Less(b, b.srv.Stats().Buffered, budget*8/10)
		second := b.publishHere("b")
		b.fillUp(a, size, budget*8/10, 1000)
		_, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "c"})
		require.ErrorIs(b, err, ErrLimit)
		_, err = b.client("live/c").Publish(b.ctx)
		require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
		require.ErrorContains(b, err, "The server is short of memory, try again later.")

		// Those there are go on, each with its share.
		for range 100 {
			b.fillUp(second, size, 1<<30, 1)
			b.fillUp(a, size, 1<<30, 10)
			require.LessOrEqual(b, b.srv.Stats().Buffered, budget*9/10+slab+size)
		}
		require.LessOrEqual(b, a.Source().Stats().LogBytes, budget*8/10)
		require.Zero(b, b.srv.Stats().Refused)

		// What has ended is given back.
		a.Close()
		<-a.Source().Done()
		require.Equal(b, second.Source().Held(), b.srv.Stats().Buffered)
		second.Close()
		<-second.Source().Done()
		require.Zero(b, b.srv.Stats().Buffered)
		b.publishHere("c")

		// A Reload changes it.
		require.NoError(b, b.srv.Reload(Config{Logger: quiet, Addr: ":1935", MemoryBudget: -1, MergeWindow: -1}))
		big := b.publishHere("big")
		b.fillUp(big, size, 2*budget, 1000)
		require.Greater(b, b.srv.Stats().Buffered, budget)
	})
}

// One stream holds most of it and receives nothing more; of the other, who does
// not read is cut off and who reads is not disturbed.
func TestMemoryBudgetCutsTheSlowest(t *testing.T) {
	const budget = 8 << 20
	inBubble(t, Config{MergeWindow: -1, MemoryBudget: budget, WriteTimeout: -1}, func(b *bubble) {
		holds := b.publishHere("holds")
		b.fillUp(holds, 16<<10, budget*72/100, 1000)

		p := b.publishHere("s")
		healthy := b.destination("healthy:1935")
		stalled := b.destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 8 << 10}}})
		var fs []*Forwarder
		for _, to := range []string{"healthy", "stalled"} {
			f, err := p.Source().Forward(Destination{URL: "rtmp://" + to + "/live/s"})
			require.NoError(b, err)
			fs = append(fs, f)
		}
		b.published(healthy, 1)
		b.published(stalled, 1)
		b.fillUp(p, 4<<10, budget*94/100, 2000)
		require.NoError(b, fs[1].Stats().LastErr)
		b.fillUp(p, 4<<10, 1<<30, 200)
		time.Sleep(time.Millisecond)

		err := fs[1].Stats().LastErr
		require.ErrorIs(b, err, fanout.ErrMemory)
		require.ErrorContains(b, err, "too slow while memory is short")
		st := fs[0].Stats()
		require.Equal(b, StatePublishing, st.State)
		require.NoError(b, st.LastErr)
		require.Zero(b, st.Lag)
		require.Zero(b, st.DroppedLate)
		require.Less(b, b.srv.Stats().Buffered, budget)
	})
}

// A Server that has no budget of its own shares the process's with the others.
func TestMemoryBudgetOfTheProcess(t *testing.T) {
	memory := ProcessMemory()
	require.Zero(t, memory.Used(), "streams of other tests are left")
	memory.SetLimit(1 << 20)
	defer memory.SetLimit(DefaultMemoryBudget())
	inBubble(t, Config{MergeWindow: -1}, func(b *bubble) {
		other := NewServer(Config{Logger: quiet})
		defer other.Close()
		own := NewServer(Config{Logger: quiet, MemoryBudget: 1 << 20})
		defer own.Close()

		p := b.publishHere("s")
		b.fillUp(p, 4<<10, 1<<20*8/10, 1000)
		require.Equal(b, b.srv.Stats().Buffered, other.Stats().Buffered)
		_, err := other.Publish(b.ctx, PublishRequest{App: "live", Stream: "s"})
		require.ErrorIs(b, err, ErrLimit)
		require.Zero(b, own.Stats().Buffered)
		mine, err := own.Publish(b.ctx, PublishRequest{App: "live", Stream: "s"})
		require.NoError(b, err)

		// From one to the other by Reload: for streams that begin then.
		require.NoError(b, other.Reload(Config{Logger: quiet, MemoryBudget: 1 << 20}))
		second, err := other.Publish(b.ctx, PublishRequest{App: "live", Stream: "s"})
		require.NoError(b, err)
		require.NoError(b, second.WriteTag(TagVideo, 0, rtmptest.Frame(true, 0)))
		require.Positive(b, other.Stats().Buffered)
		require.NoError(b, other.Reload(Config{Logger: quiet}))
		require.Equal(b, b.srv.Stats().Buffered, other.Stats().Buffered)

		for _, p := range []*Publisher{p, mine, second} {
			p.Close()
			<-p.Source().Done()
		}
		require.Zero(b, memory.Used())
	})
}

// What publishers have begun to send counts from 16 KiB on, ends the connection
// that has no room for it, and is given back by the end of a connection.
func TestMemoryBudgetCountsUnfinishedMessages(t *testing.T) {
	const budget, step = 1 << 20, 16 << 10
	inBubble(t, Config{MergeWindow: -1, MemoryBudget: budget}, func(b *bubble) {
		// Two bytes of place for each that has come: see chunk.Reader.
		trusted := func(name string) *forwardtest.Publisher {
			p := b.publish(name)
			nothing := append([]byte("\x02\x00\x07nothing\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xf0\x00"), make([]byte, 60<<10)...)
			for range 10 {
				_, err := p.Write(chunk.Append(nil, chunk.Header{Type: chunk.TypeCommand}, nothing, 4096))
				require.NoError(b, err)
			}
			require.NoError(b, p.WriteMessage(forwardtest.Message{Type: TagVideo, Payload: rtmptest.Frame(true, 0)}))
			synctest.Wait()
			return p
		}
		begin := func(p *forwardtest.Publisher, size int) {
			m := forwardtest.Message{Type: TagVideo, Timestamp: 40, Payload: make([]byte, size)}
			require.NoError(b, p.WritePart(m, 100))
			synctest.Wait()
		}
		logs := func() (sum int) {
			for _, src := range b.srv.Sources() {
				sum += src.Held()
			}
			return sum
		}
		one, two, three := trusted("live/a"), trusted("live/b"), trusted("live/c")
		for _, row := range []struct {
			p    *forwardtest.Publisher
			size int
			want int
		}{{one, step - 1, 0}, {two, step, step}, {three, 10*step + 1, 11 * step}} {
			begin(row.p, row.size)
			require.Equal(b, logs()+row.want, b.srv.Stats().Buffered)
		}
		two.Close()
		synctest.Wait()
		require.Equal(b, logs()+10*step, b.srv.Stats().Buffered)

		// Just what is left, and more than that.
		fits, over := trusted("live/d"), trusted("live/e")
		begin(fits, (budget-b.srv.Stats().Buffered)&^(step-1))
		require.Equal(b, 5-1, b.srv.Stats().Streams)
		begin(over, step)
		<-over.Done()
		synctest.Wait()
		require.Equal(b, 5-2, b.srv.Stats().Streams)
		for _, p := range []*forwardtest.Publisher{one, three, fits} {
			p.Close()
		}
		time.Sleep(time.Second)
		require.Zero(b, b.srv.Stats().Buffered)
	})
}

// While logs are short a publisher that is faster than real time waits earlier
// for who reads, who misses nothing.
func TestMemoryBudgetHoldsFastPublishersBack(t *testing.T) {
	const budget, size = 4 << 20, 4 << 10
	for _, held := range []int{0, 50, 89} { // percent, by others
		inBubble(t, Config{MergeWindow: -1, MemoryBudget: budget}, func(b *bubble) {
			others := b.publishHere("others")
			p := b.publishHere("s")
			b.fillUp(others, size, budget*held/100, 1000)
			d := b.destination("slow:1935", forwardtest.Script{
				Faults:   forwardtest.Faults{Read: forwardtest.Fault{Rate: 1 << 20}},
				Recorder: func() *forwardtest.Recorder { return &forwardtest.Recorder{Discard: true} },
			})
			_, err := p.Source().Forward(Destination{URL: "rtmp://slow/live/s"})
			require.NoError(b, err)
			rec := b.published(d, 1).Recorder()
			n := 0
			for m := range (forwardtest.Media{VideoBitrate: 800_000, AudioBitrate: -1}).Messages(60 * time.Second) {
				require.NoError(b, p.WriteTag(m.Type, m.Timestamp, m.Payload))
				if n++; n%25 == 0 {
					synctest.Wait()
				}
			}
			require.NoError(b, rec.WaitFrames(b.ctx, 60*25))
			require.NoError(b, rec.Err())
			require.LessOrEqual(b, b.srv.Stats().Buffered, budget)
		})
	}
}

// TestFault25_MemoryIsShort has half the destinations of 200 streams stall. The
// steps come one after the other, and who reads loses nothing.
func TestFault25_MemoryIsShort(t *testing.T) {
	const (
		budget  = 8 << 20
		streams = 200
		begins  = 15 // publishers that begin a large message each
	)
	var cuts []string // hosts
	var mu sync.Mutex
	cut := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(cuts)
	}
	cfg := Config{
		MemoryBudget: budget, WriteTimeout: -1, MaxLatency: time.Hour,
		Resolver: ResolverFunc(func(_ context.Context, req *PublishRequest) ([]Destination, error) {
			if req.App != "live" {
				return nil, nil
			}
			return []Destination{{URL: "rtmp://healthy/live/" + req.Stream}, {URL: "rtmp://stalled/live/" + req.Stream}}, nil
		}),
		Hooks: Hooks{OnForward: func(f *Forwarder, _ State, err error) {
			if errors.Is(err, fanout.ErrMemory) {
				mu.Lock()
				defer mu.Unlock()
				cuts = append(cuts, hostOf(f))
			}
		}},
	}
	inBubble(t, cfg, func(b *bubble) {
		healthy := b.destination("healthy:1935", forwardtest.Script{Recorder: func() *forwardtest.Recorder {
			return &forwardtest.Recorder{Discard: true}
		}})
		b.destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 4000}}})

		// Streams of 160 kbit/s, which fill the stalled connections first.
		sending, stop := context.WithCancel(b.ctx)
		var pubs []*forwardtest.Publisher
		var sent sync.WaitGroup
		for i := range streams {
			p := b.publish(fmt.Sprintf("live/%d", i))
			pubs = append(pubs, p)
			media := forwardtest.Media{ID: uint32(i), FPS: 4, KeyframeInterval: time.Second, VideoBitrate: 160_000, AudioBitrate: -1}
			// Those that begin a large message send no more behind it.
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
		kept := make(map[*Source]int)
		// look takes notice of what has been shed, while nothing moves.
		look := func() {
			synctest.Wait()
			used := b.srv.Stats().Buffered
			most = max(most, used)
			require.LessOrEqual(b, used, budget)
			p, err := b.srv.Publish(b.ctx, PublishRequest{App: "other", Stream: "s"})
			if require.Equal(b, used*10 >= budget*8, err != nil, "%d bytes: %v", used, err); err != nil {
				require.ErrorIs(b, err, ErrLimit)
				seen("refused")
			} else {
				p.Close()
				<-p.Source().Done()
			}
			for _, src := range b.srv.Sources() {
				n := src.Stats().LogBytes
				// Stalled destinations keep it from getting shorter by itself.
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
		time.Sleep(time.Second) // the first ones have sent all
		for _, p := range pubs[:begins] {
			require.NoError(b, p.WritePart(forwardtest.Message{Type: TagVideo, Timestamp: 11000, Payload: make([]byte, 48<<10)}, 1000))
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
		measured(25, "those who read meanwhile", "0 lost", "%d frames, 0 lost", frames)
	})
}
