package forward

import (
	"sync/atomic"
	"time"
)

// deadline is the time d from now; never where d is negative.
func deadline(d time.Duration) time.Time {
	if d < 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// later calls do after a time, unless what it returns is called before. A timer
// that was stopped may be kept until its time; it holds nothing then.
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

// orForever turns "negative means none" into a time that is never reached.
func orForever(d time.Duration) time.Duration {
	if d < 0 {
		return 100 * 365 * 24 * time.Hour
	}
	return d
}
