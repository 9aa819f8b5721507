package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// Update changes f's destination to d. A connection to d publishes before the old
// one is closed, and the switch is at a keyframe: the old destination gets
// everything before it and is told that the stream has ended, the new one gets
// everything from there on. If no keyframe comes within 10 s, or if f is not publishing,
// the switch does not wait for one, and d gets the stream from its last keyframe on, as
// with Source.Forward. Counters continue. From the switch on, ID and Destination are
// those of d; Hooks.OnForward reports the switch with StatePublishing.
//
// If the first attempt to reach d fails, or ctx or the stream ends before the
// switch, Update returns the error and f continues unchanged. The same holds if d
// is the place that f already pushes to, with other options, and its server refuses
// to have one stream published twice.
//
// Update returns ErrDuplicate if another Forwarder pushes the stream to d, and
// ErrUpdating if f is being updated or closed. The second destination does not count
// in the limits on destinations.
//
// From a hook Update returns ErrInHook and ignores ctx: it continues in the
// background, and either succeeds or leaves f unchanged.
//
// A refresh does not remove d, as with Source.Forward. It adds the old destination
// again if the Resolver still returns it.
func (f *Forwarder) Update(ctx context.Context, d Destination) error {
	t, err := newTarget(f.src, d)
	if err != nil {
		return err
	}
	n, err := f.beginUpdate(t)
	if err != nil {
		return err
	}
	if hostcode.Within() {
		return ErrInHook
	}
	ctx = orBackground(ctx)
	select {
	case <-n.begun:
		return nil
	case <-n.over:
	case <-ctx.Done():
	}
	begun, err := f.giveUp(n)
	switch {
	case begun:
		return nil
	case err == nil:
		err = ctx.Err()
	}
	return fmt.Errorf("replace %s: %w", f.Destination(), err)
}

// beginUpdate begins a handover to t.
func (f *Forwarder) beginUpdate(t *target) (*run, error) {
	s := f.src
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return nil, s.errEnded()
	}
	if err := s.checkPlaceLocked(t, f); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop || f.gone || f.next != nil && f.next.update {
		return nil, fmt.Errorf("destination %s: %w", f.Destination(), ErrUpdating)
	}
	if f.next != nil { // Update takes precedence over a ReconnectRequest
		f.next.cancel()
	}
	return f.handOverLocked(t, handover{at: t.Endpoint, update: true}), nil
}

// giveUp ends a handover unless n has taken over (begun). err is why the handover has
// failed, or nil.
func (f *Forwarder) giveUp(n *run) (begun bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n.began {
		return true, nil
	}
	if f.next == n {
		f.next = nil
	}
	n.cancel()
	return false, n.err
}

// handover is the part of a run that is to take over from another run.
type handover struct {
	at     endpoint.Endpoint // of its first connection
	update bool              // for Update, not for a ReconnectRequest
	tried  chan struct{}     // closed when the first connection is made or has failed
	begun  chan struct{}     // closed when the run has taken over
	over   chan struct{}     // closed when the run has ended
	err    error             // why the run has not taken over; guarded by Forwarder.mu

	// after says that the new run has ended because its publish was refused. The old
	// run reconnects to at after its connection has stopped. Guarded by
	// Forwarder.mu.
	after bool
}

// handOverLocked begins a handover. mu is held.
func (f *Forwarder) handOverLocked(t *target, h handover) *run {
	h.tried, h.begun, h.over = make(chan struct{}), make(chan struct{}), make(chan struct{})
	n := newRunLocked(f, t)
	n.handover = &h
	f.next = n
	f.src.wg.Go(n.do)
	return n
}

// takeLocked makes n the run that sends: from message from on, or as a new receiver if
// from is 0. mu is held. start begins to send; it must be called without mu.
func (f *Forwarder) takeLocked(n *run, from uint64) (start func()) {
	old := f.now
	f.now, f.next = n, nil
	n.began = true
	f.total.Accepted++
	if n.update {
		old.to.turn.moved.Store(true)
		f.to.Store(n.to)
		f.state, f.since = StatePublishing, time.Now()
		f.lastErr, f.published, f.switched = nil, f.since, true
	} else {
		n.backoff = old.backoff
	}
	if old.link == nil {
		old.cancel() // it is connecting, or waiting to
	}
	tell := !f.gone
	if tell {
		f.draining.Add(1)
	}
	l := n.link
	return func() {
		n.attach(l, from)
		close(n.begun)
		f.stallChanged() // the connection may have stalled already
		if tell {
			go func() { // the sender that calls start must not wait for hooks
				defer f.draining.Done()
				f.tellOfHandover(n, old)
			}()
		}
	}
}

// tellOfHandover logs that n has taken over from old, and tells OnForward if the
// destination is another one.
func (f *Forwarder) tellOfHandover(n, old *run) {
	if !n.update {
		f.reports.report(n.to, slog.LevelInfo, "destination asked to reconnect", "to", endpoint.Redact(n.at.TcURL, true))
		return
	}
	n.setState(StatePublishing, nil, "instead_of", old.to.dst)
}

// stopped is called when l has stopped before message from. It starts the next run there,
// or as a new receiver if no keyframe has come. It returns false if no run waits for that.
func (f *Forwarder) stopped(r *run, l *upstream.Link, from uint64) bool {
	f.mu.Lock()
	n := f.next
	if n == nil || f.Ending() || f.now != r || r.link != l || f.src.log.Ended() || n.link == nil && !n.after {
		f.mu.Unlock()
		return false
	}
	if !f.src.log.Begins(from) {
		from = 0
	}
	if n.after {
		r.then = &resumption{n.at, from}
		f.next = nil
		f.mu.Unlock()
		return true
	}
	start := f.takeLocked(n, from)
	f.mu.Unlock()
	start()
	return true
}

// notTakenLocked is called when r ends. If r has not taken over although it was to, it
// records why. A server that refuses a second publish of the stream may accept it when
// the old connection has ended: see handover.after. mu is held; then must be called
// without it.
func (f *Forwarder) notTakenLocked(r *run, err *DestinationError) (then func()) {
	then = func() {}
	if r.handover == nil || r.began {
		return then
	}
	switch {
	case f.Ending() && f.stop:
		r.err = ErrUpdating
	case err == nil || f.Ending():
		r.err = ErrStreamEnded
	default:
		r.err = err
	}
	if f.next != r {
		return then
	}
	f.next = nil
	if r.update || err == nil {
		return then
	}
	var refused *rtmp.StatusError
	if !errors.As(err.Err, &refused) || refused.Command != "publish" {
		return func() { f.reports.report(r.to, slog.LevelWarn, "request to reconnect not followed", "err", err) }
	}
	r.after = true
	f.next = r
	if old := f.now.link; old != nil {
		return old.Out.StopAtKeyframe
	}
	return then
}

// end wakes all goroutines that wait for the handover.
func (h *handover) end() {
	select {
	case <-h.tried:
	default:
		close(h.tried)
	}
	close(h.over)
}

// failed records why a session of r has ended. It returns how long the session was
// publishing, negative if it was not, and whether r tries again.
func (f *Forwarder) failed(r *run, err *DestinationError) (sent time.Duration, goesOn bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now != r || f.Ending() || r.ctx.Err() != nil {
		return 0, false
	}
	f.lastErr = err
	if f.total.Lost == nil {
		f.total.Lost = make(map[Op]uint64)
	}
	f.total.Lost[err.Op]++
	if !f.state.publishes() {
		return -1, true
	}
	return time.Since(f.published), true
}

// begin begins to send over l. If r is to take over from another run, it waits for that
// one to stop at a keyframe. It returns false if l is no longer needed.
func (f *Forwarder) begin(r *run, l *upstream.Link, from uint64) bool {
	f.mu.Lock()
	if f.stop || r.ctx.Err() != nil || f.now != r && f.next != r {
		f.mu.Unlock()
		return false
	}
	r.link = l
	if f.next == r {
		var start func()
		if old := f.now.link; old != nil {
			start = old.Out.StopAtKeyframe
		} else {
			start = f.takeLocked(r, 0)
		}
		f.mu.Unlock()
		close(r.tried)
		start()
		return true
	}
	f.total.Accepted++
	f.published = time.Now()
	f.mu.Unlock()
	r.attach(l, from)
	r.setState(StatePublishing, nil)
	f.stallChanged() // l may have stalled before StatePublishing
	if f.Ending() {
		f.drains()
	}
	return true
}

// end is called when a connection of r has ended, and adds its counters to the total.
// over reports whether another run has taken over or the stream has ended. If not, next
// is where r continues, nil if the connection was lost.
func (f *Forwarder) end(r *run, l *upstream.Link) (next *resumption, over bool) {
	f.mu.Lock()
	if r.began && r.handover != nil {
		f.mu.Unlock()
		<-r.begun // l must be added to the group before it is removed
		f.mu.Lock()
	}
	if r.began {
		f.total.add(l.Out.Counters())
	}
	r.link = nil
	for f.now == r && !f.Ending() {
		switch n := f.next; {
		case r.then != nil:
			next, r.then = r.then, nil
		case n == nil:
		case n.link != nil:
			start := f.takeLocked(n, 0)
			f.mu.Unlock()
			start()
			return nil, true
		case n.after:
			f.next = nil
			next = &resumption{at: n.at}
		case !n.update:
			f.mu.Unlock()
			select {
			case <-n.tried:
			case <-f.ended:
			}
			f.mu.Lock()
			continue
		}
		f.mu.Unlock()
		return next, false
	}
	over = f.Ending() || r.began
	f.mu.Unlock()
	return nil, over
}

// isAwaited reports whether a run waits for f to stop at a keyframe.
func (f *Forwarder) isAwaited() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next != nil && (f.next.link != nil || f.next.after)
}

// left is called when r has ended. err is why r has not taken over, if it was to.
func (f *Forwarder) left(r *run, err *DestinationError) {
	r.cancel()
	f.mu.Lock()
	stop := f.notTakenLocked(r, err)
	f.runs = slices.DeleteFunc(f.runs, func(o *run) bool { return o == r })
	last := len(f.runs) == 0
	f.gone = last // no run begins after the last one
	r.to.runs--
	gone := r.to.runs == 0
	f.mu.Unlock()
	if r.handover != nil {
		r.handover.end()
	}
	stop()
	if gone {
		r.to.leave()
	}
	if last {
		f.finish()
	}
}
