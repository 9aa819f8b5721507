package webhook

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/stretchr/testify/require"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func silent(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func hook(turns int, do func(*http.Request) (*http.Response, error)) *Hook {
	return New(Options{URL: "http://backend/", Client: &http.Client{Transport: roundTripper(do)}, MaxReply: 100, Turns: turns})
}

// answering answers after a delay, and records the largest number of simultaneous
// requests.
type answering struct {
	after     time.Duration
	dead      atomic.Bool
	asked     atomic.Int64
	now, most atomic.Int64
}

func (a *answering) do(r *http.Request) (*http.Response, error) {
	a.asked.Add(1)
	n := a.now.Add(1)
	defer a.now.Add(-1)
	for most := a.most.Load(); n > most && !a.most.CompareAndSwap(most, n); most = a.most.Load() {
	}
	if a.dead.Load() {
		return silent(r)
	}
	select {
	case <-time.After(a.after):
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("0"))}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

const timeout = 30 * time.Second

// A limited number of calls wait for a turn, no longer than the timeout of a call. The
// others fail immediately.
func TestHook_Busy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const turns, more = 64, 10
		h := hook(turns, silent)
		began := time.Now()
		var wg sync.WaitGroup
		for range turns + maxWaiting {
			wg.Go(func() {
				_, err := h.Call(t.Context(), "", nil, timeout)
				require.Error(t, err)
				require.True(t, errors.Is(err, hostcode.ErrBusy) || errors.Is(err, context.DeadlineExceeded), "%v", err)
				require.LessOrEqual(t, time.Since(began), 2*timeout)
			})
		}
		synctest.Wait()
		require.Equal(t, turns, h.UnderWay())
		for range more {
			_, err := h.Call(t.Context(), "", nil, timeout)
			require.ErrorIs(t, err, hostcode.ErrBusy)
			require.EqualError(t, err, "forward: busy: 64 calls are under way, 4096 wait for a turn")
			require.Zero(t, time.Since(began))
		}
		wg.Wait()
		require.Zero(t, h.turns.waiting)
		require.Zero(t, h.UnderWay())
		require.Empty(t, h.turns.taken)
		require.Empty(t, h.turns.lines)
		require.Zero(t, h.turns.order.Len())
	})
}

// A client that leaves while its call waits does not get ErrBusy, and its place is freed.
func TestHook_WaiterLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &answering{after: 10 * time.Second}
		h := hook(1, a.do)
		var wg sync.WaitGroup
		wg.Go(func() { h.Call(t.Context(), "a", nil, timeout) })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := h.Call(ctx, "b", nil, timeout)
		require.Equal(t, context.Canceled, err)
		require.Empty(t, h.turns.lines)
		_, err = h.Call(t.Context(), "c", nil, timeout)
		require.NoError(t, err)
		wg.Wait()
	})
}

// The wait for a turn does not count towards the timeout.
func TestHook_TurnIsNotTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &answering{after: 29 * time.Second}
		h := hook(1, a.do)
		began := time.Now()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				_, err := h.Call(t.Context(), "", nil, timeout)
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.Equal(t, 58*time.Second, time.Since(began))
	})
}

// One address has at most half of the turns. If several addresses wait, their turns
// alternate.
func TestHook_Shares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &answering{after: 10 * time.Second}
		h := hook(8, a.do)
		began := time.Now()
		var wg sync.WaitGroup
		call := func(who string, want time.Duration) {
			wg.Go(func() {
				_, err := h.Call(t.Context(), who, nil, time.Hour)
				require.NoError(t, err)
				if want > 0 {
					require.Equal(t, want, time.Since(began), who)
				}
			})
			synctest.Wait()
		}
		for range 40 {
			call("greedy", 0)
		}
		require.Equal(t, 4, h.UnderWay())
		call("honest", 10*time.Second)
		require.Equal(t, 5, h.UnderWay())
		for range 40 {
			call("greedy too", 0)
		}
		require.Equal(t, 8, h.UnderWay())
		call("late", 20*time.Second) // although 80 calls wait before it
		wg.Wait()

		for range maxWaiting / 2 {
			wg.Go(func() { h.Call(t.Context(), "greedy", nil, time.Hour) })
		}
		for range 4 {
			wg.Go(func() { h.Call(t.Context(), "greedy", nil, time.Hour) })
		}
		synctest.Wait()
		_, err := h.Call(t.Context(), "greedy", nil, time.Hour)
		require.ErrorIs(t, err, hostcode.ErrBusy)
		_, err = h.Call(t.Context(), "honest", nil, time.Hour)
		require.NoError(t, err)
		wg.Wait()
	})
}

// A backend that does not answer gets one call at a time; the others fail after a second.
// Once it answers, all may ask.
func TestHook_Silent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &answering{}
		a.dead.Store(true)
		h := hook(512, a.do)
		for range maxSilent {
			_, err := h.Call(t.Context(), "", nil, timeout)
			require.EqualError(t, err, "no answer within 30s")
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		var wg sync.WaitGroup
		var one atomic.Int64
		a.asked.Store(0)
		a.most.Store(0)
		began := time.Now()
		for range 100 {
			wg.Go(func() {
				_, err := h.Call(t.Context(), "", nil, timeout)
				if time.Since(began) == timeout {
					one.Add(1)
					return
				}
				require.Equal(t, silentWait, time.Since(began))
				require.EqualError(t, err, "not asked: no answer 5 times in a row, the last: no answer within 30s")
				require.ErrorIs(t, err, context.DeadlineExceeded)
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, a.asked.Load())
		require.EqualValues(t, 1, one.Load())
		require.Zero(t, h.UnderWay())

		a.dead.Store(false)
		a.after = 500 * time.Millisecond
		began = time.Now()
		for range 100 {
			wg.Go(func() {
				_, err := h.Call(t.Context(), "", nil, timeout)
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.Equal(t, time.Second, time.Since(began), "one, then all others at once")
		require.EqualValues(t, 99, a.most.Load())
	})
}

// A useless answer counts as an answer, and a call whose client has left does not count.
func TestHook_IsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hook(512, func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 500, Body: io.NopCloser(strings.NewReader(""))}, nil
		})
		for range 3 * maxSilent {
			_, err := h.Call(t.Context(), "", nil, timeout)
			require.EqualError(t, err, "status 500")
		}
		h = hook(512, silent)
		for range 3 * maxSilent {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := h.Call(ctx, "", nil, timeout)
			require.Equal(t, context.DeadlineExceeded, err)
			cancel()
		}
		require.False(t, h.breaker.isOpen())
	})
}

// A backend that refuses connections fails each call on its own.
func TestHook_Refusing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		h := hook(512, func(*http.Request) (*http.Response, error) {
			asked.Add(1)
			return nil, io.EOF
		})
		for range 100 {
			_, err := h.Call(t.Context(), "", nil, timeout)
			require.ErrorIs(t, err, io.EOF)
		}
		require.EqualValues(t, 200, asked.Load())
	})
}

// A redirect is not followed. Its Location may contain the backend's token, so it is never
// shown, even if it is not a URL.
func TestHook_RedirectIsNotShown(t *testing.T) {
	const token = "sesame-sesame"
	for _, to := range []string{"/other?token=" + token, "http://h:bad port/?token=" + token, "http://%zz/" + token} {
		client := Client(&http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {to}}, Body: http.NoBody}, nil
		})})
		h := New(Options{URL: "http://backend/", Client: client, MaxReply: 100, Turns: 1})
		_, err := h.Call(t.Context(), "", nil, timeout)
		require.EqualError(t, err, "status 302")
	}
}

// An answer that is not HTTP is not quoted: it may repeat our request, with its token.
func TestHook_MalformedAnswerIsNotShown(t *testing.T) {
	const token = "sesame-sesame"
	for _, answer := range []string{
		"POST /?token=" + token + " HTTP/1.1\r\n\r\n",
		token + "\r\n\r\n",
		token + "/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 \"" + token + " \\\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + token + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\n " + token + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: " + token + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: " + token + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + token + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + token + "\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + token + "\r\n\r\n",
	} {
		t.Run(answer, func(t *testing.T) {
			dial := func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go func() {
					defer theirs.Close()
					if r, err := http.ReadRequest(bufio.NewReader(theirs)); err == nil {
						io.Copy(io.Discard, r.Body)
						io.WriteString(theirs, answer)
					}
				}()
				return ours, nil
			}
			client := Client(&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}})
			h := New(Options{URL: "http://backend/?token=" + token, Client: client, MaxReply: 100, Turns: 1})
			_, err := h.Call(t.Context(), "", []byte("{}"), timeout)
			require.Error(t, err)
			require.NotContains(t, err.Error(), token)
			require.NotContains(t, err.Error(), "read/write on closed pipe")
		})
	}
}

func TestReply(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"0", "0", "0"},
		{"white space", " 0\r\n", "0"},
		{"byte order mark", "\ufeff{\"code\":0}", `{"code":0}`},
		{"byte order mark, then white space", "\ufeff \r\n0 ", "0"},
		{"NUL at the end", "{\"code\":0}\x00", `{"code":0}`},
		{"NUL and what is behind it", "{\"code\":0}\n\x00}garbage", `{"code":0}`},
		{"comma at the end of an object", `{"code":0 , }`, `{"code":0  }`},
		{"comma at the end of an array", "[1,\n]", "[1\n]"},
		{"both, nested", `{"a":{"b":["c",],},}`, `{"a":{"b":["c"]}}`},
		{"comma in a text", `{"a":",]",}`, `{"a":",]"}`},
		{"line in a text", "{\"a\":\"b\nc\td\"}", `{"a":"b\u000ac\u0009d"}`},
		{"backslash before anything", `{"a":"\'\x\"\\",}`, `{"a":"'x\"\\"}`},
		{"backslash before a line's end", "{\"a\":\"b\\\nc\"}", `{"a":"b\u000ac"}`},
		{"what is right stays", `{"a":"\u00e9\/,]","b":[]}`, `{"a":"\u00e9\/,]","b":[]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Reply([]byte(tt.in))
			require.Equal(t, tt.want, string(got))
			require.True(t, json.Valid(got))
		})
	}
	for _, in := range []string{"", "\ufeff", "\x00", "[,]", "{,}", "[1,,]", `{"a":,}`, "\ufeff\ufeff0", "\xff\xfe0\x00", `"a`, `"\`, "\"a\x00b\"", "{}}", "/**/0", "[1 2]"} {
		require.False(t, json.Valid(Reply([]byte(in))), "%q", in)
	}
}

// FuzzReply checks that JSON stays unchanged, and that any other reply becomes at most six
// times as long.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"0", "\ufeff0", `{"a":["\x",],}`, "\"\n\"", "[1]\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got := Reply(in)
		require.LessOrEqual(t, len(got), 6*len(in))
		if json.Valid(in) {
			var a, b any
			require.NoError(t, json.Unmarshal(in, &a))
			require.NoError(t, json.Unmarshal(got, &b))
			require.Equal(t, fmt.Sprint(a), fmt.Sprint(b))
		}
	})
}
