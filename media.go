package forward

import (
	"fmt"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
)

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

// append appends a message to the stream, or keeps it while another publisher is on air.
// It drops empty messages, which confuse some servers.
func (p *publication) append(frame *chunk.Frame, wrap bool, now int64) {
	if frame.Length == 0 {
		return
	}
	s := p.src
	s.inputs.mu.Lock()
	added, refused := s.inputs.takeLocked(p, frame, wrap, now)
	s.inputs.mu.Unlock()
	p.pace.onAir = added.onAir
	switch {
	case refused != nil:
		p.turnDown(refused)
	case added.onAir:
		s.memory.Shed(now)
		p.pace.Note(frame.Time, frame.Len(), added.cost, now)
	}
	if added.changed {
		s.codecs.note()
	}
	if added.change != nil {
		added.change.tell(p)
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

// retimed returns the message with another timestamp.
func retimed(f *chunk.Frame, at uint32) *chunk.Frame {
	if f.Time == at {
		return f
	}
	h := f.Header
	h.Time = at
	return chunk.NewFrame(h, f.Payload(), f.Size())
}
