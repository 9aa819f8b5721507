package control

import (
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/table"
)

// everyAnswerOfTheTable makes requests that are answered in every way.
func (c *controlled) everyAnswerOfTheTable() {
	src, bearer := "/sources/"+c.p.Source().ID(), "Bearer "+token
	const jsonCT = "application/json"
	held := `{"stream":"live/*","state":"held","destination":{"url":"rtmp://down/live","stream_key":"` + canary + `"}}`
	actions := []string{"enable", "disable", "hold", "live"}
	requests := [][4]string{
		{"GET", "/destinations"}, {"GET", src + "/destinations"}, {"GET", "/sources/x/destinations"}, {"GET", "/destinations/x"},
		{"PUT", "/destinations/d", jsonCT, held}, {"PUT", "/destinations/d", jsonCT, held}, {"GET", "/destinations/d"},
		{"PUT", "/destinations/d", jsonCT, "{"}, {"PUT", "/destinations/d", "", held},
		{"PUT", "/destinations/d", jsonCT, strings.Repeat(" ", maxBody+1)},
		{"POST", "/destinations/d/live"}, {"POST", src + "/destinations/d/live"},
		{"POST", src + "/destinations/x/live"}, {"POST", "/sources/x/destinations/d/live"},
		{"POST", "/destinations/d/hold"}, {"POST", "/destinations/d/enable"}, {"POST", "/destinations/d/disable"},
		{"POST", "/destinations/d/live"}, {"POST", src + "/destinations/d/live"}, // which is off
	}
	for _, a := range actions {
		requests = append(requests, [4]string{"POST", "/destinations/x/" + a})
	}
	for _, r := range requests {
		c.do(r[0], r[1], r[2], r[3], bearer)
		c.do(r[0], r[1], r[2], r[3], "")
	}
	require.NoError(c.t, os.Rename(c.dir, c.dir+"2"))
	for _, a := range actions {
		c.do("POST", "/destinations/d/"+a, "", "", bearer)
	}
	c.do("PUT", "/destinations/d", jsonCT, held, bearer)
	c.do("DELETE", "/destinations/d", "", "", bearer)
	require.NoError(c.t, os.Rename(c.dir+"2", c.dir))
	c.do("DELETE", "/destinations/d", "", "", bearer)
	c.do("DELETE", "/destinations/d", "", "", bearer)
	c.do("DELETE", "/destinations/d", "", "", "")
	require.NoError(c.t, c.table.Close())
	c.do("PUT", "/destinations/more", jsonCT, held, bearer)

	without := withoutTable(c.t)
	for _, r := range [][2]string{{"GET", "/destinations"}, {"PUT", "/destinations/d"}} {
		w := without(r[0], r[1])
		described(c.t, r[0], r[1], w.Result(), w.Body.Bytes())
	}
}

// withoutTable returns a function that makes requests to a handler without a table.
func withoutTable(t *testing.T) func(method, path string) *httptest.ResponseRecorder {
	h, err := Handler(newServer(t, forward.Config{}), Options{Tokens: []forward.Secret{token}})
	require.NoError(t, err)
	return func(method, path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
}

func TestTable(t *testing.T) {
	c := newControlled(t)
	src := "/sources/" + c.p.Source().ID()
	var e shownEntry
	c.must(201, "PUT", "/destinations/main", `{"stream":"live/`+canary+`","destination":{"url":"rtmp://dest/live","stream_key":"k-`+canary+`","chunk_size":4096}}`, &e)
	require.Equal(t, "main", e.Name)
	require.Equal(t, "rtmp://dest/live/***", e.URL)
	require.Equal(t, table.Off, e.State)
	require.Regexp(t, `^live/#[0-9a-f]{8}$`, e.Stream)
	require.Empty(t, e.Pattern)
	require.Equal(t, "control 127.0.0.1", e.By)
	require.Equal(t, []shownPush{{Source: c.p.Source().ID()}}, e.Pushes)
	d := c.table.Entries()[0].Destination
	require.True(t, d.NoLinkLocal)
	require.Equal(t, 4096, d.ChunkSize)
	require.Equal(t, forward.Secret("k-"+canary), d.StreamKey)

	c.must(200, "POST", "/destinations/main/enable", "", &e)
	require.Equal(t, table.On, e.State)
	eventually(t, func() bool {
		c.must(200, "GET", "/destinations/main", "", &e)
		f := e.Pushes[0].Forwarder
		return f != nil && f.State == forward.StatePublishing
	})
	require.True(t, e.Pushes[0].Live)
	id := e.Pushes[0].Forwarder.ID

	// Its state stays when it is put without one.
	c.must(200, "PUT", "/destinations/main", `{"stream":"live/*","destination":{"url":"rtmp://dest/live","stream_key":"k-`+canary+`","chunk_size":4096}}`, &e)
	require.Equal(t, table.On, e.State)
	require.Equal(t, "live/*", e.Stream)

	c.must(201, "PUT", "/destinations/other", `{"stream":"other/*","state":"on","destination":{"url":"rtmp://dest/live"}}`, &e)
	require.Empty(t, e.Pushes)
	var list struct{ Destinations []shownEntry }
	c.must(200, "GET", "/destinations", "", &list)
	require.Len(t, list.Destinations, 2)
	c.must(200, "GET", src+"/destinations", "", &list)
	require.Len(t, list.Destinations, 1)
	require.Equal(t, id, list.Destinations[0].Pushes[0].Forwarder.ID)

	c.must(200, "POST", "/destinations/main/hold", "", &e)
	eventually(t, func() bool { return find(c.p.Source(), id) == nil })
	c.must(200, "POST", src+"/destinations/main/live", "", &e)
	c.publishing(id)
	c.must(200, "POST", "/destinations/main/disable", "", &e)
	eventually(t, func() bool { return find(c.p.Source(), id) == nil })
	c.must(204, "DELETE", "/destinations/main", "", nil)
	c.must(404, "GET", "/destinations/main", "", &failure{})
	require.Contains(t, c.log.String(), "by=\"control 127.0.0.1\"")
}

// A destination that a client names leads to the addresses that a client may name, also
// after a restart.
func TestTableKeepsWhoNamedADestination(t *testing.T) {
	tb := table.New(table.Options{Logger: secretscan.Quiet})
	defer tb.Close()
	srv := newServer(t, forward.Config{})
	h, err := Handler(srv, Options{Tokens: []forward.Secret{token}, Table: tb, Untrusted: true, Names: true})
	require.NoError(t, err)
	r := httptest.NewRequest("PUT", "/destinations/d", strings.NewReader(`{"stream":"live/cam","destination":{"url":"rtmp://dest/live/x"}}`))
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, 201, w.Code, w.Body)
	require.Contains(t, w.Body.String(), `"pattern":"live/cam"`)
	require.True(t, tb.Entries()[0].Destination.Untrusted)
	require.True(t, tb.Entries()[0].Destination.NoLinkLocal)
}

func TestNoTable(t *testing.T) {
	without := withoutTable(t)
	for _, request := range []string{"GET /destinations", "GET /destinations/x", "PUT /destinations/x", "DELETE /destinations/x", "POST /destinations/x/enable", "POST /destinations/x/live", "GET /sources/x/destinations"} {
		method, path, _ := strings.Cut(request, " ")
		w := without(method, path)
		require.Equal(t, 404, w.Code, request)
		require.Contains(t, w.Body.String(), "no table")
	}
}

// Of a pattern only what cannot be the name of a stream is shown.
func TestMaskedPatterns(t *testing.T) {
	for pattern, want := range map[string]string{
		"*": `^\*$`, "live/*": `^live/\*$`, "//*/*": `^//\*/\*$`, "//v.example/live/*": `^//v.example/live/\*$`,
		"live/cam-*": `^live/\*\*\*$`, "live/" + canary: `^live/#[0-9a-f]{8}$`, canary: `^\*\*\*$`,
		"~live/" + canary: `^~\*\*\*$`, "li*/" + canary: `^li\*/\*\*\*$`,
	} {
		require.Regexp(t, want, maskedPattern(pattern), pattern)
		require.NotContains(t, maskedPattern(pattern), canary)
	}
}
