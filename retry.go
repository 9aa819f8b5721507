package forward

import (
	"time"
)

// RetryInfo describes, for Config.Retry, a destination that was not reached or has been
// lost.
type RetryInfo struct {
	// Request is the request of the stream's publisher. It must not be changed.
	Request *Request
	// Err is the cause of the failure. It names the destination.
	Err *DestinationError
	// Attempt counts consecutive failed attempts, from 1. It starts again at 1 after
	// a session of at least Backoff.Healthy.
	Attempt int
	// Delay is the delay before the next attempt, from Config.Backoff.
	Delay time.Duration
}

// backoff is the state of a Forwarder's Backoff.
type backoff struct {
	Backoff
	attempt int
	steps   int // number of doublings of Min, plus one
	refused int // refused attempts in a row
}

// shortSteps is the number of doublings for a session that was too short. A destination
// that comes and goes is worse than one that is down: its viewers see the stream
// restart each time.
const shortSteps = 2

// next returns the delay after a failed attempt. sent is how long the session was
// publishing, negative if it was not; random is at least 0 and below 1.
func (b *backoff) next(refused bool, sent time.Duration, random float64) time.Duration {
	published := sent >= 0
	if published && sent >= b.Healthy {
		b.attempt, b.steps, b.refused = 0, 0, 0
		published = false // not a session that was too short
	}
	b.attempt++
	b.steps++
	if refused {
		b.refused++
		return max(b.RefusedMin, delay(b.RefusedMin, b.RefusedMax, b.refused-1, random))
	}
	b.refused = 0
	if published {
		b.steps += shortSteps - 1
	}
	return delay(b.Min, b.Max, b.steps-1, random)
}

// delay doubles lo n times, and returns a random delay between half of the result and all
// of it. If the result reaches hi, the delay is exactly hi: the earlier random delays have
// already spread the destinations, and no attempt is made earlier than necessary. A
// negative lo means 0, a negative hi no limit.
func delay(lo, hi time.Duration, n int, random float64) time.Duration {
	lo, hi = max(lo, 0), orForever(hi)
	for ; n > 0 && lo > 0 && lo < hi; n-- {
		lo += min(lo, hi-lo)
	}
	if lo >= hi {
		return hi
	}
	return lo/2 + time.Duration(random*float64(lo-lo/2))
}
