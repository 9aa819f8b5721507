package e2e

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// One keyframe at the start and none later, as with intra refresh: a destination that
// reconnects 30 s later starts with it.
func TestFault41_OneKeyframe(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  forward.Config
		want string // Warning
	}{
		{"kept", forward.Config{}, ""},
		{"lost to MaxBytes", forward.Config{MaxBytes: 20_000}, noKeyframe},
		{"not kept", forward.Config{NoGOPCache: true}, noKeyframe},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Resolver = forward.MustStatic("rtmp://a/live/" + canary)
			inBubble(t, c.cfg, func(b *bubble) {
				d := b.Destination("a:1935", forwardtest.Script{Recorder: func() *forwardtest.Recorder {
					return &forwardtest.Recorder{Reference: []forwardtest.Message{}}
				}})
				p := b.Publish("live/" + canary)
				first := b.Published(d, 1)
				require.NoError(b, p.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Payload: rtmptest.VideoHeader}))
				send := func(from, to int) {
					for i := from; i < to; i++ {
						require.NoError(b, p.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Timestamp: uint32(i) * 40, Payload: rtmptest.Frame(i == 0, i)}))
						time.Sleep(40 * time.Millisecond)
					}
				}
				send(0, 750)
				first.Close()
				send(750, 1000)
				all := b.Published(d, 2).Recorder().Messages()
				require.Equal(b, rtmptest.VideoHeader, all[0].Payload)
				if c.want == "" {
					require.Equal(b, rtmptest.Frame(true, 0), all[1].Payload)
					require.Len(b, all, 1001)
				} else {
					require.Greater(b, len(all), 25)
					require.Equal(b, rtmptest.Frame(false, 999), all[len(all)-1].Payload)
				}
				require.Equal(b, c.want, b.Server.Source("live/" + canary).Forwarders()[0].Stats().Warning)
			})
		})
	}
}

// A player that starts without a keyframe has no Stats: the log reports it once per
// player, rate-limited like everything that clients can cause.
func TestPlayerBeginsWithoutAKeyframe(t *testing.T) {
	for _, live := range []bool{true, false} {
		log := new(logtest.Buffer)
		cfg := forward.Config{NoGOPCache: live, Logger: secretscan.Logger(slog.NewJSONHandler(log, nil))}
		inBubble(t, cfg, func(b *bubble) {
			p := b.Publish("live/" + canary)
			require.NoError(b, p.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Payload: rtmptest.VideoHeader}))
			send := func(from, to int) {
				for i := from; i < to; i++ {
					require.NoError(b, p.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Timestamp: uint32(i) * 40, Payload: rtmptest.Frame(i == 0, i)}))
					time.Sleep(40 * time.Millisecond)
				}
			}
			send(0, 25)
			b.Hear("server:1935", "live/"+canary, &forwardtest.Recorder{Reference: []forwardtest.Message{}})
			send(25, 400)
			synctest.Wait()
			lines := log.Entries(b, "a player began without a keyframe: none came within 5 s")
			if !live {
				require.Empty(b, lines)
				return
			}
			require.Len(b, lines, 1)
			require.Equal(b, "WARN", lines[0]["level"])
			require.Contains(b, lines[0]["source"], "live/#")
			require.NotEmpty(b, lines[0]["client"])
		})
	}
}
