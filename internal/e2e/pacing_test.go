package e2e

import (
	"context"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// byTheClock gives messages the timestamps at which they are sent, however many there
// are.
func byTheClock(media forwardtest.Media, n int) func(yield func(forwardtest.Message) bool) {
	began := time.Now()
	return func(yield func(forwardtest.Message) bool) {
		for m := range media.Messages(-1) {
			m.Timestamp = uint32(time.Since(began).Milliseconds())
			if n--; n < 0 || !yield(m) {
				return
			}
		}
	}
}

// whole requires that a receiver misses nothing of n messages with frames.
func whole(t testing.TB, rec *forwardtest.Recorder, frames int) {
	t.Helper()
	r := rec.Report()
	require.Equal(t, uint64(1), r.First)
	require.Equal(t, frames, r.Frames)
	require.Zero(t, r.Missing)
}

// A publisher without pacing whose timestamps follow the clock: only the lag of its
// receivers shows that it is fast.
func TestFault33_FastByTheClock(t *testing.T) {
	const n = 8_000
	media := forwardtest.Media{ID: 3, VideoBitrate: 2_000_000, AudioBitrate: -1} // 10 kB
	for name, rates := range map[string][]int{
		"alike":     {30 << 20, 30 << 20},
		"different": {20 << 20, 40 << 20, 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			var urls []string
			for i := range rates {
				urls = append(urls, "rtmp://"+string(rune('a'+i))+"/live/"+canary)
			}
			inBubble(t, forward.Config{Resolver: forward.MustStatic(urls...), DrainTimeout: time.Minute}, func(b *bubble) {
				var all []*forwardtest.Destination
				for i, rate := range rates {
					all = append(all, b.Destination(string(rune('a'+i))+":1935", reads(rate)))
				}
				p := b.Publish("live/fast")
				var recs []*forwardtest.Recorder
				for _, d := range all {
					recs = append(recs, b.Published(d, 1).Recorder())
				}
				began := time.Now()
				require.NoError(b, p.Send(b.Ctx, byTheClock(media, n), 0))
				took := time.Since(began)
				require.NoError(b, p.Unpublish())
				for _, rec := range recs {
					require.NoError(b, rec.WaitFrames(b.Ctx, n-2))
					whole(b, rec, n-2)
				}
				rate := float64(n) * 10_000 / took.Seconds() / (1 << 20)
				require.Greater(b, rate, 0.8*float64(slices.Min(rates))/(1<<20), "the publisher waits too long")
				measured(33, "fast by the clock, destinations "+name, "0 lost", "%d frames, 0 lost, %.0f MB/s", n, rate)
			})
		})
	}
}

// A player that takes less than the media's bitrate delays nobody: neither a file sent
// at full speed nor a live stream that started with a GOP of 8 s.
func TestFault34_SlowPlayer(t *testing.T) {
	file := forwardtest.Media{ID: 4, VideoBitrate: 8_000_000, AudioBitrate: -1}
	for name, row := range map[string]struct {
		destination bool
		send        func(b *bubble, p *forwardtest.Publisher) error
	}{
		"a file, a destination": {true, func(b *bubble, p *forwardtest.Publisher) error {
			return p.Send(b.Ctx, file.Messages(time.Minute), 0)
		}},
		"a file, another player": {false, func(b *bubble, p *forwardtest.Publisher) error {
			return p.Send(b.Ctx, file.Messages(time.Minute), 0)
		}},
		"joined in mid-GOP": {false, func(b *bubble, p *forwardtest.Publisher) error {
			first := 0
			for m := range file.Messages(time.Minute) {
				if first++; first > 200 {
					break
				}
				if err := p.WriteMessage(m); err != nil {
					return err
				}
			}
			return p.Send(b.Ctx, func(yield func(forwardtest.Message) bool) {
				n := 0
				for m := range file.Messages(time.Minute) {
					if n++; n > 200 && !yield(m) {
						return
					}
				}
			}, 1)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := forward.Config{DrainTimeout: time.Minute}
			if row.destination {
				cfg.Resolver = forward.MustStatic("rtmp://a/live/" + canary)
			}
			inBubble(t, cfg, func(b *bubble) {
				p := b.Publish("live/fast")
				var healthy *forwardtest.Recorder
				if row.destination {
					healthy = b.Published(b.Destination("a:1935", reads(20<<20)), 1).Recorder()
				} else {
					healthy = b.PlayAtRate("live/fast", 20<<20).Recorder()
				}
				slow := b.PlayAtRate("live/fast", 200_000)
				synctest.Wait()
				gaps := watchArrivals(b.Ctx, healthy)
				require.NoError(b, row.send(b, p))
				time.Sleep(time.Second)
				gaps.Stop()
				require.NoError(b, p.Unpublish())
				require.NoError(b, healthy.WaitFrames(b.Ctx, 25))
				synctest.Wait()
				require.Zero(b, healthy.Report().Missing)
				require.LessOrEqual(b, gaps.Longest(), 200*time.Millisecond)
				slow.Close()
				measured(34, "slow player beside: "+name, "gaps <= 200 ms, publisher not ended", "longest gap %v", gaps.Longest())
			})
		})
	}
}

// An encoder that was cut off for 8 s sends its backlog in one burst.
func TestFault35_CatchesUp(t *testing.T) {
	inBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a/live/"+canary, "rtmp://b/live/"+canary)}, func(b *bubble) {
		slower, faster := b.Destination("a:1935", reads(7_500_000)), b.Destination("b:1935")
		p := b.Publish("live/s")
		recs := []*forwardtest.Recorder{b.Published(slower, 1).Recorder(), b.Published(faster, 1).Recorder()}
		media := forwardtest.Media{ID: 5, VideoBitrate: 20_000_000, AudioBitrate: -1}
		messages := slices.Collect(media.Messages(30 * time.Second))
		began := time.Now()
		for i, m := range messages {
			due := began.Add(time.Duration(m.Timestamp) * time.Millisecond)
			if cut := began.Add(10 * time.Second); due.After(cut) && due.Before(cut.Add(8*time.Second)) {
				due = cut.Add(8 * time.Second)
			}
			time.Sleep(time.Until(due))
			require.NoError(b, p.WriteMessage(m), i)
		}
		for _, rec := range recs {
			require.NoError(b, rec.WaitFrames(b.Ctx, 750))
			whole(b, rec, 750)
		}
		late := time.Since(began) - 30*time.Second
		require.Less(b, late, time.Second, "it has caught up")
		measured(35, "catches up after 8 s", "0 lost", "750 frames, 0 lost, live again")
	})
}

// Audio and video of a file whose timestamps start 3 s apart.
func TestFault35_TimesApart(t *testing.T) {
	inBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary), DrainTimeout: time.Minute}, func(b *bubble) {
		d := b.Destination("a:1935", reads(2<<20))
		p := b.Publish("live/s")
		rec := b.Published(d, 1).Recorder()
		media := forwardtest.Media{ID: 6, VideoBitrate: 4_000_000}
		frames := 0
		require.NoError(b, p.Send(b.Ctx, func(yield func(forwardtest.Message) bool) {
			for m := range media.Messages(2 * time.Minute) {
				if m.Type == forwardtest.TypeAudio {
					m.Timestamp += 3000
				}
				if len(m.Payload) >= 64 && m.Type != forwardtest.TypeData {
					frames++
				}
				if !yield(m) {
					return
				}
			}
		}, 0))
		require.NoError(b, p.Unpublish())
		require.NoError(b, rec.WaitFrames(b.Ctx, frames))
		whole(b, rec, frames)
	})
}

// The same pacing for a publisher inside the process. Time that it was made to wait
// does not count as lateness.
func TestFault33_InsideTheProcess(t *testing.T) {
	for name, clock := range map[string]bool{"a file": false, "by the clock": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary), DrainTimeout: time.Minute}, func(b *bubble) {
				d := b.Destination("a:1935", reads(30<<20))
				p, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
				require.NoError(b, err)
				rec := b.Published(d, 1).Recorder()
				messages := forwardtest.Media{ID: 7, VideoBitrate: 2_000_000, AudioBitrate: -1}.Messages(160 * time.Second)
				if clock {
					messages = byTheClock(forwardtest.Media{ID: 7, VideoBitrate: 2_000_000, AudioBitrate: -1}, 4_002)
				}
				longest := time.Duration(0)
				frames := -3
				for m := range messages {
					began := time.Now()
					require.NoError(b, p.WriteTag(m.Type, m.Timestamp, m.Payload))
					longest = max(longest, time.Since(began))
					frames++
				}
				require.LessOrEqual(b, longest, 200*time.Millisecond)
				require.NoError(b, p.Close())
				require.NoError(b, rec.WaitFrames(b.Ctx, 3900))
				<-p.Source().Done()
				require.Zero(b, rec.Report().Missing)
				require.InDelta(b, frames, rec.Report().Frames, 3)
			})
		})
	}
}

// A publisher that is held back for a minute is not disconnected for silence.
func TestFault34_WaitingIsNoSilence(t *testing.T) {
	cfg := forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary), ReadTimeout: 60 * time.Millisecond, DrainTimeout: time.Minute, MergeWindow: -1}
	inBubble(t, cfg, func(b *bubble) {
		d := b.Destination("a:1935", reads(120_000))
		p := b.Publish("live/s")
		rec := b.Published(d, 1).Recorder()
		media := forwardtest.Media{ID: 8, VideoBitrate: 800_000, AudioBitrate: -1, FPS: 5}
		require.NoError(b, p.Send(b.Ctx, media.Messages(2*time.Minute), 0))
		require.NoError(b, p.Unpublish())
		require.NoError(b, rec.WaitFrames(b.Ctx, 600))
		whole(b, rec, 600)
	})
}

// While a hook decides about a publish, the connection is not read. This time does not
// count as silence of its other streams.
func TestFault34_HookIsNoSilence(t *testing.T) {
	cfg := forward.Config{Hooks: forward.Hooks{OnPublish: func(_ context.Context, r *forward.Request) error {
		if r.Stream == "third" {
			time.Sleep(25 * time.Second)
		}
		return nil
	}}}
	inBubble(t, cfg, func(b *bubble) {
		nc, err := b.Net.Dial(b.Ctx, "tcp", "server:1935")
		require.NoError(b, err)
		defer nc.Close()
		require.NoError(b, rtmp.ClientHandshake(nc, false))
		send := func(p []byte) error { _, err := nc.Write(p); return err }
		const size = 60000
		client := rtmp.NewConn(nc, send, 4096, size, rtmptest.NoLimits)
		require.NoError(b, rtmp.NewClient(client, rtmp.Options{App: "live", TcURL: "rtmp://server/live", Key: "first"}).Publish())
		go io.Copy(io.Discard, nc)
		video := func(id uint32, n int) {
			send(chunk.Append(nil, chunk.Header{Type: chunk.TypeVideo, Time: uint32(1000 * n), StreamID: id}, rtmptest.Frame(n%2 == 0, n), size))
		}
		send(rtmptest.CommandInChunks(size, 2, "publish", 0, nil, "second", "live"))
		for n := range 60 {
			if n == 3 {
				send(rtmptest.CommandInChunks(size, 3, "publish", 0, nil, "third", "live"))
			}
			video(1, n)
			video(2, n)
			if n > 28 {
				video(3, n)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			require.NotNil(b, b.Server.Source("live/first"), "after %d s", n)
			require.NotNil(b, b.Server.Source("live/second"), "after %d s", n)
			require.Equal(b, n >= 27, b.Server.Source("live/third") != nil, "after %d s", n)
		}
	})
}

// Fast by the clock over sockets, with their buffers in between.
func TestFault33_FastByTheClock_Sockets(t *testing.T) {
	const n = 10_000
	media := forwardtest.Media{ID: 9, VideoBitrate: 2_000_000, AudioBitrate: -1}
	var urls []string
	var all []*forwardtest.Destination
	for range 4 {
		d := destinationOf(t, discarding)
		all = append(all, d)
		urls = append(urls, d.URL("live/key"))
	}
	lo := onLoopback(t, forward.Config{Resolver: forward.MustStatic(urls...), DrainTimeout: time.Minute})
	pub := lo.publish("live/fast")
	var recs []*forwardtest.Recorder
	for _, d := range all {
		recs = append(recs, lo.published(d, 1).Recorder())
	}
	began := time.Now()
	require.NoError(t, pub.Send(lo.ctx, byTheClock(media, n), 0))
	rate := float64(n) * 10_000 / time.Since(began).Seconds() / 1e6
	for _, rec := range recs {
		require.NoError(t, rec.WaitFrames(lo.ctx, n-2))
		whole(t, rec, n-2)
	}
	measured(33, "sockets: fast by the clock, 4 destinations", "0 lost", "%d frames, 0 lost, %.0f MB/s", n, rate)
}
