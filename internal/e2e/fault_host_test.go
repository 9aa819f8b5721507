package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/resolve"
	"github.com/rtmp-forward/forward/srs"
)

// gauge is a backend that counts its concurrent requests.
type gauge struct {
	takes time.Duration // time for each answer
	reply string

	mu               sync.Mutex
	now, most, asked int
}

func (g *gauge) RoundTrip(r *http.Request) (*http.Response, error) {
	g.mu.Lock()
	g.asked++
	g.now++
	g.most = max(g.most, g.now)
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.now--
	}()
	select {
	case <-time.After(g.takes):
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(g.reply))}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// The limit of 64 in flight is MaxQuestions here. Its default is 512: a backend that
// takes 1 s must answer 1000 requests within 3 s, as in TestThousandConcurrentPublishes,
// which needs 334. Limits.Streams, Timeout and the queue of TestHook_Busy bound the
// waiting requests.
func TestFault16_HookStorm(t *testing.T) {
	const publishes, streams, turns = 1000, 900, 64
	for _, row := range []struct {
		name     string
		takes    time.Duration
		accepted int // for each of two callbacks
		within   time.Duration
	}{
		{"100 ms an answer", 100 * time.Millisecond, streams, 3 * time.Second},
		{"no answer", time.Hour, 0, 5 * time.Second},
	} {
		ask := &gauge{takes: row.takes, reply: "0"}
		where := &gauge{takes: row.takes, reply: `{"code":0,"data":{"urls":["rtmp://127.0.0.1:19350/test/teststream"]}}`}
		hooks := &srs.Hooks{
			URLs: srs.HookURLs{OnPublish: []string{"http://backend/"}}, Client: &http.Client{Transport: ask},
			MaxQuestions: turns, Timeout: 2500 * time.Millisecond, Logger: quiet,
		}
		resolver := &resolve.HTTP{
			URL: "http://backend/", Client: &http.Client{Transport: where},
			MaxQuestions: turns, Timeout: 2500 * time.Millisecond, Logger: quiet,
		}
		cfg := forward.Config{
			Hooks: hooks.Hooks(), Limits: forward.Limits{Streams: streams + 1},
			Resolver: forward.ResolverFunc(func(ctx context.Context, r *forward.Request) ([]forward.Destination, error) {
				if r.Stream == "ok" {
					return nil, nil
				}
				_, err := resolver.ResolveDestinations(ctx, elsewhere(r))
				return nil, err
			}),
		}
		onPublish := cfg.Hooks.OnPublish
		cfg.Hooks.OnPublish = func(ctx context.Context, r *forward.Request) error {
			if r.Stream == "ok" {
				return nil
			}
			return onPublish(ctx, elsewhere(r))
		}
		inBubble(t, cfg, func(b *bubble) {
			others := b.Steady()
			began := time.Now()
			var mu sync.Mutex
			accepted, busy, noRoom, atOnce, last := 0, 0, 0, 0, time.Duration(0)
			var wg sync.WaitGroup
			for i := range publishes {
				wg.Go(func() {
					p, err := b.Client(fmt.Sprintf("live/%d", i)).Publish(b.Ctx)
					mu.Lock()
					defer mu.Unlock()
					last = max(last, time.Since(began))
					var st *forwardtest.StatusError
					switch {
					case err == nil:
						accepted++
						b.Cleanup(func() { p.Close() })
					case errors.As(err, &st) && strings.Contains(st.Description, "no room"):
						noRoom++
						if time.Since(began) < refusalDelay {
							atOnce++
						}
					default:
						require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
						if strings.Contains(err.Error(), "The server is busy, try again later.") {
							busy++
							require.LessOrEqual(b, time.Since(began), 5*time.Second)
						}
					}
				})
			}
			wg.Wait()
			require.LessOrEqual(b, max(ask.most, where.most), turns)
			require.Equal(b, turns, ask.most)
			require.Equal(b, publishes-streams, noRoom, "the queue is bounded")
			require.Equal(b, noRoom, atOnce, "a client beyond the queue is told so")
			require.Equal(b, row.accepted, accepted)
			if row.accepted == 0 {
				// Slots are freed and the wait ends at the same instant.
				require.GreaterOrEqual(b, busy, streams-2*turns, "a client that times out in the queue is told so")
			}
			require.LessOrEqual(b, last, row.within)
			noteIsolation(others.Check())
			measured(16, "1000 concurrent publishes, "+row.name, "<= 64 in flight, queue bounded",
				"%d and %d in flight, %d accepted, %d busy, %d refused immediately, all in %v", ask.most, where.most, accepted, busy, noRoom, last)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		g := &gauge{takes: time.Second, reply: `{"code":0,"data":{"urls":["rtmp://127.0.0.1:19350/test/teststream"]}}`}
		r := resolve.Cached(&resolve.HTTP{URL: "http://backend/", Client: &http.Client{Transport: g}, MaxQuestions: turns, Logger: quiet}, 0)
		var wg sync.WaitGroup
		for range publishes {
			wg.Go(func() {
				_, err := r.ResolveDestinations(t.Context(), &forward.Request{App: "live", Stream: "livestream"})
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.Equal(t, 1, g.asked)
		measured(16, "1000 equal concurrent requests", "singleflight where equal", "%d asked (Cached)", g.asked)
	})
}

// elsewhere is a request whose address is derived from the stream's number.
func elsewhere(r *forward.Request) *forward.Request {
	req := *r
	n, _ := strconv.Atoi(r.Stream)
	req.RemoteAddr = &net.TCPAddr{IP: net.IPv4(10, 0, byte(n>>8), byte(n))}
	return &req
}

// transport answers HTTP requests in the process.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestFault14_HookWithoutAnswer(t *testing.T) {
	for _, row := range []struct {
		name   string
		policy resolve.FailurePolicy
		ok     bool
	}{
		{"FailClosed", resolve.FailClosed, false}, {"FailOpen", resolve.FailOpen, true}, {"LastGood without one", resolve.LastGood, false},
		{"Fallback", resolve.Fallback(forward.MustStatic("rtmp://faulty/live/" + canary)), true},
	} {
		asked := 0
		silent := &resolve.HTTP{URL: "http://backend/", OnFailure: row.policy, Logger: quiet, Client: &http.Client{
			Transport: transport(func(r *http.Request) (*http.Response, error) {
				asked++
				<-r.Context().Done()
				return nil, r.Context().Err()
			}),
		}}
		cfg := forward.Config{Resolver: forward.ResolverFunc(func(ctx context.Context, r *forward.Request) ([]forward.Destination, error) {
			if r.Stream == "ok" {
				return forward.MustStatic("rtmp://healthy/live/"+canary).ResolveDestinations(ctx, r)
			}
			return silent.ResolveDestinations(ctx, r)
		})}
		withFault(t, 14, cfg, steady, nil, func(f *faulty) {
			began := time.Now()
			p, err := f.Client("live/" + canary).Publish(f.Ctx)
			took := time.Since(began)
			require.Equal(f, row.ok, err == nil)
			require.LessOrEqual(f, took, 30*time.Second)
			require.Equal(f, 1, asked)
			if err == nil {
				p.Close()
			}
			measured(14, "hook without an answer, "+row.name+": answered after", "<= 30 s", "%v", took)
		})
	}
}

// The tests and the fuzz target of resolve.HTTP cover the forms of answers. This test
// covers the expensive ones.
func TestFault15_HookTalksNonsense(t *testing.T) {
	for name, body := range map[string]io.Reader{
		"garbage":         strings.NewReader("<html>"),
		"wrong types":     strings.NewReader(`{"code":0,"data":{"urls":[1]}}`),
		"10 GiB":          io.LimitReader(zeros{}, 10<<30),
		"1 byte a second": nil,
		"257 urls":        strings.NewReader(`{"code":0,"data":{"urls":[` + strings.Repeat(`"rtmp://a/b/c",`, 256) + `"rtmp://a/b/c"]}}`),
	} {
		r := &resolve.HTTP{URL: "http://backend/", Logger: quiet, Client: &http.Client{
			Transport: transport(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(bodyOf{r.Context(), body})}, nil
			}),
		}}
		cfg := forward.Config{Resolver: forward.ResolverFunc(func(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
			if req.Stream == "ok" {
				return forward.MustStatic("rtmp://healthy/live/"+canary).ResolveDestinations(ctx, req)
			}
			return r.ResolveDestinations(ctx, req)
		})}
		withFault(t, 15, cfg, steady, nil, func(f *faulty) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			_, err := f.Client("live/" + canary).Publish(f.Ctx)
			require.Equal(f, "NetStream.Publish.Denied", forwardtest.RefusalCode(err), name)
			runtime.ReadMemStats(&after)
			require.LessOrEqual(f, time.Since(began), 30*time.Second, name)
			if name == "10 GiB" {
				allocated := after.TotalAlloc - before.TotalAlloc
				require.LessOrEqual(f, allocated, uint64(8<<20))
				measured(15, "hook answers 10 GiB: allocated in all", "in use <= 2 MiB", "%.1f MiB", float64(allocated)/(1<<20))
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// bodyOf ends with its request, like http.Transport's body. Without a Reader it is one
// space per second.
type bodyOf struct {
	ctx context.Context
	io.Reader
}

func (b bodyOf) Read(p []byte) (int, error) {
	if b.Reader != nil {
		return b.Reader.Read(p)
	}
	select {
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	case <-time.After(time.Second):
		p[0] = ' '
		return 1, nil
	}
}

func TestFault26_HostPanics(t *testing.T) {
	cfg := forward.Config{Hooks: forward.Hooks{OnPublish: func(_ context.Context, r *forward.Request) error {
		if r.Stream == "bad" {
			panic("boom")
		}
		return nil
	}}}
	inBubble(t, cfg, func(b *bubble) {
		others := b.Steady()
		for range 10 {
			_, err := b.Client("live/bad").Publish(b.Ctx)
			require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
			time.Sleep(100 * time.Millisecond)
		}
		noteIsolation(others.Check())
		measured(26, "host panics (each hook: TestPanicsOfTheHost)", "the session ends, R0 for others", "as asked")
	})
}
