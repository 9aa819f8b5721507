package forward

import (
	"slices"
	"sync"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/gop"
)

// inputs are the publishers of a Source: the one on air, and those that are ready to
// continue the stream, or will be with their first keyframe. Which of them has the stream
// is decided by mayChangeLocked and leave alone. A change is at a keyframe, with its headers
// and with timestamps that continue, so that the log and its receivers see one stream.
type inputs struct {
	src *Source
	mu  sync.Mutex // held while a message is appended

	// Guarded by mu.
	now   *publication   // on air; nil while the stream waits for a publisher
	next  []*publication // accepted and not on air, the preferred first
	past  []*publication // ended, but not yet reported to OnUnpublish
	aired *Request       // of the publisher that has the stream, or had it last
	count int
	over  bool      // the stream ends when next is empty
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

// goOnFrom makes the timestamps continue after those of an ended stream, which its
// players have seen. The goroutine of the first publisher calls it before its first
// message.
func (in *inputs) goOnFrom(ended moment) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if ended.at == 0 || in.now == nil { // the stream has ended already
		return
	}
	in.last = ended
	in.now.goesOn = !in.src.cfg.RawTimestamps
	if framer := in.now.framer.Load(); framer != nil {
		framer.Resume(in.resumeAt)
	}
}

// lastMoment returns the end of the timestamps.
func (in *inputs) lastMoment() moment {
	in.mu.Lock()
	defer in.mu.Unlock()
	m := in.last
	m.gap = max(m.gap, in.src.log.ShownAfter(m.time)+seam)
	return m
}

// publicationLocked makes a publication. in.mu is held.
func (in *inputs) publicationLocked(cfg *Config, req *Request) *publication {
	p := &publication{src: in.src, req: req, onUnpublish: cfg.Hooks.OnUnpublish, rank: in.count}
	framer := &chunk.Framer{
		Size: in.src.vhost.ChunkSize, Continuous: !in.src.cfg.RawTimestamps, MaxSlab: in.src.log.MaxSlab, Media: flv.Coded, Idle: p.idle,
	}
	if in.count > 0 {
		framer.Resume(in.resumeAt)
	}
	p.framer.Store(framer)
	in.count++
	return p
}

// nextHold is how long a next publisher without a keyframe keeps out other publishers,
// except those from its own address.
const nextHold = 2 * time.Second

// claim registers req as the first publisher, or returns a publication for a possible
// next one; nil if the current publisher may not be replaced. A next publisher is
// registered by succeed, after the host has accepted it. cfg is the Config that req was
// made with, which may differ from the stream's for a next publisher.
func (in *inputs) claim(cfg *Config, req *Request, next bool) *publication {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !next {
		in.now, in.aired = in.publicationLocked(cfg, req), req
		in.now.airedAt = fanout.Clock()
		return in.now
	}
	if !in.claimableLocked(req) {
		return nil
	}
	return in.publicationLocked(cfg, req)
}

// claimableLocked reports whether a publisher with this request may be a next one. in.mu
// is held.
func (in *inputs) claimableLocked(req *Request) bool {
	if in.src.isEnding() {
		return false
	}
	if standby := in.src.vhost.Standby; standby != nil {
		return len(in.next) < standby.Publishers || in.replaceableLocked(req) != nil
	}
	if in.now != nil && !in.src.vhost.Takeover {
		return false
	}
	return len(in.next) == 0 || in.replaceableLocked(req) != nil
}

// replaceableLocked returns the next publisher whose place a publisher with this request
// may have, or nil. in.mu is held.
func (in *inputs) replaceableLocked(req *Request) *publication {
	standby := in.src.vhost.Standby
	for _, n := range in.next {
		same := sameAddr(n.req, req)
		switch {
		case standby == nil && (same || time.Since(n.accepted) >= nextHold):
			return n
		case standby != nil && same && n.kept.isSilentLocked(standby.Stall, fanout.Clock()): // it has come again
			return n
		}
	}
	return nil
}

func (in *inputs) isClaimable(req *Request) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.claimableLocked(req)
}

// sameAddr reports whether two requests come from the same client address.
func sameAddr(a, b *Request) bool {
	from := clientAddr(a.RemoteAddr)
	return from.IsValid() && from == clientAddr(b.RemoteAddr)
}

// dropNextLocked removes a next publisher and ends its publish. in.mu is held.
func (in *inputs) dropNextLocked(p *publication, cause error) {
	in.removeNextLocked(p)
	in.replaceLocked(p, cause)
}

// removeNextLocked removes p from the next publishers. in.mu is held.
func (in *inputs) removeNextLocked(p *publication) {
	stopTimer(&p.late)
	in.next = slices.DeleteFunc(in.next, func(o *publication) bool { return o == p })
}

// addNextLocked adds a next publisher after those of its rank. in.mu is held.
func (in *inputs) addNextLocked(p *publication) {
	i := slices.IndexFunc(in.next, func(o *publication) bool { return o.rank > p.rank })
	if i < 0 {
		i = len(in.next)
	}
	in.next = slices.Insert(in.next, i, p)
}

// replaceLocked ends the publish of a publisher that another one replaces. in.mu is held.
func (in *inputs) replaceLocked(p *publication, cause error) {
	p.over = cause
	in.past = append(in.past, p)
}

// unaccept refreshes the destinations if the last question to the resolver was about p.
func (in *inputs) unaccept(p *publication) {
	in.mu.Lock()
	aired := in.aired
	in.mu.Unlock()
	if aired != p.req && in.src.latest.CompareAndSwap(p.req, aired) {
		in.src.background(in.src.routing.refreshSelf)
	}
}

// resumeAt returns the timestamp at which the next publisher's media begins.
func (in *inputs) resumeAt() uint32 {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.last.at == 0 { // no message has come yet
		return 0
	}
	return in.last.next(fanout.Clock())
}

// isWithLocked reports whether a connection is the publisher or the next one. A
// connection that takes over from itself on another message stream must not be
// disconnected. in.mu is held.
func (in *inputs) isWithLocked(c *conn) bool {
	return slices.ContainsFunc(in.allLocked(), func(p *publication) bool { return p.req.ClientID == c.id })
}

// emptyLocked reports whether the stream has nobody left to wait for. in.mu is held.
func (in *inputs) emptyLocked() bool { return in.now == nil && in.over && len(in.next) == 0 }

// publications returns the publications that have not been reported to OnUnpublish.
func (in *inputs) publications() []*publication {
	in.mu.Lock()
	defer in.mu.Unlock()
	return append(slices.Clone(in.past), in.allLocked()...)
}

// allLocked returns the publishers that have not ended. in.mu is held.
func (in *inputs) allLocked() []*publication {
	all := slices.Clone(in.next)
	if in.now != nil {
		all = append(all, in.now)
	}
	return all
}

// graceOver ends a stream that no publisher has continued. It may be called for an earlier
// grace, after which another publisher has come and left.
func (in *inputs) graceOver() {
	in.mu.Lock()
	ended := in.now == nil && !time.Now().Before(in.until)
	var next []*publication
	if ended {
		next = slices.Clone(in.next)
	}
	for _, p := range next {
		in.dropNextLocked(p, ErrStreamEnded)
	}
	in.mu.Unlock()
	if !ended {
		return
	}
	in.src.end()
	for _, p := range next {
		p.kick(ErrStreamEnded)
	}
}

// forget drops the publishers of a stream that has ended.
func (in *inputs) forget() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, p := range append(in.past, in.allLocked()...) {
		p.forgetLocked()
	}
	in.now, in.next, in.past = nil, nil, nil
}

// added is what a message has done.
type added struct {
	onAir   bool // it is in the log
	changed bool // a sequence header has replaced another one
	cost    int
	change  *change // nil unless its publisher has come on air
}

// change is a change of the publisher that is on air.
type change struct {
	event  Event
	before *publication // was on air, nil if there was none
	waits  bool         // before is a next publisher now
}

// takeLocked takes a message of p. It returns an error if p must leave. in.mu is held.
func (in *inputs) takeLocked(p *publication, frame *chunk.Frame, wrap bool, now int64) (a added, refused error) {
	switch {
	case in.src.log.Ended():
		return added{}, nil
	case in.now == p:
		frame = p.shiftedLocked(frame)
		a.changed, a.cost = in.addLocked(frame, wrap, now)
		a.onAir = true
		return a, nil
	case !slices.Contains(in.next, p):
		return added{}, nil
	}
	if err := p.kept.addLocked(in.src, p.shiftedLocked(frame), wrap, now); err != nil {
		in.dropNextLocked(p, err)
		return added{}, err
	}
	if p.kept.isReadyLocked() {
		stopTimer(&p.late)
	}
	if !in.mayChangeLocked(p, frame, now) {
		return added{}, nil
	}
	a = in.changeToLocked(p, now)
	p.shiftedLocked(nil)
	return a, nil
}

// mayChangeLocked reports whether p, a next publisher from which frame has come, goes on
// air now. in.mu is held.
func (in *inputs) mayChangeLocked(p *publication, frame *chunk.Frame, now int64) bool {
	if !p.kept.isReadyLocked() {
		return false
	}
	standby := in.src.vhost.Standby
	switch {
	case standby == nil || in.now == nil:
		return true
	case in.stalledLocked(now):
		better := slices.IndexFunc(in.next, func(o *publication) bool { return o.kept.isReadyLocked() && !o.kept.isSilentLocked(standby.Stall, now) })
		return in.next[better] == p
	case standby.Return > 0 && p.rank < in.now.rank:
		_, keyframe, _ := gop.Look(frame)
		return (keyframe || p.kept.sound) && now-p.kept.steady >= int64(standby.Return)
	}
	return false
}

// stalledLocked reports whether the publisher on air has sent no media for Standby.Stall.
// in.mu is held.
func (in *inputs) stalledLocked(now int64) bool {
	return now-max(in.last.at, in.now.airedAt) > int64(in.src.vhost.Standby.Stall)
}

// changeToLocked puts p on air, from its last keyframe, or with its next message if it has no
// video. in.mu is held.
func (in *inputs) changeToLocked(p *publication, now int64) added {
	s := in.src
	c := &change{before: in.now, event: s.event(p.req, Event{Kind: EventPublisher})}
	a := added{onAir: true, change: c}
	if in.now != nil {
		c.waits = s.vhost.Standby != nil
		if c.waits {
			in.now.kept.againLocked(s, now)
			in.addNextLocked(in.now)
		} else {
			in.replaceLocked(in.now, ErrTakenOver)
		}
	}
	in.removeNextLocked(p)
	in.now, in.aired, in.over = p, p.req, false
	p.airedAt = now
	stopTimer(&in.grace)
	headers, frames := p.kept.allLocked()
	at := in.last.time
	if len(frames) > 0 {
		at = frames[0].Time
	}
	for _, m := range frames {
		if m.Type != chunk.TypeData && int32(m.Time-at) < 0 {
			at = m.Time
		}
	}
	if late := int32(in.last.time - at); late >= 0 && in.last.at != 0 && len(frames) > 0 && !s.cfg.RawTimestamps {
		p.shift = uint32(late) + 1
	}
	s.log.Restart()
	add := func(frame *chunk.Frame, wrap bool) {
		changed, cost := in.addLocked(frame, wrap, now)
		a.changed = a.changed || changed
		a.cost += cost
	}
	for _, frame := range headers {
		add(retimed(frame, at+p.shift), frame.Type == chunk.TypeData)
	}
	for _, m := range frames {
		add(retimed(m.Frame, m.Time+p.shift), m.Wrap)
	}
	p.kept.dropLocked()
	s.srv.events.emit(func() Event { return c.event })
	return a
}

// tell reports that p has come on air. No mutex is held.
func (c *change) tell(p *publication) {
	s := p.src
	replaced := c.before != nil && !c.waits
	if replaced {
		c.before.kick(ErrTakenOver)
	}
	if s.vhost.Standby != nil {
		s.latest.Store(p.req)
	}
	s.background(func() { // calls the host's code, for which media must not wait
		s.logEvent(c.event, "takeover", c.before != nil)
		if replaced {
			c.before.tell()
		}
	})
}

// addLocked appends a message to the log. It reports whether a sequence header has replaced
// another one. in.mu is held.
func (in *inputs) addLocked(frame *chunk.Frame, wrap bool, now int64) (changed bool, cost int) {
	s := in.src
	m := s.log.Append(frame, wrap, now)
	s.messages.Add(1)
	s.bytes.Add(uint64(frame.Len()))
	if s.rate.Due(now) {
		s.rate.Note(now, s.counts())
	}
	if frame.Type != chunk.TypeData {
		in.last.note(frame.Time, now)
	}
	if m.Media && !in.onAir {
		in.onAir = true
		info := s.log.Info()
		s.emit(Event{Kind: EventLive, VideoCodec: codecName(info.Video), AudioCodec: codecName(info.Audio)})
	}
	return m.Changed, m.Cost()
}

// end ends the stream for its publishers: nothing is appended after it. It returns why the
// stream has ended.
func (in *inputs) end(cause error) Reason {
	closing := in.src.srv.isClosing()
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case cause == ErrKicked:
		in.why = ReasonKicked
	case closing:
		in.why = ReasonShutdown
	}
	stopTimer(&in.grace)
	if in.now != nil && cause == ErrKicked {
		in.now.over = cause
	}
	for _, p := range in.next {
		stopTimer(&p.late)
		p.over = cause
	}
	in.src.log.End()
	return in.why
}
