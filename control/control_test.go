package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/table"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

const (
	canary = secretscan.Canary // in every secret
	token  = "t0ken-of-the-operator-" + canary
)

// newServer returns a Server that the end of the test closes.
func newServer(t *testing.T, cfg forward.Config) *forward.Server {
	t.Helper()
	require.NoError(t, cfg.Validate())
	if cfg.Logger == nil {
		cfg.Logger = secretscan.Quiet
	}
	srv := forward.NewServer(cfg)
	leaktest.Track(t, srv)
	t.Cleanup(func() {
		for _, src := range srv.Sources() {
			secretscan.Check(t.Name(), src, src.ID(), src.Request(), src.Stats())
			for _, f := range src.Forwarders() {
				secretscan.Check(t.Name(), f, f.Destination(), f.Stats(), f.Stats().LastErr)
			}
		}
		srv.Close()
	})
	return srv
}

// publish publishes a stream that the end of the test closes.
func publish(t *testing.T, srv *forward.Server, app, stream string) *forward.Publisher {
	t.Helper()
	p, err := srv.Publish(t.Context(), forward.Request{App: app, Stream: stream, Param: "?token=" + canary})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// writeVideo writes a frame of H.264, in form.
func writeVideo(p *forward.Publisher, time uint32, key bool) error {
	body := []byte{0x27, 1, 0, 0, 0, 0xff}
	if key {
		body[0] = 0x17
	}
	return p.WriteTag(forward.TagVideo, time, body)
}

// numbered returns n destinations.
func numbered(n int) (ds []forward.Destination) {
	for i := range n {
		ds = append(ds, forward.Destination{URL: fmt.Sprintf("rtmp://dest/live/%s%02d", canary, i)})
	}
	return ds
}

// eventually waits for what is about to be.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, 10*time.Second, time.Millisecond)
}

// answer is a resolver's.
type answer struct {
	mu    sync.Mutex
	dests []forward.Destination
	err   error
}

func (a *answer) ResolveDestinations(context.Context, *forward.Request) ([]forward.Destination, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dests, a.err
}

func (a *answer) set(dests []forward.Destination, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dests, a.err = dests, err
}

// controlled is a server with a control handler, and a stream whose name and
// destination hold canaries.
type controlled struct {
	t      *testing.T
	http   *httptest.Server
	p      *forward.Publisher
	dest   *forward.Server // where rtmp://dest leads; rtmp://down is down
	answer answer
	table  *table.Table
	dir    string // of its file
	log    logtest.Buffer
}

func newControlled(t *testing.T) *controlled {
	c := &controlled{t: t, dest: newServer(t, forward.Config{MergeWindow: -1})}
	c.answer.dests = []forward.Destination{{URL: "rtmp://dest/live/" + canary}}
	dial := forwardtest.Direct(c.dest)
	var err error
	c.dir = filepath.Join(t.TempDir(), "table")
	require.NoError(t, os.Mkdir(c.dir, 0o700))
	c.table, err = table.Open(filepath.Join(c.dir, "t.json"), table.Options{Logger: secretscan.Logger(slog.NewTextHandler(&c.log, nil))})
	require.NoError(t, err)
	t.Cleanup(func() { c.table.Close() })
	srv := newServer(t, forward.Config{
		Hooks:       forward.Hooks{OnSource: c.table.OnSource},
		MergeWindow: -1, Resolver: &c.answer, Logger: secretscan.Logger(slog.NewTextHandler(&c.log, nil)),
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == "down:1935" {
				return nil, errors.New("connection refused")
			}
			return dial(ctx, network, addr)
		},
		Limits: forward.Limits{Destinations: 4},
	})
	h, err := Handler(srv, Options{Tokens: []forward.Secret{"another", token}, Table: c.table})
	require.NoError(t, err)
	c.http = httptest.NewServer(http.StripPrefix("/control", h))
	t.Cleanup(c.http.Close)
	c.p = publish(t, srv, "live", canary)
	c.publishing(c.p.Source().Forwarders()[0].ID())
	return c
}

// do makes a request and returns status, header and body.
func (c *controlled) do(method, path, contentType, body, authorization string) (int, http.Header, []byte) {
	c.t.Helper()
	r, err := http.NewRequest(method, c.http.URL+"/control"+path, strings.NewReader(body))
	require.NoError(c.t, err)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	resp, err := c.http.Client().Do(r)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	secretscan.Check(c.t.Name(), resp.Header, string(b))
	described(c.t, method, path, resp, b)
	return resp.StatusCode, resp.Header, b
}

// must makes a request that is to be answered with that status, and decodes
// the answer.
func (c *controlled) must(status int, method, path, body string, into any) {
	c.t.Helper()
	code, _, b := c.do(method, path, "application/json", body, "Bearer "+token)
	require.Equal(c.t, status, code, "%s", b)
	if into != nil {
		require.NoError(c.t, json.Unmarshal(b, into))
	} else {
		require.Empty(c.t, b)
	}
}

func (c *controlled) publishing(id string) {
	c.t.Helper()
	eventually(c.t, func() bool {
		f := find(c.p.Source(), id)
		return f != nil && f.Stats().State == forward.StatePublishing
	})
}

func TestHandler(t *testing.T) {
	c := newControlled(t)
	source := "/sources/" + c.p.Source().ID()

	var list struct{ Sources []shownSource }
	c.must(200, "GET", "/sources", "", &list)
	require.Len(t, list.Sources, 1)
	src := list.Sources[0]
	require.Equal(t, c.p.Source().ID(), src.ID)
	require.Regexp(t, `^live/#[0-9a-f]{8}$`, src.Stream)
	require.Len(t, src.Forwarders, 1)
	require.Equal(t, "rtmp://dest/live/***", src.Forwarders[0].URL)
	require.Equal(t, forward.StatePublishing, src.Forwarders[0].State)
	c.must(200, "GET", source, "", &src)
	require.Equal(t, list.Sources[0], src)

	// Add.
	var f shownForwarder
	c.must(201, "POST", source+"/forwarders", `{"url":"rtmp://dest/live","stream_key":"added","chunk_size":4096}`, &f)
	require.Equal(t, "rtmp://dest/live/***", f.URL)
	c.publishing(f.ID)
	c.must(200, "GET", source+"/forwarders/"+f.ID, "", &f)
	require.Equal(t, forward.StatePublishing, f.State)
	d := find(c.p.Source(), f.ID).Destination()
	require.True(t, d.NoLinkLocal)
	require.False(t, d.Untrusted)
	require.Equal(t, 4096, d.ChunkSize)

	// One that is down shows why.
	var down shownForwarder
	c.must(201, "POST", source+"/forwarders", `{"url":"rtmp://down/live/x"}`, &down)
	eventually(t, func() bool {
		c.must(200, "GET", source+"/forwarders/"+down.ID, "", &down)
		return down.Error != nil
	})
	require.Equal(t, &shownError{Op: "dial", Message: "Connection refused."}, down.Error)
	eventually(t, func() bool { // or it is trying again at the moment
		c.must(200, "GET", source+"/forwarders/"+down.ID, "", &down)
		return down.State == "waiting" && !down.NextAttempt.IsZero()
	})

	// Replace; it waits for the next keyframe.
	require.NoError(t, c.p.WriteTag(forward.TagVideo, 0, []byte{0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff})) // a header
	require.NoError(t, writeVideo(c.p, 0, true))
	eventually(t, func() bool { return c.dest.Source("live/added").Stats().Messages == 2 })
	old := find(c.p.Source(), f.ID)
	answer := make(chan []byte)
	go func() {
		_, _, b := c.do("PUT", source+"/forwarders/"+f.ID, "application/json", `{"url":"rtmp://dest/live/replaced"}`, "Bearer "+token)
		answer <- b
	}()
	eventually(t, func() bool {
		writeVideo(c.p, 40, true)
		return old.ID() != f.ID
	})
	var replaced shownForwarder
	require.NoError(t, json.Unmarshal(<-answer, &replaced))
	require.NotEqual(t, f.ID, replaced.ID)
	require.Equal(t, forward.StatePublishing, replaced.State)
	require.Equal(t, replaced.ID, old.ID())

	// Remove.
	removed := find(c.p.Source(), replaced.ID)
	c.must(204, "DELETE", source+"/forwarders/"+replaced.ID, "", nil)
	<-removed.Done()
	c.must(204, "DELETE", source+"/forwarders/"+down.ID, "", nil)

	// Refresh.
	c.answer.set(append(c.answer.dests, numbered(1)...), nil)
	c.must(200, "POST", source+"/refresh", "", &src)
	require.Len(t, src.Forwarders, 2)

	// Kick.
	c.must(204, "DELETE", source, "", nil)
	<-c.p.Source().Done()
	require.ErrorIs(t, writeVideo(c.p, 80, true), forward.ErrKicked)
	c.must(200, "GET", "/sources", "", &list)
	require.Empty(t, list.Sources)

	for _, action := range []string{"add", "replace", "remove", "refresh", "kick"} {
		require.Contains(t, c.log.String(), "msg=control action="+action)
	}
	require.NotContains(t, c.log.String(), canary)
	require.NotContains(t, c.log.String(), token)
}

func TestHandlerTakesAllOptions(t *testing.T) {
	read := func(body string) forward.Destination {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		d, err := new(handler).readDestination(r)
		require.NoError(t, err)
		return d
	}
	const pin = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	all := read(`{"url":"rtmps://h/app","profile":"srs","stream_key":"k","user":"u","password":"p","tc_url":"rtmp://t/app",
		"flash_ver":"X/1","chunk_size":4096,"server_name":"n","fingerprint":"` + pin + `","no_release_stream":true,
		"no_fc_publish":true,"plain_metadata":true,"no_metadata":true,"digest_handshake":true,"redirect":"anywhere",
		"timestamps":"zero","merge_window_ms":350,"dial_timeout_ms":3000,"setup_timeout_ms":30000,"publish_timeout_ms":60000}`)
	require.Equal(t, forward.Destination{
		URL: "rtmps://h/app", Profile: forward.ProfileSRS, StreamKey: "k", User: "u", Password: "p", TcURL: "rtmp://t/app",
		FlashVer: "X/1", ChunkSize: 4096, ServerName: "n", Fingerprint: pin, NoReleaseStream: true,
		NoFCPublish: true, PlainMetadata: true, NoMetadata: true, DigestHandshake: true, Redirect: forward.RedirectAnywhere,
		Timestamps: forward.TimestampsZero, MergeWindow: 350 * time.Millisecond, DialTimeout: 3 * time.Second, SetupTimeout: 30 * time.Second, PublishTimeout: time.Minute, NoLinkLocal: true,
	}, all)
	v := reflect.ValueOf(all)
	for i := range v.NumField() {
		switch name := v.Type().Field(i).Name; name {
		case "DialContext", "TLSConfig": // what JSON cannot say
		case "Untrusted": // for Options to say
			strict := &handler{untrusted: true}
			r := httptest.NewRequest("POST", "/", strings.NewReader(`{"url":"rtmp://h/app/k"}`))
			r.Header.Set("Content-Type", "application/json")
			d, err := strict.readDestination(r)
			require.NoError(t, err)
			require.True(t, d.Untrusted)
		default:
			require.False(t, v.Field(i).IsZero(), name)
		}
	}

	for value, want := range map[string]forward.Redirect{
		`""`: forward.RedirectSameHost, `"same_host"`: forward.RedirectSameHost, `"never"`: forward.RedirectNever, `"anywhere"`: forward.RedirectAnywhere, `null`: forward.RedirectSameHost,
	} {
		require.Equal(t, want, read(`{"url":"rtmp://a/b/c","redirect":`+value+`}`).Redirect, value)
	}
}

func TestHandlerRefuses(t *testing.T) {
	c := newControlled(t)
	src := "/sources/" + c.p.Source().ID()
	own := src + "/forwarders/" + c.p.Source().Forwarders()[0].ID()
	add := src + "/forwarders"
	const (
		bearer = "Bearer " + token
		jsonCT = "application/json"
		good   = `{"url":"rtmp://dest/live/x"}`
	)
	for _, tt := range []struct {
		name, method, path, contentType, body, authorization string
		status                                               int
		code                                                 string
	}{
		{"no token", "GET", "/sources", "", "", "", 401, "unauthorized"},
		{"wrong token", "GET", "/sources", "", "", "Bearer wrong", 401, "unauthorized"},
		{"empty token", "GET", "/sources", "", "", "Bearer ", 401, "unauthorized"},
		{"part of the token", "GET", "/sources", "", "", bearer[:len(bearer)-1], 401, "unauthorized"},
		{"another scheme", "GET", "/sources", "", "", "Basic " + token, 401, "unauthorized"},
		{"no scheme", "GET", "/sources", "", "", token, 401, "unauthorized"},
		{"no token, nothing there", "GET", "/nothing", "", "", "", 401, "unauthorized"},
		{"no token, wrong method", "PATCH", "/sources", "", "", "", 401, "unauthorized"},
		{"nothing there", "GET", "/nothing", "", "", bearer, 404, "not_found"},
		{"slash at the end", "GET", "/sources/", "", "", bearer, 404, "not_found"},
		{"the root", "GET", "/", "", "", bearer, 404, "not_found"},
		{"no such source", "GET", "/sources/0123456789abcdef", "", "", bearer, 404, "not_found"},
		{"source by name", "GET", "/sources/live%2F" + canary, "", "", bearer, 404, "not_found"},
		{"no such source to kick", "DELETE", "/sources/x", "", "", bearer, 404, "not_found"},
		{"no such source to refresh", "POST", "/sources/x/refresh", "", "", bearer, 404, "not_found"},
		{"no such source to add to", "POST", "/sources/x/forwarders", jsonCT, good, bearer, 404, "not_found"},
		{"no such forwarder", "GET", add + "/x", "", "", bearer, 404, "not_found"},
		{"no such forwarder to replace", "PUT", add + "/x", jsonCT, good, bearer, 404, "not_found"},
		{"no such forwarder to remove", "DELETE", add + "/x", "", "", bearer, 404, "not_found"},
		{"list with POST", "POST", "/sources", jsonCT, good, bearer, 405, "method_not_allowed"},
		{"refresh with GET", "GET", src + "/refresh", "", "", bearer, 405, "method_not_allowed"},
		{"forwarders with GET", "GET", add, "", "", bearer, 405, "method_not_allowed"},
		{"made-up method", "KICK", src, "", "", bearer, 405, "method_not_allowed"},
		{"no content type", "POST", add, "", good, bearer, 415, "unsupported_media_type"},
		{"a form", "POST", add, "application/x-www-form-urlencoded", "url=rtmp://dest/live/x", bearer, 415, "unsupported_media_type"},
		{"a form, replaced", "PUT", own, "text/plain", good, bearer, 415, "unsupported_media_type"},
		{"no body", "POST", add, jsonCT, "", bearer, 400, "bad_json"},
		{"not JSON", "POST", add, jsonCT, "rtmp://dest/live/" + canary, bearer, 400, "bad_json"},
		{"cut off", "POST", add, jsonCT, good[:10], bearer, 400, "bad_json"},
		{"two values", "POST", add, jsonCT, good + good, bearer, 400, "bad_json"},
		{"something behind", "POST", add, jsonCT, good + "}", bearer, 400, "bad_json"},
		{"an array", "POST", add, jsonCT, "[" + good + "]", bearer, 400, "bad_json"},
		{"unknown field", "POST", add, jsonCT, `{"url":"rtmp://dest/live/x","` + canary + `":1}`, bearer, 400, "bad_json"},
		{"wrong type", "POST", add, jsonCT, `{"url":["` + canary + `"]}`, bearer, 400, "bad_json"},
		{"number out of range", "POST", add, jsonCT, `{"url":"rtmp://a/b/c","chunk_size":1e40}`, bearer, 400, "bad_json"},
		{"too long", "POST", add, jsonCT, `{"url":"` + strings.Repeat("a", maxBody) + `"}`, bearer, 413, "too_large"},
		{"too long behind", "POST", add, jsonCT, good + strings.Repeat(" ", maxBody), bearer, 413, "too_large"},
		{"null", "POST", add, jsonCT, "null", bearer, 400, "bad_destination"},
		{"no URL", "POST", add, jsonCT, "{}", bearer, 400, "bad_destination"},
		{"http", "POST", add, jsonCT, `{"url":"http://dest/live/` + canary + `"}`, bearer, 400, "bad_destination"},
		{"bad port", "PUT", own, jsonCT, `{"url":"rtmp://dest:0/live/` + canary + `"}`, bearer, 400, "bad_destination"},
		{"bad chunk size", "POST", add, jsonCT, `{"url":"rtmp://a/b/c","chunk_size":1}`, bearer, 400, "bad_destination"},
		{"unknown redirect", "POST", add, jsonCT, `{"url":"rtmp://a/b/c","redirect":"` + canary + `"}`, bearer, 400, "bad_destination"},
		{"unknown timestamps", "POST", add, jsonCT, `{"url":"rtmp://a/b/c","timestamps":"` + canary + `"}`, bearer, 400, "bad_destination"},
		{"redirect by number", "POST", add, jsonCT, `{"url":"rtmp://a/b/c","redirect":2}`, bearer, 400, "bad_json"},
		{"unknown profile", "POST", add, jsonCT, `{"url":"rtmp://a/b/c","profile":"` + canary + `"}`, bearer, 400, "bad_destination"},
		{"negative time", "POST", add, jsonCT, `{"url":"rtmp://a/b/c","dial_timeout_ms":-1}`, bearer, 400, "bad_destination"},
		{"merge window too long", "POST", add, jsonCT, `{"url":"rtmp://a/b/c","merge_window_ms":10001}`, bearer, 400, "bad_destination"},
		{"time out of range", "POST", add, jsonCT, `{"url":"rtmp://a/b/c","setup_timeout_ms":2147483648}`, bearer, 400, "bad_json"},
		{"there already", "POST", add, jsonCT, `{"url":"rtmp://dest/live/` + canary + `"}`, bearer, 409, "exists"},
		{"replaced by what is down", "PUT", own, jsonCT, `{"url":"rtmp://down/live/` + canary + `"}`, bearer, 502, "destination_failed"},
		{"replaced by what is busy", "PUT", own, jsonCT, `{"url":"rtmp://dest/live","stream_key":"` + canary + `"}`, bearer, 502, "destination_failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.status, statuses[tt.code])
			status, header, b := c.do(tt.method, tt.path, tt.contentType, tt.body, tt.authorization)
			require.Equal(t, tt.status, status, "%s", b)
			require.Equal(t, "application/json", header.Get("Content-Type"))
			require.Equal(t, "no-store", header.Get("Cache-Control"))
			require.Equal(t, status == 401, header.Get("WWW-Authenticate") == "Bearer")
			require.Equal(t, status == 405, header.Get("Allow") != "")
			var e map[string]string
			require.NoError(t, json.Unmarshal(b, &e))
			require.Equal(t, tt.code, e["code"])
			require.Regexp(t, `^[A-Z].*\.$`, e["message"])
			require.Len(t, e, 2)
		})
	}
	require.Len(t, c.p.Source().Forwarders(), 1)

	c.answer.set(nil, errors.New("no answer"))
	var e failure
	c.must(502, "POST", src+"/refresh", "", &e)
	require.Equal(t, "resolver_failed", e.Code)
	c.must(400, "POST", add, `{"url":"rtmp://a/b/c","redirect":"x"}`, &e)
	require.Equal(t, "The field redirect must be same_host, never or anywhere.", e.Message)
	for _, d := range numbered(3) {
		_, err := c.p.Source().Forward(d)
		require.NoError(t, err)
	}
	c.must(409, "POST", add, good, &e)
	require.Equal(t, "limit", e.Code)
	require.NotContains(t, c.log.String(), canary)
}

func TestHandlerHidesEchoedSecrets(t *testing.T) {
	dest := newServer(t, forward.Config{Hooks: forward.Hooks{OnPublish: func(_ context.Context, req *forward.Request) error {
		return &forward.StatusError{Code: "No", Description: "There is no " + req.Stream + req.Param}
	}}})
	lost := make(chan error, 1)
	s := newServer(t, forward.Config{Dial: forwardtest.Direct(dest), Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, s forward.State, err error) {
		if s == forward.StateWaiting {
			lost <- err
		}
	}}})
	f, err := publish(t, s, "live", canary).Source().Forward(forward.Destination{URL: "rtmp://dest/live/" + canary + "?q=" + canary})
	require.NoError(t, err)
	require.ErrorContains(t, <-lost, "No: There is no ***")
	require.Equal(t, &shownError{
		Op: "publish", Code: "No", Message: "Publish refused: No: There is no ***.",
	}, showForwarder(f).Error)
}

func TestHandlerShowsNamesWhenTold(t *testing.T) {
	s := newServer(t, forward.Config{})
	publish(t, s, "live", "name")
	h, err := Handler(s, Options{Tokens: []forward.Secret{token}, Names: true})
	require.NoError(t, err)
	r := httptest.NewRequest("GET", "/sources", nil)
	r.Header.Set("Authorization", "bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Body.String(), `"name":"live/name"`)
}

func TestHandlerNeedsToken(t *testing.T) {
	for _, tokens := range [][]forward.Secret{nil, {}, {""}, {"a", ""}} {
		h, err := Handler(newServer(t, forward.Config{}), Options{Tokens: tokens})
		require.ErrorContains(t, err, "token")
		require.Nil(t, h)
	}
}

func TestHandlerLogsWhereTold(t *testing.T) {
	var own logtest.Buffer
	srv := newServer(t, forward.Config{})
	src := publish(t, srv, "live", canary).Source()
	h, err := Handler(srv, Options{Tokens: []forward.Secret{token}, Logger: secretscan.Logger(slog.NewTextHandler(&own, nil))})
	require.NoError(t, err)
	r := httptest.NewRequest("DELETE", "/sources/"+src.ID(), nil)
	r.Header.Set("Authorization", "Bearer "+token)
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Regexp(t, `msg=control action=kick source="?live/#[0-9a-f]{8}"? id=""`, own.String())
}

// The tokens are not shown by the options that hold them.
func TestOptionsHoldNoSecretWhenPrinted(t *testing.T) {
	o := Options{Tokens: []forward.Secret{token}}
	for _, v := range []any{o, &o, []Options{o}, struct{ O Options }{o}} {
		require.NotContains(t, secretscan.Prints(v), canary)
	}
	require.Equal(t, "Options with 1 tokens", fmt.Sprint(o))
}

// A body is a destination that can be used, or is refused in words that quote
// nothing of it but names of fields.
func FuzzBody(f *testing.F) {
	f.Add(`{"url":"rtmp://dest/live/x"}`)
	f.Add(`{"url":"rtmp://dest/live","stream_key":"k","chunk_size":4096,"no_metadata":true}`)
	f.Add(`{"url":"rtmp://dest/live/x"}{}`)
	f.Add(`{"url":1,"URL":"rtmp://a/b/c"}`)
	f.Add(`[[[[[[`)
	f.Add(`null`)
	known := map[int]string{400: "bad_json bad_destination"}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
		d, err := new(handler).readDestination(r)
		if err == nil {
			require.NoError(t, d.Validate())
			require.True(t, d.NoLinkLocal)
			require.True(t, json.Valid([]byte(body)))
			return
		}
		var ce *failure
		require.ErrorAs(t, err, &ce)
		require.Contains(t, known[statuses[ce.Code]], ce.Code)
		require.Regexp(t, `(?s)^\P{Ll}.*\.$`, ce.Message)
		if ce.Code == "bad_json" {
			require.Less(t, len(ce.Message), 100)
		}
	})
}
