package forward

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/ingest"
	"github.com/rtmp-forward/forward/internal/rtmp"
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

// publishes reports whether media is sent, or would be if it were taken.
func (s State) publishes() bool { return s == StatePublishing || s == StateStalled }

// stalledAfter is how long a destination must take nothing to count as
// stalled.
const stalledAfter = 2 * time.Second

// DestinationError is why a destination is not being sent to.
type DestinationError struct {
	// Op is what went wrong: resolve, dial, tls, handshake, connect,
	// createStream, publish, write, read, or closed by the destination; panic
	// where a connection of the host's has panicked.
	Op          string
	Destination Destination
	Err         error
	// Code is the code of a refusal, for example
	// NetStream.Publish.BadName; empty for other errors.
	Code string
}

func (e *DestinationError) Error() string {
	return fmt.Sprintf("destination %s: %s: %v", e.Destination, e.Op, e.Err)
}

// Unwrap returns the error below.
func (e *DestinationError) Unwrap() error { return e.Err }

// Temporary reports whether the next attempt may well succeed: all but
// refusals, an AddressError, an UnsupportedCodecError, and certificates, or
// TLS, that one of the two sides does not accept. Those, too, are tried again,
// but after Backoff.RefusedMin at the earliest. Config.Retry may see it
// otherwise.
func (e *DestinationError) Temporary() bool {
	if e.Code != "" {
		return false
	}
	var cert *tls.CertificateVerificationError
	var addr *AddressError
	var codec *UnsupportedCodecError
	return !errors.As(e.Err, &cert) && !errors.As(e.Err, &addr) && !errors.As(e.Err, &codec) && !errors.Is(e.Err, errPin) && !(e.Op == "tls" && isAlert(e.Err))
}

// cause is the alert that the peer has sent before it closed, if err is that
// writing has failed.
func cause(nc net.Conn, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "write" {
		if _, rerr := nc.Read(make([]byte, 1)); isAlert(rerr) {
			return rerr
		}
	}
	return err
}

// isAlert reports whether the peer has ended TLS with an alert. crypto/tls has
// no type of its own for those.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

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

	resolved bool          // by the Resolver, not added by the host
	replaces *Forwarder    // see Update
	begun    chan struct{} // where replaces is set: closed when f has taken over
	// inherited is decided when f is to take over; guarded by replaces.mu.
	inherited bool

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	ended  chan struct{} // closed when the stream has ended, or Close begins

	form      form                   // of the handshake at ep
	sessions  tls.ClientSessionCache // of TLS, for reconnecting
	tlsOnce   sync.Once
	warnedTLS atomic.Bool

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
	f.form.digest = f.dst.DigestHandshake
	f.log = s.srv.log.With("source", s.req.logName(), "destination", d, "id", f.id)
	f.ctx, f.cancel = context.WithCancel(s.ctx)
	return f, nil
}

// Destination is where f pushes.
func (f *Forwarder) Destination() Destination { return f.dst }

// ID names the destination in lists and metrics: 8 hex digits, the same for the
// same URL, stream key and user for as long as the process lives.
func (f *Forwarder) ID() string { return f.id }

// Source is the stream that f pushes.
func (f *Forwarder) Source() *Source { return f.src }

// Done is closed when f has ended.
func (f *Forwarder) Done() <-chan struct{} { return f.done }

// ForwarderStats is a snapshot of a Forwarder. Counters only grow.
type ForwarderStats struct {
	// ID names the destination in metrics: 8 hex digits that tell nothing
	// about it.
	ID    string
	State State
	Since time.Time // of the state
	// NextAttempt is set while an attempt is waited for. It is zero while
	// waiting where Config.Retry has given up.
	NextAttempt time.Time

	// Connects counts the connections tried: one with authentication takes
	// three, one whose server wants the other form of the handshake two.
	Connects uint64
	Accepted uint64 // attempts that were publishing
	Bytes    uint64
	Messages uint64
	// DroppedLate counts the messages that were not sent because the
	// destination was too slow, DroppedNoKeyframe those that would have
	// referred to a keyframe it did not have.
	DroppedLate       uint64
	DroppedNoKeyframe uint64
	// Lag is how many messages are waiting to be sent.
	Lag uint64
	// LastErr is why the last attempt ended, a *DestinationError; nil when
	// none has failed.
	LastErr error
	// Warning is what the destination may not take, though it does not
	// refuse it: a name that is longer than its kind of server keeps, or a
	// codec that is not among those it lists (UnsupportedCodecError); or that
	// no keyframe came within 5 s, so that it got video that it may not be
	// able to decode at first. A sentence without secrets, empty where there
	// is nothing to say.
	Warning string
}

// noKeyframe is the Warning of a destination that began without one.
const noKeyframe = "No keyframe came within 5 s: the destination began with the video that came."

// Stats returns a snapshot.
func (f *Forwarder) Stats() ForwarderStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.total
	st.ID, st.State, st.Since, st.LastErr = f.id, f.state, f.since, f.lastErr
	st.Warning = f.ep.Warning()
	if err := first(f.untaken(f.client), f.missing()); err != nil && st.Warning == "" {
		st.Warning = err.Error()
	}
	st.NextAttempt = f.next
	if f.out != nil {
		o := f.out.Stats()
		st.add(o)
		st.Lag = o.Lag
		if o.Blind && st.Warning == "" {
			st.Warning = noKeyframe
		}
	}
	if f.state.publishes() && f.isEnded() {
		st.State = StateDraining
	}
	return st
}

func (st *ForwarderStats) add(o fanout.Stats) {
	st.Bytes += o.Bytes
	st.Messages += o.Messages
	st.DroppedLate += o.Overtaken
	st.DroppedNoKeyframe += o.Waited
}

// Close ends the destination: it is told that the stream has ended, and
// disconnected. Close returns when it is gone; when ctx ends before, it is cut
// off, and Close returns ctx's error at once. From a hook Close returns ErrInHook
// at once. Done tells when it is gone.
func (f *Forwarder) Close(ctx context.Context) error {
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

// Update pushes to d in place of where f pushes: f ends, and the Forwarder
// that is returned takes over. The new connection is publishing before the old
// one is closed, and the switch is at a keyframe: the old destination gets all
// that comes before it and is told that the stream has ended, the new one gets
// all from there on. Where f is not publishing, the new one begins as with
// Source.Forward.
//
// Where the first attempt to reach d fails, ctx ends or the stream ends before
// the switch, Update returns why, and f goes on as if nothing had been. That is
// so, too, where d is where f pushes already, with other options: a server
// refuses to have the same stream published twice.
//
// The limits on destinations do not keep Update from replacing one, for which
// there are two for a moment. Where the stream is pushed to d by another Forwarder
// than f, Update returns ErrDuplicate.
//
// From a hook Update returns the new Forwarder with ErrInHook: it is on its way,
// without regard to ctx. It either takes over, or is closed, and f goes on.
//
// Like what Source.Forward adds, the new one is not a refresh's business; a
// refresh brings back what the Resolver still gives.
func (f *Forwarder) Update(ctx context.Context, d Destination) (*Forwarder, error) {
	n, err := newForwarder(f.src, d)
	if err != nil {
		return nil, err
	}
	n.replaces, n.begun = f, make(chan struct{})
	f.mu.Lock()
	busy := f.heir != nil || f.stop
	if !busy {
		f.heir = n
	}
	f.mu.Unlock()
	if busy {
		n.cancel()
		return nil, fmt.Errorf("destination %s: %w", f.dst, ErrUpdating)
	}
	if err := f.src.forward(n); err != nil {
		f.disown(n)
		return nil, err
	}
	if hostcode.Within() {
		f.src.background(func() { f.replace(context.Background(), n) })
		return n, ErrInHook
	}
	if err := f.replace(orBackground(ctx), n); err != nil {
		return nil, err
	}
	return n, nil
}

// replace waits until n has taken over, or does not.
func (f *Forwarder) replace(ctx context.Context, n *Forwarder) error {
	var err error
	select {
	case <-n.begun:
		return nil
	case <-n.done:
		err = first(n.Stats().LastErr, ErrStreamEnded)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if !f.disown(n) {
		<-n.begun
		return nil
	}
	n.cancel()
	return fmt.Errorf("replace %s: %w", f.dst, err)
}

// ErrUpdating says that a Forwarder is being updated, or closed, already.
var ErrUpdating = errors.New("forward: the destination is being updated or closed")

// takeOver begins to send by calling attach: where the forwarder stops that f
// replaces, or where a new one begins.
func (f *Forwarder) takeOver(attach func(from uint64)) {
	if f.replaces == nil || f.hasBegun() {
		attach(0)
		return
	}
	f.replaces.yield(f, func(from uint64) {
		attach(from)
		close(f.begun)
	})
}

func (f *Forwarder) hasBegun() bool {
	select {
	case <-f.begun:
		return true
	default:
		return false
	}
}

// yield ends f, and then has n begin: at once when f sends nothing, else where
// f has stopped before a keyframe.
func (f *Forwarder) yield(n *Forwarder, succeed func(from uint64)) {
	f.mu.Lock()
	if f.heir != n {
		f.mu.Unlock()
		return
	}
	f.succeed = succeed
	out := f.out
	f.mu.Unlock()
	if out != nil {
		out.StopAtKeyframe()
		return
	}
	f.bequeath(0)
}

// bequeath has the heir begin, and ends f, if there is one that waits, which it
// reports. After the end of the stream there is nothing left for an heir.
func (f *Forwarder) bequeath(from uint64) bool {
	f.mu.Lock()
	succeed := f.succeed
	if f.src.log.Ended() {
		f.heir, f.succeed, succeed = nil, nil, nil
	}
	if succeed != nil {
		f.heir.inherited = true
		f.src.srv.countPush(f.heir, true)
		f.heir, f.succeed = nil, nil
		f.stop = true
		f.endLocked()
	}
	f.mu.Unlock()
	if succeed == nil {
		return false
	}
	succeed(from)
	return true
}

// disown takes back what Update has promised n. It is false when n has taken
// over, or is about to.
func (f *Forwarder) disown(n *Forwarder) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n.inherited {
		return false
	}
	if f.heir == n {
		f.heir, f.succeed = nil, nil
	}
	return true
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
		if f.isEnded() || f.ctx.Err() != nil {
			return
		}
		sent := f.failed(err)
		if f.replaces != nil && !f.hasBegun() {
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

// pushKey is what a destination takes for the same publish.
type pushKey struct {
	stream streamKey
	place  string // of the destination
}

// takeTurn waits until an earlier publish of the same stream, or one that is
// being closed, is gone from the same destination, which would refuse a second
// one.
func (f *Forwarder) takeTurn() (release func(), ok bool) {
	s := f.src.srv
	key := pushKey{f.src.key, f.place}
	for {
		s.mu.Lock()
		before := s.pushing[key]
		if before == nil || before.src == f.src && !before.isEnded() {
			s.pushing[key] = f
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.pushing[key] == f {
					delete(s.pushing, key)
				}
			}, true
		}
		s.mu.Unlock()
		select {
		case <-before.done:
		case <-f.ended:
			return nil, false
		case <-f.ctx.Done():
			return nil, false
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
	f.draining.Wait()
	f.setState(StateClosed, nil)
	f.src.remove(f) // before anybody is told
	close(f.done)
}

func (f *Forwarder) isEnded() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
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
			err = f.error("panic", errors.New("the host's code has panicked"), 0)
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
	if f.out == nil || !f.state.publishes() || f.isEnded() {
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

// link is a connection that the destination has accepted for publishing.
type link struct {
	nc     net.Conn
	out    *fanout.Sender
	client *rtmp.Client
	at     endpoint.Endpoint
	size   int // of our chunks
	move   move
	close  func() // ends the connection
}

// connect makes a connection to at, with the handshake in the form that fm says,
// within what su has left of the time. auth answers what the one before was
// asked. Where it is the first of the session it shows as f's state.
func (f *Forwarder) connect(ctx context.Context, at endpoint.Endpoint, auth string, fm *form, su *setup, shown bool) (_ *link, derr *DestinationError) {
	if shown {
		f.setState(StateConnecting, nil)
	} else {
		f.mu.Lock()
		f.total.Connects++
		f.mu.Unlock()
	}
	nc, derr := f.dial(ctx, at, su)
	if derr != nil {
		return nil, derr
	}
	stop := context.AfterFunc(ctx, func() { hostcode.Close(nc) })
	l := &link{nc: nc, at: at, size: f.dst.ChunkSize}
	l.close = func() {
		stop()
		hostcode.Close(nc)
	}
	defer func() {
		if derr != nil {
			l.close()
		}
	}()
	if shown {
		f.connected()
		f.setState(StateHandshaking, nil)
	}
	nc.SetDeadline(su.begins("handshake", su.by))
	if err := rtmp.ClientHandshake(nc, fm.digest); err != nil {
		return nil, f.error("handshake", cause(nc, err), su.limit)
	}
	fm.known = true
	nc.SetDeadline(time.Time{}) // writing is limited by the sender
	out := fanout.NewSender(nc, orForever(f.src.cfg.WriteTimeout))
	out.OnStall(stalledAfter, f.stallChanged)
	if own := f.dst.MergeWindow; own != 0 {
		out.SetWindow(max(own, 0), max(f.src.vhost.MergeWindow, 0))
	}
	l.out = out
	def(&l.size, f.src.vhost.ChunkSize)
	// As a client says it before any media comes, this can be wrong at the
	// first connection, for an encoder that does not say it (OBS). It is no
	// condition for Enhanced RTMP: we do not wait for the first frame.
	var properties amf.Object
	if !at.Profile.IsPlatform() { // it may be a Server of this library
		properties = amf.Object{{Key: hopsProperty, Value: f.src.Request().onward()}}
	}
	if f.src.Request().enhanced || f.src.log.Info().Enhanced {
		properties = append(properties, rtmp.Enhanced(f.dst.Redirect != RedirectNever)...)
	}
	rc := rtmp.NewConn(ingest.NewReader(nc), out.Send, setupBuffer, l.size, setupLimits)
	rc.Charge = f.src.memory.Account(func() { go nc.Close() }).Charge // that of TLS may wait
	l.close = func() {
		stop()
		out.Close()
		out.Wait()
		hostcode.Close(nc)
		rc.Release()
	}
	l.client = rtmp.NewClient(rc, rtmp.Options{
		App: at.App, TcURL: at.TcURL, Key: at.Key, FlashVer: f.dst.FlashVer,
		User: at.User, Password: at.Password, Auth: auth,
		NoReleaseStream: f.dst.NoReleaseStream, NoFCPublish: f.dst.NoFCPublish,
		Properties: properties,
		Step:       func(name string) { nc.SetReadDeadline(su.begins(name, su.by)) },
		Reconnect:  func(to string) { f.reconnect(l, to) },
	})
	if err := l.client.Publish(); err != nil {
		return nil, f.error(su.step, first(out.Err(), err), su.limit)
	}
	nc.SetReadDeadline(time.Time{})
	l.client.Resize(playBuffer)
	if !shown && !stop() { // from now on it lives as long as f
		return nil, f.error(su.step, ctx.Err(), su.limit)
	}
	if !shown {
		stop = context.AfterFunc(f.ctx, func() { hostcode.Close(nc) })
	}
	return l, nil
}

// push sends over a connection until that ends, from a message on where from is
// not 0. It returns who goes on, if there is one.
func (f *Forwarder) push(l *link, from uint64) (*successor, *DestinationError) {
	defer l.close()
	sending := f.isSending(l)
	if !sending && !f.begin(l.out, l.client) {
		return nil, nil
	}
	defer f.end(l)
	defer f.src.group.Remove(l.out)
	if !sending {
		f.takeOver(func(at uint64) {
			f.attach(l, max(from, at))
		})
		f.report(slog.LevelInfo, "destination publishing") // before the hook, which may take its time
		f.setState(StatePublishing, nil)
		f.stallChanged() // may have come before
		if f.isEnded() {
			f.drains()
		}
		if old := f.replaces; old != nil {
			defer func() {
				if !old.disown(f) {
					<-f.begun
				}
			}()
		}
	}
	defer later(codecsKnown, func() { f.warnOfCodec(l.client) })()
	began := time.Now()
	err := l.client.Watch(nil)
	if next := f.successor(l); next != nil {
		return next, nil
	}
	if f.isEnded() {
		return nil, nil
	}
	op := "read"
	if werr := l.out.Err(); werr != nil {
		op, err = "write", werr
	}
	if codec := f.untaken(l.client); codec != nil && time.Since(began) < f.src.cfg.Backoff.Healthy {
		err = fmt.Errorf("%w: %w", codec, err)
	}
	return nil, f.error(op, err, 0)
}

// attach begins to send the stream, from a message on where from is not 0.
func (f *Forwarder) attach(l *link, from uint64) {
	o := gop.Options{
		Push:   !f.dst.PlainMetadata,
		NoMeta: f.dst.NoMetadata,
		Layout: chunk.Layout{StreamID: l.client.StreamID(), Size: l.size},
		Size:   f.src.vhost.ChunkSize,
		Live:   f.src.vhost.NoGOPCache,
		From:   from,
		Times:  Timestamps(l.at.Times).times(),
	}
	log, group := f.src.log, f.src.group
	var end func() ([]byte, bool)
	end = func() ([]byte, bool) {
		next := l.out.Next()
		if !f.bequeath(next) && !f.moveOn(l, next) && (!log.Ended() || next < log.Head()) {
			o.From = next // the heir for whom it was to stop is gone
			l.out.Attach(log, o, end)
			return nil, false
		}
		group.Remove(l.out)
		l.nc.SetReadDeadline(time.Now().Add(lingerTime))
		return l.client.AppendUnpublish(nil), true
	}
	group.Add(l.out, o, end)
	if f.isAwaited() {
		l.out.StopAtKeyframe()
	}
}

// begin makes a session's sender and client known to Stats and Close. It is
// false when Close has come before.
func (f *Forwarder) begin(out *fanout.Sender, client *rtmp.Client) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop {
		return false
	}
	f.out, f.client = out, client
	return true
}

// isSending reports whether l has got the place of another connection already.
func (f *Forwarder) isSending(l *link) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return l.move.sending
}

// end adds a connection's counters to the total. Who waits for a keyframe to
// take over waits no longer.
func (f *Forwarder) end(l *link) {
	f.mu.Lock()
	current := f.out == l.out
	if current {
		f.total.add(f.out.Stats())
		f.out, f.client = nil, nil
	}
	f.mu.Unlock()
	if current {
		f.bequeath(0)
	}
}

// isAwaited reports whether somebody waits for f to stop at a keyframe.
func (f *Forwarder) isAwaited() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.succeed != nil
}

// form is in which form the handshake is made with a server, plain or with
// digests. Until it has succeeded in one of them, which then stays, the forms
// take turns: after a handshake that has failed comes the other one. It comes
// in the same attempt, once, where the server has broken off; one that says
// nothing has used up the attempt's time.
//
// A Forwarder makes one connection after the other, so that nothing guards it.
type form struct {
	digest bool // the next handshake's
	known  bool // has succeeded
}

// formAt is the form for a place. Only that of Destination.URL is remembered.
func (f *Forwarder) formAt(at endpoint.Endpoint) *form {
	if at.Host == f.ep.Host && at.Port == f.ep.Port {
		return &f.form
	}
	return &form{digest: f.dst.DigestHandshake}
}

// turn has the other form come next where a handshake has failed, and reports
// whether at once: where the server has broken off, and not because it speaks
// another protocol.
func (fm *form) turn(err *DestinationError) (atOnce bool) {
	if err.Op != "handshake" {
		return false
	}
	fm.digest = !fm.digest
	var version rtmp.VersionError
	other := errors.As(err.Err, &version) && version.OtherProtocol()
	return !other && !errors.Is(err.Err, os.ErrDeadlineExceeded)
}

// setup is how far a connection has come: its step, how long that may take, and
// when all must be done, which holds for another one in its place, too.
type setup struct {
	step    string
	limit   time.Duration
	by      time.Time     // zero until it is connected
	whole   time.Duration // Destination.SetupTimeout
	publish time.Duration // Destination.PublishTimeout
}

// begins notes a step. It returns until when it may take: up to the answer to
// connect half of whole, but no longer than by. With createStream the time of
// createStream and publish begins.
func (su *setup) begins(step string, by time.Time) time.Time {
	now := time.Now()
	limit := su.whole / 2
	switch step {
	case "createStream":
		limit = su.publish
		su.by = now.Add(limit)
		by = su.by
	case "publish":
		limit = su.publish
	}
	su.step, su.limit = step, min(limit, by.Sub(now))
	return now.Add(su.limit)
}

// error makes the typed error of a session's end; limit is how long the step
// might take.
func (f *Forwarder) error(op string, err error, limit time.Duration) *DestinationError {
	if op == "handshake" && isAlert(err) {
		op = "tls" // TLS 1.3 tells only now that our certificate is refused
	}
	de := &DestinationError{Op: op, Destination: f.dst, Err: err}
	var st *rtmp.StatusError
	var noTLS tls.RecordHeaderError
	hint := f.ep.HintAt(op)
	switch {
	case errors.As(err, &st):
		de.Code = st.Code
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		de.Err = fmt.Errorf("closed by the destination%s: %w", hint, err)
	case errors.Is(err, os.ErrDeadlineExceeded) && op != "write", isTimeout(err) && (op == "tls" || op == "dial" || op == "resolve"):
		de.Err = hidden{err, fmt.Sprintf("no answer within %v%s", limit.Round(time.Millisecond), hint)}
	case errors.As(err, &noTLS), errors.Is(err, rtmp.ErrVersion):
		de.Err = fmt.Errorf("%w%s", err, hint)
	}
	return de
}

// isTimeout reports whether time has run out, ours or the system's.
func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// dial connects, with TLS where the destination asks for it. The set-up's time
// begins when it is connected, unless it is running already.
func (f *Forwarder) dial(ctx context.Context, at endpoint.Endpoint, su *setup) (net.Conn, *DestinationError) {
	su.limit = f.dst.DialTimeout
	dialBy := time.Now().Add(su.limit)
	again := !su.by.IsZero()
	if again && su.by.Before(dialBy) {
		dialBy = su.by
	}
	whole := ctx
	ctx, cancel := context.WithDeadline(whole, dialBy)
	defer cancel()
	dial := f.dst.DialContext
	if dial == nil {
		dial = f.src.cfg.Dial
	}
	from := f.dst.origin()
	if at.Untrusted {
		from = fromOutside
	}
	dial = f.src.srv.guarded(from, dial)
	var nc net.Conn
	err := f.src.srv.guard("Dial", func() (err error) {
		if nc, err = dial(ctx, "tcp", net.JoinHostPort(at.Host, at.Port)); err == nil && nc == nil {
			err = errNoConn
		}
		return err
	})
	if err != nil {
		op := "dial"
		var dns *net.DNSError
		if errors.As(err, &dns) {
			op = "resolve"
		}
		return nil, f.error(op, err, su.limit)
	}
	if !again {
		su.whole, su.publish = f.dst.SetupTimeout, f.dst.PublishTimeout
		su.by = time.Now().Add(su.whole)
	}
	if at.Scheme != "rtmps" {
		return nc, nil
	}
	by := dialBy
	if su.by.Before(by) {
		by = su.by
	}
	ctx, cancel = context.WithDeadline(whole, su.begins("tls", by))
	defer cancel()
	tc := fanout.TLSClient(nc, f.tlsConfig(at))
	if err := tc.HandshakeContext(ctx); err != nil {
		hostcode.Close(nc)
		return nil, f.error("tls", err, su.limit)
	}
	return tc, nil
}

var errNoConn = errors.New("dialling has returned neither a connection nor an error")

var errPin = errors.New("the server's public key is not the one of Fingerprint")

func (f *Forwarder) tlsConfig(at endpoint.Endpoint) *tls.Config {
	base := f.dst.TLSConfig
	if base == nil {
		base = f.src.cfg.TLSConfig
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		cfg = base.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = at.ServerName
	}
	// The first batch is the largest, and all are gathered: full records
	// from the start.
	cfg.DynamicRecordSizingDisabled = true
	// Not shared with other destinations, which may trust others.
	if cfg.ClientSessionCache == nil {
		f.tlsOnce.Do(func() { f.sessions = tls.NewLRUClientSessionCache(2) })
		cfg.ClientSessionCache = f.sessions
	}
	if cfg.InsecureSkipVerify && at.Pin == nil {
		if !f.warnedTLS.Swap(true) {
			f.log.Warn("destination is not verified: TLSConfig has InsecureSkipVerify")
		}
	}
	if pin := at.Pin; pin != nil {
		cfg.InsecureSkipVerify = true // the key is verified instead
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			sum := sha256.Sum256(spki(cs.PeerCertificates[0]))
			if subtle.ConstantTimeCompare(sum[:], pin) != 1 {
				return fmt.Errorf("%w: the SHA-256 of its key is %x", errPin, sum)
			}
			return nil
		}
	}
	return cfg
}

func spki(c *x509.Certificate) []byte { return c.RawSubjectPublicKeyInfo }

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
