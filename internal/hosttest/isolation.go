package hosttest

import (
	"context"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

// Isolation checks rule R0: live/ok is published in real time, and whatever happens to
// others, its receivers lose nothing and get nothing late.
type Isolation struct {
	b     *Bubble
	pub   *forwardtest.Publisher
	stop  context.CancelFunc
	sent  chan error
	began time.Time
	all   []*Arrivals
}

// Steady is the stream of rule R0: one frame every 40 ms, which may be held back for
// the merge window.
var Steady = forwardtest.Media{ID: 1, KeyframeInterval: time.Second, AudioBitrate: -1}

const (
	// SteadyStep is the time between two frames of Steady.
	SteadyStep = 40 * time.Millisecond
	maxAdded   = 200 * time.Millisecond
)

// Check ends the publish and returns by how much the longest gap exceeded the frame
// interval and the merge window.
func (i *Isolation) Check() (added time.Duration) {
	i.b.Helper()
	time.Sleep(time.Second) // a few frames after the fault
	lasted := time.Since(i.began)
	i.stop()
	require.ErrorIs(i.b, <-i.sent, context.Canceled, "the publisher was disturbed")
	time.Sleep(time.Second)
	synctest.Wait()
	for _, a := range i.all {
		a.Stop()
		require.NoError(i.b, a.rec.Err())
		r := a.rec.Report()
		require.Equal(i.b, uint64(1), r.First)
		require.Equal(i.b, uint64(r.Frames), r.Last, "frames are missing")
		require.GreaterOrEqual(i.b, r.Frames, int(lasted/SteadyStep)-1, "the publisher was held up")
		added = max(added, a.Longest()-SteadyStep-MergeWindow(i.b.Config))
	}
	require.LessOrEqual(i.b, added, maxAdded)
	return max(added, 0)
}

// Arrivals records when frames arrive.
type Arrivals struct {
	rec  *forwardtest.Recorder
	Stop context.CancelFunc

	mu   sync.Mutex
	last time.Time
	gaps []time.Duration
}

// WatchArrivals watches the frames of rec from now on.
func WatchArrivals(ctx context.Context, rec *forwardtest.Recorder) *Arrivals {
	a := &Arrivals{rec: rec}
	ctx, a.Stop = context.WithCancel(ctx)
	frames := 0
	go rec.Wait(ctx, func(r forwardtest.Report) bool {
		if r.Frames == frames {
			return false
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		frames = r.Frames
		now := time.Now()
		if !a.last.IsZero() {
			a.gaps = append(a.gaps, now.Sub(a.last))
		}
		a.last = now
		return false
	})
	return a
}

// Longest returns the longest gap between two frames.
func (a *Arrivals) Longest() time.Duration { return a.Gap(1) }

// Gap returns the given quantile of the gaps.
func (a *Arrivals) Gap(part float64) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.gaps) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(a.gaps))[int(part*float64(len(a.gaps)-1))]
}
