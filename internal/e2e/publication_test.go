package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// pairs counts OnPublish and OnUnpublish calls by Param.
type pairs struct {
	mu        sync.Mutex
	on, off   int
	wrong     bool
	published map[*forward.Request]bool
}

func (p *pairs) hooks() forward.Hooks {
	return forward.Hooks{
		OnPublish: func(_ context.Context, r *forward.Request) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.published == nil {
				p.published = make(map[*forward.Request]bool)
			}
			p.on++
			p.wrong = p.wrong || p.published[r]
			p.published[r] = true
			return nil
		},
		OnUnpublish: func(_ context.Context, r *forward.Request) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.off++
			p.wrong = p.wrong || !p.published[r]
			delete(p.published, r)
		},
	}
}

// open is how many publishes have had no OnUnpublish yet.
func (p *pairs) open(t require.TestingT) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	require.False(t, p.wrong, "OnUnpublish called twice, or for another publish")
	require.Equal(t, p.on-p.off, len(p.published))
	return len(p.published)
}

// A next publisher without a keyframe keeps others out for at most nextHold, and claims
// from its own address not at all. The stream is not disturbed.
func TestFault38_NextPublisherWithoutKeyframe(t *testing.T) {
	for _, row := range []struct {
		name  string
		from  string
		after time.Duration
		ok    bool
	}{
		{"another address, soon", "192.0.2.8", nextHold - time.Millisecond, false},
		{"another address, later", "192.0.2.8", nextHold, true},
		{"the same address", "192.0.2.7", 0, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			var told pairs
			inBubble(t, forward.Config{Takeover: true, Hooks: told.hooks()}, func(b *bubble) {
				pub, err := b.PublishAt("192.0.2.6", "live/s")
				require.NoError(b, err)
				play := b.Play("live/s")
				others := b.Neighbours(pub, steady, play.Recorder())
				idle, err := b.PublishAt("192.0.2.7", "live/s")
				require.NoError(b, err)
				b.SendWithoutKeyframes(idle)
				src := b.Server.Source("live/s")
				time.Sleep(row.after)
				if !row.ok {
					require.Equal(b, 2, told.open(b))
					noteIsolation(others.Check())
					return
				}
				next, err := b.PublishAt(row.from, "live/s")
				require.NoError(b, err)
				<-idle.Done()
				require.Equal(b, "NetStream.Publish.Rejected", forwardtest.RefusalCode(idle.Err()))
				synctest.Wait()
				require.Equal(b, 2, told.open(b))
				noteIsolation(others.Check())
				require.NoError(b, next.Send(b.Ctx, other.Messages(2*time.Second), 1))
				time.Sleep(time.Second)
				require.Positive(b, goesOn(b, play.Recorder(), 20*time.Second)[1])
				require.Equal(b, 1, told.open(b))
				require.Same(b, src, b.Server.Source("live/s"))
				measured(38, "next publisher without a keyframe, "+row.name, "another claim replaces it", "2 s, or immediately")
			})
		})
	}
}

// A next publisher without a keyframe that nobody replaces is disconnected after
// FirstMediaTimeout.
func TestFault38_NextPublisherIsLate(t *testing.T) {
	for name, drop := range map[string][]uint8{"audio and frames": nil, "frames alone": {forward.TagAudio}} {
		t.Run(name, func(t *testing.T) {
			var told pairs
			resolver := forward.ResolverFunc(func(_ context.Context, r *forward.Request) ([]forward.Destination, error) {
				return []forward.Destination{{URL: "rtmp://a/live/" + r.ClientID}}, nil
			})
			inBubble(t, forward.Config{Takeover: true, Hooks: told.hooks(), Resolver: resolver}, func(b *bubble) {
				d := b.Destination("a:1935")
				pub := b.Publish("live/s")
				b.Published(d, 1)
				src := b.Server.Source("live/s")
				req := src.Request()
				go pub.Send(b.Ctx, steady.Messages(-1), 1)
				idle := b.Publish("live/s")
				began := time.Now()
				go idle.Send(b.Ctx, without(other, drop...), 1)
				synctest.Wait()
				require.NotSame(b, req, src.Request())
				<-idle.Done()
				require.Equal(b, 15*time.Second, time.Since(began))
				require.Equal(b, "NetStream.Publish.Rejected", forwardtest.RefusalCode(idle.Err()))
				synctest.Wait()
				require.Equal(b, 1, told.open(b))
				require.Same(b, src, b.Server.Source("live/s"))
				require.Same(b, req, src.Request(), "as it was")
				time.Sleep(5 * time.Second)
				require.Len(b, src.Forwarders(), 1)
				require.Contains(b, src.Forwarders()[0].Destination().URL, req.ClientID, "where it goes, too")
			})
		})
	}
	// The first publisher may be late at the same time, and the stream end with it.
	for name, first := range map[string]bool{"inside the process": true, "the first one, too": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, forward.Config{Takeover: true}, func(b *bubble) {
				if pub := b.Publish("live/s"); first {
					go pub.Send(b.Ctx, steady.Messages(-1), 1)
				}
				p, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
				require.NoError(b, err)
				time.Sleep(16 * time.Second)
				synctest.Wait()
				require.ErrorIs(b, p.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader), forward.ErrNoKeyframe)
			})
		})
	}
}

// If no publisher has sent a keyframe in time, the stream ends, whoever claims it.
func TestFault38_NoKeyframeFromAnyPublisher(t *testing.T) {
	const grace = 20 * time.Second
	chain := func(b *bubble, src *forward.Source) {
		for i := 0; ; i++ {
			p, err := b.PublishAt(netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}).String(), "live/s")
			if b.Server.Source("live/s") != src {
				return
			}
			if err == nil {
				b.SendWithoutKeyframes(p)
			}
			time.Sleep(nextHold + 100*time.Millisecond)
		}
	}
	for name, row := range map[string]struct {
		cfg    forward.Config
		others func(b *bubble, src *forward.Source)
		leave  func(p *forwardtest.Publisher)
		after  time.Duration
	}{
		"grace, one": {forward.Config{PublishGrace: grace}, func(b *bubble, _ *forward.Source) { b.SendWithoutKeyframes(b.Publish("live/s")) },
			func(p *forwardtest.Publisher) { p.Close() }, grace},
		"grace, a publisher that leaves as it ends": {forward.Config{PublishGrace: grace}, func(b *bubble, _ *forward.Source) {
			p := b.Publish("live/s")
			b.SendWithoutKeyframes(p)
			time.Sleep(grace)
			p.Unpublish()
		}, func(p *forwardtest.Publisher) { p.Close() }, grace},
		"grace, a chain": {forward.Config{PublishGrace: grace}, chain, func(p *forwardtest.Publisher) { p.Close() }, grace},
		"unpublish in a takeover, a chain": {forward.Config{Takeover: true, FirstMediaTimeout: 9 * time.Second}, func(b *bubble, src *forward.Source) {
			chain(b, src)
		}, nil, 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var told pairs
			row.cfg.Hooks = told.hooks()
			inBubble(t, row.cfg, func(b *bubble) {
				play := b.Play("live/s")
				p := b.Publish("live/s")
				require.NoError(b, p.Send(b.Ctx, steady.Messages(time.Second), 1))
				src := b.Server.Source("live/s")
				if row.leave == nil {
					b.SendWithoutKeyframes(b.Publish("live/s"))
					require.NoError(b, p.Unpublish())
				} else {
					row.leave(p)
				}
				synctest.Wait()
				began := time.Now()
				go row.others(b, src)
				<-src.Done()
				require.Equal(b, row.after, time.Since(began))
				time.Sleep(time.Minute)
				require.Zero(b, told.open(b)-len(b.Server.Sources()))

				// Its players wait, and the real encoder is accepted.
				for _, s := range b.Server.Sources() {
					s.Close()
					<-s.Done()
				}
				require.NoError(b, b.Publish("live/s").Send(b.Ctx, other.Messages(2*time.Second), 1))
				time.Sleep(time.Second)
				require.NoError(b, play.Recorder().Err())
				require.Equal(b, framesIn(other, 2*time.Second), goesOn(b, play.Recorder(), 3*time.Minute)[1])
			})
		})
	}
}

// A publisher whose hook hangs holds nothing.
func TestFault38_HookThatHangs(t *testing.T) {
	for name, cfg := range map[string]forward.Config{
		"takeover": {Takeover: true},
		"grace":    {PublishGrace: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			var told pairs
			cfg.Hooks = told.hooks()
			asked := cfg.Hooks.OnPublish
			var hang time.Duration
			cfg.Hooks.OnPublish = func(ctx context.Context, r *forward.Request) error {
				if strings.HasPrefix(r.RemoteAddr.String(), "192.0.2.66:") {
					time.Sleep(hang)
				}
				return asked(ctx, r)
			}
			inBubble(t, cfg, func(b *bubble) {
				hang = 30 * time.Second
				play := b.Play("live/s")
				p := b.Publish("live/s")
				require.NoError(b, p.Send(b.Ctx, steady.Messages(time.Second), 1))
				src := b.Server.Source("live/s")
				if !cfg.Takeover {
					p.Close()
				}
				hung := make(chan error, 1)
				go func() {
					c := b.ClientAt("192.0.2.66", "live/s")
					_, err := c.Publish(b.Ctx)
					hung <- err
				}()
				time.Sleep(time.Second)
				next, err := b.PublishAt("192.0.2.9", "live/s")
				require.NoError(b, err)
				stop, cancel := context.WithCancel(b.Ctx)
				go next.Send(stop, other.Messages(-1), 1)
				time.Sleep(10 * time.Second)
				require.Same(b, src, b.Server.Source("live/s"))
				require.Positive(b, goesOn(b, play.Recorder(), 5*time.Second)[1])
				err = <-hung
				if !cfg.Takeover {
					require.Equal(b, "NetStream.Publish.BadName", forwardtest.RefusalCode(err))
					synctest.Wait()
					require.Equal(b, 1, told.open(b))
				}
				cancel()
				src.Close()
				<-src.Done()
				require.Zero(b, told.open(b))
			})
		})
	}
}

// A next publisher with audio only continues a stream that had video, once the time for
// video to come has passed.
func TestNextPublisherWithAudioAlone(t *testing.T) {
	inBubble(t, forward.Config{PublishGrace: time.Minute}, func(b *bubble) {
		play := b.Play("live/s")
		p := b.Publish("live/s")
		require.NoError(b, p.Send(b.Ctx, steady.Messages(time.Second), 1))
		src := b.Server.Source("live/s")
		p.Close()
		synctest.Wait()
		next := b.Publish("live/s")
		require.NoError(b, next.Send(b.Ctx, forwardtest.Media{ID: 2, VideoBitrate: -1}.Messages(5*time.Second), 1))
		time.Sleep(time.Second)
		require.NoError(b, play.Recorder().Err())
		got := play.Recorder().Messages()
		require.EqualValues(b, forward.TagAudio, got[len(got)-1].Type)
		time.Sleep(time.Minute)
		require.Same(b, src, b.Server.Source("live/s"))
	})
}

var errRefusedByTest = errors.New("refused")

// What was reserved for a refused publisher is released with it.
func TestRefusedNextPublishersHoldNothing(t *testing.T) {
	cfg := forward.Config{Takeover: true, Hooks: forward.Hooks{OnPublish: func(_ context.Context, r *forward.Request) error {
		if strings.HasPrefix(r.RemoteAddr.String(), "192.0.2.66:") {
			time.Sleep(time.Second)
			return errRefusedByTest
		}
		return nil
	}}}
	inBubble(t, cfg, func(b *bubble) {
		pub := b.Publish("live/s")
		play := b.Play("live/s")
		others := b.Neighbours(pub, steady, play.Recorder())
		for range 50 {
			go b.PublishAt("192.0.2.66", "live/s")
		}
		synctest.Wait()
		_, err := b.PublishAt("192.0.2.9", "live/s")
		require.NoError(b, err, "a refused publisher keeps nobody out")
		time.Sleep(5 * time.Second)
		noteIsolation(others.Check())
	})
}

// The error tells a host that the stream has ended which its own publisher was about to
// continue.
func TestNextPublisherOfAStreamThatEnds(t *testing.T) {
	inBubble(t, forward.Config{PublishGrace: 5 * time.Second}, func(b *bubble) {
		pub := b.Publish("live/s")
		require.NoError(b, pub.Send(b.Ctx, steady.Messages(time.Second), 1))
		src := b.Server.Source("live/s")
		pub.Close()
		synctest.Wait()
		p, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
		require.NoError(b, err)
		<-src.Done()
		synctest.Wait()
		require.ErrorIs(b, p.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader), forward.ErrStreamEnded)
	})
}

// The headers of a next publisher count in the memory budget while they wait for its
// keyframe. Those that are no longer in force are not kept.
func TestHeadersOfNextPublishersAreCounted(t *testing.T) {
	const streams, budget = 20, 8 << 20
	inBubble(t, forward.Config{Takeover: true, MemoryBudget: budget, FirstMediaTimeout: time.Hour}, func(b *bubble) {
		here := func(i int) *forward.Publisher {
			p, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: fmt.Sprint(i)})
			require.NoError(b, err)
			return p
		}
		var first, next []*forward.Publisher
		for i := range streams {
			first = append(first, here(i))
			require.NoError(b, first[i].WriteTag(forward.TagVideo, 0, rtmptest.Frame(true, 0)))
		}
		before := b.Server.Stats().Buffered
		header := append([]byte{0x17, 0, 0, 0, 0}, make([]byte, 100_000)...)
		for i := range streams {
			next = append(next, here(i))
			for n := range 30 {
				header[5] = byte(n)
				require.NoError(b, next[i].WriteTag(forward.TagVideo, 0, header))
				require.LessOrEqual(b, b.Server.Stats().Buffered, budget)
			}
			if i == 0 {
				held := b.Server.Stats().Buffered - before
				require.GreaterOrEqual(b, held, len(header))
				require.LessOrEqual(b, held, 2*len(header)+1<<12, "the last message and the header in force")
			}
		}
		require.GreaterOrEqual(b, b.Server.Stats().Buffered-before, streams*len(header))
		require.NoError(b, next[0].WriteTag(forward.TagVideo, 0, rtmptest.Frame(true, 0)))
		require.Equal(b, uint64(2+1), first[0].Source().Stats().Messages, "with the last header that came before it")
		for _, p := range next[1:] {
			require.NoError(b, p.Close())
		}
		next[0].Source().Close()
		<-next[0].Source().Done()
		synctest.Wait()
		require.Less(b, b.Server.Stats().Buffered, before)
	})
}
