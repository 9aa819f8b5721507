package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// A publisher without pacing is held back even if its timestamps are useless or jump.
// If they stand still, only the bitrate distinguishes it from an encoder.
func TestFault33_UselessTimestamps(t *testing.T) {
	const n = 2_000
	media := forwardtest.Media{ID: 3, VideoBitrate: 2_000_000, AudioBitrate: -1} // 10 kB
	for name, row := range map[string]struct {
		rate int // bytes per second that the destination takes
		at   func(i int) uint32
	}{
		"constant":        {6 << 20, func(int) uint32 { return 7 }},
		"backwards":       {6 << 20, func(i int) uint32 { return uint32(1<<30 - 40*i) }},
		"random":          {30 << 20, func(i int) uint32 { return uint32(i) * 2654435761 }},
		"ahead by 10 s":   {2 << 20, func(i int) uint32 { return uint32(40*i + 10_000*(i/50)) }},
		"begin again":     {2 << 20, func(i int) uint32 { return uint32(40 * (i % 100)) }},
		"now and then":    {2 << 20, func(i int) uint32 { return uint32(40*i + 100_000*(i%2)) }},
		"six timelines":   {2 << 20, func(i int) uint32 { return uint32(40*(i/6) + 10_000*(i%6)) }},
		"almost 2 s each": {2 << 20, func(i int) uint32 { return uint32(1900 * i) }},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + canary), DrainTimeout: time.Minute}, func(b *bubble) {
				d := b.Destination("a:1935", reads(row.rate))
				p := b.Publish("live/fast")
				rec := b.Published(d, 1).Recorder()
				began, i := time.Now(), 0
				require.NoError(b, p.Send(b.Ctx, func(yield func(forwardtest.Message) bool) {
					for m := range media.Messages(-1) {
						m.Timestamp = row.at(i)
						if i++; i > n || !yield(m) {
							return
						}
					}
				}, 0))
				rate := n * 10_000 / time.Since(began).Seconds()
				require.NoError(b, p.Unpublish())
				require.NoError(b, rec.WaitFrames(b.Ctx, n-2))
				whole(b, rec, n-2)
				require.Greater(b, rate, 0.8*float64(row.rate), "the publisher waits too long")
				measured(33, "times: "+name, "0 lost", "%d frames, 0 lost, %.0f MB/s", n, rate/(1<<20))
			})
		})
	}
}
