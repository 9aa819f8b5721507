package control

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestProbe(t *testing.T) {
	c := newControlled(t)
	var good, bad shownProbe
	c.must(200, "POST", "/probe", `{"url":"rtmp://dest/live","stream_key":"probed-`+canary+`"}`, &good)
	require.True(t, good.Accepted, good.Verdict)
	require.Equal(t, "rtmp://dest/live/***", good.Destination)
	require.Equal(t, "leave", good.Steps[len(good.Steps)-1].Op)
	require.NotNil(t, good.Warnings)
	c.must(200, "POST", "/probe", `{"url":"rtmp://down/live","stream_key":"`+canary+`"}`, &bad)
	require.False(t, bad.Accepted)
	require.Equal(t, "The connection to down:1935 has failed: connection refused. Check host and port.", bad.Verdict)
	require.Equal(t, []shownStep{{Op: "dial", Text: "The connection to down:1935 has failed: connection refused."}}, bad.Steps)
	var f failure
	c.must(409, "POST", "/probe", `{"url":"rtmp://dest/live/`+canary+`"}`, &f)
	require.Equal(t, failure{"exists", "This server is connected to the destination now, or is probing it. The state of that forwarder tells how it is; a second publish could disconnect it."}, f)
	require.Contains(t, c.log.String(), "action=probe destination=rtmp://dest/live/*** accepted=true")
}

// A probe may lead only where a destination of its sender may, and the answer has a
// server's words only in said, in one line without invisible characters.
func TestProbeOfStrangers(t *testing.T) {
	evil := forwardtest.NewDestination(forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {
		Refuse: "NetStream.Publish.BadName", Description: "<script>\x00\u202e\u2066\n" + canary + strings.Repeat("a", 9000)}}})
	defer evil.Close()
	srv := newServer(t, forward.Config{})
	for _, row := range []struct {
		name      string
		untrusted bool
		url       string
		verdict   string
	}{
		{"link-local", false, "rtmp://169.254.169.254/live", "The address of the destination is not allowed: 169.254.169.254:1935: a link-local address"},
		{"this machine", true, evil.URL("live"), "The address of the destination is not allowed: 127.0.0.1"},
		{"words of the server", false, evil.URL("live"), "The server refuses the stream key (NetStream.Publish.BadName). "},
	} {
		t.Run(row.name, func(t *testing.T) {
			h, err := Handler(srv, Options{Tokens: []forward.Secret{token}, Untrusted: row.untrusted})
			require.NoError(t, err)
			status, p := probed(t, h, row.url)
			require.Equal(t, 200, status)
			require.True(t, strings.HasPrefix(p.Verdict, row.verdict), p.Verdict)
			for _, s := range p.Steps {
				require.NotContains(t, s.Text, "script")
				require.LessOrEqual(t, len(s.Said), 256)
				require.False(t, strings.ContainsAny(s.Said, "\n\x00\u202e\u2066"), s.Said)
			}
		})
	}
}

// probed posts a probe of a URL and returns the answer.
func probed(t *testing.T, h http.Handler, url string) (status int, p shownProbe) {
	r := httptest.NewRequest("POST", "/probe", strings.NewReader(`{"url":"`+url+`","stream_key":"`+canary+`"}`))
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	secretscan.Check(t.Name(), w.Body.String())
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	return w.Code, p
}

func TestProbesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p probes
		code := func(err error) string {
			if err == nil {
				p.end()
				return ""
			}
			return err.(*failure).Code + ": " + err.Error()
		}
		for range probeBurst {
			require.Empty(t, code(p.begin()))
		}
		require.Equal(t, "too_many: There were too many probes. The next may begin in 6 s.", code(p.begin()))
		time.Sleep(probeInterval)
		require.Empty(t, code(p.begin()))
		require.NotEmpty(t, code(p.begin()))
		time.Sleep(time.Hour)
		require.NoError(t, p.begin())
		require.NoError(t, p.begin())
		require.Equal(t, "too_many: 2 probes are in progress already.", code(p.begin()))
		p.end()
		require.Empty(t, code(p.begin()))
	})
}
