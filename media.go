package forward

import (
	"fmt"
	"slices"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/gop"
)

// held is a header that waits for the first keyframe of a next publisher, and whether
// destinations get it inside @setDataFrame.
type held struct {
	frame *chunk.Frame
	wrap  bool
}

// message processes a message in the publisher's goroutine.
func (p *publication) message(m chunk.Message, now int64) error {
	p.heard = now
	if m.Type == chunk.TypeAggregate {
		return splitAggregate(m, func(h chunk.Header, payload []byte) {
			p.single(chunk.Message{Header: h, Payload: payload}, now)
		})
	}
	p.single(m, now)
	return nil
}

// single processes a message that is not an aggregate. It ignores nested aggregates,
// which RTMP does not have.
func (p *publication) single(m chunk.Message, now int64) {
	switch m.Type {
	case chunk.TypeAudio, chunk.TypeVideo:
		if m.Frame == nil {
			framer := p.framer.Load()
			if framer == nil {
				return
			}
			m.Frame = framer.Frame(m.Header, m.Payload)
		}
		p.goesOn = false
		p.append(m.Frame, false, now)
	case chunk.TypeData:
		p.data(m.Time, m.Payload, false, now)
	case chunk.TypeDataAMF3:
		p.data(m.Time, m.Payload, true, now)
	}
}

// data processes a data message. Players get it without @setDataFrame; destinations get
// metadata with it and everything else unchanged. @clearDataFrame goes to destinations
// only. An AMF3 data message is a format byte followed by an AMF0 one.
func (p *publication) data(ms uint32, body []byte, amf3 bool, now int64) {
	t := flv.Data(body, amf3)
	body = body[t.Head:]
	plain := body[t.Payload-t.Head:]
	if len(plain) == 0 {
		return
	}
	h := chunk.Header{Type: chunk.TypeData, Time: ms}
	framer := p.framer.Load()
	if framer == nil {
		return
	}
	frame := framer.Frame
	if t.OnMetaData {
		frame = framer.Alone // in its own memory, because the header set keeps it
	}
	m := frame(h, plain)
	if p.goesOn && t.OnMetaData {
		m = retimed(m, 0) // headers have time 0 when a stream begins: see gop.HeaderSet
	}
	p.append(m, t.Set || t.OnMetaData && !t.Clear, now)
}

// append appends a message to the stream. It drops empty messages, which confuse some
// servers.
func (p *publication) append(frame *chunk.Frame, wrap bool, now int64) {
	if frame.Length == 0 {
		return
	}
	s := p.src
	s.inputs.mu.Lock()
	if s.log.Ended() {
		s.inputs.mu.Unlock()
		p.pace.onAir = false
		return
	}
	before := s.inputs.now
	if before != p {
		if s.inputs.next != p || !p.readyLocked(frame, wrap, now) {
			s.inputs.mu.Unlock()
			p.pace.onAir = false
			return
		}
		frame = s.inputs.changeToLocked(p, frame, now)
	}
	changed, cost := s.inputs.addLocked(frame, wrap, now)
	var taken Event
	if before != p {
		taken = s.event(p.req, Event{Kind: EventPublisher})
		s.srv.events.emit(func() Event { return taken })
	}
	s.inputs.mu.Unlock()
	if changed {
		s.codecs.note()
	}
	s.memory.Shed(now)
	p.pace.onAir = true
	p.pace.Note(frame.Time, frame.Len(), cost, now)
	if before != p {
		if before != nil {
			before.kick(ErrTakenOver)
		}
		s.background(func() { // calls the host's code, for which media must not wait
			s.logEvent(taken, "takeover", before != nil)
			if before != nil {
				before.tell()
			}
		})
	}
}

// maxAggregate bounds the messages in an aggregate.
const maxAggregate = 1024

// splitAggregate calls f for each message in an aggregate (RTMP 1.0, 7.1.6). Their
// times are relative to the first, which has the time of the aggregate.
func splitAggregate(m chunk.Message, f func(chunk.Header, []byte)) error {
	var first uint32
	p := m.Payload
	for n := 0; len(p) >= 11; n++ {
		if n == maxAggregate {
			return fmt.Errorf("%w: more than %d messages in an aggregate", chunk.ErrLimit, maxAggregate)
		}
		size := int(p[1])<<16 | int(p[2])<<8 | int(p[3])
		at := uint32(p[4])<<16 | uint32(p[5])<<8 | uint32(p[6]) | uint32(p[7])<<24
		if n == 0 {
			first = at
		}
		if 11+size > len(p) {
			return fmt.Errorf("%w: a message in an aggregate is longer than the aggregate", chunk.ErrProtocol)
		}
		f(chunk.Header{Type: p[0], Time: m.Time + at - first}, p[11:11+size])
		p = p[min(11+size+4, len(p)):] // a back pointer follows
	}
	return nil
}

const (
	// maxWaiting and maxWaitingBytes bound the headers that are kept until the
	// first keyframe of a publisher that continues a stream.
	maxWaiting      = 64
	maxWaitingBytes = 1 << 20
	// noVideo is how long such a publisher may send only audio before the stream
	// continues with audio.
	noVideo = 2 * time.Second
)

// readyLocked reports whether the stream can continue with a message of the next
// publisher. Headers that come before are kept. src.inputs.mu is held.
func (p *publication) readyLocked(frame *chunk.Frame, wrap bool, now int64) bool {
	if p.first == 0 {
		p.first = now
	}
	p.video = p.video || frame.Type == chunk.TypeVideo
	media, keyframe, header := gop.Look(frame)
	switch {
	case header:
		p.waitLocked(held{frame.Apart(), wrap})
		return false
	case keyframe:
		return true
	}
	return media && !p.video && now-p.first > int64(noVideo)
}

// waitLocked keeps a header until the first keyframe, and drops the oldest headers if
// there is no room. src.inputs.mu is held.
func (p *publication) waitLocked(h held) {
	if p.room == nil {
		p.room = p.src.memory.Account(func() {})
		p.room.Accept()
	}
	size := func(h held) int { return gop.Kept(h.frame) }
	bytes := size(h)
	for _, w := range p.waiting {
		bytes += size(w)
	}
	n := 0
	for ; n < len(p.waiting) && (len(p.waiting)-n >= maxWaiting || bytes > maxWaitingBytes); n++ {
		bytes -= size(p.waiting[n])
		p.room.Charge(-size(p.waiting[n]))
	}
	for p.waiting = slices.Delete(p.waiting, 0, n); bytes > maxWaitingBytes || p.room.Charge(size(h)) != nil; {
		if len(p.waiting) == 0 {
			return
		}
		p.room.Charge(-size(p.waiting[0]))
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
	p.waiting = append(p.waiting, h)
}

// dropWaitingLocked drops the waiting headers. src.inputs.mu is held.
func (p *publication) dropWaitingLocked() {
	for _, w := range p.waiting {
		p.room.Charge(-gop.Kept(w.frame))
	}
	p.waiting = nil
}

// retimed returns the message with another timestamp.
func retimed(f *chunk.Frame, at uint32) *chunk.Frame {
	if f.Time == at {
		return f
	}
	h := f.Header
	h.Time = at
	return chunk.NewFrame(h, f.Payload(), f.Size())
}
