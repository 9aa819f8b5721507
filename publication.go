package forward

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/gop"
)

// turns holds the publishers of a Source, which take turns.
type turns struct {
	turn sync.Mutex // held while a message is appended

	// Guarded by turn.
	now   *publication   // nil while the stream waits for a publisher
	next  *publication   // accepted, but without a keyframe yet
	past  []*publication // ended, but not yet reported to OnUnpublish
	aired *Request       // of the publisher that has the stream, or had it last
	count int
	over  bool      // the stream ends when next leaves
	why   Reason    // the last publisher has left
	onAir bool      // media has come
	grace func()    // stops the timer that ends the stream while there is no now
	until time.Time // when that timer fires

	last moment // of the audio or video with the latest timestamp
}

// moment is a timestamp of a stream and the time when it came.
type moment struct {
	time uint32 // in milliseconds
	at   int64  // on fanout.Clock; 0: never
	gap  uint32 // the least time to the next message, in milliseconds
}

const (
	// unordered is how far, in milliseconds, timestamps may go back from one message
	// to the next, as between audio and video.
	unordered = 2000
	// seam is the least time, in milliseconds, between the last frame of an ended
	// stream and the first of the next.
	seam = 100
)

// note records a message's timestamp if it is the latest.
func (m *moment) note(ms uint32, now int64) {
	if d := int32(ms - m.time); m.at == 0 || d >= 0 || d < -unordered {
		*m = moment{time: ms, at: now}
	}
}

// next returns the timestamp for a message that comes at now.
func (m *moment) next(now int64) uint32 {
	return m.time + max(uint32((now-m.at)/int64(time.Millisecond)), m.gap)
}

// goOnFrom makes the timestamps of s continue after those of an ended stream, which its
// players have seen. The goroutine of the first publisher calls it before its first
// message.
func (s *Source) goOnFrom(ended moment) {
	s.turn.Lock()
	defer s.turn.Unlock()
	if ended.at == 0 || s.now == nil { // s has ended already
		return
	}
	s.last = ended
	s.now.goesOn = !s.cfg.RawTimestamps
	if framer := s.now.framer.Load(); framer != nil {
		framer.Resume(s.resumeAt)
	}
}

// lastMoment returns the end of the timestamps of s.
func (s *Source) lastMoment() moment {
	s.turn.Lock()
	defer s.turn.Unlock()
	m := s.last
	m.gap = max(m.gap, s.log.ShownAfter(m.time)+seam)
	return m
}

// publicationLocked makes a publication. turn is held.
func (s *Source) publicationLocked(cfg *Config, req *Request) *publication {
	p := &publication{src: s, req: req, onUnpublish: cfg.Hooks.OnUnpublish}
	framer := &chunk.Framer{
		Size: s.vhost.ChunkSize, Continuous: !s.cfg.RawTimestamps, MaxSlab: s.log.MaxSlab, Media: flv.Coded, Idle: p.idle,
	}
	if s.count > 0 {
		framer.Resume(s.resumeAt)
	}
	p.framer.Store(framer)
	s.count++
	return p
}

// nextHold is how long a next publisher without a keyframe keeps out other publishers,
// except those from its own address.
const nextHold = 2 * time.Second

// claim registers req as the first publisher, or returns a publication for a possible
// next one; nil if the current publisher may not be replaced. A next publisher is
// registered by succeed, after the host has accepted it. cfg is the Config that req was
// made with, which may differ from the stream's for a next publisher.
func (s *Source) claim(cfg *Config, req *Request, next bool) *publication {
	s.turn.Lock()
	defer s.turn.Unlock()
	if !next {
		s.now, s.aired = s.publicationLocked(cfg, req), req
		return s.now
	}
	if !s.claimableLocked(req) {
		return nil
	}
	return s.publicationLocked(cfg, req)
}

// succeed makes p, which the host has accepted, the next publisher.
func (p *publication) succeed() error {
	s := p.src
	s.turn.Lock()
	var err error
	switch {
	case s.isEnding(): // the other publishers may already have been told
		err = ErrStreamEnded
	case !s.claimableLocked(p.req):
		err = ErrStreamBusy
	}
	if err != nil {
		s.turn.Unlock()
		p.tell()
		return fmt.Errorf("publish of %s: %w", p.req.logName(), err)
	}
	replaced := s.next
	if replaced != nil {
		s.dropNextLocked(ErrTakenOver)
	}
	s.next, p.accepted = p, time.Now()
	if limit := s.vhost.FirstMediaTimeout; limit >= 0 {
		p.late = later(limit, p.keyframeLate)
	}
	s.turn.Unlock()
	if replaced != nil {
		replaced.turnDown(ErrTakenOver)
	}
	s.latest.Store(p.req)
	s.background(s.refreshSelf)
	return nil
}

// claimableLocked reports whether a publisher with this request may be the next one. turn is
// held.
func (s *Source) claimableLocked(req *Request) bool {
	if s.isEnding() || s.now != nil && !s.vhost.Takeover {
		return false
	}
	n := s.next
	return n == nil || time.Since(n.accepted) >= nextHold || sameAddr(n.req, req)
}

func (s *Source) isClaimable(req *Request) bool {
	s.turn.Lock()
	defer s.turn.Unlock()
	return s.claimableLocked(req)
}

// sameAddr reports whether two requests come from the same client address.
func sameAddr(a, b *Request) bool {
	from := clientAddr(a.RemoteAddr)
	return from.IsValid() && from == clientAddr(b.RemoteAddr)
}

// dropNextLocked removes the next publisher and ends its publish. turn is held.
func (s *Source) dropNextLocked(cause error) {
	stopTimer(&s.next.late)
	s.replaceLocked(s.next, cause)
	s.next = nil
}

// replaceLocked ends the publish of a publisher that another one replaces. turn is held.
func (s *Source) replaceLocked(p *publication, cause error) {
	p.over = cause
	s.past = append(s.past, p)
}

// turnDown ends the publish of a next publisher that does not get the stream.
func (p *publication) turnDown(cause error) {
	s := p.src
	s.srv.log.Info("next publisher dropped", "source", s.req.logName(), "addr", logAddr(p.req.RemoteAddr), "err", cause)
	s.unaccept(p)
	p.kick(cause)
	s.background(p.tell)
}

// unaccept refreshes the destinations if the last question to the resolver was about p.
func (s *Source) unaccept(p *publication) {
	s.turn.Lock()
	aired := s.aired
	s.turn.Unlock()
	if aired != p.req && s.latest.CompareAndSwap(p.req, aired) {
		s.background(s.refreshSelf)
	}
}

// keyframeLate ends a next publisher that has sent no keyframe in time.
func (p *publication) keyframeLate() {
	s := p.src
	s.turn.Lock()
	if s.next != p {
		s.turn.Unlock()
		return
	}
	s.dropNextLocked(ErrNoKeyframe)
	ended := s.now == nil && s.over
	s.turn.Unlock()
	p.turnDown(ErrNoKeyframe)
	if ended {
		s.end()
	}
}

func (s *Source) isEnding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

// resumeAt returns the timestamp at which the next publisher's media begins.
func (s *Source) resumeAt() uint32 {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.last.at == 0 { // no message has come yet
		return 0
	}
	return s.last.next(fanout.Clock())
}

// begin sets by, which tells the publisher when the publish is over.
func (p *publication) begin(by interface{ kick(error) }) {
	s := p.src
	s.turn.Lock()
	p.by = by
	now, next := s.now == p, s.next == p
	s.turn.Unlock()
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
	p.src.turn.Lock()
	by := p.by
	p.by = nil
	if b, ok := by.(published); ok && cause == ErrTakenOver && p.src.isWithLocked(b.c) {
		by = nil
	}
	p.src.turn.Unlock()
	if by != nil {
		by.kick(cause)
	}
}

// isWithLocked reports whether a connection is the publisher of s or its next one. A
// connection that takes over from itself on another message stream must not be
// disconnected. turn is held.
func (s *Source) isWithLocked(c *conn) bool {
	for _, p := range []*publication{s.now, s.next} {
		if p != nil && p.req.ClientID == c.id {
			return true
		}
	}
	return false
}

// publications returns the publications that have not been reported to OnUnpublish.
func (s *Source) publications() []*publication {
	s.turn.Lock()
	defer s.turn.Unlock()
	all := slices.Clone(s.past)
	for _, p := range []*publication{s.now, s.next} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
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
	s.turn.Lock()
	p.by = nil
	switch p {
	case s.now:
		s.why = why
		waits = (lost || s.vhost.GraceUnpublish) && grace > 0 && !s.isEnding()
		if ended = !waits && s.next == nil; ended {
			break
		}
		s.past = append(s.past, p)
		s.now, s.over = nil, !waits
		if !waits { // the stream continues only for next, or for a publisher that replaces next
			grace = s.vhost.FirstMediaTimeout
		}
		if grace >= 0 && !s.isEnding() {
			s.until = time.Now().Add(grace)
			s.grace = later(grace, s.graceOver)
		}
	case s.next:
		s.dropNextLocked(nil)
		ended = s.now == nil && s.over
	}
	s.turn.Unlock()
	if ended {
		s.end()
		return true
	}
	s.group.Wake() // the last messages may wait for the end of the merge window
	if waits {
		s.emitBy(p.req, Event{Kind: EventPublisherLost, Reason: why})
		s.srv.log.Info("publisher lost", "source", s.req.logName(), "waiting", grace)
	}
	s.unaccept(p)
	s.background(p.tell)
	return s.isEnding()
}

// graceOver ends a stream that no publisher has continued. It may be called for an earlier
// grace, after which another publisher has come and left.
func (s *Source) graceOver() {
	s.turn.Lock()
	ended, next := s.now == nil && !time.Now().Before(s.until), s.next
	if ended && next != nil {
		s.dropNextLocked(ErrStreamEnded)
	}
	s.turn.Unlock()
	if !ended {
		return
	}
	s.end()
	if next != nil {
		next.kick(ErrStreamEnded)
	}
}

// tell calls OnUnpublish, once, if OnPublish has accepted the publish. If the publish was
// ended by the Server, it tells the publisher first.
func (p *publication) tell() {
	s := p.src
	s.turn.Lock()
	over := p.over
	s.turn.Unlock()
	if over != nil {
		p.kick(over)
	}
	if f := p.onUnpublish; f != nil && p.hooked.Load() && !p.told.Swap(true) {
		s.srv.calls.tell(s.ctx, "OnUnpublish", func(ctx context.Context) { f(ctx, p.req) })
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	s.past = slices.DeleteFunc(s.past, func(o *publication) bool { return o == p })
	p.forgetLocked()
}

// forgetLocked drops the references of an ended publish to its publisher and its media.
// turn is held.
func (p *publication) forgetLocked() {
	p.framer.Store(nil)
	p.by = nil
	p.dropWaitingLocked()
}

// forget drops the publishers of a stream that has ended.
func (s *Source) forget() {
	s.turn.Lock()
	defer s.turn.Unlock()
	for _, p := range append(s.past, s.now, s.next) {
		if p != nil {
			p.forgetLocked()
		}
	}
	s.now, s.next, s.past = nil, nil, nil
}

// publication is one publisher's publish of a Source.
type publication struct {
	src *Source
	req *Request
	by  interface{ kick(error) } // guarded by src.turn; nil before begin and after kick or leave

	over     error     // why the publish is over; guarded by src.turn
	accepted time.Time // as the next publisher; guarded by src.turn
	late     func()    // stops the timer for the first keyframe; guarded by src.turn

	waiting []held       // headers that wait for the first keyframe; guarded by src.turn
	room    *gop.Account // memory of waiting; guarded by src.turn

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
	first  int64 // when the first message came that was dropped for want of a keyframe
	video  bool  // one of those messages was video
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
