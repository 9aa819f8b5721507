package forward

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

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// other is what another publisher sends, with times of its own.
var other = forwardtest.Media{ID: 2, KeyframeInterval: time.Second, AudioBitrate: 32_000, Start: 5000}

// goesOn checks a receiver of two publishers, one after the other, and returns
// how many frames it has of each. Times go forward, with no more than gap
// between two, and the second one's headers come before its keyframe.
func goesOn(t require.TestingT, rec *forwardtest.Recorder, gap time.Duration) (frames [2]int) {
	require.NoError(t, rec.Err())
	var last uint32
	for i, m := range rec.Messages() {
		if m.Type == TagData {
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
			if m.Type == TagData || m.Payload[1] == 0 {
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

// framesIn is how many frames a Media has in the time d.
func framesIn(media forwardtest.Media, d time.Duration) (n int) {
	for m := range media.Messages(d) {
		if m.Type != TagData && m.Payload[1] != 0 {
			n++
		}
	}
	return n
}

func TestFault17_PublishGrace(t *testing.T) {
	var got calls
	cfg := Config{Hooks: got.hooks(), PublishGrace: 20 * time.Second, Resolver: MustStatic("rtmp://a/live/" + canary)}
	for name, lose := range map[string]func(*forwardtest.Publisher){
		"closed": func(p *forwardtest.Publisher) { p.Close() },
		"reset":  func(p *forwardtest.Publisher) { p.Reset() },
		"silent": func(p *forwardtest.Publisher) { p.Vanish() },
	} {
		t.Run(name, func(t *testing.T) {
			got = calls{}
			inBubble(t, cfg, func(b *bubble) {
				d := b.destination("a:1935")
				play := b.play("live/" + canary)
				p := b.publish("live/" + canary)
				s := b.published(d, 1)
				src := b.srv.Source("live/" + canary)
				first := src.Request()
				require.NoError(b, p.Send(b.ctx, steady.Messages(2*time.Second), 1))
				time.Sleep(time.Second) // a reset throws away what is not read
				lose(p)
				time.Sleep(15 * time.Second) // silence is noticed after 10 s
				require.Same(b, src, b.srv.Source("live/"+canary))
				require.Equal(b, 1, got.get()["unpublish"], "told at once")

				again := b.publish("live/" + canary)
				require.NotSame(b, first, src.Request())
				require.NoError(b, again.Send(b.ctx, other.Messages(2*time.Second), 1))
				time.Sleep(time.Second)
				late := b.play("live/" + canary)
				require.NoError(b, late.Recorder().WaitFrames(b.ctx, 1))
				time.Sleep(time.Second)
				require.Same(b, src, b.srv.Source("live/"+canary))
				for _, rec := range []*forwardtest.Recorder{s.Recorder(), play.Recorder()} {
					require.Equal(b, [2]int{framesIn(steady, 2*time.Second), framesIn(other, 2*time.Second)}, goesOn(b, rec, 17*time.Second))
				}
				require.NoError(b, late.Recorder().Err())
				require.Zero(b, goesOn(b, late.Recorder(), time.Second)[0], "nothing of the one before")

				require.NoError(b, again.Unpublish())
				<-src.Done()
				require.Len(b, d.Sessions(), 1)
				require.Equal(b, []string{"FCUnpublish", "deleteStream"}, names(s)[len(names(s))-2:])
				require.Equal(b, 2, got.get()["publish"])
				require.Equal(b, 2, got.get()["unpublish"])
				measured(17, "publisher "+name+", back within PublishGrace", "destinations are held", "1 connection, nothing lost")
			})
		})
	}
}

// Who was lost before anything came has left no times to go on from.
func TestPublishGraceWithoutMedia(t *testing.T) {
	inBubble(t, Config{PublishGrace: time.Minute}, func(b *bubble) {
		play := b.play("live/s")
		b.publish("live/s").Close()
		time.Sleep(time.Second)
		require.NoError(b, b.publish("live/s").Send(b.ctx, other.Messages(time.Second), 1))
		time.Sleep(time.Second)
		require.NoError(b, play.Recorder().Err())
		messages := play.Recorder().Messages()
		require.Zero(b, messages[0].Timestamp)
		require.Less(b, messages[len(messages)-1].Timestamp, uint32(1000))
	})
}

func TestPublishGraceEnds(t *testing.T) {
	const grace = 20 * time.Second
	cfg := Config{
		PublishGrace: grace, Resolver: MustStatic("rtmp://a/live/" + canary),
		Hooks: Hooks{OnPublish: func(ctx context.Context, r *PublishRequest) error {
			if strings.Contains(r.Param, "decide") {
				<-ctx.Done()
			}
			return ctx.Err()
		}},
	}
	start := func(b *bubble) (*forwardtest.Publisher, *Source) {
		d := b.destination("a:1935")
		p := b.publish("live/s")
		b.published(d, 1)
		require.NoError(b, p.Send(b.ctx, steady.Messages(time.Second), 1))
		synctest.Wait()
		return p, b.srv.Source("live/s")
	}
	for name, c := range map[string]struct {
		end   func(b *bubble, p *forwardtest.Publisher, src *Source)
		after time.Duration
	}{
		"nobody comes":   {func(_ *bubble, p *forwardtest.Publisher, _ *Source) { p.Close() }, grace},
		"unpublish":      {func(_ *bubble, p *forwardtest.Publisher, _ *Source) { p.Unpublish() }, 0},
		"closed by host": {func(b *bubble, _ *forwardtest.Publisher, src *Source) { go src.Shutdown(b.ctx) }, 0},
		"closed while it": {func(b *bubble, p *forwardtest.Publisher, src *Source) {
			p.Close()
			synctest.Wait()
			go src.Shutdown(b.ctx)
		}, 0},
		"Shutdown": {func(b *bubble, p *forwardtest.Publisher, _ *Source) {
			p.Close()
			synctest.Wait()
			require.NoError(b, b.srv.Shutdown(b.ctx))
		}, 0},
		"Close": {func(b *bubble, p *forwardtest.Publisher, _ *Source) { p.Close(); synctest.Wait(); b.srv.Close() }, 0},
		"one who sends nothing": {func(b *bubble, p *forwardtest.Publisher, _ *Source) {
			p.Close()
			time.Sleep(10 * time.Second)
			b.publish("live/s")
		}, grace},
		"one about whom the host decides": {func(b *bubble, p *forwardtest.Publisher, src *Source) {
			p.Close()
			time.Sleep(10 * time.Second)
			go b.client("live/s?decide").Publish(b.ctx)
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
	cfg := Config{
		Hooks: got.hooks(), Takeover: true, PublishGrace: time.Minute, Resolver: MustStatic("rtmp://a/live/" + canary),
		Logger: secretscan.Logger(slog.NewTextHandler(&lines, nil)),
	}
	inBubble(t, cfg, func(b *bubble) {
		d := b.destination("a:1935")
		play := b.play("live/s")
		pub := b.publish("live/s")
		s := b.published(d, 1)
		src := b.srv.Source("live/s")
		sent := make(chan error, 1)
		go func() { sent <- pub.Send(b.ctx, steady.Messages(-1), 1) }()
		time.Sleep(3 * time.Second)

		next := b.publish("live/s")
		_, err := b.clientAt("192.0.2.2", "live/s").Publish(b.ctx)
		require.Equal(b, "NetStream.Publish.BadName", forwardtest.RefusalCode(err), "a third one while the second has not begun")
		// It begins in mid-GOP, with audio: the first one goes on meanwhile.
		skipped := 0
		late := func(yield func(forwardtest.Message) bool) {
			for m := range other.Messages(4 * time.Second) {
				if m.Type != TagData && m.Payload[1] != 0 && m.Timestamp < other.Start+200 {
					skipped++
					continue
				}
				if !yield(m) {
					return
				}
			}
		}
		began := time.Now()
		require.NoError(b, next.Send(b.ctx, late, 1))
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
		require.Empty(b, lines.Lines("publisher lost"), "he was not waited for")
		require.Same(b, src, b.srv.Source("live/s"))
		require.Equal(b, 3, got.get()["publish"]-got.get()["unpublish"]+2, "of one")
		require.NoError(b, next.Unpublish())
		<-src.Done()
		require.Len(b, d.Sessions(), 1)
		require.Equal(b, 2, got.get()["publish"])
		require.Equal(b, 2, got.get()["unpublish"])
		measured(20, "second publisher takes over", "at a keyframe, times go on", "as asked")
	})
}

// Whoever does not get as far as a keyframe leaves the stream as it is.
func TestTakeoverThatComesToNothing(t *testing.T) {
	refused := errors.New("no")
	hooks := Hooks{OnPublish: func(_ context.Context, r *PublishRequest) error {
		if r.Param == "?no" {
			return refused
		}
		return nil
	}}
	for name, try := range map[string]func(b *bubble){
		"refused": func(b *bubble) {
			c := b.client("live/s")
			c.URL = "rtmp://server/live/s?no"
			_, err := c.Publish(b.ctx)
			require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
		},
		"leaves": func(b *bubble) {
			p := b.publish("live/s")
			require.NoError(b, p.Send(b.ctx, func(yield func(forwardtest.Message) bool) {
				for m := range other.Messages(time.Second) {
					if m.Type != TagVideo || m.Payload[1] == 0 {
						if !yield(m) {
							return
						}
					}
				}
			}, 1))
			p.Close()
		},
		"inside": func(b *bubble) {
			p, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "s"})
			require.NoError(b, err)
			require.NoError(b, p.WriteTag(TagVideo, 0, rtmptest.VideoHeader))
			require.NoError(b, p.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{Hooks: hooks, Takeover: true}, func(b *bubble) {
				pub := b.publish("live/s")
				play := b.play("live/s")
				others := b.neighbours(pub, steady, play.Recorder())
				time.Sleep(time.Second)
				try(b)
				time.Sleep(time.Second)
				noteIsolation(others.check())
			})
		})
	}
}

// The stream may end while the host decides about who is to take it over: each
// accepted OnPublish is followed by its OnUnpublish all the same.
func TestTakeoverOfAStreamThatEnds(t *testing.T) {
	var got calls
	hooks := got.hooks()
	hooks.OnPublish = func(_ context.Context, r *PublishRequest) error {
		if r.Param == "?late" {
			time.Sleep(time.Minute)
		}
		got.add("publish")
		return nil
	}
	inBubble(t, Config{Hooks: hooks, Takeover: true}, func(b *bubble) {
		first, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "s"})
		require.NoError(b, err)
		refused := make(chan error, 1)
		go func() {
			_, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "s", Param: "?late"})
			refused <- err
		}()
		synctest.Wait()
		require.NoError(b, first.Source().Shutdown(b.ctx))
		require.ErrorIs(b, <-refused, ErrStreamEnded)
		require.Equal(b, 2, got.get()["publish"])
		require.Equal(b, 2, got.get()["unpublish"])
	})
}

// The one before may leave while the next one has not begun yet.
func TestTakeoverOfOneWhoLeaves(t *testing.T) {
	inBubble(t, Config{Takeover: true}, func(b *bubble) {
		play := b.play("live/s")
		pub := b.publish("live/s")
		require.NoError(b, pub.Send(b.ctx, steady.Messages(time.Second), 1))
		src := b.srv.Source("live/s")
		next := b.publish("live/s")
		require.NoError(b, pub.Unpublish())
		time.Sleep(time.Second)
		require.Same(b, src, b.srv.Source("live/s"))
		require.NoError(b, next.Send(b.ctx, other.Messages(time.Second), 1))
		time.Sleep(time.Second)
		require.Equal(b, [2]int{framesIn(steady, time.Second), framesIn(other, time.Second)}, goesOn(b, play.Recorder(), 3*time.Second))
		next.Close()
		<-src.Done()
	})
}

func TestTakeoverWithRawTimestamps(t *testing.T) {
	s := newServer(t, Config{Takeover: true, RawTimestamps: true, MergeWindow: -1})
	first, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: canary})
	require.NoError(t, err)
	sub := first.Source().Subscribe(t.Context())
	defer sub.Close()
	second, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: canary})
	require.NoError(t, err)
	for _, w := range []struct {
		by *Publisher
		at uint32
	}{{first, 40_000}, {second, 7}} {
		require.NoError(t, w.by.WriteTag(TagVideo, w.at, rtmptest.VideoHeader))
		require.NoError(t, w.by.WriteTag(TagVideo, w.at+10, []byte{0x17, 1, 0, 0, 0, 9}))
	}
	// What waited comes with its keyframe, at that one's time.
	for _, want := range []uint32{40_000, 40_010, 17, 17} {
		m, err := sub.Next()
		require.NoError(t, err)
		require.Equal(t, want, m.Timestamp)
	}
	require.NoError(t, second.Close())
	<-first.Source().Done()
}

// One after the other inside the process; the last has audio alone.
// An encoder may begin again on another message stream of its connection, without
// an end of the first. It goes on, and so does what else it publishes.
func TestTakeoverFromItself(t *testing.T) {
	var told pairs
	s := newServer(t, Config{Takeover: true, Hooks: told.hooks(), MergeWindow: -1})
	c := rawPublisher(t, overLoopback(t, s))
	c.publish("other")
	c.publish("cam")
	src := s.Source("live/cam")
	require.NoError(t, c.write(TagVideo, 0, rtmptest.VideoHeader))
	require.NoError(t, c.write(TagVideo, 0, rtmptest.Frame(true, 0)))
	for n := 1; n < 3; n++ { // once in the place of one on air, once of one that waits
		c.publish("cam")
	}
	require.NoError(t, c.write(TagVideo, 0, rtmptest.VideoHeader))
	sub := src.Subscribe(t.Context())
	defer sub.Close()
	require.NoError(t, c.write(TagVideo, 40, rtmptest.Frame(true, 1)))
	require.NoError(t, c.write(TagVideo, 80, rtmptest.Frame(false, 2)))
	for last := 0; last != 2; {
		m, err := sub.Next()
		require.NoError(t, err)
		if m.Type == TagVideo && m.Payload[1] == 1 {
			last = int(m.Payload[7])
		}
	}
	c.publish("third") // is answered
	require.Equal(t, 1, s.Stats().Connections)
	require.Equal(t, 3, s.Stats().Streams)
	require.Eventually(t, func() bool { return told.open(t) == 3 }, 5*time.Second, time.Millisecond)
}

func TestTakeoverInsideTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network forwardtest.Network
		s := newServer(t, Config{Takeover: true, MergeWindow: -1, Dial: network.Dial})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		first, err := s.Publish(ctx, PublishRequest{App: "live", Stream: canary})
		require.NoError(t, err)
		src := first.Source()
		sub := src.Subscribe(ctx)
		defer sub.Close()
		key, audioHeader, frame := []byte{0x17, 1, 0, 0, 0, 9}, []byte{0xaf, 0, 0x11, 0x88}, []byte{0xaf, 1, 2}
		require.NoError(t, first.WriteTag(TagVideo, 40_000, rtmptest.VideoHeader))
		require.NoError(t, first.WriteTag(TagVideo, 40_000, key))
		require.NoError(t, first.WriteTag(TagAudio, 40_010, audioHeader))
		time.Sleep(time.Second)

		second, err := s.Publish(ctx, PublishRequest{App: "live", Stream: canary})
		require.NoError(t, err)
		require.Same(t, src, second.Source())
		_, err = s.Publish(ctx, PublishRequest{App: "live", Stream: canary})
		require.ErrorIs(t, err, ErrStreamBusy)
		require.NoError(t, second.WriteTag(TagAudio, 7, audioHeader))
		require.NoError(t, first.WriteTag(TagVideo, 41_000, key))
		for i := range uint32(3) {
			require.NoError(t, second.WriteTag(TagAudio, 7+1000*i, frame))
			time.Sleep(time.Second)
		}
		require.NoError(t, first.WriteTag(TagVideo, 44_000, key), "a second may have no video, and is given time to have some")
		require.NoError(t, second.WriteTag(TagAudio, 3007, frame))
		synctest.Wait()
		require.ErrorIs(t, first.WriteTag(TagVideo, 45_000, key), ErrTakenOver)
		require.NoError(t, second.WriteTag(TagAudio, 3030, frame))
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

// Headers that wait for the next publisher's keyframe are bounded.
func TestTakeoverWithHeadersAlone(t *testing.T) {
	s := newServer(t, Config{Takeover: true})
	first, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: canary})
	require.NoError(t, err)
	second, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: canary})
	require.NoError(t, err)
	for range 10 * maxWaiting {
		require.NoError(t, second.WriteTag(TagVideo, 0, rtmptest.VideoHeader))
	}
	require.Len(t, second.pub.waiting, maxWaiting)
	large := slices.Concat(rtmptest.VideoHeader, make([]byte, maxWaitingBytes/2))
	for range 3 {
		require.NoError(t, second.WriteTag(TagVideo, 0, large))
	}
	require.Len(t, second.pub.waiting, 1)
	require.NoError(t, first.Close())
	require.NoError(t, second.Close())
	<-first.Source().Done()
}

// Publishers that throw each other out, over sockets.
func TestTakeoverChurn(t *testing.T) {
	d := destinationOf(t, discarding)
	lo := onLoopback(t, Config{Takeover: true, PublishGrace: time.Minute, Resolver: to(Destination{URL: d.URL("live/" + canary)})})
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
