package e2e

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// goesOn checks a receiver of two consecutive publishers and returns how many frames it
// has of each. Timestamps increase by no more than gap from one frame to the next, and
// the second publisher's headers come before its keyframe.
func goesOn(t require.TestingT, rec *forwardtest.Recorder, gap time.Duration) (frames [2]int) {
	require.NoError(t, rec.Err())
	var last uint32
	for i, m := range rec.Messages() {
		if m.Type == forward.TagData {
			continue
		}
		if i > 0 && last > 0 {
			step := int32(m.Timestamp - last)
			require.GreaterOrEqual(t, step, int32(-40), "message %d: from %d to %d", i, last, m.Timestamp)
			require.LessOrEqual(t, step, int32(gap.Milliseconds()), "message %d: from %d to %d", i, last, m.Timestamp)
		}
		last = m.Timestamp
	}
	all := payloads(rec.Messages())
	for i, media := range []forwardtest.Media{steady, other} {
		for m := range media.Messages(10 * time.Second) {
			if m.Type == forward.TagData || m.Payload[1] == 0 {
				continue
			}
			if slices.Contains(all, payloads([]forwardtest.Message{m})[0]) {
				frames[i]++
			} else if frames[i] > 0 {
				break
			}
		}
	}
	return frames
}

// framesIn is how many frames a Media has in d.
func framesIn(media forwardtest.Media, d time.Duration) (n int) {
	for m := range media.Messages(d) {
		if m.Type != forward.TagData && m.Payload[1] != 0 {
			n++
		}
	}
	return n
}

func TestFault17_PublishGrace(t *testing.T) {
	var got calls
	cfg := forward.Config{Hooks: got.Hooks(), PublishGrace: 20 * time.Second, Resolver: forward.MustStatic("rtmp://a/live/" + canary)}
	for name, lose := range map[string]func(*forwardtest.Publisher){
		"closed": func(p *forwardtest.Publisher) { p.Close() },
		"reset":  func(p *forwardtest.Publisher) { p.Reset() },
		"silent": func(p *forwardtest.Publisher) { p.Vanish() },
	} {
		t.Run(name, func(t *testing.T) {
			got = calls{}
			inBubble(t, cfg, func(b *bubble) {
				d := b.Destination("a:1935")
				play := b.Play("live/" + canary)
				p := b.Publish("live/" + canary)
				s := b.Published(d, 1)
				src := b.Server.Source("live/" + canary)
				first := src.Request()
				require.NoError(b, p.Send(b.Ctx, steady.Messages(2*time.Second), 1))
				time.Sleep(time.Second) // a reset discards unread data
				lose(p)
				time.Sleep(15 * time.Second) // silence is noticed after 10 s
				require.Same(b, src, b.Server.Source("live/"+canary))
				require.Equal(b, 1, got.Get()["unpublish"], "told immediately")

				again := b.Publish("live/" + canary)
				require.NotSame(b, first, src.Request())
				require.NoError(b, again.Send(b.Ctx, other.Messages(2*time.Second), 1))
				time.Sleep(time.Second)
				late := b.Play("live/" + canary)
				require.NoError(b, late.Recorder().WaitFrames(b.Ctx, 1))
				time.Sleep(time.Second)
				require.Same(b, src, b.Server.Source("live/"+canary))
				for _, rec := range []*forwardtest.Recorder{s.Recorder(), play.Recorder()} {
					require.Equal(b, [2]int{framesIn(steady, 2*time.Second), framesIn(other, 2*time.Second)}, goesOn(b, rec, 17*time.Second))
				}
				require.NoError(b, late.Recorder().Err())
				require.Zero(b, goesOn(b, late.Recorder(), time.Second)[0], "nothing of the previous publisher")

				require.NoError(b, again.Unpublish())
				<-src.Done()
				require.Len(b, d.Sessions(), 1)
				require.Equal(b, []string{"FCUnpublish", "deleteStream"}, names(s)[len(names(s))-2:])
				require.Equal(b, 2, got.Get()["publish"])
				require.Equal(b, 2, got.Get()["unpublish"])
				measured(17, "publisher "+name+", back within PublishGrace", "destinations are held", "1 connection, nothing lost")
			})
		})
	}
}

// A publisher lost before it sent media leaves no timestamps to continue from.
func TestPublishGraceWithoutMedia(t *testing.T) {
	inBubble(t, forward.Config{PublishGrace: time.Minute}, func(b *bubble) {
		play := b.Play("live/s")
		b.Publish("live/s").Close()
		time.Sleep(time.Second)
		require.NoError(b, b.Publish("live/s").Send(b.Ctx, other.Messages(time.Second), 1))
		time.Sleep(time.Second)
		require.NoError(b, play.Recorder().Err())
		messages := play.Recorder().Messages()
		require.Zero(b, messages[0].Timestamp)
		require.Less(b, messages[len(messages)-1].Timestamp, uint32(1000))
	})
}

func TestPublishGraceEnds(t *testing.T) {
	const grace = 20 * time.Second
	cfg := forward.Config{
		PublishGrace: grace, Resolver: forward.MustStatic("rtmp://a/live/" + canary),
		Hooks: forward.Hooks{OnPublish: func(ctx context.Context, r *forward.Request) error {
			if strings.Contains(r.Param, "decide") {
				<-ctx.Done()
			}
			return ctx.Err()
		}},
	}
	start := func(b *bubble) (*forwardtest.Publisher, *forward.Source) {
		d := b.Destination("a:1935")
		p := b.Publish("live/s")
		b.Published(d, 1)
		require.NoError(b, p.Send(b.Ctx, steady.Messages(time.Second), 1))
		synctest.Wait()
		return p, b.Server.Source("live/s")
	}
	for name, c := range map[string]struct {
		end   func(b *bubble, p *forwardtest.Publisher, src *forward.Source)
		after time.Duration
	}{
		"nobody comes":   {func(_ *bubble, p *forwardtest.Publisher, _ *forward.Source) { p.Close() }, grace},
		"unpublish":      {func(_ *bubble, p *forwardtest.Publisher, _ *forward.Source) { p.Unpublish() }, 0},
		"closed by host": {func(b *bubble, _ *forwardtest.Publisher, src *forward.Source) { go src.Shutdown(b.Ctx) }, 0},
		"closed while it": {func(b *bubble, p *forwardtest.Publisher, src *forward.Source) {
			p.Close()
			synctest.Wait()
			go src.Shutdown(b.Ctx)
		}, 0},
		"Shutdown": {func(b *bubble, p *forwardtest.Publisher, _ *forward.Source) {
			p.Close()
			synctest.Wait()
			require.NoError(b, b.Server.Shutdown(b.Ctx))
		}, 0},
		"Close": {func(b *bubble, p *forwardtest.Publisher, _ *forward.Source) {
			p.Close()
			synctest.Wait()
			b.Server.Close()
		}, 0},
		"a publisher that sends nothing": {func(b *bubble, p *forwardtest.Publisher, _ *forward.Source) {
			p.Close()
			time.Sleep(10 * time.Second)
			b.Publish("live/s")
		}, grace},
		"a publisher that a hook decides about": {func(b *bubble, p *forwardtest.Publisher, src *forward.Source) {
			p.Close()
			time.Sleep(10 * time.Second)
			go b.Client("live/s?decide").Publish(b.Ctx)
		}, grace},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, cfg, func(b *bubble) {
				p, src := start(b)
				began := time.Now()
				c.end(b, p, src)
				<-src.Done()
				require.Equal(b, c.after, time.Since(began))
			})
		})
	}
}

func TestFault20_Takeover(t *testing.T) {
	var got calls
	var lines logtest.Buffer
	cfg := forward.Config{
		Hooks: got.Hooks(), Takeover: true, PublishGrace: time.Minute, Resolver: forward.MustStatic("rtmp://a/live/" + canary),
		Logger: secretscan.Logger(slog.NewTextHandler(&lines, nil)),
	}
	inBubble(t, cfg, func(b *bubble) {
		d := b.Destination("a:1935")
		play := b.Play("live/s")
		pub := b.Publish("live/s")
		s := b.Published(d, 1)
		src := b.Server.Source("live/s")
		sent := make(chan error, 1)
		go func() { sent <- pub.Send(b.Ctx, steady.Messages(-1), 1) }()
		time.Sleep(3 * time.Second)

		next := b.Publish("live/s")
		_, err := b.ClientAt("192.0.2.2", "live/s").Publish(b.Ctx)
		require.Equal(b, "NetStream.Publish.BadName", forwardtest.RefusalCode(err), "a third one while the second has not begun")
		// The second starts in mid-GOP, with audio; the first continues meanwhile.
		skipped := 0
		late := func(yield func(forwardtest.Message) bool) {
			for m := range other.Messages(4 * time.Second) {
				if m.Type != forward.TagData && m.Payload[1] != 0 && m.Timestamp < other.Start+200 {
					skipped++
					continue
				}
				if !yield(m) {
					return
				}
			}
		}
		began := time.Now()
		require.NoError(b, next.Send(b.Ctx, late, 1))
		require.Error(b, <-sent, "the first one is disconnected")
		require.Positive(b, skipped)
		time.Sleep(time.Second)
		for _, rec := range []*forwardtest.Recorder{s.Recorder(), play.Recorder()} {
			frames := goesOn(b, rec, 100*time.Millisecond)
			require.GreaterOrEqual(b, frames[0], 75+20, "up to the other's keyframe, 0.8 to 1 s after it came")
			require.Positive(b, frames[1])
		}
		require.Less(b, time.Since(began), 10*time.Second)
		require.Len(b, lines.Lines("publisher has the stream"), 1)
		require.Empty(b, lines.Lines("publisher lost"), "the publisher was not waited for")
		require.Same(b, src, b.Server.Source("live/s"))
		require.Equal(b, 3, got.Get()["publish"]-got.Get()["unpublish"]+2, "of one")
		require.NoError(b, next.Unpublish())
		<-src.Done()
		require.Len(b, d.Sessions(), 1)
		require.Equal(b, 2, got.Get()["publish"])
		require.Equal(b, 2, got.Get()["unpublish"])
		measured(20, "second publisher takes over", "at a keyframe, timestamps continue", "as asked")
	})
}

// A next publisher that never sends a keyframe leaves the stream as it is.
func TestTakeoverWithoutKeyframe(t *testing.T) {
	refused := errors.New("no")
	hooks := forward.Hooks{OnPublish: func(_ context.Context, r *forward.Request) error {
		if r.Param == "?no" {
			return refused
		}
		return nil
	}}
	for name, try := range map[string]func(b *bubble){
		"refused": func(b *bubble) {
			c := b.Client("live/s")
			c.URL = "rtmp://server/live/s?no"
			_, err := c.Publish(b.Ctx)
			require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
		},
		"leaves": func(b *bubble) {
			p := b.Publish("live/s")
			require.NoError(b, p.Send(b.Ctx, func(yield func(forwardtest.Message) bool) {
				for m := range other.Messages(time.Second) {
					if m.Type != forward.TagVideo || m.Payload[1] == 0 {
						if !yield(m) {
							return
						}
					}
				}
			}, 1))
			p.Close()
		},
		"inside": func(b *bubble) {
			p, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
			require.NoError(b, err)
			require.NoError(b, p.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader))
			require.NoError(b, p.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, forward.Config{Hooks: hooks, Takeover: true}, func(b *bubble) {
				pub := b.Publish("live/s")
				play := b.Play("live/s")
				others := b.Neighbours(pub, steady, play.Recorder())
				time.Sleep(time.Second)
				try(b)
				time.Sleep(time.Second)
				noteIsolation(others.Check())
			})
		})
	}
}

// The stream may end while a hook decides about its next publisher: each accepted
// OnPublish is still followed by its OnUnpublish.
func TestTakeoverOfAStreamThatEnds(t *testing.T) {
	var got calls
	hooks := got.Hooks()
	hooks.OnPublish = func(_ context.Context, r *forward.Request) error {
		if r.Param == "?late" {
			time.Sleep(time.Minute)
		}
		got.Add("publish")
		return nil
	}
	inBubble(t, forward.Config{Hooks: hooks, Takeover: true}, func(b *bubble) {
		first, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
		require.NoError(b, err)
		refused := make(chan error, 1)
		go func() {
			_, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "s", Param: "?late"})
			refused <- err
		}()
		synctest.Wait()
		require.NoError(b, first.Source().Shutdown(b.Ctx))
		require.ErrorIs(b, <-refused, forward.ErrStreamEnded)
		require.Equal(b, 2, got.Get()["publish"])
		require.Equal(b, 2, got.Get()["unpublish"])
	})
}

// The first publisher may leave before the next one has taken over.
func TestTakeoverOfAPublisherThatLeaves(t *testing.T) {
	inBubble(t, forward.Config{Takeover: true}, func(b *bubble) {
		play := b.Play("live/s")
		pub := b.Publish("live/s")
		require.NoError(b, pub.Send(b.Ctx, steady.Messages(time.Second), 1))
		src := b.Server.Source("live/s")
		next := b.Publish("live/s")
		require.NoError(b, pub.Unpublish())
		time.Sleep(time.Second)
		require.Same(b, src, b.Server.Source("live/s"))
		require.NoError(b, next.Send(b.Ctx, other.Messages(time.Second), 1))
		time.Sleep(time.Second)
		require.Equal(b, [2]int{framesIn(steady, time.Second), framesIn(other, time.Second)}, goesOn(b, play.Recorder(), 3*time.Second))
		next.Close()
		<-src.Done()
	})
}

func TestTakeoverWithRawTimestamps(t *testing.T) {
	s := newServer(t, forward.Config{Takeover: true, RawTimestamps: true, MergeWindow: -1})
	first, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: canary})
	require.NoError(t, err)
	sub := first.Source().Subscribe(t.Context())
	defer sub.Close()
	second, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: canary})
	require.NoError(t, err)
	for _, w := range []struct {
		by *forward.Publisher
		at uint32
	}{{first, 40_000}, {second, 7}} {
		require.NoError(t, w.by.WriteTag(forward.TagVideo, w.at, rtmptest.VideoHeader))
		require.NoError(t, w.by.WriteTag(forward.TagVideo, w.at+10, []byte{0x17, 1, 0, 0, 0, 9}))
	}
	// Buffered messages come with the keyframe, at its timestamp.
	for _, want := range []uint32{40_000, 40_010, 17, 17} {
		m, err := sub.Next()
		require.NoError(t, err)
		require.Equal(t, want, m.Timestamp)
	}
	require.NoError(t, second.Close())
	<-first.Source().Done()
}

// An encoder may publish again on another message stream of its connection without
// ending the first. The stream continues, and so do the connection's other streams.
func TestTakeoverFromItself(t *testing.T) {
	var told pairs
	s := newServer(t, forward.Config{Takeover: true, Hooks: told.hooks(), MergeWindow: -1})
	c := rawPublisher(t, hosttest.ServeLoopback(t, s))
	c.publish("other")
	c.publish("cam")
	src := s.Source("live/cam")
	require.NoError(t, c.write(forward.TagVideo, 0, rtmptest.VideoHeader))
	require.NoError(t, c.write(forward.TagVideo, 0, rtmptest.Frame(true, 0)))
	for n := 1; n < 3; n++ { // it replaces first the publisher on air, then one that waits
		c.publish("cam")
	}
	require.NoError(t, c.write(forward.TagVideo, 0, rtmptest.VideoHeader))
	sub := src.Subscribe(t.Context())
	defer sub.Close()
	require.NoError(t, c.write(forward.TagVideo, 40, rtmptest.Frame(true, 1)))
	require.NoError(t, c.write(forward.TagVideo, 80, rtmptest.Frame(false, 2)))
	for last := 0; last != 2; {
		m, err := sub.Next()
		require.NoError(t, err)
		if m.Type == forward.TagVideo && m.Payload[1] == 1 {
			last = int(m.Payload[7])
		}
	}
	c.publish("third") // until it is answered
	require.Equal(t, 1, s.Stats().Connections)
	require.Equal(t, 3, s.Stats().Streams)
	require.Eventually(t, func() bool { return told.open(t) == 3 }, 5*time.Second, time.Millisecond)
}

// Publishers inside the process, one after the other; the last sends audio only.
func TestTakeoverInsideTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network forwardtest.Network
		s := newServer(t, forward.Config{Takeover: true, MergeWindow: -1, Dial: network.Dial})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		first, err := s.Publish(ctx, forward.Request{App: "live", Stream: canary})
		require.NoError(t, err)
		src := first.Source()
		sub := src.Subscribe(ctx)
		defer sub.Close()
		key, audioHeader, frame := []byte{0x17, 1, 0, 0, 0, 9}, []byte{0xaf, 0, 0x11, 0x88}, []byte{0xaf, 1, 2}
		require.NoError(t, first.WriteTag(forward.TagVideo, 40_000, rtmptest.VideoHeader))
		require.NoError(t, first.WriteTag(forward.TagVideo, 40_000, key))
		require.NoError(t, first.WriteTag(forward.TagAudio, 40_010, audioHeader))
		time.Sleep(time.Second)

		second, err := s.Publish(ctx, forward.Request{App: "live", Stream: canary})
		require.NoError(t, err)
		require.Same(t, src, second.Source())
		_, err = s.Publish(ctx, forward.Request{App: "live", Stream: canary})
		require.ErrorIs(t, err, forward.ErrStreamBusy)
		require.NoError(t, second.WriteTag(forward.TagAudio, 7, audioHeader))
		require.NoError(t, first.WriteTag(forward.TagVideo, 41_000, key))
		for i := range uint32(3) {
			require.NoError(t, second.WriteTag(forward.TagAudio, 7+1000*i, frame))
			time.Sleep(time.Second)
		}
		require.NoError(t, first.WriteTag(forward.TagVideo, 44_000, key), "a next publisher may have no video, but gets time to send some")
		require.NoError(t, second.WriteTag(forward.TagAudio, 3007, frame))
		synctest.Wait()
		require.ErrorIs(t, first.WriteTag(forward.TagVideo, 45_000, key), forward.ErrTakenOver)
		require.NoError(t, second.WriteTag(forward.TagAudio, 3030, frame))
		require.NoError(t, second.Close())
		var times []uint32
		for {
			m, err := sub.Next()
			if err != nil {
				require.ErrorIs(t, err, io.EOF)
				break
			}
			times = append(times, m.Timestamp)
		}
		require.Equal(t, []uint32{40_000, 40_000, 40_010, 41_000, 44_000, 44_001, 44_001, 44_024}, times, "from its first frame on, not its header")
		<-src.Done()
	})
}

// Publishers that displace each other, over sockets.
func TestTakeoverChurn(t *testing.T) {
	d := destinationOf(t, discarding)
	lo := onLoopback(t, forward.Config{Takeover: true, PublishGrace: time.Minute, Resolver: to(forward.Destination{URL: d.URL("live/" + canary)})})
	pub := lo.publish("live/s")
	s := lo.published(d, 1)
	src := lo.srv.Source("live/s")
	for i := range uint32(100) {
		media := forwardtest.Media{ID: i + 1, Start: i * 977}
		before := s.Recorder().Report().Keyframes
		require.NoError(t, pub.Send(lo.ctx, media.Messages(400*time.Millisecond), 0))
		lo.await("keyframe", func() bool { return s.Recorder().Report().Keyframes > before })
		old := pub
		switch i % 3 {
		case 0:
			old.Close()
		case 1:
			old.Reset()
		}
		lo.await("place", func() bool {
			next, err := lo.client("live/s").Publish(lo.ctx)
			if err == nil {
				pub = next
				lo.Cleanup(func() { next.Close() })
			}
			return err == nil
		})
		require.Same(t, src, lo.srv.Source("live/s"))
	}
	require.NoError(t, s.Recorder().Err())
	require.NoError(t, src.Shutdown(t.Context()))
	require.Len(t, d.Sessions(), 1)
}
