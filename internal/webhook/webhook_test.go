package webhook

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// Of those who find no turn so many wait, and no longer than for a try; the
// others are told at once.
func TestHook_Busy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const turns, more = 64, 10
		h := New(Options{URL: "http://backend/", Client: &http.Client{Transport: silent{}}, Timeout: 3 * time.Second, MaxReply: 1, Turns: turns})
		began := time.Now()
		var wg sync.WaitGroup
		for range turns + maxWaiting {
			wg.Go(func() {
				_, err := h.Call(t.Context(), nil)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.LessOrEqual(t, time.Since(began), 6*time.Second)
			})
		}
		synctest.Wait()
		require.Equal(t, turns, h.UnderWay())
		for range more {
			_, err := h.Call(t.Context(), nil)
			require.ErrorIs(t, err, ErrBusy)
			require.EqualError(t, err, "busy: 64 calls are under way, 4096 wait for a turn")
			require.Zero(t, time.Since(began))
		}
		wg.Wait()
		require.Zero(t, h.waiting.Load())
		require.Zero(t, h.UnderWay())

		// Who goes away meanwhile has not found it busy.
		for range turns {
			wg.Go(func() { h.Call(t.Context(), nil) })
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := h.Call(ctx, nil)
		require.Equal(t, context.Canceled, err)
		_, err = h.Call(t.Context(), nil)
		require.NotErrorIs(t, err, ErrBusy, "a turn has come")
		wg.Wait()
	})
}
