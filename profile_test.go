package forward

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDestinationProfile(t *testing.T) {
	require.EqualError(t, Destination{URL: "rtmp://h/a/k", Profile: canary}.Validate(), "destination rtmp://h/a/***: unknown Profile")
	require.ErrorContains(t, Destination{URL: "rtmp://h/a"}.Validate(), "no stream key")
	require.NoError(t, Destination{URL: "rtmp://h/a", Profile: ProfileMediaMTX}.Validate())
	require.ErrorContains(t, Destination{URL: "a.rtmps.youtube.com/live2?backup=1"}.Validate(), "no stream key")
	// String adds a scheme only for a known platform.
	for url, want := range map[string]string{
		"fa7.live-video.net/" + canary:                  "rtmps://fa7.live-video.net/***",
		"u:" + canary + "@fa7.live-video.net/" + canary: "rtmps://***@fa7.live-video.net/***",
		"live-video.net.example/" + canary:              "***",
		"h/" + canary:                                   "***",
	} {
		require.Equal(t, want, Destination{URL: url}.String())
	}
}
