package forward

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
)

// succeed makes p, which the host has accepted, the next publisher.
func (p *publication) succeed() error {
	s := p.src
	s.inputs.mu.Lock()
	var err error
	switch {
	case s.isEnding(): // the other publishers may already have been told
		err = ErrStreamEnded
	case !s.inputs.claimableLocked(p.req):
		err = ErrStreamBusy
	}
	if err != nil {
		s.inputs.mu.Unlock()
		p.tell()
		return fmt.Errorf("publish of %s: %w", p.req.logName(), err)
	}
	var replaced *publication
	if standby := s.vhost.Standby; standby == nil && len(s.inputs.next) > 0 || standby != nil && len(s.inputs.next) >= standby.Publishers {
		replaced = s.inputs.replaceableLocked(p.req)
		s.inputs.dropNextLocked(replaced, ErrTakenOver)
	}
	p.accepted = time.Now()
	s.inputs.addNextLocked(p)
	if limit := s.vhost.FirstMediaTimeout; limit >= 0 {
		p.late = later(limit, p.keyframeLate)
	}
	s.inputs.mu.Unlock()
	if replaced != nil {
		replaced.turnDown(ErrTakenOver)
	}
	if s.vhost.Standby == nil { // else nothing changes until p comes on air
		s.latest.Store(p.req)
		s.background(s.routing.refreshSelf)
	}
	return nil
}

// turnDown ends the publish of a next publisher that does not get the stream.
func (p *publication) turnDown(cause error) {
	s := p.src
	s.srv.log.Info("next publisher dropped", "source", s.req.logName(), "addr", logAddr(p.req.RemoteAddr), "err", cause)
	s.inputs.unaccept(p)
	p.kick(cause)
	s.background(p.tell)
}

// keyframeLate ends a next publisher that has sent no keyframe in time.
func (p *publication) keyframeLate() {
	s := p.src
	s.inputs.mu.Lock()
	if !slices.Contains(s.inputs.next, p) || p.kept.isReadyLocked() {
		s.inputs.mu.Unlock()
		return
	}
	s.inputs.dropNextLocked(p, ErrNoKeyframe)
	ended := s.inputs.emptyLocked()
	s.inputs.mu.Unlock()
	p.turnDown(ErrNoKeyframe)
	if ended {
		s.end()
	}
}

// begin sets by, which tells the publisher when the publish is over.
func (p *publication) begin(by interface{ kick(error) }) {
	s := p.src
	s.inputs.mu.Lock()
	p.by = by
	now, next := s.inputs.now == p, slices.Contains(s.inputs.next, p)
	s.inputs.mu.Unlock()
	s.mu.Lock()
	closed, ending := s.closed, s.ending
	s.mu.Unlock()
	switch {
	case closed:
		p.kick(ErrKicked)
	case now:
	case ending:
		p.kick(ErrStreamEnded)
	case !next:
		p.kick(ErrTakenOver)
	}
}

// kick tells the publisher, once, that its publish is over. If begin has not been called
// yet, begin tells it.
func (p *publication) kick(cause error) {
	p.src.inputs.mu.Lock()
	by := p.by
	p.by = nil
	if b, ok := by.(published); ok && cause == ErrTakenOver && p.src.inputs.isWithLocked(b.c) {
		by = nil
	}
	p.src.inputs.mu.Unlock()
	if by != nil {
		by.kick(cause)
	}
}

// leave ends the publish; lost means that the publisher did not unpublish. It reports
// whether the stream ends with it.
func (p *publication) leave(lost bool) (ended bool) {
	s := p.src
	grace := s.vhost.PublishGrace
	waits := false
	why := ReasonUnpublish
	if lost {
		why = ReasonLost
		// The read deadline may be a tenth early: see conn.flush.
		now := fanout.Clock()
		if limit, _ := p.silent(now); limit >= 0 && now-p.heard >= int64(limit/10*9) {
			why = ReasonTimeout
		}
	}
	s.inputs.mu.Lock()
	p.by = nil
	var successor *publication
	var taken *change
	left := s.event(p.req, Event{Kind: EventPublisherLost, Reason: why})
	switch {
	case s.inputs.now == p:
		s.inputs.why = why
		ending := s.isEnding()
		if i := slices.IndexFunc(s.inputs.next, func(n *publication) bool { return n.kept.isReadyLocked() }); i >= 0 && !ending {
			successor = s.inputs.next[i]
			s.inputs.past = append(s.inputs.past, p)
			s.inputs.now = nil
			s.srv.events.emit(func() Event { return left })
			taken = s.inputs.changeToLocked(successor, fanout.Clock()).change
			break
		}
		waits = (lost || s.vhost.GraceUnpublish) && grace > 0 && !ending
		if ended = !waits && len(s.inputs.next) == 0; ended {
			break
		}
		s.inputs.past = append(s.inputs.past, p)
		s.inputs.now, s.inputs.over = nil, !waits
		if !waits { // the stream continues only for a next publisher, or for one that replaces it
			grace = s.vhost.FirstMediaTimeout
		}
		if grace >= 0 && !ending {
			s.inputs.until = time.Now().Add(grace)
			s.inputs.grace = later(grace, s.inputs.graceOver)
		}
	case slices.Contains(s.inputs.next, p):
		s.inputs.dropNextLocked(p, nil)
		ended = s.inputs.emptyLocked()
	}
	s.inputs.mu.Unlock()
	if ended {
		s.end()
		return true
	}
	s.group.Wake() // the last messages may wait for the end of the merge window
	if waits {
		s.report(p.req, Event{Kind: EventPublisherLost, Reason: why}, "waiting", grace.String())
	}
	if successor != nil {
		s.memory.Shed(fanout.Clock())
		s.logEvent(left)
		taken.tell(successor)
	} else {
		s.inputs.unaccept(p)
	}
	s.background(p.tell)
	return s.isEnding()
}

// tell calls OnUnpublish, once, if OnPublish has accepted the publish. If the publish was
// ended by the Server, it tells the publisher first.
func (p *publication) tell() {
	s := p.src
	s.inputs.mu.Lock()
	over := p.over
	s.inputs.mu.Unlock()
	if over != nil {
		p.kick(over)
	}
	if f := p.onUnpublish; f != nil && p.hooked.Load() && !p.told.Swap(true) {
		s.srv.calls.tell(s.ctx, "OnUnpublish", func(ctx context.Context) { f(ctx, p.req) })
	}
	s.inputs.mu.Lock()
	defer s.inputs.mu.Unlock()
	s.inputs.past = slices.DeleteFunc(s.inputs.past, func(o *publication) bool { return o == p })
	p.forgetLocked()
}

// forgetLocked drops the references of an ended publish to its publisher and its media.
// The mutex of the inputs is held.
func (p *publication) forgetLocked() {
	p.framer.Store(nil)
	p.by = nil
	p.kept.dropLocked()
}

// publication is one publisher's publish of a Source.
type publication struct {
	src *Source
	req *Request
	by  interface{ kick(error) } // guarded by src.inputs.mu; nil before begin and after kick or leave

	over     error     // why the publish is over; guarded by src.inputs.mu
	accepted time.Time // as the next publisher; guarded by src.inputs.mu
	late     func()    // stops the timer for the first keyframe; guarded by src.inputs.mu

	kept    kept
	rank    int    // see Standby.Rank
	airedAt int64  // when it came on air, on fanout.Clock; guarded by src.inputs.mu
	shift   uint32 // see shiftedLocked; guarded by src.inputs.mu

	gone bool // for a connection: the publisher has left or was told the end; guarded by srv.mu

	hooked      atomic.Bool // OnPublish has accepted
	told        atomic.Bool // OnUnpublish has been called
	onUnpublish func(context.Context, *Request)

	framer atomic.Pointer[chunk.Framer] // nil when the publish is over

	// Owned by the publisher's goroutine.
	pace   pacing
	heard  int64 // when the last message came, or the publish was accepted
	begun  bool  // media has come
	goesOn bool  // players have seen earlier timestamps; until media comes
}

// silent reports whether a publisher has sent no media for longer than limit, which is
// FirstMediaTimeout before its first media and ReadTimeout after that.
func (p *publication) silent(now int64) (limit time.Duration, silent bool) {
	limit = p.src.vhost.ReadTimeout
	if !p.begun {
		limit = p.src.vhost.FirstMediaTimeout
	}
	return limit, limit >= 0 && now-p.heard > int64(limit)
}

// idle returns the time since the last message, in milliseconds.
func (p *publication) idle() int64 {
	if p.heard == 0 {
		return 0
	}
	return (fanout.Clock() - p.heard) / int64(time.Millisecond)
}

// published is a publish over a connection, on a message stream.
type published struct {
	*publication
	c        *conn
	streamID uint32
}

// kick tells the publisher that its stream is over. It disconnects the publisher unless
// that also publishes other streams, which then continue.
func (p published) kick(cause error) {
	c := p.c
	c.srv.mu.Lock()
	gone, others := p.gone, c.publishes > 1
	if !gone && others {
		p.gone = true
		c.publishes--
		c.over.Store(true)
	}
	c.srv.mu.Unlock()
	switch {
	case gone:
	case others:
		c.out.Send(c.rt.AppendKick(nil, p.streamID, cause.Error()))
	default:
		for id := range uint32(2) {
			c.out.Send(c.rt.AppendKick(nil, id, cause.Error()))
		}
		c.out.Shutdown()
		c.closeWithin(lingerTime)
	}
}

// shiftedLocked returns frame, a message of p, with its timestamp after the change that has
// put p on air. The framer shifts all later messages. p's goroutine calls it.
func (p *publication) shiftedLocked(frame *chunk.Frame) *chunk.Frame {
	d := p.shift
	if d == 0 {
		return frame
	}
	p.shift = 0
	if framer := p.framer.Load(); framer != nil {
		framer.Shift(d)
	}
	if frame == nil {
		return nil
	}
	return retimed(frame, frame.Time+d)
}
