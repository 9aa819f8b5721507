//go:build interop

package interop

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
)

// TestQueryHoweverCut publishes with each program under URLs with a slash in their
// query. The programs split them differently, but app, stream and param are the same.
func TestQueryHoweverCut(t *testing.T) {
	needAll(t)
	type published struct{ app, stream, param string }
	var mu sync.Mutex
	asked := map[string][]published{} // with a vhost
	s := serve(t, forward.Config{Hooks: forward.Hooks{OnPublish: func(_ context.Context, r *forward.Request) error {
		mu.Lock()
		defer mu.Unlock()
		asked[r.Vhost] = append(asked[r.Vhost], published{r.App, r.Stream, r.Param})
		return forward.ErrRefused // the test needs no more
	}}})
	c := h264aac(t)
	for _, p := range publishers {
		if p.name == "joy4" {
			continue // rejects every query with a slash
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			vhost := strings.ToLower(p.stream()) + ".example"
			for _, want := range []published{
				{"live", "s", "?vhost=" + vhost + "&forward=rtmp://127.0.0.1:19351/test/key"},
				{"__defaultApp__", "s", "?vhost=" + vhost + "&forward=rtmp://127.0.0.1:19351/test/key"},
				{"live", "s", "?vhost=" + vhost + "&sign=Zm9v/YmFy=="},
				{"live", "s", "?vhost=" + vhost + "&sign=Zm9v/YmFy==&t=1"},
			} {
				app := want.app + "/"
				if want.app == "__defaultApp__" {
					if strings.HasPrefix(p.name, "GStreamer") {
						continue // sends what looks like an app with a query, and a stream
					}
					app = ""
				}
				mu.Lock()
				asked[vhost] = nil
				mu.Unlock()
				require.Error(t, p.publish(t, c, s.url(app+want.stream+want.param)))
				mu.Lock()
				got := asked[vhost]
				mu.Unlock()
				require.NotEmpty(t, got)
				for _, g := range got {
					require.Equal(t, want, g)
				}
			}
		})
	}
}
