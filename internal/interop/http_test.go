//go:build interop

package interop

import (
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/live"
)

// ffmpeg reads a live stream over HTTP, as FLV and as MP4. Every frame from a keyframe on
// equals the published one.
func TestLiveOverHTTP(t *testing.T) {
	c := h264aac(t)
	s := newServer(t, forward.Config{})
	web := httptest.NewServer(live.New(s.Server, live.Options{}).Players())
	t.Cleanup(web.Close)
	want := framesOf(t, c.path)
	publisher := start(t, "ffmpeg", "-v", "error", "-nostdin", "-re", "-copyts", "-i", c.path,
		"-c", "copy", "-f", "flv", s.url("live/livestream"))
	eventually(t, "the stream", func() bool { return s.Source("live/livestream") != nil })
	sub := s.Source("live/livestream").Subscribe(t.Context())
	for {
		m, err := sub.Next()
		require.NoError(t, err)
		if m.Timestamp >= c.ms()/2 {
			break
		}
	}
	sub.Close()
	asFLV := startFrameMD5(t, web.URL+"/live/livestream.flv")
	asMP4 := startFrameMD5(t, web.URL+"/live/livestream.mp4")
	require.NoError(t, publisher.wait())
	require.NoError(t, asFLV.wait())
	require.NoError(t, asMP4.wait())
	require.NoError(t, checkFrames(want, parseFrames(t, asFLV.out.Bytes()), true))
	for _, media := range []string{"video", "audio"} {
		all, got := hashes(want, media), hashes(parseFrames(t, asMP4.out.Bytes()), media)
		require.NotEmpty(t, got, media)
		require.Equal(t, all[len(all)-len(got):], got, media)
	}
}

// hashes returns the hashes of the packets of a medium. Times are not compared, because MP4
// has other units of time.
func hashes(packets []framePacket, media string) (all []string) {
	for _, p := range packets {
		if p.media == media {
			all = append(all, p.hash)
		}
	}
	return slices.Clip(all)
}
