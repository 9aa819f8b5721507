package e2e

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// A Subscription to an ended stream keeps the rest of it in memory, however often it is
// read. When the next publisher is short of memory, it is cut off.
func TestMemoryBudgetCutsSubscriptionsOfEndedStreams(t *testing.T) {
	const budget, size = 8 << 20, 64 << 10
	inBubble(t, forward.Config{MergeWindow: -1, MemoryBudget: budget}, func(b *bubble) {
		p := b.PublishInProcess("ended")
		slow, idle := p.Source().Subscribe(b.Ctx), p.Source().Subscribe(b.Ctx)
		b.FillUp(p, size, budget*8/10, 1000)
		p.Close()
		for range 3 {
			time.Sleep(300 * time.Millisecond)
			_, err := slow.Next()
			require.NoError(b, err)
			require.Greater(b, b.Server.Stats().Buffered, budget*8/10-size)
		}
		b.PublishInProcess("next")
		require.Less(b, b.Server.Stats().Buffered, size)
		for range 2 {
			_, err := slow.Next()
			require.ErrorIs(b, err, forward.ErrLimit)
			require.ErrorContains(b, err, "memory was short")
		}
		_, err := idle.Next()
		require.ErrorContains(b, err, "memory was short")
		select {
		case <-p.Source().Done():
		default:
			b.Error("the stream is not done")
		}
	})
}

// A Subscription that has read the last message of an ended stream holds no memory,
// even before it has returned io.EOF.
func TestSubscriptionAtTheEndKeepsNothing(t *testing.T) {
	inBubble(t, forward.Config{MergeWindow: -1}, func(b *bubble) {
		p := b.PublishInProcess("s")
		before, behind := p.Source().Subscribe(b.Ctx), p.Source().Subscribe(b.Ctx)
		for i := range 10 {
			require.NoError(b, p.WriteTag(forward.TagVideo, uint32(i), rtmptest.Frame(i == 0, i)))
		}
		for range 10 {
			_, err := before.Next()
			require.NoError(b, err)
		}
		p.Close()
		<-p.Source().Done()
		require.Positive(b, b.Server.Stats().Buffered)
		for range 10 {
			_, err := behind.Next()
			require.NoError(b, err)
		}
		require.Zero(b, b.Server.Stats().Buffered)
		for _, s := range []*forward.Subscription{before, behind} {
			_, err := s.Next()
			require.Equal(b, io.EOF, err)
		}
	})
}
