package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// gauge is a backend that says how many questions were under way at once.
type gauge struct {
	takes time.Duration // for each answer
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

// The figure of 64 in flight is MaxQuestions here. By default it is 512: a
// backend that takes 1 s is to have answered 1000 within 3 s, as in
// TestThousandPublishesAtOnce, for which it takes 334. Who waits is bounded by
// Limits.Streams, by Timeout, and by the queue of TestHook_Busy.
func TestFault16_HookStorm(t *testing.T) {
	const publishes, streams, turns = 1000, 900, 64
	for _, row := range []struct {
		name     string
		takes    time.Duration
		accepted int // by each of two callbacks
		within   time.Duration
	}{
		{"100 ms an answer", 100 * time.Millisecond, streams, 3 * time.Second},
		{"no answer", time.Hour, 0, 5 * time.Second},
	} {
		ask := &gauge{takes: row.takes, reply: "0"}
		where := &gauge{takes: row.takes, reply: `{"code":0,"data":{"urls":["rtmp://127.0.0.1:19350/test/teststream"]}}`}
		hooks := SRSHooks(HTTPBackend{
			URL: "http://backend/", Client: &http.Client{Transport: ask},
			MaxQuestions: turns, Timeout: 2500 * time.Millisecond, Logger: quiet,
		})
		resolver := ResolveHTTP(HTTPBackend{
			URL: "http://backend/", Client: &http.Client{Transport: where},
			MaxQuestions: turns, Timeout: 2500 * time.Millisecond, Logger: quiet,
		})
		cfg := Config{
			Hooks: hooks, Limits: Limits{Streams: streams + 1},
			Resolver: ResolverFunc(func(ctx context.Context, r *PublishRequest) ([]Destination, error) {
				if r.Stream == "ok" {
					return nil, nil
				}
				_, err := resolver.ResolveDestinations(ctx, elsewhere(r))
				return nil, err
			}),
		}
		onPublish := cfg.Hooks.OnPublish
		cfg.Hooks.OnPublish = func(ctx context.Context, r *PublishRequest) error {
			if r.Stream == "ok" {
				return nil
			}
			return onPublish(ctx, elsewhere(r))
		}
		inBubble(t, cfg, func(b *bubble) {
			others := b.steady()
			began := time.Now()
			var mu sync.Mutex
			accepted, busy, noRoom, atOnce, last := 0, 0, 0, 0, time.Duration(0)
			var wg sync.WaitGroup
			for i := range publishes {
				wg.Go(func() {
					p, err := b.client(fmt.Sprintf("live/%d", i)).Publish(b.ctx)
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
			require.Equal(b, noRoom, atOnce, "who does not fit is told so")
			require.Equal(b, row.accepted, accepted)
			if row.accepted == 0 {
				// Turns come, and waiting ends, at the same instant.
				require.GreaterOrEqual(b, busy, streams-2*turns, "who has not got a turn is told so")
			}
			require.LessOrEqual(b, last, row.within)
			noteIsolation(others.check())
			measured(16, "1000 publishes at once, "+row.name, "<= 64 in flight, queue bounded",
				"%d and %d in flight, %d accepted, %d busy, %d told at once, all in %v", ask.most, where.most, accepted, busy, noRoom, last)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		g := &gauge{takes: time.Second, reply: `{"code":0,"data":{"urls":["rtmp://127.0.0.1:19350/test/teststream"]}}`}
		r := ResolveCached(ResolveHTTP(HTTPBackend{URL: "http://backend/", Client: &http.Client{Transport: g}, MaxQuestions: turns, Logger: quiet}), 0)
		var wg sync.WaitGroup
		for range publishes {
			wg.Go(func() {
				_, err := r.ResolveDestinations(t.Context(), &PublishRequest{App: "live", Stream: "livestream"})
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.Equal(t, 1, g.asked)
		measured(16, "1000 equal questions at once", "singleflight where equal", "%d asked (Cached)", g.asked)
	})
}

// elsewhere is a request from an address of its own, by the stream's number.
func elsewhere(r *PublishRequest) *PublishRequest {
	req := *r
	n, _ := strconv.Atoi(r.Stream)
	req.RemoteAddr = &net.TCPAddr{IP: net.IPv4(10, 0, byte(n>>8), byte(n))}
	return &req
}

// An encoder that reconnects may be faster than the end of its old connection.
func TestFault19_OldEndSeenLate(t *testing.T) {
	var got calls
	cfg := Config{Hooks: got.hooks(), Resolver: MustStatic("rtmp://a/live/key")}
	inBubble(t, cfg, func(b *bubble) {
		d := b.destination("a:1935")
		for i := range 10 {
			old := b.publish("live/s")
			b.published(d, 2*i+1)
			time.AfterFunc(100*time.Millisecond, func() { old.Close() })
			next := b.publish("live/s")
			b.published(d, 2*i+2)
			next.Close()
			synctest.Wait()
		}
		require.Equal(b, 20, got.get()["publish"])

		// One that stays is not asked about the second one.
		p := b.publish("live/s")
		began := time.Now()
		_, err := b.client("live/s").Publish(b.ctx)
		require.Equal(b, "NetStream.Publish.BadName", forwardtest.RefusalCode(err))
		require.LessOrEqual(b, time.Since(began), 200*time.Millisecond)
		require.Equal(b, 21, got.get()["publish"])
		require.NoError(b, p.WriteMessage(forwardtest.Message{Type: TagVideo, Payload: rtmptest.Frame(true, 1)}))
	})
}

// Encoders that come back at once, ten thousand times in all. One of the
// streams goes to a destination, too.
func TestFault19_Churn(t *testing.T) {
	t.Parallel()
	const streams, each = 4, 2500
	cfg := Config{Resolver: ResolverFunc(func(_ context.Context, r *PublishRequest) ([]Destination, error) {
		if r.Stream == "0" {
			return []Destination{{URL: "rtmp://a/live/key"}}, nil
		}
		return nil, nil
	})}
	inBubble(t, cfg, func(b *bubble) {
		d := b.destination("a:1935", discarding)
		var wg sync.WaitGroup
		for i := range streams {
			wg.Go(func() {
				for n := range each {
					p, err := b.client(fmt.Sprintf("live/%d", i)).Publish(b.ctx)
					require.NoError(b, err, n)
					media := forwardtest.Media{ID: uint32(n + 1), AudioBitrate: -1, VideoBitrate: 1}
					require.NoError(b, p.Send(b.ctx, media.Messages(2*steadyStep), 0))
					if i == 0 {
						require.NoError(b, b.session(d, n+1).Recorder().WaitFrames(b.ctx, 2))
					}
					if n%2 == 0 {
						p.Reset()
					}
					p.Close()
				}
			})
		}
		wg.Wait()
		require.Len(b, d.Sessions(), each, "each publish opened its destination once")
		for _, s := range d.Sessions() {
			<-s.Done()
			require.NoError(b, s.Recorder().Err())
			require.Equal(b, uint64(2), s.Recorder().Report().Last)
		}
		measured(19, "republished at once, 4 streams", "10000 times under -race", "%d of %d", streams*each, streams*each)
	})
}
