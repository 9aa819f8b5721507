package e2e

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// goesThrough checks what a player got of consecutive publishes: each starts with
// headers and a keyframe, and timestamps do not go back. It returns the timestamp of
// the first frame of each, and of the last frame. With oneLog they are publishes of one
// stream, whose metadata has the timestamp of the media it belongs to.
func goesThrough(t testing.TB, messages []chunk.Message, ids int, oneLog bool) (first, last []uint32) {
	t.Helper()
	header := map[uint8]bool{}
	for i, m := range messages {
		require.Contains(t, []uint8{forward.TagAudio, forward.TagVideo, forward.TagData}, m.Type, "message %d", i)
		tag := flv.Audio(m.Payload)
		switch m.Type {
		case forward.TagData:
			if len(first) > 0 && !oneLog {
				require.Zero(t, m.Time, "metadata at another time is text to FFmpeg")
			}
			clear(header)
			continue
		case forward.TagVideo:
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

// The players of an encoder in a loop, at the master and at a slave, stay connected.
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
			inBubble(t, forward.Config{Resolver: forward.MustStatic("slave:1935"), Hooks: got.Hooks()}, func(b *bubble) {
				slave := forward.NewServer(hosttest.Watched(t, forward.Config{}))
				l, err := b.Net.Listen("slave:1935")
				require.NoError(b, err)
				go slave.Serve(l)
				defer slave.Close()
				onMaster, master := b.Hear("server:1935", "live/s", nil)
				onSlave, behind := b.Hear("slave:1935", "live/s", nil)
				for id := range uint32(turns) {
					media.ID = id
					b.PublishFor("live/s", media, 2*time.Second)
					time.Sleep(200 * time.Millisecond)
					nothing := master.Bytes() + behind.Bytes()
					time.Sleep(gaps[id])
					require.Equal(b, nothing, master.Bytes()+behind.Bytes(), "waiting players are sent nothing")
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
					// A waiting player is told when the first publish starts.
					all := h.Messages(b)
					require.Equal(b, chunk.TypeUserControl, int(all[0].Type))
					require.Equal(b, chunk.TypeCommand, int(all[1].Type))
					first, last := goesThrough(b, all[2:], turns, false)
					for i := range turns - 1 {
						pause := time.Duration(first[i+1]-last[i]) * time.Millisecond
						require.InDelta(b, gaps[i]+200*time.Millisecond, pause, float64(150*time.Millisecond), "as long as the real pause")
					}
				}
				require.Equal(b, 1, got.Get()["play"], "asked once")
				require.Zero(b, got.Get()["stop"])
				onMaster.Close()
				synctest.Wait()
				require.Equal(b, 1, got.Get()["stop"])
				measured(42, "encoder loop, "+name+", 5 turns", "players stay, timestamps continue", "nothing lost, nothing sent in between")
			})
		})
	}
}

// All frames of one publish are shown before those of the next, whatever the order of
// the frames: with B-frames the last picture is later than the last message.
func TestTimestampsContinueAfterBFrames(t *testing.T) {
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
			inBubble(t, forward.Config{MergeWindow: -1}, func(b *bubble) {
				player, h := b.Hear("server:1935", "live/s", nil)
				for range 2 {
					p, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
					require.NoError(b, err)
					require.NoError(b, p.WriteTag(forward.TagVideo, 7000, rtmptest.VideoHeader))
					require.NoError(b, p.WriteTag(forward.TagVideo, 7000, rtmptest.Frame(true, 1)))
					bframe := rtmptest.Frame(false, 2)
					bframe[4] = row.shown
					require.NoError(b, p.WriteTag(forward.TagVideo, 7040, bframe))
					require.NoError(b, p.WriteTag(forward.TagAudio, 7030, []byte{0x2f, 1}))
					require.NoError(b, p.Close())
					synctest.Wait()
					time.Sleep(row.pause)
				}
				first, last := goesThroughAll(h.Messages(b)[2:])
				require.Equal(b, []uint32{7000, 7040 + row.expect}, first)
				require.Equal(b, []uint32{7030, 7030 + row.expect + 40}, last)
				require.NoError(b, player.Err())
			})
		})
	}
}

// goesThroughAll returns the timestamps of the first and the last message of each
// publish.
func goesThroughAll(messages []chunk.Message) (first, last []uint32) {
	for _, m := range messages {
		if m.Type == forward.TagVideo && flv.Video(m.Payload).SequenceHeader {
			first, last = append(first, m.Time), append(last, 0)
		}
		last[len(last)-1] = m.Time
	}
	return first, last
}

func TestPlayersOfRawTimestamps(t *testing.T) {
	inBubble(t, forward.Config{RawTimestamps: true}, func(b *bubble) {
		_, h := b.Hear("server:1935", "live/s", nil)
		for id := range uint32(2) {
			b.PublishFor("live/s", forwardtest.Media{ID: id, Start: 90_000}, time.Second)
		}
		first, _ := goesThroughAll(h.Messages(b)[3:])
		require.Equal(b, []uint32{90_000, 90_000}, first)
	})
}

// A player may still be receiving the end of one stream when the next starts.
func TestPlayerThatLagsAtTheEnd(t *testing.T) {
	inBubble(t, forward.Config{}, func(b *bubble) {
		c := b.Client("live/s")
		c.Dial = forwardtest.FaultDial(c.Dial, forwardtest.Faults{Read: forwardtest.Fault{Rate: 50_000}})
		slow, err := c.Play(b.Ctx, &forwardtest.Recorder{Gaps: true})
		require.NoError(b, err)
		b.Cleanup(func() { slow.Close() })
		ended := false
		for id := range uint32(5) {
			p := b.Publish("live/s")
			src := b.Server.Source("live/s")
			require.NoError(b, p.Send(b.Ctx, forwardtest.Media{ID: id, VideoBitrate: 1_000_000, KeyframeInterval: time.Second}.Messages(3*time.Second), 1))
			require.NoError(b, p.Unpublish())
			ended = ended || slow.Recorder().Report().Last < 70
			<-src.Done()
		}
		require.True(b, ended, "the player lagged")
		time.Sleep(time.Minute)
		require.NoError(b, slow.Recorder().Err())
		require.Positive(b, slow.Recorder().Report().Frames)
		require.NoError(b, slow.Err())
		require.NoError(b, monotonic(slow.Recorder().Messages()))
	})
}

// requireEnd requires that the recording ends with the end of 2 s of media.
func requireEnd(t testing.TB, rec *forwardtest.Recorder, media forwardtest.Media) {
	t.Helper()
	got, want := rec.Messages(), slices.Collect(media.Messages(2*time.Second))
	require.Equal(t, payloads(want[len(want)-1:]), payloads(got[len(got)-1:]))
}

// monotonic reports where the timestamps of audio or video go back.
func monotonic(messages []forwardtest.Message) error {
	last := map[uint8]uint32{}
	for _, m := range messages {
		if was, ok := last[m.Type]; ok && m.Type != forward.TagData && int32(m.Timestamp-was) < 0 {
			return errors.New("timestamps go back")
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
			inBubble(t, forward.Config{}, func(b *bubble) {
				p, h := b.Hear("server:1935", "live/s", &forwardtest.Recorder{Gaps: true})
				pause := func(on bool) {
					require.NoError(b, p.Send(1, "pause", 0, nil, on, 0))
					synctest.Wait()
				}
				for id := range 4 {
					pub := b.Publish("live/s")
					send := func(from, to time.Duration) {
						require.NoError(b, pub.Send(b.Ctx, func(yield func(forwardtest.Message) bool) {
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
	inBubble(t, forward.Config{Vhosts: map[string]forward.Vhost{forward.DefaultVhost: {EndPlayers: true}}}, func(b *bubble) {
		p, h := b.Hear("server:1935", "live/s", nil)
		for id := range uint32(2) {
			b.PublishFor("live/s", forwardtest.Media{ID: id}, time.Second)
			time.Sleep(time.Second)
		}
		var codes []string
		for _, c := range p.Commands() {
			codes = append(codes, c.Code())
		}
		const come, gone = "NetStream.Play.PublishNotify", "NetStream.Play.UnpublishNotify"
		require.Equal(b, []string{come, gone, come, gone}, codes)
		var events []byte
		for _, m := range h.Messages(b) {
			if m.Type == chunk.TypeUserControl {
				events = append(events, m.Payload[1])
			}
		}
		const begin, eof = 0, 1
		require.Equal(b, []byte{begin, eof, begin, eof}, events)
		require.NoError(b, p.Recorder().Err())
	})
}

// Waiting players delay nothing: Shutdown tells and ends them immediately.
func TestShutdownWithWaitingPlayers(t *testing.T) {
	inBubble(t, forward.Config{}, func(b *bubble) {
		after, before := b.Play("live/s"), b.Play("live/other")
		b.PublishFor("live/s", forwardtest.Media{}, time.Second)
		time.Sleep(time.Second)
		began := time.Now()
		require.NoError(b, b.Server.Shutdown(b.Ctx))
		require.Zero(b, time.Since(began))
		<-after.Done()
		<-before.Done()
		last := after.Commands()
		require.Equal(b, "NetStream.Play.UnpublishNotify", last[len(last)-1].Code())
	})
}

// With GraceUnpublish an encoder in a loop is one broadcast for its destinations.
func TestGraceForAnUnpublish(t *testing.T) {
	var got calls
	cfg := forward.Config{PublishGrace: 20 * time.Second, GraceUnpublish: true, Hooks: got.Hooks(), Resolver: forward.MustStatic("rtmp://a/live/x")}
	inBubble(t, cfg, func(b *bubble) {
		d := b.Destination("a:1935")
		player, h := b.Hear("server:1935", "live/s", nil)
		var src *forward.Source
		for id := range uint32(3) {
			b.PublishFor("live/s", forwardtest.Media{ID: id, KeyframeInterval: time.Second}, 2*time.Second)
			if src == nil {
				src = b.Server.Source("live/s")
			}
			require.Same(b, src, b.Server.Source("live/s"))
			require.EqualValues(b, id+1, got.Get()["unpublish"])
			time.Sleep(5 * time.Second)
		}
		require.Len(b, d.Sessions(), 1)
		for _, rec := range []*forwardtest.Recorder{d.Sessions()[0].Recorder(), player.Recorder()} {
			require.NoError(b, rec.Err())
			requireEnd(b, rec, forwardtest.Media{ID: 2, KeyframeInterval: time.Second})
		}
		goesThrough(b, h.Messages(b)[2:], 3, true)
		began := time.Now()
		<-src.Done()
		require.Equal(b, 15*time.Second, time.Since(began))

		inside, err := b.Server.Publish(b.Ctx, forward.Request{App: "live", Stream: "s"})
		require.NoError(b, err)
		require.NoError(b, inside.Close())
		synctest.Wait()
		require.NotNil(b, b.Server.Source("live/s"), "inside the process, too")
		began = time.Now()
		<-inside.Source().Done()
		require.Equal(b, cfg.PublishGrace, time.Since(began))
	})
}

// A slow OnStop does not delay the status for its client. The host is asked about the next
// play after OnStop has returned.
func TestPlayerIsToldOfItsEndAtOnce(t *testing.T) {
	var asked []string
	var hold chan struct{}
	cfg := forward.Config{Hooks: forward.Hooks{
		OnPlay: func(_ context.Context, req *forward.Request) error {
			asked = append(asked, "play "+req.Stream)
			return nil
		},
		OnStop: func(_ context.Context, req *forward.Request) {
			asked = append(asked, "stop "+req.Stream)
			<-hold
		},
	}}
	inBubble(t, cfg, func(b *bubble) {
		hold = make(chan struct{})
		p := b.Play("live/a")
		began := time.Now()
		require.NoError(b, p.Send(1, "closeStream", 0, nil))
		require.NoError(b, p.Send(1, "play", 0, nil, "b"))
		synctest.Wait()
		commands := p.Commands()
		require.NotEmpty(b, commands)
		require.Equal(b, "NetStream.Play.Stop", commands[len(commands)-1].Code())
		require.Equal(b, []string{"play a", "stop a"}, asked)
		time.Sleep(5 * time.Second)
		hold <- struct{}{}
		synctest.Wait()
		require.Equal(b, []string{"play a", "stop a", "play b"}, asked)
		require.Equal(b, 5*time.Second, time.Since(began))
		p.Close()
		hold <- struct{}{}
		synctest.Wait()
		require.Equal(b, []string{"play a", "stop a", "play b", "stop b"}, asked)
	})
}
