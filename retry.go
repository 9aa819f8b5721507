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

// backoff is the state of a Forwarder's Backoff.
type backoff struct {
	Backoff
	attempt int
	steps   int // how often Min has been doubled, plus one
	refused int // attempts in a row
}

// shortSteps is how many doublings a session that was too short costs. A destination
// that comes and goes is worse than one that is down: its viewers see the stream
// restart each time.
const shortSteps = 2

// next is the delay after a failed attempt. sent is how long the destination was
// publishing, negative if it was not; random is at least 0 and below 1.
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

// delay is random between half of lo, doubled n times, and all of it. From hi on it is
// hi: the random delays before it keep destinations apart, and no attempt is made
// earlier than necessary. A negative lo is 0, a negative hi none.
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

// retryAfter is when the next attempt is made after err; negative is never. sent is how
// long the destination was publishing, or negative.
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

// A destination that comes and goes must not fill the log: it has logBurst lines at once
// and one every logEvery, at most 44 in an hour. Other lines are logged at Debug; the
// last of them follows as soon as a line is free, so that the log ends with the current
// state.
const (
	logBurst = 4
	logEvery = 90 * time.Second
)

// reports is the log of one destination's state. It is guarded by the Forwarder's mu.
type reports struct {
	full    time.Time // when all of the burst is free again
	cause   string    // of the loss that was reported last, if it still lasts
	leftOut int
	last    *report // the last one left out
	timer   func()  // stops it; nil: none

	lines   []report // to be written, in the order of the events
	writing bool     // a goroutine is in writeLines
}

type report struct {
	log   *slog.Logger
	at    time.Time
	level slog.Level
	msg   string
	args  []any
}

// lost reports a failed attempt. A failure like the one before is no change.
func (f *Forwarder) lost(t *target, err *DestinationError, published bool, attempt int, retry time.Duration) {
	cause := string(err.Op) + " " + err.Code
	f.mu.Lock()
	same := !published && retry >= 0 && cause == f.reports.cause
	f.reports.cause = cause
	f.mu.Unlock()
	// The line already names the destination.
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

// writeLines writes the pending lines with the times of their events, in one goroutine
// at a time, so that the last line tells the current state.
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

// wait is how long until a line may be written.
func (r *reports) wait() time.Duration {
	now := time.Now()
	if r.full.Before(now) {
		r.full = now
	}
	return r.full.Sub(now) - (logBurst-1)*logEvery
}

// take uses up a line, whose args it completes.
func (r *reports) take(args []any) []any {
	r.full = r.full.Add(logEvery)
	if r.leftOut > 0 {
		args = append(slices.Clip(args), "not_logged", r.leftOut)
	}
	r.leftOut, r.last = 0, nil
	return args
}

// stop drops the line left out.
func (r *reports) stop() {
	if r.timer != nil {
		r.timer()
	}
	r.last = nil
}
