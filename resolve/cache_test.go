package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hostcode"
)

// counting is a resolver that takes a second and counts the questions. It may
// be changed between questions.
type counting struct {
	mu    sync.Mutex
	asked int
	ttl   time.Duration
	err   error
}

func (c *counting) ResolveDestinations(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
	ds, _, err := c.ResolveTTL(ctx, req)
	return ds, err
}

func (c *counting) ResolveTTL(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
	c.mu.Lock()
	c.asked++
	c.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	case <-time.After(time.Second):
		return []forward.Destination{{URL: "rtmp://h/app/" + req.Stream}}, c.ttl, c.err
	}
}

func TestCachedKeepsAnswersForTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		r := Cached(c, 10*time.Second)
		ask := func() time.Duration {
			ds, ttl, err := forward.ResolveTTL(t.Context(), r, seedRequest())
			require.NoError(t, err)
			require.Len(t, ds, 1)
			ds[0].URL = "the caller's own"
			return ttl
		}
		ask()
		time.Sleep(10*time.Second - 1)
		ask()
		require.Equal(t, 1, c.asked)
		time.Sleep(time.Nanosecond)
		c.ttl = 3 * time.Second
		require.Equal(t, 3*time.Second, ask(), "the answer's own time")
		require.Equal(t, 2, c.asked)
		time.Sleep(time.Second)
		require.Equal(t, 2*time.Second, ask(), "what is left of it")
		time.Sleep(2 * time.Second)
		ask()
		require.Equal(t, 3, c.asked)
	})
}

func TestCachedTellsQuestionsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		r := Cached(c, time.Hour)
		for i, change := range []func(*forward.Request){
			func(r *forward.Request) {},
			func(r *forward.Request) { r.Vhost = "v" },
			func(r *forward.Request) { r.App = "a" },
			func(r *forward.Request) { r.Stream = "s" },
			func(r *forward.Request) { r.Param = "?token=other" },
			func(r *forward.Request) { r.TcURL = "rtmp://other/live" },
			func(r *forward.Request) { r.RemoteAddr = &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)} },
		} {
			for _, port := range []int{1, 2} {
				req := seedRequest()
				req.ClientID = fmt.Sprint(i, port)
				req.RemoteAddr.(*net.TCPAddr).Port = port
				change(req)
				_, err := r.ResolveDestinations(t.Context(), req)
				require.NoError(t, err)
				require.Equal(t, i+1, c.asked)
			}
		}
	})
}

func TestCachedSharesErrorsAndForgetsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{err: errors.New("down")}
		r := Cached(c, time.Hour)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := r.ResolveDestinations(t.Context(), seedRequest()); !errors.Is(err, c.err) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, c.asked)
		c.err = nil
		_, err := r.ResolveDestinations(t.Context(), seedRequest())
		require.NoError(t, err)
	})
}

func TestCachedCallOutlivesItsFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		r := Cached(c, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.ResolveDestinations(ctx, seedRequest()); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
		synctest.Wait()
		start := time.Now()
		for range 5 {
			wg.Go(func() {
				if _, err := r.ResolveDestinations(t.Context(), seedRequest()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 3*time.Second/2, time.Since(start))
		require.Equal(t, 2, c.asked)
	})
}

func TestCachedWaiterMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Cached(&counting{}, time.Hour)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { r.ResolveDestinations(t.Context(), seedRequest()) })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := r.ResolveDestinations(ctx, seedRequest())
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestCachedSurvivesPanic(t *testing.T) {
	fail := true
	r := Cached(forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
		if fail {
			panic("bug of the host")
		}
		return nil, nil
	}), 0)
	require.Panics(t, func() { r.ResolveDestinations(t.Context(), seedRequest()) })
	fail = false
	_, err := r.ResolveDestinations(t.Context(), seedRequest())
	require.NoError(t, err)
}

func TestAnswersKeepTheOnesUsedLast(t *testing.T) {
	var s answers[int]
	for i := range maxAnswers {
		s.put(i, answer{})
	}
	s.get(0)
	s.put(1, answer{ttl: 1})
	s.put(maxAnswers, answer{})
	s.put(maxAnswers+1, answer{})
	for key, kept := range map[int]bool{0: true, 1: true, 2: false, 3: false, 4: true, maxAnswers + 1: true} {
		_, ok := s.get(key)
		require.Equal(t, kept, ok, key)
	}
	a, _ := s.get(1)
	require.EqualValues(t, 1, a.ttl)
	require.Equal(t, maxAnswers, s.used.Len())
	require.Len(t, s.byKey, maxAnswers)
}

// A call of Cached that serves several publishes counts as a call of the host's code.
func TestCachedAsksWithinHostCode(t *testing.T) {
	var within bool
	r := Cached(forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
		within = hostcode.Within()
		return nil, nil
	}), 0)
	_, err := r.ResolveDestinations(t.Context(), seedRequest())
	require.NoError(t, err)
	require.True(t, within)
}
