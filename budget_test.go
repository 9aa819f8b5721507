package forward_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMemoryBudgetRefusesAndShortens(t *testing.T) {
	const budget, size = 1 << 20, 4 << 10
	const slab = budget / 16 // slabs are smaller than this
	hosttest.InBubble(t, forward.Config{MergeWindow: -1, MemoryBudget: budget}, func(b *hosttest.Bubble) {
		// Just below, at and above 80 %.
		a := b.PublishInProcess("a")
		b.FillUp(a, size, budget*8/10-slab-size, 1000)
		require.Less(b, b.Server.Stats().Buffered, budget*8/10)
		second := b.PublishInProcess("b")
		b.FillUp(a, size, budget*8/10, 1000)
		_, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "c"})
		require.ErrorIs(b, err, forward.ErrLimit)
		_, err = b.Client("live/c").Publish(b.Ctx)
		require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
		require.ErrorContains(b, err, "The server is short of memory, try again later.")

		// Existing streams continue, each with its share.
		for range 100 {
			b.FillUp(second, size, 1<<30, 1)
			b.FillUp(a, size, 1<<30, 10)
			require.LessOrEqual(b, b.Server.Stats().Buffered, budget*9/10+slab+size)
		}
		require.LessOrEqual(b, a.Source().Stats().LogBytes, budget*8/10)
		require.Zero(b, b.Server.Stats().Refused)

		// The memory of a stream that has ended is released.
		a.Close()
		<-a.Source().Done()
		require.Equal(b, second.Source().Held(), b.Server.Stats().Buffered)
		second.Close()
		<-second.Source().Done()
		require.Zero(b, b.Server.Stats().Buffered)
		b.PublishInProcess("c")

		// A Reload changes the budget.
		require.NoError(b, b.Server.Reload(forward.Config{Logger: secretscan.Quiet, Addr: ":1935", MemoryBudget: -1, MergeWindow: -1}))
		big := b.PublishInProcess("big")
		b.FillUp(big, size, 2*budget, 1000)
		require.Greater(b, b.Server.Stats().Buffered, budget)
	})
}

// A Server without a budget of its own shares the process's budget with the others.
func TestMemoryBudgetOfTheProcess(t *testing.T) {
	memory := forward.ProcessMemory()
	require.Zero(t, memory.Used(), "streams of other tests are left")
	memory.SetLimit(1 << 20)
	defer memory.SetLimit(forward.DefaultMemoryBudget())
	hosttest.InBubble(t, forward.Config{MergeWindow: -1}, func(b *hosttest.Bubble) {
		other := forward.NewServer(forward.Config{Logger: secretscan.Quiet})
		defer other.Close()
		own := forward.NewServer(forward.Config{Logger: secretscan.Quiet, MemoryBudget: 1 << 20})
		defer own.Close()

		p := b.PublishInProcess("s")
		b.FillUp(p, 4<<10, 1<<20*8/10, 1000)
		require.Equal(b, b.Server.Stats().Buffered, other.Stats().Buffered)
		_, err := other.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
		require.ErrorIs(b, err, forward.ErrLimit)
		require.Zero(b, own.Stats().Buffered)
		mine, err := own.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
		require.NoError(b, err)

		// A Reload changes from one budget to the other, for streams that begin later.
		require.NoError(b, other.Reload(forward.Config{Logger: secretscan.Quiet, MemoryBudget: 1 << 20}))
		second, err := other.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
		require.NoError(b, err)
		require.NoError(b, second.WriteTag(forward.TagVideo, 0, rtmptest.Frame(true, 0)))
		require.Positive(b, other.Stats().Buffered)
		require.NoError(b, other.Reload(forward.Config{Logger: secretscan.Quiet}))
		require.Equal(b, b.Server.Stats().Buffered, other.Stats().Buffered)

		for _, p := range []*forward.Publisher{p, mine, second} {
			p.Close()
			<-p.Source().Done()
		}
		require.Zero(b, memory.Used())
	})
}

// Unfinished messages of publishers count from 16 KiB on. A connection without room for its
// message ends. The end of a connection releases the memory.
func TestMemoryBudgetCountsUnfinishedMessages(t *testing.T) {
	const budget, step = 1 << 20, 16 << 10
	hosttest.InBubble(t, forward.Config{MergeWindow: -1, MemoryBudget: budget}, func(b *hosttest.Bubble) {
		// Two bytes of place for each that has come: see chunk.Reader.
		trusted := func(name string) *forwardtest.Publisher {
			p := b.Publish(name)
			nothing := append([]byte("\x02\x00\x07nothing\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xf0\x00"), make([]byte, 60<<10)...)
			for range 10 {
				_, err := p.Write(chunk.Append(nil, chunk.Header{Type: chunk.TypeCommand}, nothing, 4096))
				require.NoError(b, err)
			}
			require.NoError(b, p.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Payload: rtmptest.Frame(true, 0)}))
			synctest.Wait()
			return p
		}
		begin := func(p *forwardtest.Publisher, size int) {
			m := forwardtest.Message{Type: forward.TagVideo, Timestamp: 40, Payload: make([]byte, size)}
			require.NoError(b, p.WritePart(m, 100))
			synctest.Wait()
		}
		logs := func() (sum int) {
			for _, src := range b.Server.Sources() {
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
			require.Equal(b, logs()+row.want, b.Server.Stats().Buffered)
		}
		two.Close()
		synctest.Wait()
		require.Equal(b, logs()+10*step, b.Server.Stats().Buffered)

		// One message that just fits, and one that does not.
		fits, over := trusted("live/d"), trusted("live/e")
		begin(fits, (budget-b.Server.Stats().Buffered)&^(step-1))
		require.Equal(b, 5-1, b.Server.Stats().Streams)
		begin(over, step)
		<-over.Done()
		synctest.Wait()
		require.Equal(b, 5-2, b.Server.Stats().Streams)
		for _, p := range []*forwardtest.Publisher{one, three, fits} {
			p.Close()
		}
		time.Sleep(time.Second)
		require.Zero(b, b.Server.Stats().Buffered)
	})
}
