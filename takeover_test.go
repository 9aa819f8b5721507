package forward

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// Headers that wait for the next publisher's keyframe are bounded.
func TestTakeoverWithHeadersAlone(t *testing.T) {
	s := newServer(t, Config{Takeover: true})
	first, err := s.Publish(t.Context(), Request{App: "live", Stream: canary})
	require.NoError(t, err)
	second, err := s.Publish(t.Context(), Request{App: "live", Stream: canary})
	require.NoError(t, err)
	for range 10 * maxWaiting {
		require.NoError(t, second.WriteTag(TagVideo, 0, rtmptest.VideoHeader))
	}
	require.Len(t, second.pub.waiting, maxWaiting)
	large := slices.Concat(rtmptest.VideoHeader, make([]byte, maxWaitingBytes/2))
	for range 3 {
		require.NoError(t, second.WriteTag(TagVideo, 0, large))
	}
	require.Len(t, second.pub.waiting, 1)
	require.NoError(t, first.Close())
	require.NoError(t, second.Close())
	<-first.Source().Done()
}
