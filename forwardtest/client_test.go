package forwardtest_test

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// play has joined the stream when it returns: Play answers at
// NetStream.Play.Start, which the Server sends just before it.
func (w *world) play() *forwardtest.Player {
	w.Helper()
	p, err := w.client().Play(w.Ctx, nil)
	require.NoError(w, err)
	w.Cleanup(func() { p.Close() })
	synctest.Wait()
	return p
}

func TestPlayerGetsWhatIsPublished(t *testing.T) {
	bubble(t, forward.Config{EndPlayers: true}, func(w *world) {
		early := w.play() // before there is a stream
		p := w.publish()
		require.NoError(w, p.Send(w.Ctx, media.Messages(2500*time.Millisecond), 1))
		late := w.play()
		require.NoError(w, p.Unpublish())
		for _, player := range []*forwardtest.Player{early, late} {
			_, err := player.WaitCommand(w.Ctx, "onStatus")
			require.NoError(w, err)
			require.NoError(w, player.Recorder().Wait(w.Ctx, func(r forwardtest.Report) bool {
				return r.Last == uint64(len(collect(media, 2500*time.Millisecond))-3)
			}))
			player.Recorder().Check(w)
		}
		require.Equal(w, uint64(1), early.Recorder().Report().First)
		require.Equal(w, 3, early.Recorder().Report().Keyframes)
		require.Equal(w, 1, late.Recorder().Report().Keyframes)
		synctest.Wait()
		codes := []string{}
		for _, c := range early.Commands() {
			codes = append(codes, c.Code())
		}
		require.Equal(w, []string{"NetStream.Play.PublishNotify", "NetStream.Play.UnpublishNotify"}, codes)
		require.NoError(w, early.Err())
	})
}

func TestPlayerSeesOnePublishAfterTheOther(t *testing.T) {
	bubble(t, forward.Config{}, func(w *world) {
		player := w.play()
		for id := range uint32(3) {
			m := media
			m.ID = id
			p := w.publish()
			require.NoError(w, p.Send(w.Ctx, m.Messages(2*time.Second), 1))
			require.NoError(w, p.Unpublish())
			synctest.Wait()
		}
		require.NoError(w, player.Recorder().Wait(w.Ctx, func(r forwardtest.Report) bool { return r.Keyframes == 6 }))
		player.Recorder().Check(w)
	})
}

// A slow player gets whole runs from a keyframe on.
func TestSlowPlayer(t *testing.T) {
	bubble(t, forward.Config{}, func(w *world) {
		p := w.publish()
		c := w.client()
		c.Dial = forwardtest.FaultDial(c.Dial, forwardtest.Faults{Read: forwardtest.Fault{Rate: 40_000}})
		player, err := c.Play(w.Ctx, &forwardtest.Recorder{Gaps: true})
		require.NoError(w, err)
		w.Cleanup(func() { player.Close() })
		require.NoError(w, p.Send(w.Ctx, media.Messages(2*time.Minute), 1))
		player.Recorder().Check(w)
		require.Positive(w, player.Recorder().Report().Gaps)
	})
}

func TestSecondPublisherIsRefused(t *testing.T) {
	bubble(t, forward.Config{}, func(w *world) {
		w.publish()
		_, err := w.client().Publish(w.Ctx)
		require.Equal(w, "NetStream.Publish.BadName", forwardtest.RefusalCode(err))
		var st *forwardtest.StatusError
		require.ErrorAs(w, err, &st)
		require.Equal(w, "publish", st.Step)
	})
}

func TestClientRefusals(t *testing.T) {
	refuse := &forward.StatusError{Code: "NetStream.Publish.Denied", Description: "No."}
	tests := []struct {
		name  string
		hooks forward.Hooks
		code  string
	}{
		{"by a code", forward.Hooks{
			OnPublish: func(context.Context, *forward.Request) error { return refuse },
			OnPlay:    func(context.Context, *forward.Request) error { return refuse },
		}, refuse.Code},
		{"at connect", forward.Hooks{
			OnConnect: func(context.Context, *forward.Request) error { return refuse },
		}, refuse.Code},
		{"by none", forward.Hooks{}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, forward.Config{Hooks: test.hooks}, func(w *world) {
				publisher, err := w.client().Publish(w.Ctx)
				require.Equal(w, test.code, forwardtest.RefusalCode(err))
				player, err2 := w.client().Play(w.Ctx, nil)
				require.Equal(w, test.code, forwardtest.RefusalCode(err2))
				if err == nil {
					publisher.Close()
					player.Close()
				}
			})
		})
	}
}

func TestPublisherIsToldWhyItIsKicked(t *testing.T) {
	bubble(t, forward.Config{}, func(w *world) {
		p := w.publish()
		w.Server.Source(name).Close()
		<-p.Done()
		require.Equal(w, "NetStream.Publish.Rejected", forwardtest.RefusalCode(p.Err()))
		require.Equal(w, p.Err(), p.Send(w.Ctx, media.Messages(-1), 1))
	})
}

// A publisher that stops is ended: at once when it closes, else by a timeout.
func TestPublisherStops(t *testing.T) {
	frame := collect(media, time.Second)[10]
	tests := []struct {
		name  string
		stop  func(*testing.T, *forwardtest.Publisher)
		after time.Duration
	}{
		{"unpublish", func(t *testing.T, p *forwardtest.Publisher) { require.NoError(t, p.Unpublish()) }, 0},
		{"close", func(t *testing.T, p *forwardtest.Publisher) { require.NoError(t, p.Close()) }, 0},
		{"reset", func(_ *testing.T, p *forwardtest.Publisher) { p.Reset() }, 0},
		{"vanish", func(t *testing.T, p *forwardtest.Publisher) {
			p.Vanish()
			require.Error(t, p.WriteMessage(frame))
		}, 10 * time.Second},
		{"in a message", func(t *testing.T, p *forwardtest.Publisher) {
			require.NoError(t, p.WritePart(frame, 30))
			require.NoError(t, p.Close())
		}, 0},
		{"vanish in a message", func(t *testing.T, p *forwardtest.Publisher) {
			require.NoError(t, p.WritePart(frame, 30))
			p.Vanish()
		}, 10 * time.Second},
		{"garbage", func(t *testing.T, p *forwardtest.Publisher) {
			_, err := p.Write([]byte{0xff, 0xff, 0xff})
			require.NoError(t, err)
		}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, pushing, func(w *world) {
				d := w.destination()
				p := w.publish()
				s := w.Published(d, 1)
				require.NoError(w, p.Send(w.Ctx, media.Messages(3*time.Second), 1))
				synctest.Wait()
				src := w.Server.Source(name)
				require.NotNil(w, src)
				began := time.Now()
				test.stop(w.T, p)
				<-src.Done()
				// The read deadline is moved once a second.
				require.InDelta(w, test.after, time.Since(began), float64(time.Second))
				s.Recorder().Check(w)
				require.Equal(w, collect(media, 3*time.Second), s.Recorder().Messages())
				require.Equal(w, "deleteStream", slices.Max(names(s)[5:]))
			})
		})
	}
}

func TestClientStopsBefore(t *testing.T) {
	for _, step := range []string{"connect", "createStream", "publish"} {
		t.Run(step, func(t *testing.T) {
			bubble(t, forward.Config{}, func(w *world) {
				c := w.client()
				c.StopBefore = step
				began := time.Now()
				p, err := c.Publish(w.Ctx)
				require.NoError(w, err)
				<-p.Done()
				require.Equal(w, io.EOF, p.Err())
				require.Equal(w, 10*time.Second, time.Since(began)) // SetupTimeout
				require.Empty(w, w.Server.Sources())
			})
		})
	}
}

func TestClientGivesUp(t *testing.T) {
	for _, step := range []string{"handshake", "connect", "createStream", "publish"} {
		t.Run(step, func(t *testing.T) {
			bubble(t, forward.Config{}, func(w *world) {
				w.destination(forwardtest.Script{Steps: map[string]forwardtest.Step{step: {Silent: true}}})
				ctx, cancel := context.WithTimeout(w.Ctx, time.Minute)
				defer cancel()
				_, err := forwardtest.Client{URL: "rtmp://a/" + name, Dial: w.Net.Dial}.Publish(ctx)
				require.ErrorIs(w, err, context.DeadlineExceeded)
			})
		})
	}
}

func TestSendEndsWithItsContext(t *testing.T) {
	for _, speed := range []float64{0, 1} {
		bubble(t, forward.Config{}, func(w *world) {
			// Nobody reads.
			d := w.destination(forwardtest.Script{Steps: map[string]forwardtest.Step{
				"publish": {Do: func(s *forwardtest.Session) {
					s.Send(1, "onStatus", 0, nil, map[string]any{"code": "NetStream.Publish.Start"})
					s.Stall()
				}},
			}})
			p, err := forwardtest.Client{URL: d.URL(name), Dial: w.Net.Dial}.Publish(w.Ctx)
			require.NoError(w, err)
			defer p.Close()
			ctx, cancel := context.WithTimeout(w.Ctx, time.Minute)
			defer cancel()
			require.ErrorIs(w, p.Send(ctx, media.Messages(-1), speed), context.DeadlineExceeded)
			d.Close()
		})
	}
}

func TestSendPace(t *testing.T) {
	for _, speed := range []float64{0.5, 1, 4} {
		bubble(t, forward.Config{}, func(w *world) {
			p := w.publish()
			began := time.Now()
			m := forwardtest.Media{Start: 1<<32 - 1000} // times wrap
			require.NoError(w, p.Send(w.Ctx, m.Messages(10*time.Second), speed))
			last := 10*time.Second - time.Second/48000*1024
			require.InDelta(w, float64(last)/speed, float64(time.Since(began)), float64(25*time.Millisecond)/speed)
		})
	}
}

// Files of all codecs reach a destination and a player as they are.
func TestFiles(t *testing.T) {
	for _, name := range []string{
		"aac_only", "av1_opus", "h264_aac", "h264_ac3", "h264_flac", "h264_only", "hevc_aac", "mp3_only", "vp9_opus",
		"multitrack_h264x2_aacx2", "multitrack_hevc_aac_opus",
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Open("../testdata/" + name + ".flv")
			require.NoError(t, err)
			defer f.Close()
			messages, err := forwardtest.ReadFLV(f)
			require.NoError(t, err)
			recorder := func() *forwardtest.Recorder { return &forwardtest.Recorder{Reference: messages} }
			bubble(t, pushing, func(w *world) {
				d := w.destination(forwardtest.Script{Recorder: recorder})
				player, err := w.client().Play(w.Ctx, recorder())
				require.NoError(w, err)
				defer player.Close()
				p := w.publish()
				s := w.Published(d, 1)
				require.NoError(w, p.Send(w.Ctx, slices.Values(messages), 1))
				require.NoError(w, p.Unpublish())
				_, err = s.WaitCommand(w.Ctx, "deleteStream")
				require.NoError(w, err)
				synctest.Wait()
				for _, rec := range []*forwardtest.Recorder{s.Recorder(), player.Recorder()} {
					rec.Check(w)
					require.Equal(w, len(messages), rec.Report().Messages)
				}
			})
		})
	}
}

func TestClientURL(t *testing.T) {
	for _, test := range []struct{ url, address, app, name string }{
		{"", "localhost:1935", "live", "stream"},
		{"rtmp://h/a/b", "h:1935", "a", "b"},
		{"rtmp://h:1/a/b/c?token=x/y", "h:1", "a/b", "c?token=x/y"},
		{"rtmp://[::1]/a/b", "[::1]:1935", "a", "b"},
	} {
		bubble(t, forward.Config{}, func(w *world) {
			address := test.address
			d := w.Net.NewDestination(address)
			defer d.Close()
			p, err := forwardtest.Client{URL: test.url, Dial: w.Net.Dial}.Publish(w.Ctx)
			require.NoError(w, err)
			defer p.Close()
			c := d.Sessions()[0].Commands()
			require.Equal(w, test.app, c[0].Args[0].(map[string]any)["app"])
			require.Equal(w, test.name, c[len(c)-1].String(1))
		})
	}
	for _, url := range []string{"http://h/a/b", "rtmp://h/a", "rtmp:///a/b", "rtmp://h"} {
		_, err := forwardtest.Client{URL: url}.Publish(t.Context())
		require.Error(t, err, url)
	}
	_, err := forwardtest.Client{ChunkSize: 5}.Publish(t.Context())
	require.ErrorContains(t, err, "ChunkSize")
}

func TestClientOverTCP(t *testing.T) {
	d := forwardtest.NewDestination()
	defer d.Close()
	for _, c := range []forwardtest.Client{
		{URL: d.URL(name)},
		{URL: d.URL(name), DigestHandshake: true, Bare: true, ChunkSize: 6, FlashVer: "x"},
	} {
		p, err := c.Publish(t.Context())
		require.NoError(t, err)
		require.NoError(t, p.Send(t.Context(), media.Messages(time.Second), 0))
		require.NoError(t, p.Unpublish())
		s, err := d.WaitSession(t.Context(), len(d.Sessions()))
		require.NoError(t, err)
		_, err = s.WaitCommand(t.Context(), "deleteStream")
		require.NoError(t, err)
		s.Recorder().Check(t)
		require.NoError(t, p.Close())
		<-s.Done()
		require.Error(t, s.Err())
		_, err = s.WaitCommand(t.Context(), "nothing")
		require.True(t, errors.Is(err, s.Err()))
	}
}
