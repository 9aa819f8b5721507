//go:build interop

package interop

import (
	"context"
	"crypto/tls"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/probe"
)

// Probes succeed with working servers over rtmp and rtmps, and name the fault of others. A
// server receives a publish and its end.
func TestProbes(t *testing.T) {
	id := newIdentity(t)
	var mu sync.Mutex
	var calls []string
	call := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, name)
	}
	slave := newServer(t, forward.Config{Hooks: forward.Hooks{
		OnPublish:   func(context.Context, *forward.Request) error { call("publish"); return nil },
		OnUnpublish: func(context.Context, *forward.Request) { call("unpublish") },
	}})
	nginx := newNginx(t, "")
	secure, front := slave.serveTLS(t, id), newFront(t, id, nginx.addr)
	from := newServer(t, forward.Config{})
	for _, row := range []struct {
		name    string
		d       forward.Destination
		verdict string
	}{
		{"nginx-rtmp", forward.Destination{URL: "rtmp://" + nginx.addr + "/live"}, "The destination has accepted the publish."},
		{"nginx-rtmp, again", forward.Destination{URL: "rtmp://" + nginx.addr + "/live", Profile: forward.ProfileNginx}, "The destination has accepted the publish."},
		{"nginx-rtmp, TLS", forward.Destination{URL: "rtmps://" + front + "/live", TLSConfig: &tls.Config{RootCAs: id.roots}}, "The destination has accepted the publish."},
		{"nginx-rtmp, unknown app", forward.Destination{URL: "rtmp://" + nginx.addr + "/none"}, "The server ended the connection instead of answering connect. Check the app"},
		{"nginx-rtmp, refused", forward.Destination{URL: "rtmp://" + nginx.addr + "/deny"}, "The server has accepted the publish, and then ended the connection."},
		{"nginx-rtmp, not TLS", forward.Destination{URL: "rtmps://" + nginx.addr + "/live"}, "The server at " + nginx.addr + " "},
		{"TLS, not told", forward.Destination{URL: "rtmp://" + front + "/live"}, "The server at " + front + " ended the connection during the RTMP handshake. Check that the port is that of an RTMP server. If it is for TLS, use rtmps://"},
		{"slave", forward.Destination{URL: "rtmp://" + slave.addr + "/live"}, "The destination has accepted the publish."},
		{"slave, TLS", forward.Destination{URL: "rtmps://" + secure + "/live", TLSConfig: &tls.Config{RootCAs: id.roots}}, "The destination has accepted the publish."},
		{"slave, not trusted", forward.Destination{URL: "rtmps://" + secure + "/live"}, `The certificate of the server comes from "interop authority", which this machine does not trust.`},
		{"itself", forward.Destination{URL: "rtmp://" + from.addr + "/live"}, "The destination is this server itself"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.d.StreamKey = "probed"
			r := probe.Run(t.Context(), from.Server, row.d, func(s probe.Step) { t.Log(s.OK, s.Op, s.Took, s.Text, s.Said) })
			t.Log(r.Verdict)
			require.True(t, strings.HasPrefix(r.Verdict, row.verdict), r.Verdict)
		})
	}
	eventually(t, "the slave to see the end", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(calls) == 4
	})
	require.Equal(t, []string{"publish", "unpublish", "publish", "unpublish"}, calls)
	nginx.logged(t, "publish: name='probed'", 3)
	nginx.logged(t, "deleteStream", 3)
	require.Empty(t, slave.Sources())
}
