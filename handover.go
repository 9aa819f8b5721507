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
// everything from there on. If no keyframe comes within 10 s, the switch is without
// one, and d gets the stream from its last keyframe on, as with Source.Forward; so it
// does if f is not publishing. Counters continue; ID and Destination are those of d
// from the switch on, of which Hooks.OnForward is told with StatePublishing.
//
// If the first attempt to reach d fails, or ctx or the stream ends before the
// switch, Update returns the error and f continues unchanged. The same holds if d
// is the place that f already pushes to, with other options, and its server refuses
// to have one stream published twice.
//
// Update returns ErrDuplicate if another Forwarder pushes the stream to d, and
// ErrUpdating if f is being updated or closed. Limits on destinations do not apply,
// although there are two for a moment.
//
// From a hook Update returns ErrInHook and ignores ctx: it is begun, and either
// succeeds or leaves f unchanged.
//
// A refresh does not remove d, as with Source.Forward, and brings back a destination
// that the Resolver still gives.
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
	if f.next != nil { // what a server asks for is less
		f.next.cancel()
	}
	return f.handOverLocked(t, handover{at: t.Endpoint, update: true}), nil
}

// giveUp ends a handover, unless it has begun to send. err is why it has failed, nil
// if it has not.
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

// handover is what a run is that is to take the place of another one.
type handover struct {
	at     endpoint.Endpoint // of its first connection
	update bool              // for Update, not for a ReconnectRequest
	tried  chan struct{}     // closed when the first connection is there, or is not
	begun  chan struct{}     // closed when it has taken over
	over   chan struct{}     // closed when it has ended
	err    error             // why it has not taken over; guarded by Forwarder.mu

	// after: it has ended, and the run that it was to replace connects to at when
	// it has ended. Guarded by Forwarder.mu.
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

// takeLocked has n take over: from a message on, or as a new receiver if from is 0.
// mu is held. start, which sends, is called when it is not.
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
		old.cancel() // it connects, or waits to
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
			go func() { // the sender that has stopped must not wait for hooks
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
	f.reports.report(n.to, slog.LevelInfo, "destination publishing", "instead_of", old.to.dst)
	n.setState(StatePublishing, nil)
}

// stopped notes that l has stopped before a message, with which another connection
// continues. If no keyframe has come, that begins as a new receiver. It is false if no
// run waits for that.
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

// reconnect does what a ReconnectRequest asks for.
func (r *run) reconnect(l *upstream.Link, ref string) {
	f := r.f
	at, err := r.to.redirected(l.At, ref)
	if err != nil {
		f.reports.report(r.to, slog.LevelWarn, "request to reconnect not followed", "to", endpoint.Redact(ref, true), "err", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	soon := !f.moved.IsZero() && time.Since(f.moved) < moveEvery
	if soon || f.next != nil || f.Ending() || f.now != r || r.link != l {
		return
	}
	f.moved = time.Now()
	f.handOverLocked(r.to, handover{at: at})
}

// notTakenLocked notes that r has not taken over, if it was to. A server that
// refuses to have the stream published twice may well take it when the old
// connection has gone. mu is held; then is called when it is not.
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

// end wakes all who wait for the handover.
func (h *handover) end() {
	select {
	case <-h.tried:
	default:
		close(h.tried)
	}
	close(h.over)
}

// failed notes why a session has ended. It returns how long the session has been
// publishing, negative if it has not, and whether r tries again.
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

// begin begins to send over a connection, or has a handover wait for the keyframe.
// It is false if the connection is not needed any more.
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
	f.reports.report(r.to, slog.LevelInfo, "destination publishing") // before the hook, which may take its time
	r.setState(StatePublishing, nil)
	f.stallChanged() // may have come before
	if f.Ending() {
		f.drains()
	}
	return true
}

// end adds a connection's counters to the total when it has ended. It is over where
// another run has r's place, or the stream has ended; else next is where r
// continues, nil if the connection was lost.
func (f *Forwarder) end(r *run, l *upstream.Link) (next *resumption, over bool) {
	f.mu.Lock()
	if r.began && r.handover != nil {
		f.mu.Unlock()
		<-r.begun // else l would be added to the group after it is removed
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

// left notes that a run has ended. err is why it has not taken over, if it was to.
func (f *Forwarder) left(r *run, err *DestinationError) {
	r.cancel()
	f.mu.Lock()
	stop := f.notTakenLocked(r, err)
	f.runs = slices.DeleteFunc(f.runs, func(o *run) bool { return o == r })
	last := len(f.runs) == 0
	f.gone = last // and no other run begins
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
