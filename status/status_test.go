package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

const (
	canary = secretscan.Canary
	token  = "t0ken-of-the-operator-" + canary
)

// newServer returns a Server that the end of the test closes.
func newServer(t *testing.T, cfg forward.Config) *forward.Server {
	t.Helper()
	cfg.Logger = secretscan.Quiet
	srv := forward.NewServer(cfg)
	leaktest.Track(t, srv)
	t.Cleanup(func() { srv.Close() })
	return srv
}

// anybody takes everybody for an operator.
func anybody(*http.Request) bool { return true }

// get returns the answer of a handler.
func get(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// data returns the data of the page.
func data(t *testing.T, h http.Handler) (v shown) {
	t.Helper()
	w := get(h, "GET", "/page/status.json")
	require.Equal(t, 200, w.Code)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	secretscan.Check("data", w.Body.String())
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &v))
	return v
}

func TestPageIsWhole(t *testing.T) {
	h := Handler(newServer(t, forward.Config{}), Options{})
	typ := regexp.MustCompile(`^(text/(html|css|javascript); charset=utf-8|image/svg\+xml)$`)
	names, err := fs.Glob(files, "page/*")
	require.NoError(t, err)
	paths := []string{"/"}
	for _, name := range names {
		if name != "page/index.html" {
			paths = append(paths, "/"+name)
		}
	}
	for _, path := range paths {
		w := get(h, "GET", path)
		require.Equal(t, 200, w.Code, path)
		require.Regexp(t, typ, w.Header().Get("Content-Type"), path)
		require.NotEmpty(t, w.Body.String())
		require.Equal(t, 304, get(h, "GET", path, "If-None-Match", w.Header().Get("ETag")).Code)
		// Every file that another names is there, and none is of another host.
		for _, m := range regexp.MustCompile(`(?:href|src)="([^"]+)"|from "\./([^"]+)"|url\(([^)]+)\)`).FindAllStringSubmatch(w.Body.String(), -1) {
			if m[2] != "" {
				m[1] = "page/" + m[2]
			}
			require.Contains(t, paths, "/"+m[1], path)
		}
		if path != "/page/icon.svg" { // where it is the name of a language
			require.NotContains(t, strings.ReplaceAll(w.Body.String(), "rtmp://", ""), "http://", path)
		}
		require.NotContains(t, w.Body.String(), "https://", path)
		require.NotRegexp(t, `innerHTML|outerHTML|insertAdjacent|eval\(|localStorage|sessionStorage|document\.cookie`, w.Body.String(), path)
		require.NotRegexp(t, `(?i)<script>|<style| style=| on[a-z]+="`, w.Body.String(), path)
	}
	require.Equal(t, 404, get(h, "GET", "/page/none").Code)
	require.Equal(t, 404, get(h, "GET", "/page/index.html").Code)
	require.Equal(t, 405, get(h, "POST", "/").Code)
}

func TestPageIsProtected(t *testing.T) {
	h := Handler(newServer(t, forward.Config{}), Options{IsOperator: anybody})
	for _, path := range []string{"/", "/page/page.js", "/page/status.json", "/page/none"} {
		header := get(h, "GET", path).Header()
		policy := header.Get("Content-Security-Policy")
		require.True(t, strings.HasPrefix(policy, "default-src 'none'; "), path)
		require.Contains(t, policy, "frame-ancestors 'none'")
		require.NotContains(t, policy, "unsafe")
		require.NotContains(t, policy, "*")
		require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
		require.Equal(t, "no-referrer", header.Get("Referrer-Policy"))
		require.Equal(t, "same-origin", header.Get("Cross-Origin-Resource-Policy"))
	}
}

func TestDataIsForOperators(t *testing.T) {
	srv := newServer(t, forward.Config{})
	require.Equal(t, 401, get(Handler(srv, Options{}), "GET", "/page/status.json").Code)

	s, err := control.NewServer(srv, control.ServerOptions{Options: control.Options{Tokens: []forward.Secret{token}}})
	require.NoError(t, err)
	page := Handler(srv, Options{IsOperator: s.IsOperator})
	s.Handle("GET /{$}", control.HandlerDecides, page)
	s.Handle("GET /page/", control.HandlerDecides, page)
	web := httptest.NewUnstartedServer(nil)
	go s.Serve(web.Listener)
	defer s.Close()
	ask := func(path, token string) (int, string) {
		r, err := http.NewRequest("GET", "http://"+web.Listener.Addr().String()+path, nil)
		require.NoError(t, err)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(text)
	}
	for _, tt := range []struct {
		path, token string
		status      int
	}{
		{"/", "", 200}, {"/page/page.js", "", 200},
		{"/page/status.json", "", 401}, {"/page/status.json", token[1:], 401}, {"/page/status.json", token, 200},
		{"/nothing", "", 401},
	} {
		status, text := ask(tt.path, tt.token)
		require.Equal(t, tt.status, status, tt.path)
		secretscan.Check(tt.path, text)
	}
}

// What the page says of a destination that works and of one that does not.
func TestDataOfDestinations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(forwardtest.Network)
		slave := newServer(t, forward.Config{})
		l, err := network.Listen("slave:1935")
		require.NoError(t, err)
		go slave.Serve(l)
		srv := newServer(t, forward.Config{
			Resolver: forward.MustStatic("rtmp://slave/live/"+canary, "rtmp://down/live/"+canary), Dial: network.Dial,
		})
		h := Handler(srv, Options{IsOperator: anybody, Pictures: true})
		require.Empty(t, data(t, h).Sources)
		p, err := srv.Publish(t.Context(), forward.Request{App: "live", Stream: canary})
		require.NoError(t, err)
		require.NoError(t, p.WriteTag(forward.TagVideo, 0, []byte{0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff}))
		for i := range 100 {
			require.NoError(t, p.WriteTag(forward.TagVideo, uint32(i*40), []byte{0x17, 1, 0, 0, 0, 0xff}))
			time.Sleep(40 * time.Millisecond)
		}
		synctest.Wait()
		v := data(t, h)
		require.True(t, v.Pictures)
		require.Equal(t, shownServer{
			Streams: 1, Destinations: 2, Publishing: 1, BitrateIn: v.Server.BitrateIn, BitrateOut: v.Server.BitrateOut,
			Received: v.Server.Received, Sent: v.Server.Sent, Buffered: v.Server.Buffered, MemoryBudget: v.Server.MemoryBudget,
		}, v.Server)
		require.Len(t, v.Sources, 1)
		src := v.Sources[0]
		require.Equal(t, p.Source().ID(), src.ID)
		require.Equal(t, fmt.Sprint(p.Source()), src.Stream)
		require.Equal(t, "avc1", src.VideoCodec)
		require.InDelta(t, 25, src.FrameRate, 1)
		require.Len(t, src.Forwarders, 2)
		good, bad := src.Forwarders[0], src.Forwarders[1]
		require.Equal(t, "rtmp://slave/live/***", good.URL)
		require.Equal(t, forward.StatePublishing, good.State)
		require.Empty(t, good.Cause)
		require.Equal(t, "rtmp://down/live/***", bad.URL)
		require.Equal(t, forward.StateWaiting, bad.State)
		require.Contains(t, bad.Cause, "connection refused")
		require.True(t, bad.NextAttempt.After(v.Now))
		require.NotEmpty(t, v.Events)
		for _, e := range v.Events {
			require.NotEqual(t, forward.StateConnecting, e.State)
		}
		require.NoError(t, p.Close())
		synctest.Wait()
		require.Equal(t, forward.EventUnpublish, last(data(t, h).Events).Kind)
		srv.Close()
		slave.Close()
	})
}

func last(events []forward.Event) forward.Event { return events[len(events)-1] }

func TestNamesAreShownIfTheHostSaysSo(t *testing.T) {
	srv := newServer(t, forward.Config{})
	p, err := srv.Publish(t.Context(), forward.Request{App: "live", Stream: "cam"})
	require.NoError(t, err)
	defer p.Close()
	require.Equal(t, "live/cam", data(t, Handler(srv, Options{IsOperator: anybody, Names: true})).Sources[0].Stream)
	require.NotContains(t, data(t, Handler(srv, Options{IsOperator: anybody})).Sources[0].Stream, "cam")
}

func TestEventsAreBounded(t *testing.T) {
	var r recent
	r.keep(func(yield func(forward.Event) bool) {
		for i := range uint64(3 * maxRecent) {
			yield(forward.Event{Seq: i, Err: context.Canceled})
		}
	})
	require.Len(t, r.all(), maxRecent)
	require.Equal(t, uint64(3*maxRecent-1), last(r.all()).Seq)
	require.NoError(t, last(r.all()).Err)
}

func TestCauseIsSaidOnce(t *testing.T) {
	for want, err := range map[string]error{
		"":         nil,
		"x":        errors.New("forward: x"),
		"dial: x":  &forward.DestinationError{Op: "dial", Err: errors.New("x")},
		"dial tcp": &forward.DestinationError{Op: "dial", Err: errors.New("dial tcp")},
		"publish: NetStream.Publish.BadName: taken": &forward.DestinationError{Op: "publish", Code: "NetStream.Publish.BadName", Err: errors.New("taken")},
	} {
		require.Equal(t, want, cause(err))
	}
}
