package srs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// callbacks is a backend that notes what it is told, as "path body".
type callbacks struct {
	*httptest.Server
	mu   sync.Mutex
	got  []string
	deny map[string]bool // paths
}

func newCallbacks(t *testing.T, deny ...string) *callbacks {
	c := &callbacks{deny: make(map[string]bool)}
	for _, path := range deny {
		c.deny[path] = true
	}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.got = append(c.got, r.URL.Path+" "+string(b))
		if c.deny[r.URL.Path] {
			io.WriteString(w, `{"code":17}`)
			return
		}
		io.WriteString(w, "0")
	}))
	t.Cleanup(c.Close)
	return c
}

// taken returns what came, and forgets it.
func (c *callbacks) taken() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.got
	c.got = nil
	return got
}

// urls gives each event its own path under prefix.
func (c *callbacks) urls(prefix string) HookURLs {
	one := func(event string) []string { return []string{c.URL + prefix + event + "?token=" + canary} }
	return HookURLs{
		OnConnect: one("connect"), OnClose: one("close"), OnPublish: one("publish"),
		OnUnpublish: one("unpublish"), OnPlay: one("play"), OnStop: one("stop"),
	}
}

func TestHooksBodies(t *testing.T) {
	c := newCallbacks(t)
	h := &Hooks{URLs: c.urls("/"), ServiceID: "svc"}
	hooks := h.Hooks()
	req := seedRequest()
	req.TcURL, req.Param, req.PageURL = "rtmp://host/live?a=<1>", "?t=1&u=2", "http://page"
	play := *req
	play.Vhost = "video.test.com"
	conn := &forward.Request{
		ServerID: req.ServerID, ClientID: req.ClientID, RemoteAddr: req.RemoteAddr,
		Vhost: req.Vhost, App: req.App, TcURL: req.TcURL, PageURL: req.PageURL,
	}
	const (
		head   = `"server_id":"vid-k21d7y2","service_id":"svc","client_id":"9o7g1330","ip":"127.0.0.1","vhost":"__defaultVhost__","app":"live"`
		stream = `,"tcUrl":"rtmp://host/live?a=<1>","stream":"livestream","param":"?t=1&u=2"`
	)
	onPlay := strings.Replace(head, forward.DefaultVhost, "video.test.com", 1) + stream
	ids := func(id, url string) string { return `,"stream_url":"` + url + `","stream_id":"` + id + `"}` }
	local, remote := ids(req.ID(), "/live/livestream"), ids(play.ID(), "video.test.com/live/livestream")

	for _, tt := range []struct {
		event, want string
		call        func() error
	}{
		{"connect", head + `,"tcUrl":"rtmp://host/live?a=<1>","stream":"","param":"?a=<1>","pageUrl":"http://page"}`,
			func() error { return hooks.OnConnect(t.Context(), conn) }},
		{"close", head + `,"send_bytes":10,"recv_bytes":20}`, func() error { hooks.OnClose(t.Context(), conn, 10, 20); return nil }},
		{"publish", head + stream + local, func() error { return hooks.OnPublish(t.Context(), req) }},
		{"unpublish", head + stream + local, func() error { hooks.OnUnpublish(t.Context(), req); return nil }},
		{"play", onPlay + `,"pageUrl":"http://page"` + remote, func() error { return hooks.OnPlay(t.Context(), &play) }},
		{"stop", onPlay + remote, func() error { hooks.OnStop(t.Context(), &play); return nil }},
	} {
		require.NoError(t, tt.call())
		require.Equal(t, []string{"/" + tt.event + ` {"action":"on_` + tt.event + `",` + tt.want}, c.taken())
	}
}

func TestHooksReplies(t *testing.T) {
	for _, tt := range []struct {
		name    string
		reply   http.HandlerFunc
		refused bool
		failed  string
	}{
		{name: "0", reply: body("0")},
		{name: "0 and white space", reply: body(" 0\r\n")},
		{name: "status 201", reply: status(201, "0")},
		{name: "object", reply: body(`{"code":0}`)},
		{name: "byte order mark", reply: body("\ufeff{\"code\":0}\r\n")},
		{name: "byte order mark and 0", reply: body("\ufeff0")},
		{name: "NUL at the end", reply: body("0\x00")},
		{name: "commas at the ends", reply: body(`{"code":0,"data":[1,],}`)},
		{name: "byte order mark twice", reply: body("\ufeff\ufeff0"), failed: "not JSON"},
		{name: "UTF-16", reply: body("\xff\xfe0\x00"), failed: "reply is UTF-16: expected UTF-8"},
		{name: "object with more", reply: body(`{"data":"","code":0,"msg":"ok"}`)},
		{name: "1", reply: body("1"), refused: true, failed: "code 1"},
		{name: "-5", reply: body("-5"), refused: true, failed: "code -5"},
		{name: "another code", reply: body(`{"code":403}`), refused: true, failed: "code 403"},
		{name: "nothing", reply: body(""), failed: "empty reply"},
		{name: "white space", reply: body(" "), failed: "empty reply"},
		{name: "word", reply: body("ok"), failed: "not JSON"},
		{name: "0 in quotes", reply: body(`"0"`), failed: "not an object"},
		{name: "0.0", reply: body("0.0"), failed: "not an object"},
		{name: "null", reply: body("null"), failed: "not an object"},
		{name: "array", reply: body("[0]"), failed: "not an object"},
		{name: "no code", reply: body("{}"), failed: "code: expected an integer"},
		{name: "code in quotes", reply: body(`{"code":"0"}`), failed: "code: expected an integer"},
		{name: "code null", reply: body(`{"code":null}`), failed: "code: expected an integer"},
		{name: "code of another case", reply: body(`{"Code":0}`), failed: "code: expected an integer"},
		{name: "status 204", reply: status(204, ""), failed: "status 204"},
		{name: "status 403", reply: status(403, "0"), failed: "status 403"},
		{name: "status 500", reply: status(500, "0"), failed: "status 500"},
		{name: "redirect", reply: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}, failed: "status 302"},
		{name: "too long", reply: body("0" + strings.Repeat(" ", 100)), failed: "longer than 100 bytes"},
		{name: "cut off", reply: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "0")
		}, failed: "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(tt.reply)
			defer srv.Close()
			var log bytes.Buffer
			url := []string{srv.URL + "/?token=" + canary}
			hooks := (&Hooks{
				URLs:     HookURLs{OnPublish: url, OnUnpublish: url},
				MaxReply: 100, Logger: secretscan.Logger(slog.NewTextHandler(&log, nil)),
			}).Hooks()
			err := hooks.OnPublish(t.Context(), seedRequest())
			hooks.OnUnpublish(t.Context(), seedRequest())
			require.Equal(t, tt.refused, errors.Is(err, forward.ErrRefused))
			if tt.failed == "" {
				require.NoError(t, err)
				require.Empty(t, log.String())
				return
			}
			require.ErrorContains(t, err, "on_publish: ")
			require.ErrorContains(t, err, tt.failed)
			require.Equal(t, 1, strings.Count(log.String(), "\n"))
			require.Contains(t, log.String(), tt.failed)
			require.NotContains(t, err.Error()+log.String(), canary)
		})
	}
}

func TestHooksAskUntilOneRefusesAndTellAll(t *testing.T) {
	c := newCallbacks(t, "/no")
	urls := []string{c.URL + "/a", c.URL + "/no", c.URL + "/b"}
	hooks := (&Hooks{URLs: HookURLs{OnPlay: urls, OnStop: urls}, Logger: quiet}).Hooks()
	paths := func() (paths []string) {
		for _, got := range c.taken() {
			path, _, _ := strings.Cut(got, " ")
			paths = append(paths, path)
		}
		return paths
	}
	err := hooks.OnPlay(t.Context(), seedRequest())
	require.EqualError(t, err, "on_play, URL 2 of 3: forward: stream refused by the backend, code 17")
	require.Equal(t, []string{"/a", "/no"}, paths())
	hooks.OnStop(t.Context(), seedRequest())
	require.Equal(t, []string{"/a", "/no", "/b"}, paths())
}

func TestHooksWithWrongURLRefuse(t *testing.T) {
	for _, h := range []*Hooks{
		{URLs: HookURLs{OnStop: []string{"ftp://host/" + canary}}},
		{Vhosts: map[string]HookURLs{"v": {OnPublish: []string{"http://" + canary + "%"}}}},
		{Secret: "whsec_!" + canary},
	} {
		hooks := h.Hooks()
		for _, err := range []error{h.Validate(), hooks.OnPublish(t.Context(), seedRequest()), hooks.OnConnect(t.Context(), &forward.Request{})} {
			require.ErrorContains(t, err, "bad ")
			require.NotContains(t, err.Error(), canary)
		}
	}
}

// breaking is a client whose first n tries break.
func breaking(n int, err error, tries *int) *http.Client {
	return &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		if *tries++; *tries <= n {
			return nil, err
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("0"))}, nil
	})}
}

func TestHooksTryOnceMoreAfterConnectionError(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for _, tt := range []struct {
		name   string
		breaks int
		err    error
		tries  int
		ok     bool
	}{
		{"once", 1, refused, 2, true},
		{"twice", 2, refused, 2, false},
		{"of another kind", 1, errors.New("bad certificate"), 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tries := 0
			h := &Hooks{URLs: HookURLs{OnPublish: []string{"http://host/"}}, Client: breaking(tt.breaks, tt.err, &tries)}
			err := h.Hooks().OnPublish(t.Context(), seedRequest())
			require.Equal(t, tt.ok, err == nil, "%v", err)
			require.Equal(t, tt.tries, tries)
		})
	}
}

func TestHooksThatHangEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		url := []string{"http://host/"}
		hooks := (&Hooks{
			URLs: HookURLs{OnPublish: url, OnClose: url}, Client: replying(time.Hour, "0", nil), Logger: quiet,
		}).Hooks()
		start := time.Now()
		require.ErrorIs(t, hooks.OnPublish(t.Context(), seedRequest()), context.DeadlineExceeded)
		require.Equal(t, 30*time.Second, time.Since(start))
		hooks.OnClose(context.WithoutCancel(t.Context()), &forward.Request{}, 0, 0)
		require.Equal(t, 60*time.Second, time.Since(start))

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		require.ErrorIs(t, hooks.OnPublish(ctx, seedRequest()), context.Canceled)
		require.Equal(t, 61*time.Second, time.Since(start))
	})
}

// Whatever a backend does, each URL has the time of one answer, as in SRS, and
// waiting for a turn has its own.
func TestHooksDecideInTime(t *testing.T) {
	const almost = 29 * time.Second
	one := []string{"http://a/"}
	for _, tt := range []struct {
		name    string
		h       *Hooks
		occupy  bool // the only turn
		replies func(try int, r *http.Request) (after time.Duration, err error)
		want    time.Duration
	}{
		{"a try breaks, the next hangs", &Hooks{URLs: HookURLs{OnPublish: one}}, false,
			func(try int, _ *http.Request) (time.Duration, error) {
				if try == 1 {
					return almost, io.EOF
				}
				return time.Hour, nil
			}, 30 * time.Second},
		{"a turn, a try that breaks, another", &Hooks{URLs: HookURLs{OnPublish: one}, MaxQuestions: 1}, true,
			func(try int, _ *http.Request) (time.Duration, error) {
				if try <= 2 {
					return almost, io.EOF
				}
				return time.Hour, nil
			}, almost + 30*time.Second},
		{"the third of three URLs", &Hooks{URLs: HookURLs{OnPublish: []string{"http://a/", "http://b/", "http://c/"}}}, false,
			func(try int, _ *http.Request) (time.Duration, error) {
				if try <= 2 {
					return almost, nil
				}
				return time.Hour, nil
			}, 2*almost + 30*time.Second},
		{"Timeout", &Hooks{URLs: HookURLs{OnPublish: one}, Timeout: 3 * time.Minute}, false,
			func(try int, _ *http.Request) (time.Duration, error) {
				if try == 1 {
					return 2 * almost, io.EOF
				}
				return time.Hour, nil
			}, 3 * time.Minute},
		{"Timeout of a vhost", &Hooks{URLs: HookURLs{OnPublish: one, Timeout: time.Minute}, Timeout: 3 * time.Minute}, false,
			func(int, *http.Request) (time.Duration, error) { return time.Hour, nil }, time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				tt.h.Client = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
					tries++
					after, err := tt.replies(tries, r)
					select {
					case <-time.After(after):
						if err != nil {
							return nil, err
						}
						return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("0"))}, nil
					case <-r.Context().Done():
						return nil, r.Context().Err()
					}
				})}
				hooks := tt.h.Hooks()
				if tt.occupy {
					ctx, cancel := context.WithTimeout(t.Context(), almost)
					defer cancel()
					go hooks.OnPublish(ctx, seedRequest())
					synctest.Wait()
				}
				start := time.Now()
				require.ErrorIs(t, hooks.OnPublish(t.Context(), seedRequest()), context.DeadlineExceeded)
				require.Equal(t, tt.want, time.Since(start))
			})
		})
	}
}

func TestHooksWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hooks := (&Hooks{
			URLs:   HookURLs{OnPublish: []string{"http://slow/"}, OnPlay: []string{"http://other/"}},
			Client: replying(2*time.Second, "0", nil), MaxQuestions: 2, Timeout: 3 * time.Second, Logger: quiet,
		}).Hooks()
		start := time.Now()
		var took []time.Duration
		var wg sync.WaitGroup
		var mu sync.Mutex
		for i := range 5 {
			wg.Go(func() {
				req := seedRequest()
				req.RemoteAddr = &net.TCPAddr{IP: net.IPv4(10, 0, 0, byte(i))}
				err := hooks.OnPublish(t.Context(), req)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					took = append(took, time.Since(start))
				} else {
					require.ErrorContains(t, err, "busy: no turn within 3s")
				}
			})
		}
		synctest.Wait()
		require.NoError(t, hooks.OnPlay(t.Context(), seedRequest()), "another URL has turns of its own")
		require.Equal(t, 2*time.Second, time.Since(start))
		wg.Wait()
		require.Equal(t, []time.Duration{2e9, 2e9, 4e9, 4e9}, took, "the fifth has waited for too long")
	})
}

// A thousand clients at once; one whose backend hangs holds none of the others.
func TestHooksOfAThousandClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hooks := (&Hooks{
			URLs:   HookURLs{OnPublish: []string{"http://backend/"}},
			Vhosts: map[string]HookURLs{"hangs": {OnPublish: []string{"http://hangs/"}}},
			Client: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				after := time.Second
				if r.URL.Host == "hangs" {
					after = time.Hour
				}
				return replying(after, "0", nil).Transport.RoundTrip(r)
			})},
			Timeout: 3 * time.Second, Logger: quiet,
		}).Hooks()
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 2000 {
			wg.Go(func() {
				req := seedRequest()
				req.RemoteAddr = &net.TCPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i))}
				if i%2 == 1 {
					req.Vhost = "hangs"
				}
				err := hooks.OnPublish(t.Context(), req)
				require.Equal(t, i%2 == 1, err != nil)
				if err == nil {
					require.LessOrEqual(t, time.Since(start), 2*time.Second)
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, time.Since(start), 6*time.Second)
	})
}

// A vhost's callbacks follow its clients from connect to close; a refusal
// reaches the client with its code.
func TestHooksOfServer(t *testing.T) {
	c := newCallbacks(t, "/b/publish")
	dest := newServer(t, forward.Config{
		Vhosts: map[string]forward.Vhost{"a": {}, "b": {}, "c": {}},
		Hooks: (&Hooks{Vhosts: map[string]HookURLs{
			"a": c.urls("/a/"), "b": c.urls("/b/"),
		}}).Hooks(),
	})
	states := make(chan error, 16)
	src := newServer(t, forward.Config{
		Dial: dialTo(dest),
		Hooks: forward.Hooks{OnForward: func(f *forward.Forwarder, s forward.State, err error) {
			if s == forward.StatePublishing || s == forward.StateWaiting && err != nil {
				states <- err
			}
		}},
	})
	p := publish(t, src, "live", canary)
	for _, tt := range []struct {
		vhost, code string
		want        []string
	}{
		{"a", "", []string{"/a/connect", "/a/publish", "/a/unpublish", "/a/close"}},
		{"b", "NetStream.Publish.Denied", []string{"/b/connect", "/b/publish", "/b/close"}},
		{"c", "", nil},
	} {
		t.Run(tt.vhost, func(t *testing.T) {
			f, err := p.Source().Forward(forward.Destination{URL: "rtmp://" + tt.vhost + "/live/s"})
			require.NoError(t, err)
			err = <-states
			if tt.code != "" {
				var de *forward.DestinationError
				require.ErrorAs(t, err, &de)
				require.Equal(t, tt.code, de.Code)
			} else {
				require.NoError(t, err)
			}
			require.NoError(t, f.Shutdown(t.Context()))
			require.Eventually(t, func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.got) >= len(tt.want)
			}, 10*time.Second, time.Millisecond)
			var paths []string
			for _, got := range c.taken() {
				path, body, _ := strings.Cut(got, " ")
				paths = append(paths, path)
				if strings.HasSuffix(path, "/close") {
					var b struct {
						Sent     uint64 `json:"send_bytes"`
						Received uint64 `json:"recv_bytes"`
					}
					require.NoError(t, json.Unmarshal([]byte(body), &b))
					require.Greater(t, b.Sent, uint64(100))
					require.Greater(t, b.Received, uint64(100))
				}
			}
			require.ElementsMatch(t, tt.want, paths)
		})
	}
}

func TestHooksOfConfig(t *testing.T) {
	c := newCallbacks(t)
	f, err := ParseConfig("srs.conf", []byte(`
vhost a { http_hooks { enabled on; on_publish `+c.URL+`/1 `+c.URL+`/2; on_publish `+c.URL+`/3; on_stop http://host/s; on_dvr x; } }
vhost b { http_hooks { on_publish http://nobody/; } }
vhost c { http_hooks { enabled on; on_connect http://h/1; on_close http://h/2; on_unpublish http://h/3; on_play http://h/4; } }
`))
	require.NoError(t, err)
	require.Len(t, f.Ignored, 1)
	require.Equal(t, map[string]HookURLs{
		"a": {OnPublish: []string{c.URL + "/1", c.URL + "/2", c.URL + "/3"}, OnStop: []string{"http://host/s"}},
		"c": {OnConnect: []string{"http://h/1"}, OnClose: []string{"http://h/2"}, OnUnpublish: []string{"http://h/3"}, OnPlay: []string{"http://h/4"}},
	}, f.HTTPHooks.Vhosts)

	req := seedRequest()
	for vhost, calls := range map[string]int{"a": 3, "b": 0} {
		req.Vhost = vhost
		require.NoError(t, f.Config.Hooks.OnPublish(t.Context(), req))
		require.Len(t, c.taken(), calls)
	}

	f, err = ParseConfig("srs.conf", []byte("vhost a { http_hooks { enabled off; on_publish http://h/; } }"))
	require.NoError(t, err)
	require.Nil(t, f.HTTPHooks)
	require.Nil(t, f.Config.Hooks.OnPublish)
}

func TestHooksOfAVhostInAnyCase(t *testing.T) {
	hooks := &Hooks{Vhosts: map[string]HookURLs{"STUDIO.example": {OnPublish: []string{"http://h/"}}}}
	require.Len(t, hooks.of("studio.example").OnPublish, 1)
	require.Len(t, hooks.of("Studio.Example").OnPublish, 1)
	require.Empty(t, hooks.of(forward.DefaultVhost).OnPublish)
	require.ErrorContains(t, (&Hooks{Vhosts: map[string]HookURLs{"a": {}, "A": {}}}).Validate(), `vhosts "A" and "a" are the same`)
}
