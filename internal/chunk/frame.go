package chunk

import (
	"bytes"
	"encoding/binary"
	"iter"
)

// Frame is one message laid out as chunks, ready to be sent. Its bytes are
// shared by all receivers and never change once the message is complete.
type Frame struct {
	Header
	// b is header, payload and continuation headers. Its capacity reaches
	// to the end of the slab it lies in, so that neighbours can be sent as
	// one range.
	b    []byte
	size int   // payload bytes per chunk
	slab *slab // nil: b is memory of its own
	off  int   // place in the slab
	held int   // see Hold; of a frame without a slab
}

// slab is memory that neighbours lie in.
type slab struct {
	size int
	held int // by frames in it
}

// Bytes are the chunks of f, message stream id MediaStreamID.
func (f *Frame) Bytes() []byte { return f.b }

// Len is the number of bytes on the wire.
func (f *Frame) Len() int { return len(f.b) }

// Size is the number of payload bytes in a chunk.
func (f *Frame) Size() int { return f.size }

// Follows reports whether f directly follows g in memory: g's bytes, resliced by len(f)
// more, are g's and f's.
func (f *Frame) Follows(g *Frame) bool {
	return f.slab != nil && f.slab == g.slab && g.off+len(g.b) == f.off
}

// Hold adds an owner of the frame, and returns how many bytes of memory are kept by
// that which were not kept before: those of the frame, or of its slab. Drop undoes it.
// One goroutine at a time may call them for the frames of a Framer.
func (f *Frame) Hold() int {
	held, size := f.memory()
	if *held++; *held > 1 {
		return 0
	}
	return size
}

// Drop undoes a Hold, and returns how many bytes are no longer kept.
func (f *Frame) Drop() int {
	held, size := f.memory()
	if *held--; *held > 0 {
		return 0
	}
	return size
}

func (f *Frame) memory() (held *int, size int) {
	if f.slab != nil {
		return &f.slab.held, f.slab.size
	}
	return &f.held, cap(f.b)
}

// Apart returns f, or a copy of it where f lies in a slab, so that to keep it is
// not to keep its neighbours.
func (f *Frame) Apart() *Frame {
	if f.slab == nil {
		return f
	}
	return &Frame{Header: f.Header, b: bytes.Clone(f.b), size: f.size}
}

// Head is the payload up to the end of the first chunk.
func (f *Frame) Head() []byte {
	h := headerLen(f.Time)
	return f.b[h : h+min(f.Length, f.size)]
}

// Payload returns the whole payload. It is a view where the message fits one
// chunk and a copy where it does not.
func (f *Frame) Payload() []byte {
	if f.Length <= f.size {
		return f.Head()
	}
	return f.AppendPayload(make([]byte, 0, f.Length))
}

// AppendPayload appends the payload to dst.
func (f *Frame) AppendPayload(dst []byte) []byte {
	for p := range f.chunks() {
		dst = append(dst, p...)
	}
	return dst
}

// Holds reports whether f's payload is p.
func (f *Frame) Holds(p []byte) bool {
	if f.Length != len(p) {
		return false
	}
	for part := range f.chunks() {
		if !bytes.Equal(part, p[:len(part)]) {
			return false
		}
		p = p[len(part):]
	}
	return true
}

// chunks are the payload's pieces.
func (f *Frame) chunks() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest, left := f.b[headerLen(f.Time):], f.Length
		for gap := continuationLen(f.Time); ; {
			n := min(left, f.size)
			if !yield(rest[:n]) {
				return
			}
			if left -= n; left == 0 {
				return
			}
			rest = rest[n+gap:]
		}
	}
}

// NewFrame lays out a copy of payload, outside any slab. h.Length is ignored.
func NewFrame(h Header, payload []byte, size int) *Frame {
	h.Length, h.StreamID = len(payload), MediaStreamID
	return &Frame{
		Header: h,
		b:      Append(make([]byte, 0, framedLen(h, size)), h, payload, size),
		size:   size,
	}
}

// Layout is how a receiver wants its frames when it can't have the shared
// bytes.
type Layout struct {
	StreamID uint32
	Offset   uint32 // added to each time, modulo 2^32
	Size     int    // payload bytes per chunk
	// Prefix goes in front of the payload, as a part of it.
	Prefix []byte
}

// Shared reports whether frames of a Framer with this chunk size can be sent
// as they are.
func (l Layout) Shared(size int) bool {
	return l.StreamID == MediaStreamID && l.Offset == 0 && l.Size == size && l.Prefix == nil
}

// AppendTo appends f in another layout to iov: headers are written to
// scratch, payload is shared. It returns both, grown. Headers already in
// scratch must not move, so scratch is replaced, not reallocated, when full.
func (l Layout) AppendTo(iov [][]byte, scratch []byte, f *Frame) ([][]byte, []byte) {
	h := f.Header
	h.StreamID = l.StreamID
	h.Time += l.Offset
	h.Length += len(l.Prefix)

	header := func(write func([]byte, Header) []byte) {
		if cap(scratch)-len(scratch) < maxHeader {
			scratch = make([]byte, 0, max(512, 2*cap(scratch)))
		}
		n := len(scratch)
		scratch = write(scratch, h)
		iov = append(iov, scratch[n:len(scratch):len(scratch)])
	}

	header(appendHeader)
	room := l.Size // of the chunk
	put := func(p []byte) {
		for len(p) > 0 {
			if room == 0 {
				header(appendContinuation)
				room = l.Size
			}
			n := min(len(p), room)
			iov = append(iov, p[:n:n])
			p, room = p[n:], room-n
		}
	}
	put(l.Prefix)
	for p := range f.chunks() {
		put(p)
	}
	return iov, scratch
}

// Framer lays out one publisher's messages one after the other in slabs. The garbage
// collector frees a slab when no message in it is used any more. A Framer belongs to
// the goroutine that reads the publisher.
type Framer struct {
	Size   int    // payload bytes per chunk sent
	Offset uint32 // added to each message's time, modulo 2^32
	// Continuous: times that jump back are continued, with a constant offset
	// for audio, video and data, and a message whose time is out of line goes
	// out with that of the one before it.
	Continuous bool
	// Media reports whether an audio or video message that begins with head,
	// which is its first PeekSize bytes or all of it, holds coded media. What
	// does not is a header, and has no say in what time it is. Where it is nil
	// all is coded media.
	Media func(typ uint8, head []byte) bool
	// Idle is for how many milliseconds the publisher had sent nothing before
	// the message at hand: its clock may have gone on for so long. It may be
	// nil.
	Idle func() int64

	// MaxSlab, where it is set, is asked before each slab how large it may be.
	MaxSlab func() int

	clock clock
	free  []byte // rest of the current slab
	slab  *slab  // the current one
	off   int    // where free begins in it
	next  int    // size of the next slab
	most  int    // what MaxSlab has said last, within minSlab and maxSlab
	began uint32 // time of the current slab's first message
}

// Resume makes f the next Framer of a stream that had another one: its first
// audio or video goes out with the time that at gives then, where times are
// continuous.
func (f *Framer) Resume(at func() uint32) { f.clock.resume = at }

// Shift adds d, modulo 2^32, to the times of all messages to come, where times
// are continuous.
func (f *Framer) Shift(d uint32) { f.clock.shift(d) }

// A slab is sized for slabTime to 4 x slabTime of the stream: the log keeps it
// while it keeps one message of it.
const (
	minSlab  = 1 << 10
	newSlab  = 4 << 10 // the first one
	maxSlab  = 256 << 10
	slabTime = 100 // milliseconds
)

// PeekSize is how many bytes of a message tell what it is.
const PeekSize = 32

// begin reserves the place of a message that begins with head.
func (f *Framer) begin(h Header, head []byte) *Frame { return f.place(h, head, false) }

// place reserves the place of a message, alone where it must not lie in a slab.
func (f *Framer) place(h Header, head []byte, alone bool) *Frame {
	if f.Continuous {
		f.clock.idle = f.Idle
		media := f.Media == nil || f.Media(h.Type, head[:min(len(head), PeekSize)])
		h.Time = f.clock.time(h, media)
	}
	h.Time += f.Offset
	h.StreamID = MediaStreamID
	n := framedLen(h, f.Size)
	fr := &Frame{Header: h, size: f.Size}
	if f.most == 0 {
		f.most = maxSlab
	}
	if alone || n > f.most/4 {
		fr.b = make([]byte, n)
	} else {
		f.reserve(n, h.Time)
		fr.b, fr.slab, fr.off = f.free[:n], f.slab, f.off
		f.free, f.off = f.free[n:], f.off+n
	}
	appendHeader(fr.b[:0], h)
	return fr
}

func (f *Framer) reserve(n int, now uint32) {
	if n <= len(f.free) {
		return
	}
	if f.MaxSlab != nil {
		f.most = min(max(f.MaxSlab(), minSlab), maxSlab)
	}
	switch lasted := int32(now - f.began); {
	case f.next == 0:
		f.next = newSlab
	case lasted < slabTime:
		f.next *= 2
	case lasted > 4*slabTime:
		f.next = max(f.next/2, newSlab)
	}
	f.next = min(f.next, f.most)
	f.free = make([]byte, max(f.next, n))
	f.slab = &slab{size: len(f.free)}
	f.off, f.began = 0, now
}

// Frame lays out a copy of payload after the earlier messages.
func (f *Framer) Frame(h Header, payload []byte) *Frame { return f.frame(h, payload, false) }

// Alone is Frame in memory of its own, for what may be kept for long.
func (f *Framer) Alone(h Header, payload []byte) *Frame { return f.frame(h, payload, true) }

func (f *Framer) frame(h Header, payload []byte, alone bool) *Frame {
	h.Length = len(payload)
	fr := f.place(h, payload, alone)
	fr.fill(payload, 0)
	return fr
}

// fill copies p to the payload's offset at, and returns the bytes that are
// left of the payload.
func (f *Frame) fill(p []byte, at int) int {
	for len(p) > 0 {
		dst := f.space(at)
		n := copy(dst, p)
		p, at = p[n:], at+n
	}
	return f.Length - at
}

// space is the place of the payload from offset at to the end of its chunk.
func (f *Frame) space(at int) []byte {
	chunk := at / f.size
	start := headerLen(f.Time) + at + chunk*continuationLen(f.Time)
	if chunk > 0 && at%f.size == 0 {
		appendContinuation(f.b[start-continuationLen(f.Time):start-continuationLen(f.Time)], f.Header)
	}
	return f.b[start : start+min(f.size-at%f.size, f.Length-at)]
}

func framedLen(h Header, size int) int {
	n := headerLen(h.Time) + h.Length
	if h.Length > size {
		n += (h.Length - 1) / size * continuationLen(h.Time)
	}
	return n
}

// AppendUserControl appends a user control message (RTMP 1.0, 7.1.7) with
// one 32-bit value.
func AppendUserControl(b []byte, event uint16, v uint32) []byte {
	p := binary.BigEndian.AppendUint16(make([]byte, 0, 6), event)
	return Append(b, Header{Type: TypeUserControl}, binary.BigEndian.AppendUint32(p, v), DefaultSize)
}
