package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// heard is a player's connection that keeps what comes.
type heard struct {
	net.Conn
	mu sync.Mutex
	b  bytes.Buffer
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b.Write(p[:n])
	return n, err
}

// bytes is how many have come.
func (h *heard) bytes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.Len()
}

// messages returns the whole messages that have come after the answer to play.
func (h *heard) messages(t testing.TB) (out []chunk.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := chunk.NewReader(bytes.NewReader(h.b.Bytes()[1+2*1536:]), 1<<10, rtmptest.NoLimits)
	for {
		m, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		m.Payload = bytes.Clone(m.Payload)
		out = append(out, m)
	}
	started := func(m chunk.Message) bool { return bytes.Contains(m.Payload, []byte("NetStream.Play.Start")) }
	return out[slices.IndexFunc(out, started)+1:]
}

// hear is a player of a name, at the server of that address.
func (b *bubble) hear(address, name string, rec *forwardtest.Recorder) (*forwardtest.Player, *heard) {
	b.Helper()
	c, h := b.client(name), new(heard)
	c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		nc, err := b.net.Dial(ctx, network, address)
		h.Conn = nc
		return h, err
	}
	p, err := c.Play(b.ctx, rec)
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	synctest.Wait() // until it plays, or waits for a publisher
	return p, h
}

// turn publishes for so long and unpublishes.
func (b *bubble) turn(name string, media forwardtest.Media, d time.Duration) {
	b.Helper()
	p := b.publish(name)
	require.NoError(b, p.Send(b.ctx, media.Messages(d), 1))
	require.NoError(b, p.Unpublish())
	synctest.Wait()
}

// goesThrough checks what a player has got of publishes one after the other: in
// each headers and a keyframe come first, and times do not go back. It returns
// the time of the first frame of each, and of the last. oneLog: they are publishes
// of one stream, whose metadata has the time of what it belongs to.
func goesThrough(t testing.TB, messages []chunk.Message, ids int, oneLog bool) (first, last []uint32) {
	t.Helper()
	header := map[uint8]bool{}
	for i, m := range messages {
		require.Contains(t, []uint8{TagAudio, TagVideo, TagData}, m.Type, "message %d", i)
		tag := flv.Audio(m.Payload)
		switch m.Type {
		case TagData:
			if len(first) > 0 && !oneLog {
				require.Zero(t, m.Time, "metadata at another time is text to FFmpeg")
			}
			clear(header)
			continue
		case TagVideo:
			tag = flv.Video(m.Payload)
		}
		if tag.SequenceHeader {
			if len(header) == 0 {
				first, last = append(first, m.Time), append(last, m.Time)
			}
			header[m.Type] = true
		}
		require.True(t, header[m.Type], "message %d before its header", i)
		if n := len(last); n > 1 && m.Time == first[n-1] {
			require.GreaterOrEqual(t, int32(m.Time-last[n-2]), int32(seam), "message %d", i)
		}
		require.GreaterOrEqual(t, int32(m.Time-last[len(last)-1]), int32(0), "message %d", i)
		last[len(last)-1] = m.Time
	}
	require.Len(t, first, ids)
	return first, last
}

// An encoder in a loop: its players, at the master and at a slave, go on.
func TestFault42_EncoderLoop(t *testing.T) {
	const turns = 5
	gaps := []time.Duration{0, time.Millisecond, 300 * time.Millisecond, 20 * time.Second, 0}
	for name, media := range map[string]forwardtest.Media{
		"audio and video": {KeyframeInterval: time.Second},
		"audio":           {VideoBitrate: -1},
		"video":           {AudioBitrate: -1, KeyframeInterval: time.Second},
		"near 2^32":       {KeyframeInterval: time.Second, Start: math.MaxUint32 - 5000},
		"at 2^31":         {KeyframeInterval: time.Second, Start: 1<<31 - 1000},
	} {
		t.Run(name, func(t *testing.T) {
			var got calls
			inBubble(t, Config{Resolver: MustStatic("slave:1935"), Hooks: got.hooks()}, func(b *bubble) {
				slave := NewServer(watched(t, Config{}))
				l, err := b.net.Listen("slave:1935")
				require.NoError(b, err)
				go slave.Serve(l)
				defer slave.Close()
				onMaster, master := b.hear("server:1935", "live/s", nil)
				onSlave, behind := b.hear("slave:1935", "live/s", nil)
				for id := range uint32(turns) {
					media.ID = id
					b.turn("live/s", media, 2*time.Second)
					time.Sleep(200 * time.Millisecond)
					nothing := master.bytes() + behind.bytes()
					time.Sleep(gaps[id])
					require.Equal(b, nothing, master.bytes()+behind.bytes(), "what waits is sent nothing")
				}
				for _, p := range []*forwardtest.Player{onMaster, onSlave} {
					require.NoError(b, p.Recorder().Err())
				}
				frames := turns * (len(slices.Collect(media.Messages(2*time.Second))) - 3)
				if media.AudioBitrate < 0 || media.VideoBitrate < 0 {
					frames += turns
				}
				require.Equal(b, frames, onMaster.Recorder().Report().Frames)
				require.Equal(b, frames, onSlave.Recorder().Report().Frames)
				for _, h := range []*heard{master, behind} {
					// The first publish is told of to who has waited for it.
					all := h.messages(b)
					require.Equal(b, chunk.TypeUserControl, int(all[0].Type))
					require.Equal(b, chunk.TypeCommand, int(all[1].Type))
					first, last := goesThrough(b, all[2:], turns, false)
					for i := range turns - 1 {
						pause := time.Duration(first[i+1]-last[i]) * time.Millisecond
						require.InDelta(b, gaps[i]+200*time.Millisecond, pause, float64(150*time.Millisecond), "as long as it was")
					}
				}
				require.Equal(b, 1, got.get()["play"], "asked once")
				require.Zero(b, got.get()["stop"])
				onMaster.Close()
				synctest.Wait()
				require.Equal(b, 1, got.get()["stop"])
				measured(42, "encoder loop, "+name+", 5 turns", "players stay, times go on", "nothing lost, nothing sent in between")
			})
		})
	}
}

// What is shown of one publish comes before what is shown of the next, whatever
// the order of the frames: with B-frames the last picture is later than the last
// message.
func TestTimesGoOnBehindBFrames(t *testing.T) {
	for _, row := range []struct {
		name   string
		shown  byte // composition time of the last frame
		pause  time.Duration
		expect uint32
	}{
		{"at once", 120, 0, 120 + seam},
		{"within what is shown", 120, 200 * time.Millisecond, 120 + seam},
		{"later", 120, time.Second, 1000},
		{"without B-frames", 0, 0, seam},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, Config{MergeWindow: -1}, func(b *bubble) {
				player, h := b.hear("server:1935", "live/s", nil)
				for range 2 {
					p, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "s"})
					require.NoError(b, err)
					require.NoError(b, p.WriteTag(TagVideo, 7000, rtmptest.VideoHeader))
					require.NoError(b, p.WriteTag(TagVideo, 7000, rtmptest.Frame(true, 1)))
					bframe := rtmptest.Frame(false, 2)
					bframe[4] = row.shown
					require.NoError(b, p.WriteTag(TagVideo, 7040, bframe))
					require.NoError(b, p.WriteTag(TagAudio, 7030, []byte{0x2f, 1}))
					require.NoError(b, p.Close())
					synctest.Wait()
					time.Sleep(row.pause)
				}
				first, last := goesThroughAll(h.messages(b)[2:])
				require.Equal(b, []uint32{7000, 7040 + row.expect}, first)
				require.Equal(b, []uint32{7030, 7030 + row.expect + 40}, last)
				require.NoError(b, player.Err())
			})
		})
	}
}

// goesThroughAll returns the times of the first and of the last message of each
// publish.
func goesThroughAll(messages []chunk.Message) (first, last []uint32) {
	for _, m := range messages {
		if m.Type == TagVideo && flv.Video(m.Payload).SequenceHeader {
			first, last = append(first, m.Time), append(last, 0)
		}
		last[len(last)-1] = m.Time
	}
	return first, last
}

// Who comes for the first time, and when nobody is left who has seen the times
// before, a publish has its own.
func TestTimesGoOnForThoseWhoWait(t *testing.T) {
	media := forwardtest.Media{Start: 90_000}
	inBubble(t, Config{}, func(b *bubble) {
		firstTime := func() uint32 {
			_, h := b.hear("server:1935", "live/s", nil)
			b.turn("live/s", media, time.Second)
			time.Sleep(time.Second)
			h.Close()
			synctest.Wait()
			all := h.messages(b)
			return all[slices.IndexFunc(all, func(m chunk.Message) bool { return m.Type == TagVideo })].Time
		}
		require.EqualValues(b, 90_000, firstTime())
		require.Zero(b, b.srv.Left()["audiences"])
		require.EqualValues(b, 90_000, firstTime(), "nobody has waited")

		waiting := b.play("live/s")
		b.turn("live/s", media, time.Second)
		time.Sleep(time.Second)
		require.InDelta(b, 92_000, firstTime(), 100, "one log for all")
		require.NoError(b, b.publish("live/s").Unpublish())
		time.Sleep(time.Second)
		require.InDelta(b, 95_000, firstTime(), 200, "a publish without media changes nothing")
		waiting.Close()
		synctest.Wait()
		require.Zero(b, b.srv.Left()["audiences"], "nobody is left to go on for")
	})
}

func TestPlayersOfRawTimestamps(t *testing.T) {
	inBubble(t, Config{RawTimestamps: true}, func(b *bubble) {
		_, h := b.hear("server:1935", "live/s", nil)
		for id := range uint32(2) {
			b.turn("live/s", forwardtest.Media{ID: id, Start: 90_000}, time.Second)
		}
		first, _ := goesThroughAll(h.messages(b)[3:])
		require.Equal(b, []uint32{90_000, 90_000}, first)
	})
}

// A player may still be getting the end of one stream when the next begins.
func TestPlayerThatLagsAtTheEnd(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		c := b.client("live/s")
		c.Dial = forwardtest.FaultDial(c.Dial, forwardtest.Faults{Read: forwardtest.Fault{Rate: 50_000}})
		slow, err := c.Play(b.ctx, &forwardtest.Recorder{Gaps: true})
		require.NoError(b, err)
		b.Cleanup(func() { slow.Close() })
		ended := false
		for id := range uint32(5) {
			p := b.publish("live/s")
			src := b.srv.Source("live/s")
			require.NoError(b, p.Send(b.ctx, forwardtest.Media{ID: id, VideoBitrate: 1_000_000, KeyframeInterval: time.Second}.Messages(3*time.Second), 1))
			require.NoError(b, p.Unpublish())
			ended = ended || slow.Recorder().Report().Last < 70
			<-src.Done()
		}
		require.True(b, ended, "it was behind")
		time.Sleep(time.Minute)
		require.NoError(b, slow.Recorder().Err())
		require.Positive(b, slow.Recorder().Report().Frames)
		require.NoError(b, slow.Err())
		require.NoError(b, monotonic(slow.Recorder().Messages()))
	})
}

// requireEnd checks that what was recorded last is the end of 2 s of media.
func requireEnd(t testing.TB, rec *forwardtest.Recorder, media forwardtest.Media) {
	t.Helper()
	got, want := rec.Messages(), slices.Collect(media.Messages(2*time.Second))
	require.Equal(t, payloads(want[len(want)-1:]), payloads(got[len(got)-1:]))
}

// monotonic says where times of audio or video go back.
func monotonic(messages []forwardtest.Message) error {
	last := map[uint8]uint32{}
	for _, m := range messages {
		if was, ok := last[m.Type]; ok && m.Type != TagData && int32(m.Timestamp-was) < 0 {
			return errors.New("times go back")
		}
		last[m.Type] = m.Timestamp
	}
	return nil
}

func TestPlayerThatPauses(t *testing.T) {
	for name, at := range map[string]struct{ pause, unpause int }{
		"while it waits":                   {1, 1},
		"through a publish":                {1, 2},
		"while it plays, until it waits":   {0, 1},
		"while it plays, through the next": {0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{}, func(b *bubble) {
				p, h := b.hear("server:1935", "live/s", &forwardtest.Recorder{Gaps: true})
				pause := func(on bool) {
					require.NoError(b, p.Send(1, "pause", 0, nil, on, 0))
					synctest.Wait()
				}
				for id := range 4 {
					pub := b.publish("live/s")
					send := func(from, to time.Duration) {
						require.NoError(b, pub.Send(b.ctx, func(yield func(forwardtest.Message) bool) {
							for m := range (forwardtest.Media{ID: uint32(id), KeyframeInterval: time.Second}).Messages(to) {
								if (time.Duration(m.Timestamp)*time.Millisecond >= from || from == 0) && !yield(m) {
									return
								}
							}
						}, 1))
					}
					send(0, time.Second)
					if at.pause == 0 && id == 0 {
						pause(true)
					}
					send(time.Second, 2*time.Second)
					require.NoError(b, pub.Unpublish())
					time.Sleep(time.Second)
					if at.pause == 1 && id == 0 {
						pause(true)
					}
					if at.unpause == id+1 {
						pause(false)
					}
				}
				require.NoError(b, p.Recorder().Err())
				requireEnd(b, p.Recorder(), forwardtest.Media{ID: 3, KeyframeInterval: time.Second})
				codes := map[string]int{}
				for _, c := range p.Commands() {
					codes[c.Code()]++
				}
				require.Equal(b, map[string]int{"NetStream.Play.PublishNotify": 1, "NetStream.Pause.Notify": 1, "NetStream.Unpause.Notify": 1}, codes)
				require.NoError(b, monotonic(p.Recorder().Messages()))
				_ = h
			})
		})
	}
}

func TestPlayersAreToldTheEnd(t *testing.T) {
	inBubble(t, Config{Vhosts: map[string]Vhost{DefaultVhost: {EndPlayers: true}}}, func(b *bubble) {
		p, h := b.hear("server:1935", "live/s", nil)
		for id := range uint32(2) {
			b.turn("live/s", forwardtest.Media{ID: id}, time.Second)
			time.Sleep(time.Second)
		}
		var codes []string
		for _, c := range p.Commands() {
			codes = append(codes, c.Code())
		}
		const come, gone = "NetStream.Play.PublishNotify", "NetStream.Play.UnpublishNotify"
		require.Equal(b, []string{come, gone, come, gone}, codes)
		var events []byte
		for _, m := range h.messages(b) {
			if m.Type == chunk.TypeUserControl {
				events = append(events, m.Payload[1])
			}
		}
		const begin, eof = 0, 1
		require.Equal(b, []byte{begin, eof, begin, eof}, events)
		require.NoError(b, p.Recorder().Err())
	})
}

func TestPlayerWait(t *testing.T) {
	const wait = 20 * time.Second
	for name, row := range map[string]struct {
		do   func(b *bubble, p *forwardtest.Player)
		code string
	}{
		"for the first": {func(*bubble, *forwardtest.Player) {}, "NetStream.Play.Failed"},
		"between two": {func(b *bubble, _ *forwardtest.Player) {
			time.Sleep(wait - time.Second)
			b.turn("live/s", forwardtest.Media{ID: 1}, 30*time.Second)
			time.Sleep(wait - time.Second)
			b.turn("live/s", forwardtest.Media{ID: 2}, 30*time.Second)
		}, "NetStream.Play.UnpublishNotify"},
		"after a pause": {func(b *bubble, p *forwardtest.Player) {
			require.NoError(b, p.Send(1, "pause", 0, nil, true, 0))
			time.Sleep(time.Hour)
			require.NoError(b, p.Send(1, "pause", 0, nil, false, 0))
			synctest.Wait()
		}, "NetStream.Play.Failed"},
	} {
		t.Run(name, func(t *testing.T) {
			var got calls
			inBubble(t, Config{PlayerWait: wait, Hooks: got.hooks()}, func(b *bubble) {
				p := b.play("live/s")
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
				require.Equal(b, 1, got.get()["stop"])
				require.Zero(b, b.srv.Left()["audiences"])
			})
		})
	}
}

// Waiting players keep nobody: Shutdown ends them at once, and tells them.
func TestShutdownWithWaitingPlayers(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		after, before := b.play("live/s"), b.play("live/other")
		b.turn("live/s", forwardtest.Media{}, time.Second)
		time.Sleep(time.Second)
		began := time.Now()
		require.NoError(b, b.srv.Shutdown(b.ctx))
		require.Zero(b, time.Since(began))
		<-after.Done()
		<-before.Done()
		last := after.Commands()
		require.Equal(b, "NetStream.Play.UnpublishNotify", last[len(last)-1].Code())
	})
}

// With GraceUnpublish an encoder in a loop is one broadcast to its destinations.
func TestGraceForAnUnpublish(t *testing.T) {
	var got calls
	cfg := Config{PublishGrace: 20 * time.Second, GraceUnpublish: true, Hooks: got.hooks(), Resolver: MustStatic("rtmp://a/live/x")}
	inBubble(t, cfg, func(b *bubble) {
		d := b.destination("a:1935")
		player, h := b.hear("server:1935", "live/s", nil)
		var src *Source
		for id := range uint32(3) {
			b.turn("live/s", forwardtest.Media{ID: id, KeyframeInterval: time.Second}, 2*time.Second)
			if src == nil {
				src = b.srv.Source("live/s")
			}
			require.Same(b, src, b.srv.Source("live/s"))
			require.EqualValues(b, id+1, got.get()["unpublish"])
			time.Sleep(5 * time.Second)
		}
		require.Len(b, d.Sessions(), 1)
		for _, rec := range []*forwardtest.Recorder{d.Sessions()[0].Recorder(), player.Recorder()} {
			require.NoError(b, rec.Err())
			requireEnd(b, rec, forwardtest.Media{ID: 2, KeyframeInterval: time.Second})
		}
		goesThrough(b, h.messages(b)[2:], 3, true)
		began := time.Now()
		<-src.Done()
		require.Equal(b, 15*time.Second, time.Since(began))

		inside, err := b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "s"})
		require.NoError(b, err)
		require.NoError(b, inside.Close())
		synctest.Wait()
		require.NotNil(b, b.srv.Source("live/s"), "inside the process, too")
		began = time.Now()
		<-inside.Source().Done()
		require.Equal(b, cfg.PublishGrace, time.Since(began))
	})
}
