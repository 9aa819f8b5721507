//go:build interop

package interop

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
)

// TestEncoderLoopOfOtherCodecs changes tracks and codecs at each turn of the loop.
// Players that write what they receive to a file get all of it, in order.
func TestEncoderLoopOfOtherCodecs(t *testing.T) {
	if newFFmpeg == "" {
		t.Skip("FORWARD_FFMPEG names no current FFmpeg")
	}
	needAll(t)
	clips := []*clip{h264aac(t), audioOnly(t), modern[0](t), videoOnly(t), audioOnly(t), modern[2](t), h264aac(t)}
	slave := serve(t, forward.Config{})
	master := serve(t, forward.Config{Resolver: forward.MustStatic(slave.addr)})
	dir := t.TempDir()
	var players []*looped
	for at, s := range map[string]*server{"master": master, "slave": slave} {
		url, gst, dump := s.url("live/livestream"), filepath.Join(dir, at+"-gst.flv"), filepath.Join(dir, at+"-rtmpdump.flv")
		players = append(players,
			&looped{"GStreamer rtmp2src", at, start(t, "gst-launch-1.0", "-q", "rtmp2src", "location="+url, "!", "filesink", "location="+gst), gst, 3},
			&looped{"librtmp (rtmpdump)", at, start(t, "rtmpdump", "-q", "--live", "--timeout", "60", "-r", url, "-o", dump), dump, 0})
	}
	for _, s := range []*server{master, slave} {
		eventually(t, "players to be accepted", func() bool { return s.plays.Load() == 2 })
	}
	var want []tag
	for _, c := range clips {
		require.NoError(t, ffmpegPublish(t, newFFmpeg, c, master.url("live/livestream")))
		want = append(want, c.tags...)
	}
	eventually(t, "the last end", func() bool { return len(slave.Sources()) == 0 })
	for _, s := range []*server{master, slave} {
		require.NoError(t, s.Shutdown(t.Context()))
	}
	for _, p := range players {
		err := p.wait()
		if err == nil || incomplete(err) {
			_, err = p.checkFile(want)
		}
		table.set(loops+", "+p.at, p.name, &clip{name: "loop: other codecs"}, err)
		if err != nil {
			t.Errorf("%s at the %s: %v", p.name, p.at, err)
		}
	}
}
