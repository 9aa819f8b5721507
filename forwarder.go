package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// State is what a Forwarder is doing.
type State int

// The states of a Forwarder, in the order it goes through them.
const (
	StateWaiting     State = iota // until the next attempt
	StateConnecting               // resolving, dialling, TLS
	StateHandshaking              // from the handshake to the answer to publish
	StatePublishing               // media is sent
	StateStalled                  // publishing, but the destination takes nothing
	StateDraining                 // the stream has ended, or Close begun, and the rest is sent
	StateClosed
)

var stateNames = [...]string{"waiting", "connecting", "handshaking", "publishing", "stalled", "draining", "closed"}

// String is the state's name in lower case.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("State(%d)", int(s))
	}
	return stateNames[s]
}

// MarshalText gives String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// publishes reports whether media is sent, or would be if it were taken.
func (s State) publishes() bool { return s == StatePublishing || s == StateStalled }

// stalledAfter is how long a destination must take nothing to count as
// stalled.
const stalledAfter = 2 * time.Second

// Forwarder pushes one Source to one Destination and reconnects for as long
// as the Source lives. Its methods are safe for concurrent use.
type Forwarder struct {
	shown
	src *Source
	dst Destination
	ep  endpoint.Endpoint
	id  string
	// place is the same for two that the same server would not take at once.
	place string
	log   *slog.Logger
	done  chan struct{}

	resolved bool // by the Resolver, not added by the host
	// replaces is whom f is to replace, see Update; nil when it has, so that a
	// chain of those that were replaced is not kept.
	replaces atomic.Pointer[Forwarder]
	begun    chan struct{} // of one that Update has made: closed when it has taken over
	// inherited: f is to take over; written under mu of whom it replaces.
	inherited atomic.Bool

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	ended  chan struct{} // closed when the stream has ended, or Close begins

	target *upstream.Target

	telling  chan struct{}  // held while OnForward is told: in turn
	draining sync.WaitGroup // that it is told of StateDraining

	mu      sync.Mutex
	gone    bool // nobody is told any more
	state   State
	since   time.Time
	next    time.Time // attempt, while waiting
	lastErr error
	reports reports
	out     *fanout.Sender
	client  *rtmp.Client
	stop    bool
	drain   *time.Timer
	heir    *Forwarder        // that Update has made
	succeed func(from uint64) // has the heir begin; nil until it is publishing
	total   ForwarderStats

	published  time.Time // when StatePublishing began last
	tellsStall bool      // somebody is in tellStalls

	moved  time.Time // when a ReconnectRequest was honoured last
	warned bool      // of a codec

	counts bool // in Server.counted; guarded by src.srv.mu
}

func newForwarder(s *Source, d Destination) (*Forwarder, error) {
	ep, err := d.endpoint()
	if err != nil {
		return nil, err
	}
	f := &Forwarder{
		shown: shown{s.req.logName() + " to " + d.String()}, // as in the log
		src:   s, dst: d.withDefaults(), ep: ep, id: d.id(), place: ep.Place(),
		done:  make(chan struct{}),
		ended: make(chan struct{}),
		since: time.Now(),

		telling: make(chan struct{}, 1),
	}
	f.log = s.srv.log.With("source", s.req.logName(), "destination", d, "id", f.id)
	f.ctx, f.cancel = context.WithCancel(s.ctx)
	f.target = f.newTarget()
	return f, nil
}

// Destination returns where f pushes.
func (f *Forwarder) Destination() Destination { return f.dst }

// ID names the destination in lists and metrics: 8 hex digits, the same for the
// same URL, stream key and user for as long as the process lives.
func (f *Forwarder) ID() string { return f.id }

// Source is the stream that f pushes.
func (f *Forwarder) Source() *Source { return f.src }

// Done is closed when f has ended.
func (f *Forwarder) Done() <-chan struct{} { return f.done }

// Ending reports whether f has been closed, or its stream has ended: it sends
// what is left, and then Done is closed. A new Forwarder of the same stream may
// have the same ID then.
func (f *Forwarder) Ending() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

// Shutdown ends pushing: the destination is told that the stream has ended and is
// disconnected. It returns when this is done. If ctx ends earlier the destination is
// cut off, and Shutdown returns ctx's error at once. From a hook it returns ErrInHook
// at once; see Done.
func (f *Forwarder) Shutdown(ctx context.Context) error {
	ctx = orBackground(ctx)
	f.beginClose()
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

// Close cuts the destination off at once. It returns when the destination is gone;
// from a hook it returns ErrInHook at once.
func (f *Forwarder) Close() error {
	f.beginClose()
	f.cancel()
	if hostcode.Within() {
		return ErrInHook
	}
	<-f.done
	return nil
}

// beginClose tells the destination that the stream has ended, without waiting.
// Whoever comes after f at the same destination waits for it from now on.
func (f *Forwarder) beginClose() {
	f.mu.Lock()
	begins := !f.stop
	if begins {
		f.stop = true
		f.endLocked()
	}
	out, client := f.out, f.client
	f.mu.Unlock()
	if begins && out != nil {
		out.Detach()
		out.Send(client.AppendUnpublish(nil))
		out.Shutdown()
	}
}

// sourceEnded tells f that nothing more will come.
func (f *Forwarder) sourceEnded() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endLocked()
}

// endLocked ends waiting for attempts, and limits the time for the rest.
func (f *Forwarder) endLocked() {
	select {
	case <-f.ended:
		return
	default:
	}
	close(f.ended)
	f.src.srv.countPush(f, false)
	if f.state.publishes() && !f.gone {
		f.draining.Go(f.drains) // who has ended the stream is not held up
	}
	rest := orForever(f.src.cfg.DrainTimeout)
	if f.state == StateConnecting && f.src.srv.isClosing() {
		rest = min(rest, dialGrace) // until it is connected
	}
	f.drain = time.AfterFunc(rest, f.cancel)
}

// drains notes, and reports, that what is left is being sent.
func (f *Forwarder) drains() {
	if f.setState(StateDraining, nil) {
		f.log.Info("destination draining")
	}
}

// dialGrace is how long Shutdown waits for a destination to be reached, so that
// it is done within 100 ms of those that are not.
const dialGrace = 50 * time.Millisecond

// connected gives a destination that has been reached the time it has for the
// rest.
func (f *Forwarder) connected() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.drain != nil && f.drain.Stop() {
		f.drain.Reset(orForever(f.src.cfg.DrainTimeout))
	}
}

// run pushes until the stream has ended.
func (f *Forwarder) run() {
	defer f.finish()
	hostcode.Call(f.pushAll) // its connections may be the host's
}

// pushAll pushes until the stream has ended.
func (f *Forwarder) pushAll() {
	release, ok := f.takeTurn()
	if !ok {
		return
	}
	defer release()
	if w := f.ep.Warning(); w != "" {
		f.log.Warn("destination may not take all", "warning", w)
	}
	b := backoff{Backoff: f.src.cfg.Backoff}
	for {
		err := f.attempt()
		if f.Ending() || f.ctx.Err() != nil {
			return
		}
		sent := f.failed(err)
		if f.isHeir() {
			f.report(slog.LevelWarn, "destination lost", "err", err)
			return
		}
		d := f.retryAfter(&b, err, sent)
		f.lost(err, sent >= 0, b.attempt, d)
		if !f.pause(d, err) {
			return
		}
	}
}

func (f *Forwarder) finish() {
	f.mu.Lock()
	if f.drain != nil {
		f.drain.Stop()
	}
	f.reports.stop()
	f.gone = true
	f.mu.Unlock()
	f.cancel()
	f.replaces.Store(nil)
	f.draining.Wait()
	f.setState(StateClosed, nil)
	f.src.remove(f) // before anybody is told
	close(f.done)
}

// failed notes why a session has ended. It returns how long the session has
// been publishing, negative where it has not.
func (f *Forwarder) failed(err *DestinationError) (sent time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastErr = err
	if !f.state.publishes() {
		return -1
	}
	return time.Since(f.published)
}

// pause waits until the next attempt, forever where d is negative. It is false
// when there is none.
func (f *Forwarder) pause(d time.Duration, err *DestinationError) bool {
	var due <-chan time.Time
	var next time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		due, next = t.C, time.Now().Add(d)
	}
	f.setNext(next)
	defer f.setNext(time.Time{})
	f.setState(StateWaiting, err)
	select {
	case <-due:
		return true
	case <-f.ended:
		return false
	case <-f.ctx.Done():
		return false
	}
}

func (f *Forwarder) setNext(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = t
}

// setState changes the state and tells OnForward. It is false where nothing has
// changed: only what is published to drains, and then nothing but the end comes.
func (f *Forwarder) setState(s State, err error) bool {
	return f.change(s, err, func() bool { return true })
}

// change is setState where may, which is called under mu, does not object.
func (f *Forwarder) change(s State, err error, may func() bool) bool {
	f.telling <- struct{}{}
	defer func() { <-f.telling }()
	f.mu.Lock()
	if f.state == s && s != StateWaiting || !may() ||
		s == StateDraining && !f.state.publishes() || f.state == StateDraining && s != StateClosed {
		f.mu.Unlock()
		return false
	}
	goesOn := f.state == StateStalled
	f.state, f.since = s, time.Now()
	switch {
	case s == StateConnecting:
		f.total.Connects++
	case s == StatePublishing && !goesOn:
		f.total.Accepted++
		f.published = f.since
	}
	f.mu.Unlock()
	if h := f.src.cfg.Hooks.OnForward; h != nil {
		f.src.srv.guard("OnForward", func() error { h(f, s, err); return nil })
	}
	return true
}

// attempt is session, of which a panic of the host's code is an error too.
func (f *Forwarder) attempt() (err *DestinationError) {
	defer func() {
		if v := recover(); v != nil {
			f.log.Error("panic", "panic", v, "stack", stack())
			err = &DestinationError{Op: OpPanic, Destination: f.dst, Err: errors.New("the host's code has panicked")}
		}
	}()
	return f.session()
}

// stallChanged has OnForward told that the destination takes nothing, or
// something again.
func (f *Forwarder) stallChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.tellsStall && !f.gone {
		f.tellsStall = true
		f.draining.Go(f.tellStalls)
	}
}

// tellStalls brings the state in line with whether the destination takes anything.
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

// stallStateLocked is the state that f should change to; ok is false where it
// should not. mu is held.
func (f *Forwarder) stallStateLocked() (to State, ok bool) {
	if f.out == nil || !f.state.publishes() || f.Ending() {
		return 0, false
	}
	to = StatePublishing
	if f.out.Stalled() {
		to = StateStalled
	}
	return to, to != f.state
}

// session connects and sends until that ends. Its error is a
// *DestinationError, nil when the stream has ended.
func (f *Forwarder) session() *DestinationError {
	next := &successor{at: f.ep}
	for next != nil {
		l := next.link
		if l == nil {
			var err *DestinationError
			if l, err = f.open(f.ctx, next.at, true); err != nil {
				return err
			}
		}
		var err *DestinationError
		if next, err = f.push(l, next.from); err != nil {
			return err
		}
	}
	return nil
}

// first is the first error that is not nil and not our own closing.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, fanout.ErrClosed) {
			return err
		}
	}
	return nil
}

// addPush counts a forwarder that begins; one that replaces another only when it
// has taken over.
func (s *Server) addPush(f *Forwarder, replaces bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !replaces {
		if l := s.cfg.Load().Limits.TotalDestinations; l >= 0 && (s.counted >= l || s.pushes-l >= l) {
			return fmt.Errorf("%w: %d destinations in all", ErrLimit, l)
		}
		f.counts = true
		s.counted++
	}
	s.pushes++
	return nil
}

// countPush has a forwarder count in the limit, or not any more: it is ending.
func (s *Server) countPush(f *Forwarder, counts bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countPushLocked(f, counts)
}

func (s *Server) countPushLocked(f *Forwarder, counts bool) {
	switch {
	case counts && !f.counts:
		s.counted++
	case !counts && f.counts:
		s.counted--
	}
	f.counts = counts
}

// removePush forgets a forwarder that has ended.
func (s *Server) removePush(f *Forwarder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countPushLocked(f, false)
	s.pushes--
}
