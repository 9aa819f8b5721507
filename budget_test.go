package forward

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/fanout"
)

// fillUp writes a keyframe and then other frames of that size until the
// Server holds that many bytes, or n frames.
func (b *bubble) fillUp(p *Publisher, size, until, n int) {
	b.Helper()
	body := slices.Concat(frame(true, 0), make([]byte, size))
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
	inBubble(t, Config{MergeWindow: -1, MemoryBudget: budget}, func(b *bubble) {
		// Just below 80 %, at it and above.
		a := b.publishHere("a")
		b.fillUp(a, size, budget*8/10-2*size, 1000)
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
			require.LessOrEqual(b, b.srv.Stats().Buffered, budget*9/10+2*size)
		}
		require.LessOrEqual(b, a.Source().Stats().LogBytes, budget*8/10)
		require.Zero(b, b.srv.Stats().Refused)

		// What has ended is given back.
		a.Close()
		<-a.Source().Done()
		require.Equal(b, second.Source().Stats().LogBytes, b.srv.Stats().Buffered)
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
