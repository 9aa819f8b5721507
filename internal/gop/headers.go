package gop

import (
	"bytes"
	"slices"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
)

// A header set is bounded: 256 tracks of two kinds with 16 MiB each would be
// an attack. What goes over is passed on live and not kept.
const (
	maxHeaders     = 64
	maxHeaderBytes = 1 << 20
)

// HeaderSet is what a receiver needs before its first frame: the metadata,
// each track's sequence header and configuration. It never changes; the nil
// set is empty.
type HeaderSet struct {
	meta    *chunk.Frame // as players get it
	push    *chunk.Frame // as destinations do
	headers []header
	bytes   int
}

type header struct {
	typ     uint8
	slots   []slot // what it is in force for
	payload []byte
}

type slot struct {
	flv.Slot
	codec flv.Codec
}

// with returns the set after a header message.
func (s *HeaderSet) with(typ uint8, body []byte) *HeaderSet {
	var slots []slot
	for place, codec := range flv.Slots(typ, body) {
		slots = append(slots, slot{place, codec})
	}
	if len(slots) == 0 {
		return s
	}
	var old HeaderSet
	if s != nil {
		old = *s
	}
	// Many encoders repeat their headers at each keyframe.
	for _, h := range old.headers {
		if h.typ == typ && bytes.Equal(h.payload, body) && slices.Equal(h.slots, slots) {
			return s
		}
	}

	n := &HeaderSet{meta: old.meta, push: old.push}
	next := header{typ: typ, slots: slots, payload: bytes.Clone(body)}
	placed := false
	for _, h := range old.headers {
		left := h.slots
		for _, new := range slots {
			left = without(left, func(old slot) bool { return new.ends(old) })
		}
		switch {
		case len(left) == len(h.slots):
			n.headers = append(n.headers, h)
		case len(left) > 0:
			h.slots = left
			n.headers = append(n.headers, h)
		case !placed:
			n.headers, placed = append(n.headers, next), true
		}
	}
	if !placed {
		n.headers = append(n.headers, next)
	}
	for _, h := range n.headers {
		n.bytes += len(h.payload)
	}
	if len(n.headers) > maxHeaders || n.bytes > maxHeaderBytes {
		return s
	}
	return n
}

// ends reports whether s takes the place of old. Another codec on a track
// ends its old configuration too.
func (s slot) ends(old slot) bool {
	return s.Slot == old.Slot ||
		!s.Config && old.Config && s.Type == old.Type && s.Track == old.Track && s.codec != old.codec
}

func without(slots []slot, drop func(slot) bool) []slot {
	if !slices.ContainsFunc(slots, drop) {
		return slots
	}
	return slices.DeleteFunc(slices.Clone(slots), drop)
}

// outlived returns the set after media of a track in a codec: headers of
// another one there are of no use any more. Not every codec has a header that
// would end them (MP3, AC-3, VP8).
func (s *HeaderSet) outlived(typ, track uint8, codec flv.Codec) *HeaderSet {
	old := func(o slot) bool { return o.Type == typ && o.Track == track && o.codec != codec && o.codec != 0 }
	if s == nil || codec == 0 || !slices.ContainsFunc(s.headers, func(h header) bool { return slices.ContainsFunc(h.slots, old) }) {
		return s
	}
	n := &HeaderSet{meta: s.meta, push: s.push}
	for _, h := range s.headers {
		if h.slots = without(h.slots, old); len(h.slots) > 0 {
			n.headers = append(n.headers, h)
			n.bytes += len(h.payload)
		}
	}
	return n
}

// within reports whether o has all headers of s, whatever their metadata.
func (s *HeaderSet) within(o *HeaderSet) bool {
	if s == nil || s == o {
		return true
	}
	for _, h := range s.headers {
		same := func(n header) bool { return h.typ == n.typ && bytes.Equal(h.payload, n.payload) }
		if o == nil || !slices.ContainsFunc(o.headers, same) {
			return false
		}
	}
	return true
}

// withMetadata returns the set after onMetaData, or with none after
// @clearDataFrame.
func (s *HeaderSet) withMetadata(m *Message) *HeaderSet {
	var n HeaderSet
	if s != nil {
		n = *s
	}
	n.meta, n.push = nil, nil
	if m != nil {
		if s != nil && s.meta != nil && bytes.Equal(s.meta.Payload(), m.Frame.Payload()) {
			return s
		}
		// Copied, so that one small message does not keep a slab.
		size := m.Frame.Length + m.Push.Length
		n.meta = chunk.NewFrame(m.Frame.Header, m.Frame.Payload(), size)
		n.push = chunk.NewFrame(m.Push.Header, m.Push.Payload(), size)
	}
	return &n
}

// Append appends the set's messages for a receiver, with the given time. The
// metadata of one who has got nothing yet has time 0: FFmpeg takes onMetaData
// at any other time for a stream of text.
func (s *HeaderSet) Append(b []byte, o Options, time uint32, first bool) []byte {
	if s == nil {
		return b
	}
	h := chunk.Header{Time: time + o.Layout.Offset, StreamID: o.Layout.StreamID}
	meta := s.meta
	if o.Push {
		meta = s.push
	}
	if meta != nil && !o.NoMeta {
		h := h
		h.Type = chunk.TypeData
		if first {
			h.Time = 0
		}
		b = chunk.Append(b, h, meta.Payload(), o.Layout.Size)
	}
	for _, hd := range s.headers {
		h.Type = hd.typ
		b = chunk.Append(b, h, hd.payload, o.Layout.Size)
	}
	return b
}

// All calls f for each of the set's messages.
func (s *HeaderSet) All(f func(typ uint8, payload []byte)) {
	if s == nil {
		return
	}
	if s.meta != nil {
		f(chunk.TypeData, s.meta.Payload())
	}
	for _, h := range s.headers {
		f(h.typ, h.payload)
	}
}
