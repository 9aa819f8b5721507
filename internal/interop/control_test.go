//go:build interop

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/forwardtest"
)

// TestControlByCurl is an operator with curl: every request of the control handler, and
// malformed ones.
func TestControlByCurl(t *testing.T) {
	need(t, "curl")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dest := forwardtest.NewDestination()
	defer dest.Close()
	resolver, err := forward.Static(dest.URL("live/first"))
	require.NoError(t, err)
	srv := newServer(t, forward.Config{Resolver: resolver, AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	handler, err := control.Handler(srv.Server, control.Options{Tokens: []forward.Secret{"right"}})
	require.NoError(t, err)
	host := httptest.NewServer(http.StripPrefix("/control", handler))
	defer host.Close()
	pub, err := forwardtest.Client{URL: srv.url("live/livestream")}.Publish(ctx)
	require.NoError(t, err)
	defer pub.Close()
	go pub.Send(ctx, forwardtest.Media{}.Messages(-1), 1)

	// curl makes a request and returns status and body.
	curl := func(path string, args ...string) (status string, body map[string]any) {
		args = append([]string{"-q", "--silent", "--show-error", "--noproxy", "*", "--max-time", "50",
			"--write-out", "\n%{http_code}", host.URL + "/control" + path}, args...)
		out := run(t, "curl", args...)
		at := bytes.LastIndexByte(out, '\n')
		if reply := bytes.TrimSpace(out[:at]); len(reply) > 0 {
			require.NoError(t, json.Unmarshal(reply, &body), string(reply))
		}
		return string(out[at+1:]), body
	}
	with := func(args ...string) []string {
		return append([]string{"-H", "Authorization: Bearer right"}, args...)
	}
	send := func(method, body string) []string {
		return with("-X", method, "-H", "Content-Type: application/json", "-d", body)
	}
	destination := func(key string) string { return `{"url":"` + dest.URL("live") + `","stream_key":"` + key + `"}` }
	published := func(n int, key string) *forwardtest.Session {
		s, err := dest.WaitSession(ctx, n)
		require.NoError(t, err)
		c, err := s.WaitCommand(ctx, "publish")
		require.NoError(t, err)
		require.Equal(t, key, c.String(1))
		require.NoError(t, s.Recorder().WaitFrames(ctx, 1))
		return s
	}
	ended := func(s *forwardtest.Session) {
		_, err := s.WaitCommand(ctx, "deleteStream")
		require.NoError(t, err)
	}

	first := published(1, "first")
	status, body := curl("/sources", with()...)
	require.Equal(t, "200", status)
	sources := body["sources"].([]any)
	require.Len(t, sources, 1)
	source := "/sources/" + sources[0].(map[string]any)["id"].(string)

	for name, tt := range map[string]struct {
		path string
		args []string
		want string
	}{
		"no token":          {"/sources", nil, "401 unauthorized"},
		"wrong token":       {"/sources", []string{"-H", "Authorization: Bearer wrong"}, "401 unauthorized"},
		"other scheme":      {"/sources", []string{"-u", "user:right"}, "401 unauthorized"},
		"wrong method":      {"/sources", with("-X", "PATCH"), "405 method_not_allowed"},
		"no JSON":           {source + "/forwarders", send("POST", "{"), "400 bad_json"},
		"unknown field":     {source + "/forwarders", send("POST", `{"uri":""}`), "400 bad_json"},
		"wrong type":        {source + "/forwarders", send("POST", `{"url":1}`), "400 bad_json"},
		"form":              {source + "/forwarders", with("-d", "url=rtmp://a/b/c"), "415 unsupported_media_type"},
		"too long":          {source + "/forwarders", send("POST", `{"url":"`+strings.Repeat("x", 70000)), "413 too_large"},
		"no destination":    {source + "/forwarders", send("POST", `{"url":"http://a/b/c"}`), "400 bad_destination"},
		"unknown source":    {"/sources/0000000000000000", with(), "404 not_found"},
		"unknown path":      {"/metrics", with(), "404 not_found"},
		"unknown forwarder": {source + "/forwarders/00000000", with("-X", "DELETE"), "404 not_found"},
	} {
		status, body := curl(tt.path, tt.args...)
		require.Equal(t, tt.want, status+" "+body["code"].(string), name)
		require.NotEmpty(t, body["message"], name)
	}

	status, body = curl(source+"/forwarders", send("POST", destination("second"))...)
	require.Equal(t, "201", status)
	second := published(2, "second")
	status, body = curl(source+"/forwarders/"+body["id"].(string), send("PUT", destination("third"))...)
	require.Equal(t, "200", status)
	ended(second)
	third := published(3, "third")
	status, _ = curl(source+"/forwarders/"+body["id"].(string), with("-X", "DELETE")...)
	require.Equal(t, "204", status)
	ended(third)
	status, body = curl(source+"/refresh", with("-X", "POST")...)
	require.Equal(t, "200", status)
	require.Len(t, body["forwarders"], 1)
	require.Len(t, dest.Sessions(), 3, "the first one is as it was")
	status, _ = curl(source, with("-X", "DELETE")...)
	require.Equal(t, "204", status)
	ended(first)
	<-pub.Done()
	first.Recorder().Check(t)
}
