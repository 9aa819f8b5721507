//go:build interop

package interop

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/srs"
)

// The dynamic example of SRS's documentation, character for character: its file, its
// backend's answer, and FFmpeg as the encoder. The documentation's other way, a URL in
// the publisher's param, works if 127.0.0.0/8 is allowed, as forwardd does.
func TestDynamicForwardAsOnThePage(t *testing.T) {
	need(t, "ffmpeg")
	const file = `
listen 127.0.0.1:1935;
vhost __defaultVhost__ {
    forward {
        enabled on;
        backend http://127.0.0.1:8085/api/v1/forward;
    }
}
`
	const answer = `{
   "code": 0,
   "data": {
       "urls":[
          "rtmp://127.0.0.1:19350/test/teststream"
       ]
   }
}`
	listen := func(addr string) net.Listener {
		l, err := net.Listen("tcp", addr)
		require.NoError(t, err, "the example's own address is taken")
		return l
	}
	conf, err := srs.ParseConfig("srs.conf", []byte(file))
	require.NoError(t, err)
	master := listen(conf.Listen[0])
	backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Action, Vhost, App, TcURL, Stream, Param string }
		if r.URL.Path != "/api/v1/forward" || json.NewDecoder(r.Body).Decode(&q) != nil || q.Action != "on_forward" ||
			q.Vhost != "__defaultVhost__" || q.App != "live" || q.TcURL != "rtmp://127.0.0.1:1935/live" || q.Stream != "livestream" {
			t.Errorf("asked %s %+v", r.URL.Path, q)
		}
		if to, ok := strings.CutPrefix(q.Param, "?forward="); ok {
			json.NewEncoder(w).Encode(map[string]any{"code": 0, "data": map[string]any{"urls": []string{to}}})
			return
		}
		io.WriteString(w, answer)
	})}
	hooks := listen("127.0.0.1:8085")
	go backend.Serve(hooks)
	defer backend.Close()

	serve := func(cfg forward.Config, l net.Listener) {
		s := forward.NewServer(cfg)
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
	}
	// So that the checking player is told the end.
	serve(forward.Config{EndPlayers: true}, listen("127.0.0.1:19350"))
	serve(forward.Config{EndPlayers: true}, listen("127.0.0.1:19351"))
	conf.Config.AllowNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} // like forwardd
	serve(conf.Config, master)

	clip := h264aac(t)
	for _, c := range []struct{ param, at string }{
		{"", "rtmp://127.0.0.1:19350/test/teststream"},
		{"?forward=rtmp://127.0.0.1:19351/test/livestream", "rtmp://127.0.0.1:19351/test/livestream"},
	} {
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := ffmpegPublish(t, "ffmpeg", clip, "rtmp://127.0.0.1:1935/live/livestream"+c.param); err != nil {
				t.Errorf("publish: %v", err)
			}
		})
		host, name, _ := strings.Cut(strings.TrimPrefix(c.at, "rtmp://"), "/")
		app, stream, _ := strings.Cut(name, "/")
		got, err := playRaw(t.Context(), host, app, stream, nil)
		wg.Wait()
		require.NoError(t, err)
		var frames, want int
		for _, m := range got {
			if m.typ != chunk.TypeData {
				frames++
			}
		}
		for _, m := range clip.tags {
			if m.typ != chunk.TypeData {
				want++
			}
		}
		require.Equal(t, want, frames, "%s: what was published has arrived", c.at)
	}
}
