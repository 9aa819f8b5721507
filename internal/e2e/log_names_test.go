package e2e

import (
	"context"
	"errors"
	"fmt"
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

// With LogNames the name of a stream is shown. Everything else stays masked.
func TestLogNames(t *testing.T) {
	for _, named := range []bool{true, false} {
		t.Run(fmt.Sprint(named), func(t *testing.T) {
			var log logtest.Buffer
			cfg := forward.Config{
				LogNames: named, MergeWindow: -1, Logger: secretscan.Logger(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
				Resolver: forward.MustStatic("rtmp://u:"+canary+"@a/live/[stream]?k="+canary, "rtmp://refuses/live/"+canary),
				Hooks: forward.Hooks{OnPublish: func(_ context.Context, req *forward.Request) error {
					if req.Stream == "refused-cam" {
						return errors.New("no " + req.Stream + req.Param + " at " + req.TcURL)
					}
					return nil
				}},
			}
			inBubble(t, cfg, func(b *bubble) {
				r := readEvents(b.Ctx, t, b.Server)
				b.Destination("a:1935")
				b.Destination("refuses:1935", forwardtest.Script{Steps: map[string]forwardtest.Step{
					"publish": {Refuse: "NetStream.Publish.BadName", Description: "no " + canary + " here"}}})
				p := b.Publish("live/front-door")
				b.Play("live/front-door")
				require.NoError(b, p.Send(b.Ctx, forwardtest.Media{}.Messages(time.Second), 1))
				synctest.Wait()
				_, err := b.Client("live/refused-cam").Publish(b.Ctx)
				require.Error(b, err)
				src := b.Server.Source("live/front-door")
				secretscan.Check(t.Name(), fmt.Sprintf("%v %+v %v", src, src.Request(), src.Forwarders()))
				require.Equal(b, named, fmt.Sprint(src) == "live/front-door")
				require.NoError(b, p.Unpublish())
				r.lines()
				for _, ev := range r.all {
					require.Equal(b, "live/front-door", ev.Name(), "%v", ev.Kind)
					require.Equal(b, named, ev.Stream == ev.Name(), "%v", ev.Kind)
				}
				for _, msg := range []string{"publish", "unpublish", "destination publishing", "destination lost"} {
					entries := log.Entries(t, msg)
					require.NotEmpty(b, entries, msg)
					require.Equal(b, named, entries[0]["source"] == "live/front-door", msg)
				}
				if named {
					require.NotEmpty(b, log.Lines("no refused-cam"))
				} else {
					require.Empty(b, log.Lines("front-door"))
					require.Empty(b, log.Lines("refused-cam"))
				}
				require.NotContains(b, log.String(), canary)
			})
		})
	}
}
