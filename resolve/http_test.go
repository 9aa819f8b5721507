package resolve

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/internal/webhook"
)

const seedReply = `{"code":0,"data":{"urls":["rtmp://127.0.0.1:19350/test/teststream"]}}`

// hookReplies are what backends answer. Of each, urls is what the stream is
// forwarded to; otherwise refused or failed says why it is not.
var hookReplies = []struct {
	name    string
	reply   http.HandlerFunc
	urls    []string
	refused bool
	failed  string // part of the error
	asked   int    // times, if not once
}{
	{name: "the seed's answer", reply: body(seedReply), urls: []string{"rtmp://127.0.0.1:19350/test/teststream"}},
	{name: "status 201", reply: status(201, seedReply), urls: []string{"rtmp://127.0.0.1:19350/test/teststream"}},
	{name: "several, unknown fields, white space", reply: body(" \n{\"x\":1,\"data\":{\"urls\":[\"rtmp://a/b/c\",\"rtmps://d/e/f\"],\"y\":{}},\"code\":0}\n"), urls: []string{"rtmp://a/b/c", "rtmps://d/e/f"}},
	{name: "exactly that URL", reply: body(`{"code":0,"data":{"urls":["rtmps://u:p@[::1]:444/a/b/k?x=/y&z=%2F#q"]}}`), urls: []string{"rtmps://u:p@[::1]:444/a/b/k?x=/y&z=%2F#q"}},
	{name: "escaped slashes", reply: body(`{"code":0,"data":{"urls":["rtmp:\/\/a\/b\/c\u003fd"]}}`), urls: []string{"rtmp://a/b/c?d"}},
	{name: "the same twice", reply: body(`{"code":0,"data":{"urls":["rtmp://a/b/c","rtmp://a/b/c"]}}`), urls: []string{"rtmp://a/b/c"}},
	{name: "no urls", reply: body(`{"code":0,"data":{"urls":[]}}`)},
	{name: "an empty url alone", reply: body(`{"code":0,"data":{"urls":["",""]}}`)},
	{name: "byte order mark", reply: body("\ufeff" + seedReply), urls: []string{"rtmp://127.0.0.1:19350/test/teststream"}},
	{name: "byte order mark, lines as on Windows", reply: body("\ufeff" + strings.ReplaceAll(seedReply, ",", ",\r\n") + "\r\n"), urls: []string{"rtmp://127.0.0.1:19350/test/teststream"}},
	{name: "as SRS's reader of JSON takes it", reply: body(`{"code":0,"data":{"urls":["rtmp:\/\/a\/b\/\c",],},}` + "\x00"), urls: []string{"rtmp://a/b/c"}},
	{name: "a number among the urls", reply: body(`{"code":0,"data":{"urls":[1,"rtmp://a/b/c"]}}`), urls: []string{"rtmp://a/b/c"}},
	{name: "null among the urls", reply: body(`{"code":0,"data":{"urls":["rtmp://a/b/c",null]}}`), urls: []string{"rtmp://a/b/c"}},
	{name: "an empty one among the urls", reply: body(`{"code":0,"data":{"urls":["","rtmp://a/b/c"]}}`), urls: []string{"rtmp://a/b/c"}},
	{name: "a URL of HTTP among the urls", reply: body(`{"code":0,"data":{"urls":["http://a/b/` + canary + `","rtmp://a/b/c"]}}`), urls: []string{"rtmp://a/b/c"}},
	{name: "a URL without key among the urls", reply: body(`{"code":0,"data":{"urls":["rtmp://a/` + canary + `","rtmp://a/b/c"]}}`), urls: []string{"rtmp://a/b/c"}},
	{name: "a long URL among the urls", reply: body(`{"code":0,"data":{"urls":["rtmp://a/b/` + strings.Repeat("x", 2048) + `","rtmp://a/b/c"]}}`), urls: []string{"rtmp://a/b/c"}},
	{name: "a control character among the urls", reply: body(`{"code":0,"data":{"urls":["rtmp://a/b/` + canary + `\n","rtmp://a/b/c"]}}`), urls: []string{"rtmp://a/b/c"}},

	{name: "code 1", reply: body(`{"code":1}`), refused: true, failed: "refused by the backend, code 1"},
	{name: "negative code with urls", reply: body(`{"code":-1,"data":{"urls":["rtmp://a/b/c"]}}`), refused: true, failed: "code -1"},

	{name: "only bad urls", reply: body(`{"code":0,"data":{"urls":[1,"` + canary + `"]}}`), failed: "data.urls: none of 2"},
	{name: "257 urls", reply: body(`{"code":0,"data":{"urls":[` + strings.Repeat(`"rtmp://a/b/c",`, 256) + `""]}}`), failed: "data.urls: 257 entries"},
	{name: "code as a string", reply: body(`{"code":"0","data":{"urls":["rtmp://a/b/c"]}}`), failed: "code: expected an integer"},
	{name: "code missing", reply: body(`{"data":{"urls":["rtmp://a/b/c"]}}`), failed: "code: expected an integer"},
	{name: "code null", reply: body(`{"code":null,"data":{"urls":[]}}`), failed: "code: expected an integer"},
	{name: "code a fraction", reply: body(`{"code":0.5,"data":{"urls":[]}}`), failed: "code: expected an integer"},
	{name: "code a boolean", reply: body(`{"code":false,"data":{"urls":[]}}`), failed: "code: expected an integer"},
	{name: "Code in capitals", reply: body(`{"Code":0,"Data":{"Urls":[]}}`), failed: "code: expected an integer"},
	{name: "data missing", reply: body(`{"code":0}`), failed: "data: expected an object"},
	{name: "data null", reply: body(`{"code":0,"data":null}`), failed: "data: expected an object"},
	{name: "data an array", reply: body(`{"code":0,"data":[]}`), failed: "data: expected an object"},
	{name: "urls missing", reply: body(`{"code":0,"data":{}}`), failed: "data.urls: expected an array"},
	{name: "urls null", reply: body(`{"code":0,"data":{"urls":null}}`), failed: "data.urls: expected an array"},
	{name: "urls a string", reply: body(`{"code":0,"data":{"urls":"rtmp://a/b/` + canary + `"}}`), failed: "data.urls: expected an array"},
	{name: "ttl 0", reply: body(`{"code":0,"data":{"urls":[],"ttl":0}}`), failed: "data.ttl: expected"},
	{name: "ttl a string", reply: body(`{"code":0,"data":{"urls":[],"ttl":"60"}}`), failed: "data.ttl: expected"},
	{name: "ttl of years", reply: body(`{"code":0,"data":{"urls":[],"ttl":1e300}}`), failed: "data.ttl: expected"},

	{name: "empty", reply: body(""), failed: "empty reply"},
	{name: "white space", reply: body(" \r\n"), failed: "empty reply"},
	{name: "UTF-16", reply: body("\xff\xfe{\x00}\x00"), failed: "reply is UTF-16: expected UTF-8"},
	{name: "HTML", reply: body("<html>" + canary + "</html>"), failed: "not JSON"},
	{name: "0, as to other callbacks", reply: body("0"), failed: "not an object"},
	{name: "null", reply: body("null"), failed: "not an object"},
	{name: "an array", reply: body("[]"), failed: "not an object"},
	{name: "half of it", reply: body(seedReply[:30]), failed: "not JSON"},
	{name: "two of it", reply: body(seedReply + seedReply), failed: "not JSON"},
	{name: "deeply nested", reply: body(`{"code":0,"data":` + strings.Repeat(`[`, 100_000)), failed: "not JSON"},
	{name: "10 MB", reply: body(seedReply + strings.Repeat(" ", 10<<20)), failed: "reply longer than 1048576 bytes"},
	{name: "endless", reply: func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}, failed: "reply longer than 1048576 bytes"},
	{name: "endless header", reply: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X", strings.Repeat("x", 1<<20))
		io.WriteString(w, seedReply)
	}, failed: "headers exceeded"},

	{name: "204", reply: status(204, ""), failed: "status 204"},
	{name: "400", reply: status(400, seedReply), failed: "status 400"},
	{name: "404", reply: status(404, canary), failed: "status 404"},
	{name: "500", reply: status(500, ""), failed: "status 500"},
	{name: "redirect", reply: func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere?"+canary, http.StatusTemporaryRedirect)
	}, failed: "status 307"},
	{name: "redirect without end", reply: func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.String(), http.StatusFound)
	}, failed: "status 302"},

	{name: "connection closed", reply: func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}, failed: "EOF", asked: 2},
	{name: "connection closed within the body", reply: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, seedReply[:20])
	}, failed: "read reply: unexpected EOF", asked: 2},
	{name: "not HTTP", reply: func(w http.ResponseWriter, _ *http.Request) {
		nc, _, _ := w.(http.Hijacker).Hijack()
		io.WriteString(nc, "hello\r\n\r\n")
		nc.Close()
	}, failed: "malformed HTTP response"},
}

// testBackend answers with what reply says, and counts how often it was asked.
type testBackend struct {
	*httptest.Server
	reply atomic.Value // of http.HandlerFunc
	asked atomic.Int64
}

func newBackend(t *testing.T) *testBackend {
	b := &testBackend{}
	b.reply.Store(body(seedReply))
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.asked.Add(1)
		if r.URL.Path != "/api/v1/forward" {
			t.Errorf("asked at %s", r.URL.Path)
		}
		io.Copy(io.Discard, r.Body)
		b.reply.Load().(http.HandlerFunc)(w, r)
	}))
	b.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(b.Close)
	return b
}

// url has a canary where a backend's token may stand.
func (b *testBackend) url() string { return b.URL + "/api/v1/forward?token=" + canary }

func TestHTTPReplies(t *testing.T) {
	b := newBackend(t)
	b.Start()
	policies := map[string]struct {
		policy FailurePolicy
		urls   []string // after a failure; nil with FailClosed is an error
	}{
		"default":    {nil, nil},
		"FailClosed": {FailClosed, nil},
		"FailOpen":   {FailOpen, []string{}},
		"LastGood":   {LastGood, []string{"rtmp://127.0.0.1:19350/test/teststream"}},
		"Fallback":   {Fallback(forward.MustStatic("10.0.0.9")), []string{"rtmp://10.0.0.9/live"}},
	}
	for _, tt := range hookReplies {
		for name, p := range policies {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				var logged bytes.Buffer
				h := &HTTP{URL: b.url(), OnFailure: p.policy, Logger: secretscan.Logger(slog.NewJSONHandler(&logged, nil))}
				b.reply.Store(body(seedReply))
				_, err := h.ResolveDestinations(t.Context(), seedRequest())
				require.NoError(t, err)

				b.reply.Store(tt.reply)
				b.asked.Store(0)
				ds, err := h.ResolveDestinations(t.Context(), seedRequest())
				switch {
				case tt.failed == "":
					require.NoError(t, err)
					require.Equal(t, tt.urls, destinationURLs(ds))
					for _, d := range ds {
						require.True(t, d.NoLinkLocal && !d.Untrusted)
					}
				case tt.refused || p.urls == nil:
					require.ErrorContains(t, err, "on_forward: ")
					require.ErrorContains(t, err, tt.failed)
					require.Equal(t, tt.refused, errors.Is(err, forward.ErrRefused))
					require.NotContains(t, err.Error(), canary)
					require.Empty(t, ds)
				default:
					require.NoError(t, err)
					require.ElementsMatch(t, p.urls, destinationURLs(ds))
					require.Contains(t, logged.String(), `"level":"WARN"`, "a failure is not covered up in silence")
				}
				require.EqualValues(t, max(tt.asked, 1), b.asked.Load())
				require.NotContains(t, logged.String(), canary)
				require.Zero(t, h.backend.UnderWay(), "no turn stays taken")

				_, err = h.ResolveDestinations(asRefresh(t.Context()), seedRequest())
				require.Equal(t, tt.failed != "", err != nil, "a live stream stays as it is when the backend fails")
			})
		}
	}
	require.GreaterOrEqual(t, len(hookReplies), 30)
}

func TestHTTPUnreachable(t *testing.T) {
	b := newBackend(t)
	b.Start()
	closed := newBackend(t)
	closed.Start()
	closed.Close()
	tls := newBackend(t)
	tls.StartTLS()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()

	for name, tt := range map[string]struct {
		h      *HTTP
		failed string
	}{
		"nobody listens":        {&HTTP{URL: closed.url()}, "connect"},
		"unknown certificate":   {&HTTP{URL: tls.url()}, "certificate"},
		"TLS to plain HTTP":     {&HTTP{URL: "https" + strings.TrimPrefix(b.url(), "http")}, "HTTP"},
		"plain HTTP to TLS":     {&HTTP{URL: "http" + strings.TrimPrefix(tls.url(), "https")}, "status 400"},
		"no answer":             {&HTTP{URL: "http://" + silent.Addr().String() + "/?" + canary, Timeout: 20 * time.Millisecond}, "no answer within 20ms"},
		"no URL":                {&HTTP{}, "bad backend URL"},
		"no HTTP":               {&HTTP{URL: "ftp://h/" + canary}, "bad backend URL"},
		"malformed URL":         {&HTTP{URL: "http://h:" + canary}, "bad backend URL"},
		"Secret that is no key": {&HTTP{URL: b.url(), Secret: "whsec_" + canary + "!"}, "bad Secret"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tt.h.ResolveDestinations(t.Context(), seedRequest())
			require.ErrorContains(t, err, tt.failed)
			require.NotContains(t, err.Error(), canary)

			tt.h.OnFailure, tt.h.Logger = LastGood, quiet
			_, err = tt.h.ResolveDestinations(t.Context(), seedRequest())
			require.ErrorContains(t, err, "no earlier answer")

			tt.h.OnFailure = FailOpen
			ds, err := tt.h.ResolveDestinations(t.Context(), seedRequest())
			require.NoError(t, err)
			require.Empty(t, ds)

			tt.h.OnFailure = Fallback(forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
				return nil, errors.New("fallback is down")
			}))
			_, err = tt.h.ResolveDestinations(t.Context(), seedRequest())
			require.ErrorContains(t, err, "fallback is down")
			require.ErrorContains(t, err, tt.failed)
		})
	}
}

func TestHTTPAsksAgainAfterConnectionError(t *testing.T) {
	b := newBackend(t)
	b.Start()
	b.reply.Store(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.asked.Load() == 1 {
			panic(http.ErrAbortHandler)
		}
		body(seedReply)(w, r)
	}))
	ds, err := (&HTTP{URL: b.url()}).ResolveDestinations(t.Context(), seedRequest())
	require.NoError(t, err)
	require.Len(t, ds, 1)
	require.EqualValues(t, 2, b.asked.Load())
}

func TestHTTPStopsWhenPublisherLeaves(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := newBackend(t)
	b.Start()
	b.reply.Store(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	_, err := (&HTTP{URL: b.url(), OnFailure: FailOpen}).ResolveDestinations(ctx, seedRequest())
	require.ErrorIs(t, err, context.Canceled)
}

// TestHTTPRequest compares with the body on the seed's page.
func TestHTTPRequest(t *testing.T) {
	b := newBackend(t)
	b.Start()
	var got []byte
	var header http.Header
	b.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		header = r.Header
		header.Set("method", r.Method)
		body(seedReply)(w, r)
	})
	req := seedRequest()
	req.Param = "?forward=rtmp://127.0.0.1:19351/test/livestream&a=<b>"
	h := &HTTP{URL: b.url(), ServiceID: "s1", Secret: "whsec_a2V5"}
	_, err := h.ResolveDestinations(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, `{"action":"on_forward","server_id":"vid-k21d7y2","service_id":"s1","client_id":"9o7g1330",`+
		`"ip":"127.0.0.1","vhost":"__defaultVhost__","app":"live","tcUrl":"rtmp://127.0.0.1:1935/live",`+
		`"stream":"livestream","param":"?forward=rtmp://127.0.0.1:19351/test/livestream&a=<b>"}`, string(got))
	require.Equal(t, "application/json", header.Get("Content-Type"))
	require.Equal(t, http.MethodPost, header.Get("method"))

	mac := hmac.New(sha256.New, []byte("key"))
	fmt.Fprintf(mac, "%s.%s.%s", header.Get("webhook-id"), header.Get("webhook-timestamp"), got)
	require.Equal(t, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)), header.Get("webhook-signature"))

	_, err = (&HTTP{URL: b.url()}).ResolveDestinations(t.Context(), &forward.Request{})
	require.NoError(t, err)
	require.JSONEq(t, `{"action":"on_forward","server_id":"","service_id":"","client_id":"","ip":"","vhost":"","app":"","tcUrl":"","stream":"","param":""}`, string(got))
	require.Empty(t, header.Get("webhook-signature"))
}

func TestHTTPTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &HTTP{URL: "http://backend/", Client: replying(0, `{"code":0,"data":{"urls":[],"ttl":1.5}}`, nil)}
		_, ttl, err := h.ResolveTTL(t.Context(), seedRequest())
		require.NoError(t, err)
		require.Equal(t, 1500*time.Millisecond, ttl)
		h = &HTTP{URL: "http://backend/", Client: replying(0, seedReply, nil)}
		_, ttl, err = h.ResolveTTL(t.Context(), seedRequest())
		require.NoError(t, err)
		require.Zero(t, ttl)
	})
}

// resolveAll asks for n streams at once, from one address or each from its own,
// and returns how long it took.
func resolveAll(t *testing.T, r forward.DestinationResolver, n int, apart bool, name func(i int) string) time.Duration {
	start := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			req := seedRequest()
			req.ClientID, req.Stream = fmt.Sprint(i), name(i)
			if apart {
				req.RemoteAddr = &net.TCPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i)), Port: 50000}
			}
			ds, err := r.ResolveDestinations(t.Context(), req)
			if err != nil || len(ds) != 1 {
				t.Errorf("%d: %v, %v", i, ds, err)
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

func TestHTTPThousandPublishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		h := &HTTP{URL: "http://backend/", Client: replying(time.Second, seedReply, &asked)}
		took := resolveAll(t, h, 1000, true, func(i int) string { return fmt.Sprint("s", i) })
		require.Equal(t, 2*time.Second, took)
		require.EqualValues(t, 1000, asked.Load())
	})
}

func TestCachedAsksIdenticalQuestionsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		h := &HTTP{URL: "http://backend/", Client: replying(time.Second, seedReply, &asked)}
		took := resolveAll(t, Cached(h, 0), 1000, false, func(i int) string { return fmt.Sprint("s", i%10) })
		require.Equal(t, time.Second, took)
		require.EqualValues(t, 10, asked.Load())
	})
}

func TestHTTPWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &HTTP{URL: "http://backend/", Client: replying(time.Second, seedReply, nil), MaxQuestions: 2}
		require.Equal(t, 3*time.Second, resolveAll(t, h, 5, true, func(i int) string { return "s" }))

		// The time of waiting does not count.
		h = &HTTP{URL: "http://backend/", Client: replying(20*time.Second, seedReply, nil), MaxQuestions: 1}
		require.Equal(t, 40*time.Second, resolveAll(t, h, 2, true, func(i int) string { return "s" }))

		h = &HTTP{URL: "http://backend/", Client: replying(time.Hour, seedReply, nil), MaxQuestions: 1}
		start := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := h.ResolveDestinations(t.Context(), seedRequest())
				if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, forward.ErrBusy) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, time.Since(start), time.Minute)
	})
}

func TestLeftOutEntriesDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logtest.Buffer)
		h := &HTTP{Logger: secretscan.Logger(slog.NewJSONHandler(log, nil))}
		urls := []json.RawMessage{json.RawMessage(`"rtmp://a/live/s"`), json.RawMessage("7")}
		for range 1000 {
			a, err := h.answer(h.Logger, urls, 0, &forward.Request{App: "live", Stream: "s"})
			require.NoError(t, err)
			require.Len(t, a.destinations, 1)
		}
		time.Sleep(hostcode.OutageEvery)
		_, err := h.answer(h.Logger, urls, 0, &forward.Request{App: "live", Stream: "s"})
		require.NoError(t, err)
		var lines []string
		for line := range strings.Lines(log.String()) {
			require.Contains(t, line, "on_forward: entry left out")
			lines = append(lines, line)
		}
		require.Len(t, lines, 2)
		require.Contains(t, lines[1], `"not_logged":999`)
	})
}

// FuzzReply compares with a plain decoder: what is accepted has code 0 and
// all the urls, and no error quotes the reply.
func FuzzReply(f *testing.F) {
	for _, tt := range hookReplies {
		if tt.asked == 0 && !strings.HasPrefix(tt.name, "endless") && !strings.HasPrefix(tt.name, "redirect") && tt.name != "not HTTP" {
			w := httptest.NewRecorder()
			tt.reply(w, nil)
			if w.Body.Len() < 4096 {
				f.Add(w.Body.Bytes())
			}
		}
	}
	h := &HTTP{Logger: quiet}
	f.Fuzz(func(t *testing.T, reply []byte) {
		urls, ttl, err := parseHookReply(reply, 256)
		if err != nil {
			require.NotContains(t, err.Error(), canary)
			require.Less(t, len(err.Error()), 100)
			return
		}
		require.True(t, ttl == 0 || ttl >= minHookTTL && ttl <= maxHookTTL)
		var plain map[string]any
		require.NoError(t, json.Unmarshal(webhook.Reply(reply), &plain))
		require.EqualValues(t, 0, plain["code"])
		want := plain["data"].(map[string]any)["urls"].([]any)
		require.Len(t, urls, len(want))

		a, err := h.answer(quiet, urls, ttl, seedRequest())
		if err != nil {
			require.NotContains(t, err.Error(), canary)
			return
		}
		for _, d := range a.destinations {
			require.Contains(t, want, any(d.URL))
			require.NoError(t, d.Validate())
		}
	})
}
