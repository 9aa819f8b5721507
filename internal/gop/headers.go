package gop

import (
	"slices"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
)

// Limits of a header set, in headers and bytes. Without them a publisher could send 256
// tracks of two kinds with headers of 16 MiB each. A header beyond a limit is forwarded
// like any message, but not kept for later receivers.
const (
	maxHeaders     = 64
	maxHeaderBytes = 1 << 20
)

// HeaderSet holds the messages that a receiver needs before its first frame: the
// metadata, and each track's sequence header and configuration. It never changes. The nil
// set is empty. It shares the frames of messages that have memory of their own, so that a
// large header is kept once.
type HeaderSet struct {
	meta    *chunk.Frame
	headers []*header
	bytes   int // of headers
	held    int // see hold
}

type header struct {
	frame *chunk.Frame
	slots []slot // those that it still fills
	held  int    // by sets that are held
}

type slot struct {
	flv.Slot
	codec flv.Codec
}

// with returns the set after a header message, whose payload is body.
func (s *HeaderSet) with(f *chunk.Frame, body []byte) *HeaderSet {
	var slots []slot
	for place, codec := range flv.Slots(f.Type, body) {
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
		if h.frame.Type == f.Type && h.frame.Holds(body) && slices.Equal(h.slots, slots) {
			return s
		}
	}

	n := &HeaderSet{meta: old.meta}
	next := &header{frame: f.Apart(), slots: slots}
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
			n.headers = append(n.headers, &header{frame: h.frame, slots: left})
		case !placed:
			n.headers, placed = append(n.headers, next), true
		}
	}
	if !placed {
		n.headers = append(n.headers, next)
	}
	for _, h := range n.headers {
		n.bytes += h.frame.Length
	}
	if len(n.headers) > maxHeaders || n.bytes > maxHeaderBytes {
		return s
	}
	return n
}

// ends reports whether s replaces old. A sequence header of another codec also ends the
// track's old configuration.
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

// outlived returns the set after media of a track in a codec, without the track's headers
// of another codec. Some codecs have no header that would replace those (MP3, AC-3, VP8).
func (s *HeaderSet) outlived(typ, track uint8, codec flv.Codec) *HeaderSet {
	old := func(o slot) bool { return o.Type == typ && o.Track == track && o.codec != codec && o.codec != 0 }
	if s == nil || codec == 0 || !slices.ContainsFunc(s.headers, func(h *header) bool { return slices.ContainsFunc(h.slots, old) }) {
		return s
	}
	n := &HeaderSet{meta: s.meta}
	for _, h := range s.headers {
		left := without(h.slots, old)
		if len(left) == 0 {
			continue
		}
		if len(left) < len(h.slots) {
			h = &header{frame: h.frame, slots: left}
		}
		n.headers = append(n.headers, h)
		n.bytes += h.frame.Length
	}
	return n
}

// within reports whether o has all headers of s. Metadata does not count.
func (s *HeaderSet) within(o *HeaderSet) bool {
	if s == nil || s == o {
		return true
	}
	for _, h := range s.headers {
		same := func(n *header) bool {
			a, b := h.frame, n.frame
			return a == b || a.Type == b.Type && a.Length == b.Length && a.Holds(b.Payload())
		}
		if o == nil || !slices.ContainsFunc(o.headers, same) {
			return false
		}
	}
	return true
}

// withMetadata returns the set with f, an onMetaData, as its metadata. If f is nil, after
// @clearDataFrame, the set has none.
func (s *HeaderSet) withMetadata(f *chunk.Frame) *HeaderSet {
	n := new(HeaderSet)
	if s != nil {
		n.meta, n.headers, n.bytes = s.meta, s.headers, s.bytes
	}
	switch {
	case f == nil:
		n.meta = nil
	case n.meta != nil && n.meta.Length == f.Length && n.meta.Holds(f.Payload()):
		return s
	default:
		n.meta = f.Apart()
	}
	return n
}

// AppendTo appends the set's messages for a receiver, with the given time, as
// chunk.Layout.AppendTo does. first says that these are the receiver's first headers. The
// metadata then has time 0: FFmpeg mistakes onMetaData at another time for a stream of
// text.
func (s *HeaderSet) AppendTo(iov [][]byte, scratch []byte, o Options, time uint32, first bool) ([][]byte, []byte) {
	if s == nil {
		return iov, scratch
	}
	if f := s.meta; f != nil && !o.NoMeta {
		l := o.layout(o.Push)
		if l.Offset += time - f.Time; first {
			l.Offset = -f.Time
		}
		iov, scratch = l.AppendTo(iov, scratch, f)
	}
	for _, h := range s.headers {
		l := o.layout(false)
		l.Offset += time - h.frame.Time
		iov, scratch = l.AppendTo(iov, scratch, h.frame)
	}
	return iov, scratch
}

// Frames returns the set's messages, metadata first.
func (s *HeaderSet) Frames() (frames []*chunk.Frame) {
	if s == nil {
		return nil
	}
	if s.meta != nil {
		frames = append(frames, s.meta)
	}
	for _, h := range s.headers {
		frames = append(frames, h.frame)
	}
	return frames
}

// All calls f for each of the set's messages, metadata first. f must not change the
// payload, which may be the set's own memory.
func (s *HeaderSet) All(f func(typ uint8, payload []byte)) {
	if s == nil {
		return
	}
	if s.meta != nil {
		f(chunk.TypeData, s.meta.Payload())
	}
	for _, h := range s.headers {
		f(h.frame.Type, h.frame.Payload())
	}
}
