package e2e

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// Each log line about a stream or a destination has the fields of its event, as text.
func TestLogLinesAreEvents(t *testing.T) {
	var log logtest.Buffer
	cfg := forward.Config{
		MergeWindow: -1, Takeover: true, PublishGrace: 10 * time.Second,
		Logger:  secretscan.Logger(slog.NewJSONHandler(&log, nil)),
		Backoff: forward.Backoff{RefusedMin: time.Second, RefusedMax: time.Second},
	}
	inBubble(t, cfg, func(b *bubble) {
		r := readEvents(b.Ctx, t, b.Server)
		refuses := forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Refuse: "NetStream.Publish.BadName"}}}
		b.Destination("a:1935", refuses, forwardtest.Script{})
		p := b.Publish("live/s")
		_, err := b.Server.Source("live/s").Forward(forward.Destination{URL: "rtmp://a/live/" + canary})
		require.NoError(b, err)
		require.NoError(b, p.Send(b.Ctx, forwardtest.Media{}.Messages(5*time.Second), 1))
		p.Reset()
		synctest.Wait()
		b.PublishFor("live/s", forwardtest.Media{}, time.Second)
		synctest.Wait()
		r.lines()

		type fact struct{ kind, source, publish, client, addr, state, reason, err, after string }
		text := func(e map[string]any, key string) string { s, _ := e[key].(string); return s }
		told := make(map[fact]int)
		for _, ev := range r.all {
			f := fact{string(ev.Kind), ev.Stream, ev.PublishID, ev.ClientID, ev.Addr, string(ev.State), string(ev.Reason), ev.Cause, ""}
			if ev.After > 0 {
				f.after = ev.After.Round(time.Millisecond).String()
			}
			told[f]++
		}
		for msg, n := range map[string]int{
			"publish": 1, "publisher lost": 1, "publisher has the stream": 1, "unpublish": 1,
			"destination lost": 1, "destination publishing": 1, "destination draining": 1,
		} {
			entries := log.Entries(t, msg)
			require.Len(b, entries, n, msg)
			for _, e := range entries {
				f := fact{text(e, "event"), text(e, "source"), text(e, "publish_id"), text(e, "client"), text(e, "addr"), text(e, "state"), text(e, "reason"), text(e, "err"), text(e, "after")}
				require.Equal(b, 1, told[f], "%s: %+v in %+v", msg, f, told)
			}
		}
		lost := log.Entries(t, "destination lost")[0]
		require.Equal(b, "retry", lost["event"])
		require.Regexp(b, `^\d.*s$`, lost["retry"], "a text")
		require.Contains(b, lost["err"], "publish: ")
		require.Regexp(b, `^[0-9a-f]{8}$`, lost["id"])
	})
}
