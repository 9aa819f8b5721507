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

// turns is who publishes a Source, one after the other.
type turns struct {
	turn sync.Mutex // held while a message is appended

	// Guarded by turn.
	now   *publication    // nil after it has left, while another is waited for
	next  *publication    // accepted, and without a keyframe yet
	past  []*publication  // of which OnUnpublish has not been told
	aired *PublishRequest // of the one that has the stream, or had it last
	count int
	over  bool      // the stream ends when next leaves
	grace func()    // stops the timer that ends the stream while there is no now
	until time.Time // when it does

	last moment // of the audio or video with the latest time
}

// moment is a time of a stream, and when that was.
type moment struct {
	time uint32 // in milliseconds
	at   int64  // on fanout.Clock; 0: never
	gap  uint32 // what comes next is later by so much at least
}

const (
	// unordered is how far, in milliseconds, a message may be behind one before
	// it, as audio and video are behind each other.
	unordered = 2000
	// seam is the least that lies, in milliseconds, between what is shown last of
	// a stream that has ended and the first of the next.
	seam = 100
)

// note keeps the latest time.
func (m *moment) note(ms uint32, now int64) {
	if d := int32(ms - m.time); m.at == 0 || d >= 0 || d < -unordered {
		*m = moment{time: ms, at: now}
	}
}

// next is the time of what comes at now.
func (m *moment) next(now int64) uint32 {
	return m.time + max(uint32((now-m.at)/int64(time.Millisecond)), m.gap)
}

// goOnFrom has the times of s begin behind those of an ended stream, which its
// players have seen. It is for the goroutine of the first publisher, before its
// first message.
func (s *Source) goOnFrom(ended moment) {
	s.turn.Lock()
	defer s.turn.Unlock()
	if ended.at == 0 || s.now == nil { // it has ended already
		return
	}
	s.last = ended
	s.now.goesOn = !s.cfg.RawTimestamps
	if framer := s.now.framer.Load(); framer != nil {
		framer.Resume(s.resumeAt)
	}
}

// lastMoment is where the times of s end.
func (s *Source) lastMoment() moment {
	s.turn.Lock()
	defer s.turn.Unlock()
	m := s.last
	m.gap = max(m.gap, s.log.ShownAfter(m.time)+seam)
	return m
}

// publication returns a new one. turn is held.
func (s *Source) publication(cfg *Config, req *PublishRequest) *publication {
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

// nextHold is for how long a next publisher without a keyframe keeps out others,
// those from its own address excepted.
const nextHold = 2 * time.Second

// claim returns the publication of the first publisher, or of one that would be
// the next; nil where the stream has one that may not be replaced. A next one is
// none before the host has accepted it: see succeed. cfg is the Config that req was
// made with, which for a next one may be another than the stream's.
func (s *Source) claim(cfg *Config, req *PublishRequest, next bool) *publication {
	s.turn.Lock()
	defer s.turn.Unlock()
	if !next {
		s.now, s.aired = s.publication(cfg, req), req
		return s.now
	}
	if !s.claimable(req) {
		return nil
	}
	return s.publication(cfg, req)
}

// succeed makes p, which the host has accepted, the next publisher.
func (p *publication) succeed() error {
	s := p.src
	s.turn.Lock()
	var err error
	switch {
	case s.isEnding(): // and may have told all it knew of
		err = ErrStreamEnded
	case !s.claimable(p.req):
		err = ErrStreamBusy
	}
	if err != nil {
		s.turn.Unlock()
		p.tell()
		return fmt.Errorf("publish of %s: %w", p.req.logName(), err)
	}
	replaced := s.next
	if replaced != nil {
		s.dropNext(ErrTakenOver)
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

// claimable reports whether a publisher with this request may be the next one.
// turn is held.
func (s *Source) claimable(req *PublishRequest) bool {
	if s.isEnding() || s.now != nil && !s.vhost.Takeover {
		return false
	}
	n := s.next
	return n == nil || time.Since(n.accepted) >= nextHold || sameAddr(n.req, req)
}

func (s *Source) isClaimable(req *PublishRequest) bool {
	s.turn.Lock()
	defer s.turn.Unlock()
	return s.claimable(req)
}

// sameAddr reports whether two requests come from one address, which is known.
func sameAddr(a, b *PublishRequest) bool {
	from := clientAddr(a.RemoteAddr)
	return from.IsValid() && from == clientAddr(b.RemoteAddr)
}

// dropNext takes out the next publisher, for which the stream is over. turn is
// held.
func (s *Source) dropNext(cause error) {
	stopTimer(&s.next.late)
	s.replace(s.next, cause)
	s.next = nil
}

// replace has the stream be over for a publisher that has not left it. turn is
// held.
func (s *Source) replace(p *publication, cause error) {
	p.over = cause
	s.past = append(s.past, p)
}

// turnDown ends a publish that has been next, and will not be more.
func (p *publication) turnDown(cause error) {
	s := p.src
	s.srv.log.Info("next publisher dropped", "source", s.req.logName(), "addr", logAddr(p.req.RemoteAddr), "err", cause)
	s.unaccept(p)
	p.kick(cause)
	s.background(p.tell)
}

// unaccept asks again where the stream goes where it was p that was asked about.
func (s *Source) unaccept(p *publication) {
	s.turn.Lock()
	aired := s.aired
	s.turn.Unlock()
	if aired != p.req && s.latest.CompareAndSwap(p.req, aired) {
		s.background(s.refreshSelf)
	}
}

// keyframeLate ends a next publisher whose time for a keyframe is over.
func (p *publication) keyframeLate() {
	s := p.src
	s.turn.Lock()
	if s.next != p {
		s.turn.Unlock()
		return
	}
	s.dropNext(ErrNoKeyframe)
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

// resumeAt is the time that the next publisher's media begins with.
func (s *Source) resumeAt() uint32 {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.last.at == 0 { // none has come before
		return 0
	}
	return s.last.next(fanout.Clock())
}

// begin says whom to tell that the stream is over.
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

// kick tells the publisher, once, that the stream is over for it; begin does where
// it has not begun.
func (p *publication) kick(cause error) {
	p.src.turn.Lock()
	by := p.by
	p.by = nil
	if b, ok := by.(published); ok && cause == ErrTakenOver && p.src.isWith(b.c) {
		by = nil
	}
	p.src.turn.Unlock()
	if by != nil {
		by.kick(cause)
	}
}

// isWith reports whether a connection publishes s, now or next: one that has taken
// over from itself, on another message stream, is not disconnected for that. turn is
// held.
func (s *Source) isWith(c *conn) bool {
	for _, p := range []*publication{s.now, s.next} {
		if p != nil && p.req.ClientID == c.id {
			return true
		}
	}
	return false
}

// publications returns those that OnUnpublish has not been told of.
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

// leave ends the publish; lost: without a word of the publisher. It reports
// whether the stream ends with it.
func (p *publication) leave(lost bool) (ended bool) {
	s := p.src
	grace := s.vhost.PublishGrace
	waits := false
	s.turn.Lock()
	p.by = nil
	switch p {
	case s.now:
		waits = (lost || s.vhost.GraceUnpublish) && grace > 0 && !s.isEnding()
		if ended = !waits && s.next == nil; ended {
			break
		}
		s.past = append(s.past, p)
		s.now, s.over = nil, !waits
		if !waits { // then next is all that it goes on for, or who replaces that
			grace = s.vhost.FirstMediaTimeout
		}
		if grace >= 0 && !s.isEnding() {
			s.until = time.Now().Add(grace)
			s.grace = later(grace, s.graceOver)
		}
	case s.next:
		s.dropNext(nil)
		ended = s.now == nil && s.over
	}
	s.turn.Unlock()
	if ended {
		s.end()
		return true
	}
	s.group.Wake() // what has come with the end
	if waits {
		s.srv.log.Info("publisher lost", "source", s.req.logName(), "waiting", grace)
	}
	s.unaccept(p)
	s.background(p.tell)
	return s.isEnding()
}

// graceOver ends a stream that nobody has gone on with. It may be that of an earlier
// grace, and have waited for a publisher that has come and gone.
func (s *Source) graceOver() {
	s.turn.Lock()
	ended, next := s.now == nil && !time.Now().Before(s.until), s.next
	if ended && next != nil {
		s.dropNext(ErrStreamEnded)
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

// tell calls OnUnpublish, once, where OnPublish has accepted. The publisher is told
// first where the stream is over for it.
func (p *publication) tell() {
	s := p.src
	s.turn.Lock()
	over := p.over
	s.turn.Unlock()
	if over != nil {
		p.kick(over)
	}
	if f := p.onUnpublish; f != nil && p.hooked.Load() && !p.told.Swap(true) {
		s.srv.tell(s.ctx, "OnUnpublish", func(ctx context.Context) { f(ctx, p.req) })
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	s.past = slices.DeleteFunc(s.past, func(o *publication) bool { return o == p })
	p.forget()
}

// forget lets go of what a publish that is over has of its publisher and of its
// media. turn is held.
func (p *publication) forget() {
	p.framer.Store(nil)
	p.by = nil
	p.dropWaiting()
}

// forget lets go of the publishers of a stream that has ended.
func (s *Source) forget() {
	s.turn.Lock()
	defer s.turn.Unlock()
	for _, p := range append(s.past, s.now, s.next) {
		if p != nil {
			p.forget()
		}
	}
	s.now, s.next, s.past = nil, nil, nil
}

// publication is one publisher's publish of a Source.
type publication struct {
	src *Source
	req *PublishRequest
	by  interface{ kick(error) } // guarded by src.turn; nil until begin, and from kick or leave on

	over     error     // why the publisher is replaced; guarded by src.turn
	accepted time.Time // as the next publisher; guarded by src.turn
	late     func()    // stops the timer for its first keyframe; guarded by src.turn

	waiting []held       // headers for its first keyframe; guarded by src.turn
	room    *gop.Account // for them; guarded by src.turn

	gone bool // over a connection: it has left, or been told that it is over; guarded by srv.mu

	hooked      atomic.Bool // OnPublish has accepted
	told        atomic.Bool // OnUnpublish has been called
	onUnpublish func(context.Context, *PublishRequest)

	framer atomic.Pointer[chunk.Framer] // nil when the publish is over

	// Owned by the publisher's goroutine.
	pace   pacing
	heard  int64 // when the last message came, or the publish was accepted
	begun  bool  // media has come
	goesOn bool  // players have seen times before these; until media comes
	first  int64 // when the first message came that had to wait
	video  bool  // some of that was video
}

// silent returns how long a publisher may send no media, where it has sent none
// for longer.
func (p *publication) silent(now int64) (limit time.Duration, silent bool) {
	limit = p.src.vhost.ReadTimeout
	if !p.begun {
		limit = p.src.vhost.FirstMediaTimeout
	}
	return limit, limit >= 0 && now-p.heard > int64(limit)
}

// idle is for how many milliseconds nothing has come.
func (p *publication) idle() int64 {
	if p.heard == 0 {
		return 0
	}
	return (fanout.Clock() - p.heard) / int64(time.Millisecond)
}
