package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// run is a goroutine that connects to a target, sends, and reconnects when the connection
// is lost. A Forwarder has one. In a handover a second one connects and takes over; the
// first then ends when its destination has received the rest.
type run struct {
	f       *Forwarder
	to      *target
	ctx     context.Context // of all its connections
	cancel  context.CancelFunc
	backoff backoff

	*handover // nil for the first run

	// Guarded by Forwarder.mu.
	link  *upstream.Link // the connection whose publish is accepted, or nil
	began bool           // it is f.now, or was
	then  *resumption    // where to continue when link ends, or nil
}

// resumption says where a run connects after its connection has stopped at a keyframe.
type resumption struct {
	at   endpoint.Endpoint
	from uint64 // the message to continue with; 0 to begin as a new receiver
}

// newRunLocked makes a run of f to t. f.mu is held, unless nobody else knows f.
func newRunLocked(f *Forwarder, t *target) *run {
	r := &run{f: f, to: t, backoff: backoff{Backoff: f.src.cfg.Backoff}}
	r.ctx, r.cancel = context.WithCancel(f.ctx)
	t.turn.f = f
	t.runs++
	f.runs = append(f.runs, r)
	return r
}

// do pushes until the stream has ended or another run has taken over.
func (r *run) do() {
	var err *DestinationError
	hostcode.Call(func() { err = r.push() }) // a connection may be the host's code
	r.f.left(r, err)
}

// push does the work of do. It returns why r has not taken over, if it was to.
func (r *run) push() *DestinationError {
	f := r.f
	if !r.to.await(r.ctx) {
		return nil
	}
	if w := r.to.Endpoint.Warning(); w != "" && (r.handover == nil || r.update) {
		r.to.Log.Warn("destination may not accept everything", "warning", w)
	}
	at := r.to.Endpoint
	if r.handover != nil {
		at = r.at
	}
	for {
		err := r.attempt(at)
		at = r.to.Endpoint
		sent, goesOn := f.failed(r, err)
		if !goesOn {
			return err
		}
		d := r.retryAfter(err, sent)
		if !r.pause(d, err, sent >= 0) {
			return nil
		}
	}
}

// pause waits until the next attempt, forever if d is negative. It returns false if there
// is no next attempt because f or r has ended.
func (r *run) pause(d time.Duration, err *DestinationError, published bool) bool {
	var due <-chan time.Time
	var next time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		due, next = t.C, time.Now().Add(d)
	}
	f := r.f
	f.setAttempt(r, next)
	ev := f.event(Event{Kind: EventRetry, Retry: next, Err: err, Cause: causeText(err)})
	f.src.srv.events.emit(func() Event { return ev })
	f.reports.lost(r.to, ev, err, published, r.backoff.attempt, d)
	defer f.setAttempt(r, time.Time{})
	r.setState(StateWaiting, err)
	select {
	case <-due:
		return true
	case <-f.ended:
		return false
	case <-r.ctx.Done():
		return false
	}
}

// attempt is session, but turns a panic of the host's code into an error.
func (r *run) attempt(at endpoint.Endpoint) (err *DestinationError) {
	defer func() {
		if v := recover(); v != nil {
			r.to.Log.Error("panic", "panic", v, "stack", stack())
			err = &DestinationError{Op: OpPanic, Destination: r.to.dst, Err: errors.New("the host's code has panicked")}
		}
	}()
	return r.session(at)
}

// session connects to a place and sends until the connection ends. It returns nil if the
// stream has ended or another run has taken over.
func (r *run) session(at endpoint.Endpoint) *DestinationError {
	defer r.f.src.srv.places.occupy(r.ctx, r.to.place)()
	next := &resumption{at: at}
	for next != nil {
		l, err := r.to.Open(r.ctx, next.at, upstream.Session{
			Begins: r.begins, Ended: r.f.Ending, Properties: r.to.properties, Sender: r.prepare, Reconnect: r.reconnect,
		})
		if err != nil {
			return r.to.error(err)
		}
		if next, err = r.send(l, next.from); err != nil {
			return r.to.error(err)
		}
	}
	return nil
}

// begins is called when a connection is about to be made, and when it has been made.
func (r *run) begins(op upstream.Op) {
	switch op {
	case upstream.OpDial:
		r.f.mu.Lock()
		r.f.total.Connects++
		r.f.mu.Unlock()
		r.setState(StateConnecting, nil)
	case upstream.OpHandshake:
		r.f.connected()
		r.setState(StateHandshaking, nil)
	}
}

// prepare sets the options of a connection's Sender.
func (r *run) prepare(out *fanout.Sender) {
	out.Measure(r.f.firstPicture, r.f.dropped)
	out.OnStall(stalledAfter, r.f.stallChanged)
	if own := r.to.dst.MergeWindow; own != 0 {
		out.SetWindow(max(own, 0), max(r.f.src.vhost.MergeWindow, 0))
	}
}

// setState changes f's state, unless r is not the run that sends.
func (r *run) setState(s State, err error, more ...any) {
	r.f.change(s, err, func() bool { return r.f.now == r }, more...)
}

// send sends over a connection until it ends, from message from on if that is not 0. It
// returns where r continues, or nil if it does not.
func (r *run) send(l *upstream.Link, from uint64) (*resumption, *upstream.Error) {
	f := r.f
	defer l.Close()
	if !f.begin(r, l, from) {
		return nil, nil
	}
	ended := false
	defer func() {
		if !ended { // the host's code has panicked
			f.end(r, l)
		}
		f.src.group.Remove(l.Out)
	}()
	defer later(codecsKnown, func() { r.to.warnOfCodec(l) })()
	began := time.Now()
	err := l.Client.Watch(nil)
	next, over := f.end(r, l)
	if ended = true; over || next != nil {
		return next, nil
	}
	op := upstream.Op(upstream.OpRead)
	if werr := l.Out.Err(); werr != nil {
		op, err = upstream.OpWrite, werr
	}
	if codec := r.to.untaken(l.Client); codec != nil && time.Since(began) < f.src.cfg.Backoff.Healthy {
		err = fmt.Errorf("%w: %w", codec, err)
	}
	return nil, r.to.Lost(op, err)
}

// attach begins to send the stream over l, from message from on if that is not 0.
func (r *run) attach(l *upstream.Link, from uint64) {
	f := r.f
	o := r.to.cursor(l, from)
	log, group := f.src.log, f.src.group
	var end func() ([]byte, bool)
	end = func() ([]byte, bool) {
		next := l.Out.Next()
		if !f.stopped(r, l, next) && (!log.Ended() || next < log.Head()) {
			o.From = next // the run for which it was to stop has ended
			l.Out.Attach(log, o, end)
			return nil, false
		}
		group.Remove(l.Out)
		l.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		return l.Client.AppendUnpublish(nil), true
	}
	group.Add(l.Out, o, end)
	if f.isAwaited() {
		l.Out.StopAtKeyframe()
	}
}

// retryAfter returns the delay before the next attempt after err; negative means never.
// sent is how long the session was publishing, negative if it was not.
func (r *run) retryAfter(err *DestinationError, sent time.Duration) time.Duration {
	b, src := &r.backoff, r.f.src
	d := b.next(!err.Temporary(), sent, rand.Float64())
	if ask := src.cfg.Retry; ask != nil {
		src.srv.calls.do("Retry", func() error {
			if own := ask(RetryInfo{Request: src.Request(), Err: err, Attempt: b.attempt, Delay: d}); own != 0 {
				d = own
			}
			return nil
		})
	}
	return d
}

// reconnect follows a ReconnectRequest.
func (r *run) reconnect(l *upstream.Link, ref string) {
	f := r.f
	at, err := r.to.Redirected(l.At, ref)
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
