package forward

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/hostcode"
)

// State is what a Forwarder is doing.
type State string

// The states of a Forwarder, in the order it goes through them.
const (
	StateWaiting     State = "waiting"     // until the next attempt
	StateConnecting  State = "connecting"  // resolving, dialling, TLS
	StateHandshaking State = "handshaking" // from the handshake to the answer to publish
	StatePublishing  State = "publishing"  // media is sent
	StateStalled     State = "stalled"     // publishing, but the destination takes nothing
	StateDraining    State = "draining"    // the stream has ended, or Close begun, and the rest is sent
	StateClosed      State = "closed"
)

// publishes reports whether media is sent, or would be if it were taken.
func (s State) publishes() bool { return s == StatePublishing || s == StateStalled }

// stalledAfter is how long a destination must take nothing to count as
// stalled.
const stalledAfter = 2 * time.Second

// Forwarder pushes one Source to one Destination and reconnects for as long
// as the Source lives. Its methods are safe for concurrent use.
type Forwarder struct {
	printed
	src   *Source
	done  chan struct{}
	ended chan struct{} // closed when the stream has ended, or Close begins

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	telling  chan struct{}  // held during OnForward: one call after the other
	draining sync.WaitGroup // goroutines other than the runs that call the host

	mu       sync.Mutex
	gone     bool // the host is told nothing more
	state    State
	since    time.Time
	switched bool      // OnForward has yet to be told of another destination
	attempt  time.Time // when the next attempt begins, while waiting
	lastErr  error
	reports  reports
	runs     []*run // all that have not ended
	now      *run   // sends, or tries to
	next     *run   // is to take over from now; nil if there is none
	stop     bool
	drain    *time.Timer
	total    ForwarderStats

	toldDropped uint64        // messages, in EventDropped
	first       time.Duration // of an EventFirstKeyframe that waits for StatePublishing

	published  time.Time // when StatePublishing began last
	tellsStall bool      // a goroutine is in tellStalls
	moved      time.Time // when a ReconnectRequest was honoured last

	counts bool // in Server.counted; guarded by src.srv.mu
}

// printed gives a Forwarder its text: the stream and the destination.
type printed struct{ to *atomic.Pointer[target] }

// Format writes the name of the stream and the destination, for every verb.
func (p printed) Format(f fmt.State, _ rune) { io.WriteString(f, p.to.Load().String()) }

// MarshalText returns the text that Format writes.
func (p printed) MarshalText() ([]byte, error) { return []byte(p.to.Load().String()), nil }

func newForwarder(s *Source, d Destination) (*Forwarder, error) {
	t, err := newTarget(s, d)
	if err != nil {
		return nil, err
	}
	f := &Forwarder{
		printed: printed{new(atomic.Pointer[target])}, src: s,
		done:  make(chan struct{}),
		ended: make(chan struct{}),
		state: StateWaiting, since: time.Now(),

		telling: make(chan struct{}, 1),
	}
	f.to.Store(t)
	f.ctx, f.cancel = context.WithCancel(s.ctx)
	f.now = newRunLocked(f, t)
	f.now.began = true
	return f, nil
}

// count adds f to the Server's counts when it begins, or returns ErrLimit.
func (f *Forwarder) count() error {
	s := f.src.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.cfg.Load().Limits.TotalDestinations; l >= 0 && (s.counted >= l || s.pushes-l >= l) {
		return fmt.Errorf("%w: %d destinations in all", ErrLimit, l)
	}
	f.counts = true
	s.counted++
	s.pushes++
	return nil
}

// uncount is called when f is ending: f no longer counts in the limit.
func (f *Forwarder) uncount() {
	s := f.src.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	f.uncountLocked()
}

// uncountLocked is uncount. Server.mu is held.
func (f *Forwarder) uncountLocked() {
	if f.counts {
		f.counts = false
		f.src.srv.counted--
	}
}

// forget removes f, which has ended, from the Server's counts.
func (f *Forwarder) forget() {
	s := f.src.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	f.uncountLocked()
	s.pushes--
}

// Destination returns the destination that f pushes to. Update changes it.
func (f *Forwarder) Destination() Destination { return f.to.Load().dst }

// ID identifies the destination in lists and metrics: 8 hex digits, the same for the
// same URL, stream key and user for as long as the process lives. Update changes it.
func (f *Forwarder) ID() string { return f.to.Load().id }

// Host returns the host of the Destination's URL, in lower case, with its port unless
// that is the scheme's default. A redirect does not change it, Update does.
func (f *Forwarder) Host() string { return f.to.Load().host }

// Source returns the stream that f pushes.
func (f *Forwarder) Source() *Source { return f.src }

// Done returns a channel that is closed when f has ended.
func (f *Forwarder) Done() <-chan struct{} { return f.done }

// Ending reports whether f has been closed or its stream has ended. It then sends the
// rest of the stream before Done is closed. A new Forwarder of the same stream may
// meanwhile have the same ID.
func (f *Forwarder) Ending() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

// Shutdown ends pushing: the destination is told that the stream has ended and is
// disconnected. It returns when this is done. If ctx ends earlier, the destination is
// cut off, and Shutdown returns ctx's error immediately. From a hook it returns
// ErrInHook immediately; see Done.
func (f *Forwarder) Shutdown(ctx context.Context) error {
	ctx = orBackground(ctx)
	f.beginClose(nil)
	if hostcode.Within() {
		if ctx.Err() != nil {
			f.cancel()
		}
		return ErrInHook
	}
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		f.cancel()
		return ctx.Err()
	}
}

// Close cuts the destination off immediately. It returns when the destination is
// disconnected. From a hook it returns ErrInHook immediately.
func (f *Forwarder) Close() error {
	f.beginClose(nil)
	f.cancel()
	if hostcode.Within() {
		return ErrInHook
	}
	<-f.done
	return nil
}

// beginClose begins to close f without waiting, if to is nil or still f's target. From now
// on, a later forwarder to the same destination waits for f to end.
func (f *Forwarder) beginClose(to *target) {
	f.mu.Lock()
	if f.stop || to != nil && f.to.Load() != to {
		f.mu.Unlock()
		return
	}
	f.stop = true
	f.endLocked()
	l := f.now.link
	f.mu.Unlock()
	if l != nil {
		l.Out.Detach()
		l.Out.Send(l.Client.AppendUnpublish(nil))
		l.Out.Shutdown()
	}
}

// targets returns f's target and, during an Update, also the next one.
func (f *Forwarder) targets() []*target {
	f.mu.Lock()
	defer f.mu.Unlock()
	ts := []*target{f.to.Load()}
	if f.next != nil && f.next.update {
		ts = append(ts, f.next.to)
	}
	return ts
}

// sourceEnded tells f that its stream has ended.
func (f *Forwarder) sourceEnded() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endLocked()
}

// endLocked ends waiting for the next attempt, and limits the time for the rest of the
// stream.
func (f *Forwarder) endLocked() {
	select {
	case <-f.ended:
		return
	default:
	}
	close(f.ended)
	if f.next != nil {
		f.next.cancel()
	}
	f.uncount()
	if f.state.publishes() && !f.gone {
		f.draining.Go(f.drains) // calls the host, for which the caller must not wait
	}
	rest := orForever(f.src.cfg.DrainTimeout)
	if f.state == StateConnecting && f.src.srv.isClosing() {
		rest = min(rest, dialGrace) // until it is connected
	}
	f.drain = time.AfterFunc(rest, f.cancel)
}

// drains sets StateDraining.
func (f *Forwarder) drains() {
	f.setState(StateDraining, nil)
}

// dialGrace is how long an ending Forwarder may still take to connect. It keeps Shutdown
// from waiting more than 100 ms for destinations that cannot be reached.
const dialGrace = 50 * time.Millisecond

// connected extends the limit of dialGrace to DrainTimeout once the destination is
// connected.
func (f *Forwarder) connected() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.drain != nil && f.drain.Stop() {
		f.drain.Reset(orForever(f.src.cfg.DrainTimeout))
	}
}

// finish ends f when its runs have ended.
func (f *Forwarder) finish() {
	f.mu.Lock()
	if f.drain != nil {
		f.drain.Stop()
	}
	f.mu.Unlock()
	f.cancel()
	f.reports.stop()
	f.draining.Wait()
	f.setState(StateClosed, nil)
	f.src.remove(f) // before Done reports the end
	close(f.done)
}

// setAttempt records when r's next attempt begins.
func (f *Forwarder) setAttempt(r *run, t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now == r {
		f.attempt = t
	}
}

// setState changes the state and tells OnForward. It reports whether the state has
// changed: StateDraining follows only a publishing state, and only StateClosed follows
// StateDraining.
func (f *Forwarder) setState(s State, err error) bool {
	return f.change(s, err, func() bool { return true })
}

// change is setState on condition that may, which is called under mu, returns true.
func (f *Forwarder) change(s State, err error, may func() bool, more ...any) bool {
	f.telling <- struct{}{}
	defer func() { <-f.telling }()
	event := f.src.srv.events.caused(Event{Kind: EventDestination, State: s}, err)
	f.mu.Lock()
	if f.state == s && s != StateWaiting && !(f.switched && s == StatePublishing) || !may() ||
		s == StateDraining && !f.state.publishes() || f.state == StateDraining && s != StateClosed {
		f.mu.Unlock()
		return false
	}
	was := f.state
	if f.switched {
		was = StateHandshaking // of the other destination
	}
	f.state, f.since = s, time.Now()
	if s == StatePublishing {
		f.switched = false
	}
	event = f.event(event)
	f.emitStateLocked(event)
	f.mu.Unlock()
	f.logState(event, was, more) // before the hook, which may take long
	if h := f.src.cfg.Hooks.OnForward; h != nil {
		f.src.srv.calls.do("OnForward", func() error { h(f, s, err); return nil })
	}
	return true
}

// stallChanged starts a goroutine that tells OnForward when the destination stalls or
// takes data again.
func (f *Forwarder) stallChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.tellsStall && !f.gone {
		f.tellsStall = true
		f.draining.Go(f.tellStalls)
	}
}

// tellStalls updates the state until it says whether the destination is stalled.
func (f *Forwarder) tellStalls() {
	for {
		f.mu.Lock()
		to, ok := f.stallStateLocked()
		if !ok {
			f.tellsStall = false
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		f.change(to, nil, func() bool {
			now, ok := f.stallStateLocked()
			return ok && now == to
		})
	}
}

// stallStateLocked returns the state that f should change to; ok is false if f should not
// change. mu is held.
func (f *Forwarder) stallStateLocked() (to State, ok bool) {
	l := f.now.link
	if l == nil || !f.state.publishes() || f.Ending() {
		return "", false
	}
	to = StatePublishing
	if l.Out.Stalled() {
		to = StateStalled
	}
	return to, to != f.state
}

// Stats returns a snapshot.
func (f *Forwarder) Stats() ForwarderStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, l := f.to.Load(), f.now.link
	st := f.countersLocked()
	st.Since, st.LastErr = f.since, f.lastErr
	st.Warning = t.Endpoint.Warning()
	if err := t.untakenBy(l); err != nil && st.Warning == "" {
		st.Warning = err.Error()
	}
	st.NextAttempt = f.attempt
	if l != nil {
		o := l.Out.Stats()
		st.Bitrate, st.MessageRate, st.FrameRate = 8*o.BytesPerSecond, o.MessagesPerSecond, o.PicturesPerSecond
		st.Lag, st.LagBytes, st.LagMedia, st.LagAge = o.Lag.Messages, o.Lag.Bytes, o.Lag.Media, o.Lag.Age
		st.Unacked, st.RTT = l.Out.Path()
		st.FirstKeyframe = o.FirstPicture
		if o.Blind && st.Warning == "" {
			st.Warning = noKeyframe
		}
	}
	st.State = f.stateLocked()
	return st
}

// stateLocked returns the state that Stats has.
func (f *Forwarder) stateLocked() State {
	if f.state.publishes() && f.Ending() {
		return StateDraining
	}
	return f.state
}

// counters returns only the counters of Stats.
func (f *Forwarder) counters() ForwarderStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.countersLocked()
}

func (f *Forwarder) countersLocked() ForwarderStats {
	st := f.total
	st.Lost = maps.Clone(st.Lost)
	for _, r := range f.runs {
		if r.began && r.link != nil {
			st.add(r.link.Out.Counters())
		}
	}
	return st
}

func (st *ForwarderStats) add(o fanout.Counters) {
	st.Bytes += o.Bytes
	st.Messages += o.Messages
	st.DroppedLate += o.Overtaken
	st.DroppedNoKeyframe += o.Waited
}

// event fills in the stream and the destination.
func (f *Forwarder) event(ev Event) Event {
	t := f.to.Load()
	ev.Time = time.Now()
	ev.Stream, ev.StreamID, ev.name = f.src.req.logName(), f.src.ID(), f.src.key.String
	ev.Destination, ev.DestinationID, ev.PublishID = t.dst.String(), t.id, f.src.Request().PublishID
	return ev
}

// emit adds an event of a destination. The caller may hold locks.
func (f *Forwarder) emit(ev Event) {
	f.src.srv.events.emit(func() Event { return f.event(ev) })
}

// logState logs a change of state: that the destination publishes again, but not after a
// stall, and that it drains. OnForward and Events tell the others.
func (f *Forwarder) logState(ev Event, was State, more []any) {
	t := f.to.Load()
	args := append(ev.attrs(), more...)
	switch {
	case ev.State == StatePublishing && was != StateStalled:
		f.reports.report(t, slog.LevelInfo, "destination publishing", args...)
	case ev.State == StateDraining:
		t.Log.Info("destination draining", args...)
	}
}

// emitStateLocked adds the events of a change of state. f.mu is held.
func (f *Forwarder) emitStateLocked(change Event) {
	if !f.state.publishes() {
		f.emitDroppedLocked() // there is no connection any more that would
	}
	f.src.srv.events.emit(func() Event { return change })
	if f.first > 0 && f.state.publishes() {
		f.emit(Event{Kind: EventFirstKeyframe, After: f.first})
		f.first = 0
	}
}

// emitDroppedLocked adds an event for messages that the destination has missed, if there
// are more than were told. f.mu is held.
func (f *Forwarder) emitDroppedLocked() {
	st := f.countersLocked()
	dropped := st.DroppedLate + st.DroppedNoKeyframe
	if n := dropped - f.toldDropped; n > 0 {
		f.toldDropped = dropped
		f.emit(Event{Kind: EventDropped, Count: n})
	}
}

// firstPicture is told of the first video. Its event follows that of StatePublishing.
func (f *Forwarder) firstPicture(after time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state.publishes() {
		f.emit(Event{Kind: EventFirstKeyframe, After: after})
	} else {
		f.first = after
	}
}

// dropped is told at most once a second that messages were dropped.
func (f *Forwarder) dropped() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.emitDroppedLocked()
}
