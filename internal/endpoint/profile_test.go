package endpoint

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProfileOf(t *testing.T) {
	title := func(name, host string) string {
		p, ok := ProfileOf(name, host)
		require.True(t, ok)
		if p == nil {
			return ""
		}
		return p.Title + " " + p.scheme
	}
	require.Equal(t, "Amazon IVS (Kick, Twitch) rtmps", title("", "A.live-video.NET."))
	require.Equal(t, "", title(None, "a.live-video.net"), "known, but not wanted")
	require.Equal(t, "", title("", "srs.example"), "no guess")
	require.Equal(t, "", title("", "nginx"))
	require.Equal(t, "SRS ", title(SRS, "a.live-video.net"), "what is said counts")
	require.Equal(t, "YouTube rtmp", title(YouTube, "a.rtmp.youtube.com"))
	require.Equal(t, "YouTube rtmps", title(YouTube, "proxy.example"))
	_, ok := ProfileOf("youtub", "a.rtmp.youtube.com")
	require.False(t, ok)
}
