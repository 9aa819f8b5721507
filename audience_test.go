package forward_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/hosttest"
)

// A new player sees the timestamps of the publish. So do all players when none is left
// that has seen earlier ones.
func TestWaitingPlayersSeeTimestampsContinue(t *testing.T) {
	media := forwardtest.Media{Start: 90_000}
	hosttest.InBubble(t, forward.Config{}, func(b *hosttest.Bubble) {
		firstTime := func() uint32 {
			_, h := b.Hear("server:1935", "live/s", nil)
			b.PublishFor("live/s", media, time.Second)
			time.Sleep(time.Second)
			h.Close()
			synctest.Wait()
			all := h.Messages(b)
			return all[slices.IndexFunc(all, func(m chunk.Message) bool { return m.Type == forward.TagVideo })].Time
		}
		require.EqualValues(b, 90_000, firstTime())
		require.Zero(b, b.Server.Left()["audiences"])
		require.EqualValues(b, 90_000, firstTime(), "nobody has waited")

		waiting := b.Play("live/s")
		b.PublishFor("live/s", media, time.Second)
		time.Sleep(time.Second)
		require.InDelta(b, 92_000, firstTime(), 100, "one log for all")
		require.NoError(b, b.Publish("live/s").Unpublish())
		time.Sleep(time.Second)
		require.InDelta(b, 95_000, firstTime(), 200, "a publish without media changes nothing")
		waiting.Close()
		synctest.Wait()
		require.Zero(b, b.Server.Left()["audiences"], "nobody is left to go on for")
	})
}

func TestPlayerWait(t *testing.T) {
	const wait = 20 * time.Second
	for name, row := range map[string]struct {
		do   func(b *hosttest.Bubble, p *forwardtest.Player)
		code string
	}{
		"for the first": {func(*hosttest.Bubble, *forwardtest.Player) {}, "NetStream.Play.Failed"},
		"between two": {func(b *hosttest.Bubble, _ *forwardtest.Player) {
			time.Sleep(wait - time.Second)
			b.PublishFor("live/s", forwardtest.Media{ID: 1}, 30*time.Second)
			time.Sleep(wait - time.Second)
			b.PublishFor("live/s", forwardtest.Media{ID: 2}, 30*time.Second)
		}, "NetStream.Play.UnpublishNotify"},
		"after a pause": {func(b *hosttest.Bubble, p *forwardtest.Player) {
			require.NoError(b, p.Send(1, "pause", 0, nil, true, 0))
			time.Sleep(time.Hour)
			require.NoError(b, p.Send(1, "pause", 0, nil, false, 0))
			synctest.Wait()
		}, "NetStream.Play.Failed"},
	} {
		t.Run(name, func(t *testing.T) {
			var got hosttest.Calls
			hosttest.InBubble(t, forward.Config{PlayerWait: wait, Hooks: got.Hooks()}, func(b *hosttest.Bubble) {
				p := b.Play("live/s")
				row.do(b, p)
				began := time.Now()
				<-p.Done()
				require.Equal(b, wait, time.Since(began))
				code := forwardtest.RefusalCode(p.Err())
				if all := p.Commands(); len(all) > 0 && code == "" {
					code = all[len(all)-1].Code()
				}
				require.Equal(b, row.code, code)
				synctest.Wait()
				require.Equal(b, 1, got.Get()["stop"])
				require.Zero(b, b.Server.Left()["audiences"])
			})
		})
	}
}
