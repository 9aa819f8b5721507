package forward

import (
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"
)

// RetryInfo describes to Config.Retry a destination that was not reached or has
// been lost.
type RetryInfo struct {
	// Request is that of the stream's publisher. It must not be changed.
	Request *PublishRequest
	// Err is why the attempt ended. It names the destination.
	Err *DestinationError
	// Attempt counts consecutive failed attempts, from 1. It starts again after
	// a session of Backoff.Healthy.
	Attempt int
	// Delay is the delay before the next attempt, from Config.Backoff.
	Delay time.Duration
}

// backoff is where a Forwarder is in its Backoff.
type backoff struct {
	Backoff
	attempt int
	steps   int // how often Min has been doubled, plus one
	refused int // attempts in a row
}

// shortSteps is how many doublings a session that was too short costs. A
// destination that comes and goes is worse than one that is down: the stream
// restarts for its viewers each time.
const shortSteps = 2

// next is the delay after an attempt that has failed. sent is how long it has
// been publishing, negative where it has not; random is at least 0 and below 1.
func (b *backoff) next(refused bool, sent time.Duration, random float64) time.Duration {
	published := sent >= 0
	if published && sent >= b.Healthy {
		b.attempt, b.steps, b.refused = 0, 0, 0
		published = false // is a beginning, not a short one
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

// delay is between half of lo, doubled n times, and all of it. It is hi where
// that is reached: what was random before it keeps destinations apart, and no
// attempt comes earlier than it must. A negative lo is 0, a negative hi none.
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

// retryAfter says when the destination is tried again after err; a negative
// time is never. sent is how long it has been publishing, or negative.
func (r *run) retryAfter(err *DestinationError, sent time.Duration) time.Duration {
	b, src := &r.backoff, r.f.src
	d := b.next(!err.Temporary(), sent, rand.Float64())
	if ask := src.cfg.Retry; ask != nil {
		src.srv.guard("Retry", func() error {
			if own := ask(RetryInfo{Request: src.Request(), Err: err, Attempt: b.attempt, Delay: d}); own != 0 {
				d = own
			}
			return nil
		})
	}
	return d
}

// A destination that comes and goes is not to fill the log: it has logBurst
// lines at once and one every logEvery, at most 44 in an hour. What is left
// out is for Debug; the last of it follows as soon as there is room, so that
// the log ends with how it is.
const (
	logBurst = 4
	logEvery = 90 * time.Second
)

// reports is the log of one destination's state. It is guarded by the
// Forwarder's mu.
type reports struct {
	full    time.Time // when all of the burst is free again
	cause   string    // of the loss that was reported last, if it still lasts
	leftOut int
	last    *report // of those left out
	timer   func()  // stops it; nil: none

	lines   []report // to be written, in the order of the events
	writing bool     // somebody is in writeLines
}

type report struct {
	log   *slog.Logger
	at    time.Time
	level slog.Level
	msg   string
	args  []any
}

// lost reports that an attempt has failed. One that fails like the one before
// is no change.
func (f *Forwarder) lost(t *target, err *DestinationError, published bool, attempt int, retry time.Duration) {
	cause := string(err.Op) + " " + err.Code
	f.mu.Lock()
	same := !published && retry >= 0 && cause == f.reports.cause
	f.reports.cause = cause
	f.mu.Unlock()
	// The line names the destination already.
	args := []any{"err", hidden{err, string(err.Op) + ": " + err.Err.Error()}, "attempt", attempt}
	switch {
	case retry < 0:
		f.report(t, slog.LevelWarn, "destination given up", args...)
	case same:
		t.Log.Log(f.ctx, slog.LevelDebug, "destination lost", append(args, "retry", retry)...)
	default:
		f.report(t, slog.LevelWarn, "destination lost", append(args, "retry", retry)...)
	}
}

// report logs a change of state.
func (f *Forwarder) report(t *target, level slog.Level, msg string, args ...any) {
	f.mu.Lock()
	r := &f.reports
	line := report{t.Log, time.Now(), level, msg, args}
	if wait := r.wait(); wait > 0 {
		last := line
		r.leftOut++
		r.last = &last
		line.level = slog.LevelDebug
		if r.timer == nil {
			r.timer = later(wait, f.reportLast)
		}
	} else {
		line.args = r.take(args)
	}
	r.lines = append(r.lines, line)
	f.mu.Unlock()
	f.writeLines()
}

// reportLast logs the last change of state that was left out.
func (f *Forwarder) reportLast() {
	f.mu.Lock()
	r := &f.reports
	r.timer = nil
	if r.last == nil || f.gone {
		f.mu.Unlock()
		return
	}
	line := *r.last
	r.leftOut--
	line.args = r.take(line.args)
	r.lines = append(r.lines, line)
	f.draining.Add(1) // the end waits for it
	f.mu.Unlock()
	defer f.draining.Done()
	f.writeLines()
}

// writeLines writes the lines that there are, with the times of what they tell,
// one goroutine at a time: the last one tells how it is.
func (f *Forwarder) writeLines() {
	f.mu.Lock()
	r := &f.reports
	if r.writing {
		f.mu.Unlock()
		return
	}
	r.writing = true
	for len(r.lines) > 0 {
		line := r.lines[0]
		r.lines = r.lines[1:]
		f.mu.Unlock()
		if line.log.Enabled(f.ctx, line.level) {
			rec := slog.NewRecord(line.at, line.level, line.msg, 0)
			rec.Add(line.args...)
			line.log.Handler().Handle(f.ctx, rec)
		}
		f.mu.Lock()
	}
	r.writing = false
	f.mu.Unlock()
}

// wait is how long there is no room for a line.
func (r *reports) wait() time.Duration {
	now := time.Now()
	if r.full.Before(now) {
		r.full = now
	}
	return r.full.Sub(now) - (logBurst-1)*logEvery
}

// take makes use of the room for a line, whose args it completes.
func (r *reports) take(args []any) []any {
	r.full = r.full.Add(logEvery)
	if r.leftOut > 0 {
		args = append(slices.Clip(args), "not_logged", r.leftOut)
	}
	r.leftOut, r.last = 0, nil
	return args
}

// stop drops what is left out.
func (r *reports) stop() {
	if r.timer != nil {
		r.timer()
	}
	r.last = nil
}
