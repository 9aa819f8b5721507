package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/resolve"
	"github.com/rtmp-forward/forward/srs"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

const table = `# app/stream   to
live/news   rtmp://10.0.0.6/live/[stream] rtmps://cdn.example/[app]/c4nary5ecret
live/*      rtmp://10.0.0.7/live/[stream]
local/?
`

// start returns a backend, its file and its URL.
func start(t *testing.T, ttl time.Duration) (file, url string) {
	file = filepath.Join(t.TempDir(), "table.txt")
	require.NoError(t, os.WriteFile(file, []byte("\ufeff"+table), 0o600)) // as Windows saves it
	b, err := newBackend(file, ttl)
	require.NoError(t, err)
	srv := httptest.NewServer(b)
	t.Cleanup(srv.Close)
	return file, srv.URL
}

func request(app, stream string) *forward.Request {
	return &forward.Request{Vhost: forward.DefaultVhost, App: app, Stream: stream}
}

func urls(ds []forward.Destination) []string {
	out := make([]string, len(ds))
	for i, d := range ds {
		out[i] = d.URL
	}
	return out
}

func TestResolverGetsWhatTheTableSays(t *testing.T) {
	_, url := start(t, 20*time.Second)
	r := &resolve.HTTP{URL: url + "/api/v1/forward"}
	for name, want := range map[string][]string{
		"live/news":    {"rtmp://10.0.0.6/live/news", "rtmps://cdn.example/live/c4nary5ecret"},
		"live/weather": {"rtmp://10.0.0.7/live/weather"},
		"local/1":      {},
		"local/12":     {},
		"live/a/b":     {},
		"other/news":   {},
	} {
		app, stream, _ := strings.Cut(name, "/")
		ds, ttl, err := r.ResolveTTL(t.Context(), request(app, stream))
		require.NoError(t, err, name)
		require.Equal(t, want, urls(ds), name)
		require.Equal(t, 20*time.Second, ttl.Round(time.Second), name)
	}
}

func TestTableIsReadAgain(t *testing.T) {
	file, url := start(t, 0)
	r := &resolve.HTTP{URL: url}
	ask := func() []string {
		ds, ttl, err := r.ResolveTTL(t.Context(), request("live", "news"))
		require.NoError(t, err)
		require.Zero(t, ttl)
		return urls(ds)
	}
	before := ask()
	require.Len(t, before, 2)

	require.NoError(t, os.WriteFile(file, []byte("live/* http://wrong\n"), 0o600))
	require.Equal(t, before, ask(), "a wrong table changes nothing")
	require.NoError(t, os.Remove(file))
	require.Equal(t, before, ask(), "nor does none")

	require.NoError(t, os.WriteFile(file, []byte("live/* rtmp://new/live/[stream]\n"), 0o600))
	require.Equal(t, []string{"rtmp://new/live/news"}, ask())
}

func TestHooks(t *testing.T) {
	_, url := start(t, 0)
	all := []string{url}
	hooks := (&srs.Hooks{
		Logger: secretscan.Quiet,
		URLs:   srs.HookURLs{OnConnect: all, OnClose: all, OnPublish: all, OnUnpublish: all, OnPlay: all, OnStop: all},
	}).Hooks()
	ctx := context.Background()
	require.NoError(t, hooks.OnConnect(ctx, &forward.Request{}))
	require.NoError(t, hooks.OnPublish(ctx, request("live", "news")))
	require.NoError(t, hooks.OnPlay(ctx, request("other", "news")))
	require.ErrorIs(t, hooks.OnPublish(ctx, request("other", "news")), forward.ErrRefused)
}

func TestWrongQuestions(t *testing.T) {
	_, url := start(t, 0)
	for _, tt := range []struct {
		method, body string
		status       int
	}{
		{http.MethodGet, "", http.StatusMethodNotAllowed},
		{http.MethodPost, "", http.StatusBadRequest},
		{http.MethodPost, "on_forward", http.StatusBadRequest},
		{http.MethodPost, `{"action":"on_dvr"}`, http.StatusBadRequest},
		{http.MethodPost, `{"action":"` + strings.Repeat("x", 64<<10), http.StatusBadRequest},
	} {
		r, err := http.NewRequest(tt.method, url, strings.NewReader(tt.body))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		require.Equal(t, tt.status, resp.StatusCode, tt.body)
	}
}

func TestWrongTable(t *testing.T) {
	for text, want := range map[string]string{
		"live rtmp://a/b":                   "1: expected a pattern",
		"\n# x\nlive/[ rtmp://a/b":          "3: expected a pattern",
		"a/b rtmp://a/b/c http://a/b/c":     "1: URL 2: expected rtmp://",
		"a/b rtmp://a/b/c\r\na/b 10.0.0.1 ": "2: URL 1: expected rtmp://",
	} {
		_, err := parse(text)
		require.ErrorContains(t, err, want)
	}
}
