package forward

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

// One keyframe at the start and no other, as with intra refresh: a destination
// that comes back 30 s later begins with it.
func TestFault41_OneKeyframe(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want string // Warning
	}{
		{"kept", Config{}, ""},
		{"lost to MaxBytes", Config{MaxBytes: 20_000}, noKeyframe},
		{"not kept", Config{NoGOPCache: true}, noKeyframe},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Resolver = MustStatic("rtmp://a/live/" + canary)
			inBubble(t, c.cfg, func(b *bubble) {
				d := b.destination("a:1935", forwardtest.Script{Recorder: func() *forwardtest.Recorder {
					return &forwardtest.Recorder{Reference: []forwardtest.Message{}}
				}})
				p := b.publish("live/" + canary)
				first := b.published(d, 1)
				require.NoError(b, p.WriteMessage(forwardtest.Message{Type: TagVideo, Payload: videoHeader}))
				send := func(from, to int) {
					for i := from; i < to; i++ {
						require.NoError(b, p.WriteMessage(forwardtest.Message{Type: TagVideo, Timestamp: uint32(i) * 40, Payload: frame(i == 0, i)}))
						time.Sleep(40 * time.Millisecond)
					}
				}
				send(0, 750)
				first.Close()
				send(750, 1000)
				all := b.published(d, 2).Recorder().Messages()
				require.Equal(b, videoHeader, all[0].Payload)
				if c.want == "" {
					require.Equal(b, frame(true, 0), all[1].Payload)
					require.Len(b, all, 1001)
				} else {
					require.Greater(b, len(all), 25)
					require.Equal(b, frame(false, 999), all[len(all)-1].Payload)
				}
				require.Equal(b, c.want, b.srv.Source("live/" + canary).Forwarders()[0].Stats().Warning)
			})
		})
	}
}
