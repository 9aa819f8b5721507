package forward

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// A destination that comes and goes must not fill the log: it may have a burst of logBurst
// lines and one line every logEvery, at most 44 in an hour. The other lines are logged at
// Debug. The last of them is repeated as soon as a line is free, so that the log ends with
// the current state.
const (
	logBurst = 4
	logEvery = 90 * time.Second
)

// reports logs the states of one Forwarder. The zero value is ready to use.
type reports struct {
	waited sync.WaitGroup // lines that are being written by a timer

	mu      sync.Mutex
	stopped bool
	full    time.Time // when the whole burst is free again
	cause   string    // of the last reported loss, while the destination is lost
	leftOut int
	last    *report // the last one left out
	timer   func()  // stops the timer of reportLast; nil if there is none

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

// lost reports a failed attempt, unless the attempt before failed for the same cause.
func (r *reports) lost(t *target, ev Event, err *DestinationError, published bool, attempt int, retry time.Duration) {
	cause := string(err.Op) + " " + err.Code
	r.mu.Lock()
	same := !published && retry >= 0 && cause == r.cause
	r.cause = cause
	r.mu.Unlock()
	args := append(ev.attrs(), "attempt", attempt)
	switch {
	case retry < 0:
		r.report(t, slog.LevelWarn, "destination given up", args...)
	case same:
		t.Log.Log(context.Background(), slog.LevelDebug, "destination lost", append(args, "retry", retry.String())...)
	default:
		r.report(t, slog.LevelWarn, "destination lost", append(args, "retry", retry.String())...)
	}
}

// report logs a change of state.
func (r *reports) report(t *target, level slog.Level, msg string, args ...any) {
	r.mu.Lock()
	line := report{t.Log, time.Now(), level, msg, args}
	if wait := r.wait(); wait > 0 {
		last := line
		r.leftOut++
		r.last = &last
		line.level = slog.LevelDebug
		if r.timer == nil {
			r.timer = later(wait, r.reportLast)
		}
	} else {
		line.args = r.take(args)
	}
	r.lines = append(r.lines, line)
	r.mu.Unlock()
	r.writeLines()
}

// reportLast logs the last change of state that was left out.
func (r *reports) reportLast() {
	r.mu.Lock()
	r.timer = nil
	if r.last == nil || r.stopped {
		r.mu.Unlock()
		return
	}
	line := *r.last
	r.leftOut--
	line.args = r.take(line.args)
	r.lines = append(r.lines, line)
	r.waited.Add(1)
	r.mu.Unlock()
	defer r.waited.Done()
	r.writeLines()
}

// writeLines writes the pending lines with the times of their events. Only one goroutine
// at a time does so: the lines stay in order, and the last one has the current state.
func (r *reports) writeLines() {
	r.mu.Lock()
	if r.writing {
		r.mu.Unlock()
		return
	}
	r.writing = true
	for len(r.lines) > 0 {
		line := r.lines[0]
		r.lines = r.lines[1:]
		r.mu.Unlock()
		if line.log.Enabled(context.Background(), line.level) {
			rec := slog.NewRecord(line.at, line.level, line.msg, 0)
			rec.Add(line.args...)
			line.log.Handler().Handle(context.Background(), rec)
		}
		r.mu.Lock()
	}
	r.writing = false
	r.mu.Unlock()
}

// wait returns the time until a line may be written.
func (r *reports) wait() time.Duration {
	now := time.Now()
	if r.full.Before(now) {
		r.full = now
	}
	return r.full.Sub(now) - (logBurst-1)*logEvery
}

// take uses up a line and adds the number of lines left out to its args.
func (r *reports) take(args []any) []any {
	r.full = r.full.Add(logEvery)
	if r.leftOut > 0 {
		args = append(slices.Clip(args), "not_logged", r.leftOut)
	}
	r.leftOut, r.last = 0, nil
	return args
}

// stop drops the line left out, and waits for a line that the timer is writing.
func (r *reports) stop() {
	r.mu.Lock()
	r.stopped, r.last = true, nil
	if r.timer != nil {
		r.timer()
	}
	r.mu.Unlock()
	r.waited.Wait()
}
