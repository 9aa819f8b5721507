package fanout

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// sampleEvery is the time from one sample of a Rate to the next.
	sampleEvery = int64(time.Second)
	// rateSamples is the number of samples that are kept: the rate is that of the
	// last 4 to 5 seconds.
	rateSamples = 5
)

// Counts are counters that only grow.
type Counts struct{ Bytes, Messages, Frames uint64 }

// Rate measures how fast counters have grown over the last seconds. It is safe for
// concurrent use.
type Rate struct {
	due     atomic.Int64 // when the next sample is to be taken
	mu      sync.Mutex
	samples [rateSamples]sample
	n       int
}

type sample struct {
	at     int64
	counts Counts
}

// Due reports whether Note has to be called, which is once a second.
func (r *Rate) Due(now int64) bool { return now >= r.due.Load() }

// Note takes a sample of the counters. The first call sets the time from which on they
// grow.
func (r *Rate) Note(now int64, c Counts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due.Store(now + sampleEvery)
	r.samples[r.n%rateSamples] = sample{now, c}
	r.n++
}

// PerSecond returns how fast the counters, which are c now, have grown.
func (r *Rate) PerSecond(now int64, c Counts) (bytes, messages, frames float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == 0 {
		return 0, 0, 0
	}
	// The oldest sample that is recent, or the newest one if all are old.
	from := r.samples[(r.n-1)%rateSamples]
	for i := 2; i <= min(r.n, rateSamples); i++ {
		if s := r.samples[(r.n-i)%rateSamples]; now-s.at <= rateSamples*sampleEvery {
			from = s
		}
	}
	t := max(now-from.at, sampleEvery)
	per := func(now, then uint64) float64 { return float64(now-then) * float64(time.Second) / float64(t) }
	return per(c.Bytes, from.counts.Bytes), per(c.Messages, from.counts.Messages), per(c.Frames, from.counts.Frames)
}
