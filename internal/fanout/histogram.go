package fanout

import (
	"sync/atomic"
	"time"
)

// Bounds are the upper bounds of a Histogram's buckets. Longer durations are in one more
// bucket.
var Bounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
	5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// Histogram counts durations. It is safe for concurrent use.
type Histogram struct {
	counts [len(Bounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

// bucket returns the index of a duration's bucket.
func bucket(d time.Duration) int {
	i := 0
	for i < len(Bounds) && d > Bounds[i] {
		i++
	}
	return i
}

// Observe counts a duration.
func (h *Histogram) Observe(d time.Duration) { h.add(bucket(d), 1, d) }

// add counts n durations of one bucket. sum is their sum.
func (h *Histogram) add(bucket int, n uint64, sum time.Duration) {
	h.counts[bucket].Add(n)
	h.sum.Add(int64(sum))
}

// Read returns the number of durations in each bucket and the sum of all durations.
func (h *Histogram) Read() (counts [len(Bounds) + 1]uint64, sum time.Duration) {
	for i := range h.counts {
		counts[i] = h.counts[i].Load()
	}
	return counts, time.Duration(h.sum.Load())
}
