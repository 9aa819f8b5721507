package e2e

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// sendFor sends media in real time in the background, until d has passed or p has ended.
func sendFor(b *bubble, p *forwardtest.Publisher, media forwardtest.Media, d time.Duration) {
	go p.Send(b.Ctx, media.Messages(d), 1)
}

// A publisher that waits continues the stream, from its last keyframe, when the one on air
// is lost, stalls or unpublishes. Destinations and players stay connected.
func TestStandby(t *testing.T) {
	for name, row := range map[string]struct {
		lose   func(*forwardtest.Publisher)
		within time.Duration // silence of the stream
		reason forward.Reason
	}{
		"reset":     {func(p *forwardtest.Publisher) { p.Reset() }, 200 * time.Millisecond, forward.ReasonLost},
		"closed":    {func(p *forwardtest.Publisher) { p.Close() }, 200 * time.Millisecond, forward.ReasonLost},
		"unpublish": {func(p *forwardtest.Publisher) { p.Unpublish() }, 200 * time.Millisecond, forward.ReasonUnpublish},
		"stall":     {func(*forwardtest.Publisher) {}, 2200 * time.Millisecond, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got calls
			cfg := forward.Config{Hooks: got.Hooks(), Standby: &forward.Standby{Publishers: 1}, Resolver: forward.MustStatic("a")}
			inBubble(t, cfg, func(b *bubble) {
				d := b.Destination("a:1935")
				play := b.Play("live/" + canary)
				first := b.Publish("live/" + canary + "?rank=1") // also sent to the destination
				s := b.Published(d, 1)
				src := b.Server.Source("live/" + canary)
				sendFor(b, first, steady, 3*time.Second)
				time.Sleep(time.Second)
				second := b.Publish("live/" + canary + "?rank=2")
				_, err := b.Client("live/" + canary).Publish(b.Ctx)
				require.Error(b, err, "no third publisher")
				sendFor(b, second, other, 10*time.Second)
				time.Sleep(1900 * time.Millisecond)
				require.Same(b, src, b.Server.Source("live/"+canary))
				before := src.Stats().Messages
				row.lose(first)
				time.Sleep(100*time.Millisecond + row.within)
				require.Greater(b, src.Stats().Messages, before+10, "the other one is on air")
				time.Sleep(3 * time.Second)
				for _, rec := range []*forwardtest.Recorder{s.Recorder(), play.Recorder()} {
					frames := goesOn(b, rec, row.within+100*time.Millisecond)
					require.Greater(b, frames[0], framesIn(steady, 2500*time.Millisecond))
					require.Greater(b, frames[1], framesIn(other, 3*time.Second))
				}
				require.Len(b, d.Sessions(), 1, "no reconnect")
				first.Close()
				second.Close()
				<-src.Done()
				synctest.Wait()
				require.Equal(b, 2, got.Get()["unpublish"])
			})
		})
	}
}

// aired returns which of two publishers the newest frame of a receiver is from.
func aired(rec *forwardtest.Recorder) (first, second bool) {
	all := rec.Messages()
	last := payloads(all[len(all)-1:])[0]
	for i, media := range []forwardtest.Media{steady, other} {
		for m := range media.Messages(30 * time.Second) {
			if payloads([]forwardtest.Message{m})[0] == last {
				return i == 0, i == 1
			}
		}
	}
	return false, false
}

// A preferred publisher that has stalled gets the stream back once it has sent media for
// Standby.Return; without Return it waits.
func TestStandbyReturn(t *testing.T) {
	for name, row := range map[string]struct {
		back  time.Duration
		rank  func(*forward.Request) int
		again bool
	}{
		"the earlier one returns": {5 * time.Second, nil, true},
		"it waits":                {0, nil, false},
		"equal ranks":             {5 * time.Second, func(*forward.Request) int { return 7 }, false},
		"the other is preferred": {5 * time.Second, func(r *forward.Request) int {
			if r.Param == "?first" {
				return 2
			}
			return 1
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := forward.Config{Standby: &forward.Standby{Publishers: 1, Return: row.back, Rank: row.rank}}
			inBubble(t, cfg, func(b *bubble) {
				play := b.Play("live/s")
				first := b.Publish("live/s?first")
				second := b.Publish("live/s?second")
				sendFor(b, first, steady, 2*time.Second)
				sendFor(b, second, other, 25*time.Second)
				time.Sleep(5 * time.Second)
				_, on := aired(play.Recorder())
				require.True(b, on, "the first one has stalled")
				sendFor(b, first, steady, 20*time.Second)
				time.Sleep(4 * time.Second)
				_, on = aired(play.Recorder())
				require.True(b, on, "not before it has sent for long enough")
				time.Sleep(6 * time.Second)
				on, _ = aired(play.Recorder())
				require.Equal(b, row.again, on)
				last := uint32(0)
				for _, m := range play.Recorder().Messages() {
					if m.Type != forward.TagData && m.Payload[1] != 0 {
						require.GreaterOrEqual(b, int32(m.Timestamp-last), int32(-40))
						last = m.Timestamp
					}
				}
			})
		})
	}
}

// With SameFormat a publisher with another format must not wait.
func TestStandbySameFormat(t *testing.T) {
	for name, same := range map[string]bool{"another": false, "the same": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, forward.Config{Standby: &forward.Standby{Publishers: 1, SameFormat: true}}, func(b *bubble) {
				first, second := b.PublishInProcess("live/s"), b.PublishInProcess("live/s")
				video := func(p *forward.Publisher, codec byte, size int) error {
					if err := p.WriteTag(forward.TagVideo, 0, append([]byte{0x10 | codec, 0, 0, 0, 0}, make([]byte, size)...)); err != nil {
						return err
					}
					return p.WriteTag(forward.TagVideo, 0, append([]byte{0x10 | codec, 1, 0, 0, 0}, make([]byte, 100)...))
				}
				require.NoError(b, video(first, 7, 10))
				codec := byte(7)
				if !same {
					codec = 12 // HEVC, as some encoders number it
				}
				require.NoError(b, video(second, codec, 10))
				synctest.Wait()
				err := video(second, codec, 10)
				if same {
					require.NoError(b, err)
				} else {
					require.ErrorIs(b, err, forward.ErrFormat)
				}
			})
		})
	}
}

// Of several that wait, the preferred one that sends continues the stream; when all have
// left, the stream ends.
func TestStandbyOfSeveral(t *testing.T) {
	inBubble(t, forward.Config{Standby: &forward.Standby{Publishers: 2}}, func(b *bubble) {
		play := b.Play("live/s")
		first, silent, second := b.Publish("live/s"), b.Publish("live/s"), b.Publish("live/s")
		src := b.Server.Source("live/s")
		sendFor(b, first, steady, 5*time.Second)
		sendFor(b, second, other, 10*time.Second)
		time.Sleep(3 * time.Second)
		first.Close()
		time.Sleep(time.Second)
		_, on := aired(play.Recorder())
		require.True(b, on)
		second.Close()
		time.Sleep(time.Second)
		require.Same(b, src, b.Server.Source("live/s"), "the silent one may still send")
		silent.Close()
		<-src.Done()
		synctest.Wait()
		require.Zero(b, b.Server.Stats().Buffered)
	})
}
