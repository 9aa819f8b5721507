package forward

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// The bytes that a publisher may send before it is on air are limited.
func TestTakeoverWithHeadersAlone(t *testing.T) {
	s := newServer(t, Config{Takeover: true, MaxBytes: 1 << 20})
	first, err := s.Publish(t.Context(), Request{App: "live", Stream: canary})
	require.NoError(t, err)
	second, err := s.Publish(t.Context(), Request{App: "live", Stream: canary})
	require.NoError(t, err)
	for range 1000 {
		require.NoError(t, second.WriteTag(TagVideo, 0, rtmptest.VideoHeader))
		messages, _ := second.pub.kept.log.Len()
		require.LessOrEqual(t, messages, 1)
	}
	large := slices.Concat(rtmptest.VideoHeader, make([]byte, 1<<18))
	for i := range 100 {
		large[len(large)-1] = byte(i)
		require.NoError(t, second.WriteTag(TagVideo, 0, large))
		_, bytes := second.pub.kept.log.Len()
		require.LessOrEqual(t, bytes, len(large)+1000)
	}
	require.NoError(t, first.Close())
	require.NoError(t, second.Close())
	<-first.Source().Done()
}
