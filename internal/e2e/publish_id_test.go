package e2e

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// A publish has the same id on all servers that it passes through, even after a destination
// has reconnected. If the encoder publishes again, that publish has another id.
func TestPublishID(t *testing.T) {
	var logs [3]logtest.Buffer
	cfg := func(i int, to ...string) forward.Config {
		return forward.Config{
			MergeWindow: -1, ReadTimeout: -1, Takeover: true, Resolver: forward.MustStatic(to...),
			Logger: secretscan.Logger(slog.NewJSONHandler(&logs[i], nil)),
		}
	}
	master := cfg(0, "b.example")
	inBubble(t, forward.Config{}, func(b *bubble) {
		first, _ := b.ServeAt("a.example:1935", master)
		second, _ := b.ServeAt("b.example:1935", cfg(1, "c.example"))
		third, _ := b.ServeAt("c.example:1935", cfg(2))
		client := b.Client("live/s")
		client.URL = "rtmp://a.example/live/s"
		id := func(s *forward.Server) string {
			require.NotNil(b, s.Source("live/s"))
			return s.Source("live/s").Request().PublishID
		}
		publish := func() *forwardtest.Publisher {
			p, err := client.Publish(b.Ctx)
			require.NoError(b, err)
			require.NoError(b, p.Send(b.Ctx, forwardtest.Media{}.Messages(time.Second), 1))
			synctest.Wait()
			return p
		}
		p := publish()
		events := readEvents(b.Ctx, t, third)
		one := id(first)
		require.Regexp(b, `^[0-9a-f]{16}$`, one)
		require.Equal(b, one, id(second))
		require.Equal(b, one, id(third))

		second.Source("live/s").Close() // the destination of the first reconnects
		time.Sleep(time.Minute)
		require.Equal(b, one, id(second))
		require.Equal(b, one, id(third))
		events.lines()
		for _, ev := range events.all {
			require.Equal(b, one, ev.PublishID, "%v", ev.Kind)
		}

		taken := publish() // takes over
		two := id(first)
		require.NotEqual(b, one, two)
		require.Equal(b, one, id(third), "a destination that stays connected")
		entries := logs[0].Entries(t, "publisher has the stream")
		require.Len(b, entries, 1)
		require.Equal(b, two, entries[0]["publish_id"])
		p.Close()
		require.NoError(b, taken.Unpublish())
		synctest.Wait()

		p = publish()
		three := id(third)
		require.NotContains(b, []string{one, two}, three)
		require.NoError(b, p.Unpublish())
		synctest.Wait()
		for i := range logs {
			published := logs[i].Entries(t, "publish")
			require.Equal(b, one, published[0]["publish_id"], i)
			require.Equal(b, three, published[len(published)-1]["publish_id"], i)
			ended := logs[i].Entries(t, "unpublish")
			require.Equal(b, three, ended[len(ended)-1]["publish_id"], i)
		}
	})
}

// An id that does not have our form is replaced. One that has is used for one publish.
func TestPublishIDFromAPeer(t *testing.T) {
	const good = "0123456789abcdef"
	for _, sent := range []string{good, "", good[:15], good + "0", strings.ToUpper(good), strings.Repeat("g", 16), "rtmp://x/" + canary} {
		t.Run(fmt.Sprintf("%.9q", sent), func(t *testing.T) {
			s := newServer(t, forward.Config{})
			p, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: "s", PublishID: sent})
			require.NoError(t, err)
			got := p.Source().Request().PublishID
			require.Regexp(t, `^[0-9a-f]{16}$`, got)
			require.Equal(t, sent == good, got == sent)
		})
	}
}
