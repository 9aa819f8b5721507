package forward

import (
	"slices"
	"sync"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/flv"
)

// inputs are the publishers of a Source: the one on air, and the next one. A change is at
// a keyframe, after headers and with timestamps that continue, so that the log and its
// receivers see one stream.
type inputs struct {
	src *Source
	mu  sync.Mutex // held while a message is appended

	// Guarded by mu.
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
	p := &publication{src: in.src, req: req, onUnpublish: cfg.Hooks.OnUnpublish}
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
		return in.now
	}
	if !in.claimableLocked(req) {
		return nil
	}
	return in.publicationLocked(cfg, req)
}

// claimableLocked reports whether a publisher with this request may be the next one. in.mu
// is held.
func (in *inputs) claimableLocked(req *Request) bool {
	if in.src.isEnding() || in.now != nil && !in.src.vhost.Takeover {
		return false
	}
	n := in.next
	return n == nil || time.Since(n.accepted) >= nextHold || sameAddr(n.req, req)
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

// dropNextLocked removes the next publisher and ends its publish. in.mu is held.
func (in *inputs) dropNextLocked(cause error) {
	stopTimer(&in.next.late)
	in.replaceLocked(in.next, cause)
	in.next = nil
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
	for _, p := range []*publication{in.now, in.next} {
		if p != nil && p.req.ClientID == c.id {
			return true
		}
	}
	return false
}

// publications returns the publications that have not been reported to OnUnpublish.
func (in *inputs) publications() []*publication {
	in.mu.Lock()
	defer in.mu.Unlock()
	all := slices.Clone(in.past)
	for _, p := range []*publication{in.now, in.next} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// graceOver ends a stream that no publisher has continued. It may be called for an earlier
// grace, after which another publisher has come and left.
func (in *inputs) graceOver() {
	in.mu.Lock()
	ended, next := in.now == nil && !time.Now().Before(in.until), in.next
	if ended && next != nil {
		in.dropNextLocked(ErrStreamEnded)
	}
	in.mu.Unlock()
	if !ended {
		return
	}
	in.src.end()
	if next != nil {
		next.kick(ErrStreamEnded)
	}
}

// forget drops the publishers of a stream that has ended.
func (in *inputs) forget() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, p := range append(in.past, in.now, in.next) {
		if p != nil {
			p.forgetLocked()
		}
	}
	in.now, in.next, in.past = nil, nil, nil
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

// changeToLocked puts p on air. It appends the waiting headers and returns the message
// with a timestamp after all earlier ones. in.mu is held.
func (in *inputs) changeToLocked(p *publication, frame *chunk.Frame, now int64) *chunk.Frame {
	if in.now != nil {
		in.replaceLocked(in.now, ErrTakenOver)
	}
	in.now, in.next, in.aired, in.over = p, nil, p.req, false
	stopTimer(&p.late)
	stopTimer(&in.grace)
	at := frame.Time
	if late := int32(in.last.time - at); late >= 0 && in.last.at != 0 && !in.src.cfg.RawTimestamps {
		at += uint32(late) + 1
		if framer := p.framer.Load(); framer != nil {
			framer.Shift(uint32(late) + 1)
		}
	}
	in.src.log.Restart()
	for _, w := range p.waiting {
		in.addLocked(retimed(w.frame, at), w.wrap, now)
	}
	p.dropWaitingLocked()
	return retimed(frame, at)
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
	if in.next != nil {
		stopTimer(&in.next.late)
		in.next.over = cause
	}
	in.src.log.End()
	return in.why
}
