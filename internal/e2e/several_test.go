package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// A connection that publishes several streams loses only the one that has ended,
// whatever ended it. It is disconnected with the last one.
func TestOneOfSeveralStreamsOfAConnection(t *testing.T) {
	for name, row := range map[string]struct {
		end  func(t *testing.T, s *forward.Server, src *forward.Source)
		says string
	}{
		"Close":    {func(_ *testing.T, _ *forward.Server, src *forward.Source) { src.Close() }, forward.ErrKicked.Error()},
		"Shutdown": {func(t *testing.T, _ *forward.Server, src *forward.Source) { src.Shutdown(t.Context()) }, forward.ErrKicked.Error()},
		"takeover": {func(t *testing.T, s *forward.Server, src *forward.Source) {
			p := publish(t, s, "live", src.Request().Stream)
			require.NoError(t, p.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader))
			require.NoError(t, p.WriteTag(forward.TagVideo, 0, rtmptest.Frame(true, 0)))
			defer p.Close()
		}, forward.ErrTakenOver.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			var told pairs
			s := newServer(t, forward.Config{Takeover: true, Hooks: told.hooks(), MergeWindow: -1})
			c := rawPublisher(t, hosttest.ServeLoopback(t, s))
			write := func(id uint32, n int) {
				c.id = id
				require.NoError(t, c.write(forward.TagVideo, uint32(40*n), rtmptest.Frame(n == 0, n)))
			}
			rejected := func() {
				info, _ := amf.AsObject(c.answer("onStatus")[3])
				code, _ := info.GetString("code")
				text, _ := info.GetString("description")
				require.Equal(t, []string{"NetStream.Publish.Rejected", row.says}, []string{code, text})
			}
			c.publish("other")
			other := c.id
			c.publish("cam")
			cam := c.id
			sub := s.Source("live/other").Subscribe(t.Context())
			defer sub.Close()
			for n := range 10 {
				write(other, n)
				write(cam, n)
			}
			row.end(t, s, s.Source("live/cam"))
			rejected()
			for n := 10; n < 20; n++ {
				write(cam, n) // the claim fails
				write(other, n)
			}
			for n := 0; n < 20; {
				m, err := sub.Next()
				require.NoError(t, err)
				if m.Type == forward.TagVideo {
					require.Equal(t, rtmptest.Frame(n == 0, n), m.Payload)
					n++
				}
			}
			require.Eventually(t, func() bool { return s.Source("live/cam") == nil && told.open(t) == 1 }, 10*time.Second, time.Millisecond)

			// The same message stream may publish the name again, and the hooks decide
			// again.
			asked := func() int {
				told.mu.Lock()
				defer told.mu.Unlock()
				return told.on
			}
			before := asked()
			c.send(rtmptest.CommandInChunks(rawChunks, cam, "publish", 0, nil, "cam", "live"))
			info, _ := amf.AsObject(c.answer("onStatus")[3])
			code, _ := info.GetString("code")
			require.Equal(t, "NetStream.Publish.Start", code)
			require.Equal(t, 2, told.open(t))
			require.Equal(t, before+1, asked())
			write(cam, 0)
			require.NotNil(t, s.Source("live/cam"))

			row.end(t, s, s.Source("live/other"))
			rejected()
			require.Equal(t, 1, s.Stats().Connections)
			row.end(t, s, s.Source("live/cam"))
			rejected()
			require.Eventually(t, func() bool { return s.Stats().Connections == 0 && told.open(t) == 0 }, 10*time.Second, time.Millisecond)
		})
	}
}
