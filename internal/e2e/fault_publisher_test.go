package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// An encoder may reconnect before the server notices the end of its old connection.
func TestFault19_OldEndSeenLate(t *testing.T) {
	var got calls
	cfg := forward.Config{Hooks: got.Hooks(), Resolver: forward.MustStatic("rtmp://a/live/key")}
	inBubble(t, cfg, func(b *bubble) {
		d := b.Destination("a:1935")
		for i := range 10 {
			old := b.Publish("live/s")
			b.Published(d, 2*i+1)
			time.AfterFunc(100*time.Millisecond, func() { old.Close() })
			next := b.Publish("live/s")
			b.Published(d, 2*i+2)
			next.Close()
			synctest.Wait()
		}
		require.Equal(b, 20, got.Get()["publish"])

		// The hooks are not called for the second publisher while the first stays.
		p := b.Publish("live/s")
		began := time.Now()
		_, err := b.Client("live/s").Publish(b.Ctx)
		require.Equal(b, "NetStream.Publish.BadName", forwardtest.RefusalCode(err))
		require.LessOrEqual(b, time.Since(began), 200*time.Millisecond)
		require.Equal(b, 21, got.Get()["publish"])
		require.NoError(b, p.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Payload: rtmptest.Frame(true, 1)}))
	})
}

// Encoders come back immediately, ten thousand times in all. One of the streams goes to
// a destination, too.
func TestFault19_Churn(t *testing.T) {
	t.Parallel()
	const streams, each = 4, 2500
	cfg := forward.Config{Resolver: forward.ResolverFunc(func(_ context.Context, r *forward.Request) ([]forward.Destination, error) {
		if r.Stream == "0" {
			return []forward.Destination{{URL: "rtmp://a/live/key"}}, nil
		}
		return nil, nil
	})}
	inBubble(t, cfg, func(b *bubble) {
		d := b.Destination("a:1935", discarding)
		var wg sync.WaitGroup
		for i := range streams {
			wg.Go(func() {
				for n := range each {
					p, err := b.Client(fmt.Sprintf("live/%d", i)).Publish(b.Ctx)
					require.NoError(b, err, n)
					media := forwardtest.Media{ID: uint32(n + 1), AudioBitrate: -1, VideoBitrate: 1}
					require.NoError(b, p.Send(b.Ctx, media.Messages(2*steadyStep), 0))
					if i == 0 {
						require.NoError(b, b.Session(d, n+1).Recorder().WaitFrames(b.Ctx, 2))
					}
					if n%2 == 0 {
						p.Reset()
					}
					p.Close()
				}
			})
		}
		wg.Wait()
		require.Len(b, d.Sessions(), each, "each publish opened its destination once")
		for _, s := range d.Sessions() {
			<-s.Done()
			require.NoError(b, s.Recorder().Err())
			require.Equal(b, uint64(2), s.Recorder().Report().Last)
		}
		measured(19, "republished immediately, 4 streams", "10000 times under -race", "%d of %d", streams*each, streams*each)
	})
}

func TestFault17_PublisherVanishes(t *testing.T) {
	inBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a/live/[stream]")}, func(b *bubble) {
		d := b.Destination("a:1935")
		others := b.Steady()
		p := b.Publish("live/" + canary)
		s := b.Published(d, 2)
		require.NoError(b, p.Send(b.Ctx, steady.Messages(3*time.Second), 1))
		p.Vanish()
		began := time.Now()
		_, err := s.WaitCommand(b.Ctx, "FCUnpublish")
		require.NoError(b, err)
		took := time.Since(began)
		_, err = s.WaitCommand(b.Ctx, "deleteStream")
		require.NoError(b, err)
		require.LessOrEqual(b, took, 10*time.Second)
		require.Nil(b, b.Server.Source("live/"+canary))
		measured(17, "publisher vanishes: destinations notified after", "<= 10 s", "%v", took)
		noteIsolation(others.Check())
	})
}

// A publisher sends as fast as the server reads. It is held back for receivers that
// make progress, not for those that make none.
func TestFault18_FasterThanRealTime(t *testing.T) {
	for _, row := range []struct {
		media  forwardtest.Media
		length time.Duration
		rate   int
	}{
		{forwardtest.Media{ID: 2}, 2 * time.Minute, 1 << 20},
		{forwardtest.Media{ID: 2, VideoBitrate: -1, AudioBitrate: 16000}, 2 * time.Minute, 1 << 20},
		// The 512 KiB of backlog that is waited for lasts longer than a receiver may
		// lag.
		{forwardtest.Media{ID: 2, VideoBitrate: 400_000, AudioBitrate: -1, KeyframeInterval: time.Second}, 2 * time.Minute, 66_000},
		// The 2 s by which a publisher may be early are more bytes than a receiver may
		// lag.
		{forwardtest.Media{ID: 2, VideoBitrate: 80_000_000, AudioBitrate: -1, KeyframeInterval: time.Second / 2}, 6 * time.Second, 12 << 20},
	} {
		media, length := row.media, row.length
		cfg := forward.Config{Resolver: forward.MustStatic("rtmp://slow/live/"+canary, "rtmp://stalled/live/"+canary), WriteTimeout: time.Hour, ReadTimeout: time.Minute}
		inBubble(t, cfg, func(b *bubble) {
			slowly := b.Destination("slow:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Rate: row.rate}}})
			b.Destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
			p := b.Publish("live/fast")
			s := b.Published(slowly, 1)
			began := time.Now()
			require.NoError(b, p.Send(b.Ctx, media.Messages(length), 0))
			took := time.Since(began)
			time.Sleep(20 * time.Second) // allowance for bytes in flight
			require.NoError(b, p.Unpublish())
			_, err := s.WaitCommand(b.Ctx, "deleteStream")
			require.NoError(b, err)
			require.NoError(b, s.Recorder().Err())
			r := s.Recorder().Report()
			require.Equal(b, uint64(1), r.First)
			require.Equal(b, uint64(r.Frames), r.Last)
			require.Less(b, took, length)
			measured(18, fmt.Sprintf("as fast as the server reads, %v of media, %d kB/s", length, row.rate/1000), "nothing lost, bounded by bytes",
				"%d frames, 0 lost, in %v", r.Frames, took.Round(time.Second))
		})
	}
}

func TestFault19_RepublishAtOnce(t *testing.T) {
	inBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary)}, func(b *bubble) {
		d := b.Destination("a:1935")
		play := b.Play("live/" + canary)
		longest := time.Duration(0)
		for i := range 100 {
			c := b.Client("live/" + canary)
			began := time.Now()
			p, err := c.Publish(b.Ctx)
			require.NoError(b, err, i)
			longest = max(longest, time.Since(began))
			s := b.Published(d, i+1)
			media := steady
			media.ID = uint32(i + 1)
			require.NoError(b, p.Send(b.Ctx, media.Messages(400*time.Millisecond), 1))
			require.NoError(b, s.Recorder().WaitFrames(b.Ctx, 10))
			if i%2 == 0 {
				p.Reset()
			}
			p.Close()
			synctest.Wait()
		}
		time.Sleep(time.Second)
		require.NoError(b, play.Recorder().Err(), "no old frame after a new header")
		require.Equal(b, 1000, play.Recorder().Report().Frames)
		require.Len(b, d.Sessions(), 100, "each publish opened its destination once")
		for _, s := range d.Sessions() {
			require.NoError(b, s.Recorder().Err())
			require.Equal(b, 10, s.Recorder().Report().Frames)
			require.Equal(b, "deleteStream", names(s)[len(names(s))-1])
		}
		require.LessOrEqual(b, longest, 200*time.Millisecond)
		measured(19, "republished immediately: accepted", "100 of 100, <= 200 ms", "100 of 100, %v", longest)
	})
}

// Without Takeover.
func TestFault20_SecondPublisher(t *testing.T) {
	var got calls
	cfg := forward.Config{Hooks: got.Hooks(), Resolver: forward.MustStatic("rtmp://healthy/live/" + canary)}
	inBubble(t, cfg, func(b *bubble) {
		d := b.Destination("healthy:1935")
		pub := b.Publish("live/ok")
		s := b.Published(d, 1)
		others := b.Neighbours(pub, steady, s.Recorder())
		for range 20 {
			_, err := b.Client("live/ok").Publish(b.Ctx)
			require.Equal(b, "NetStream.Publish.BadName", forwardtest.RefusalCode(err))
			_, err = b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "ok"})
			require.ErrorIs(b, err, forward.ErrStreamBusy)
			time.Sleep(100 * time.Millisecond)
		}
		noteIsolation(others.Check())
		require.Len(b, d.Sessions(), 1)
		require.Equal(b, 1, got.Get()["publish"])
		require.Zero(b, got.Get()["unpublish"])
		measured(20, "second publisher, 20 times", "BadName, 0 extra connections, 0 hooks", "as asked")
	})
}

// A publisher's timestamps are forwarded unchanged, modulo 2^32, even if they jump ahead. If
// they jump back, those of audio and video continue from the previous ones.
func TestFault22_Times(t *testing.T) {
	for _, start := range []uint32{1<<24 - 500, 1<<31 - 500, 1<<32 - 500} {
		inBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary)}, func(b *bubble) {
			d := b.Destination("a:1935")
			p := b.Publish("live/" + canary)
			s := b.Published(d, 1)
			media := steady
			media.Start = start
			require.NoError(b, p.Send(b.Ctx, media.Messages(2*time.Second), 1))
			require.NoError(b, s.Recorder().WaitFrames(b.Ctx, 50))
			require.NoError(b, s.Recorder().Err())
			require.Equal(b, start+1960, s.Recorder().Messages()[51].Timestamp)
		})
	}
	for _, c := range []struct {
		jump  int
		raw   bool
		first uint32 // from the last audio before it to the first video after it,
		next  uint32 // and to the first audio from there
	}{
		// The first video message alone may be an outlier: it gets the timestamp of the
		// video message before it.
		{3_600_000, false, 1<<32 - 20, 3_600_060}, {-3_600_000, false, 1<<32 - 20, 60},
		{-3_600_000, true, 1<<32 - 3_599_980, 20},
	} {
		inBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary), RawTimestamps: c.raw}, func(b *bubble) {
			anything := func() *forwardtest.Recorder {
				return &forwardtest.Recorder{Reference: []forwardtest.Message{}}
			}
			d := b.Destination("a:1935", forwardtest.Script{Recorder: anything})
			p := b.Publish("live/" + canary)
			s := b.Published(d, 1)
			send := func(typ uint8, ms int, body []byte) {
				require.NoError(b, p.WriteMessage(forwardtest.Message{Type: typ, Timestamp: uint32(ms), Payload: body}))
			}
			for i := range 500 {
				ms := 10_000_000 + i*40
				if i >= 250 {
					ms += c.jump
				}
				send(forward.TagVideo, ms, rtmptest.Frame(i%25 == 0, i))
				send(forward.TagAudio, ms+20, []byte(aacData))
				time.Sleep(steadyStep)
			}
			late := anything()
			player, err := b.Client("live/"+canary).Play(b.Ctx, late)
			require.NoError(b, err)
			defer player.Close()
			require.NoError(b, s.Recorder().WaitFrames(b.Ctx, 1000))
			require.NoError(b, late.WaitFrames(b.Ctx, 50))
			require.Len(b, d.Sessions(), 1)
			all := s.Recorder().Messages()
			require.Equal(b, all[950:], late.Messages(), "for late joiners too")
			for n, m := range all {
				if n == 0 {
					continue
				}
				want := uint32(20)
				switch n {
				case 500:
					want = c.first
				case 501:
					want = c.next
				}
				require.Equal(b, want, m.Timestamp-all[n-1].Timestamp, n)
			}
		})
	}
	measured(22, "timestamps wrap at 2^24, 2^31, 2^32, jump by 1 h, are set back by 1 h", "no disconnect, monotonic", "0 disconnects, monotonic")
}
