package forward

import (
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/fanout"
)

// deadline returns the time d from now, or the zero time (no deadline) if d is negative.
func deadline(d time.Duration) time.Time {
	if d < 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// atClock converts a time on fanout's Clock to a deadline.
func atClock(at int64) time.Time {
	return time.Now().Add(time.Duration(at - fanout.Clock()))
}

// later calls do after d, unless stop is called before. The runtime may keep a stopped
// timer until its time, but the timer does not keep do alive.
func later(d time.Duration, do func()) (stop func()) {
	pending := new(atomic.Pointer[func()])
	pending.Store(&do)
	t := time.AfterFunc(d, func() {
		if do := pending.Load(); do != nil {
			(*do)()
		}
	})
	return func() {
		t.Stop()
		pending.Store(nil)
	}
}

// stopTimer stops a timer of later, if there is one.
func stopTimer(stop *func()) {
	if *stop != nil {
		(*stop)()
		*stop = nil
	}
}

// orForever replaces a negative duration, which means no limit, with 100 years.
func orForever(d time.Duration) time.Duration {
	if d < 0 {
		return 100 * 365 * 24 * time.Hour
	}
	return d
}
