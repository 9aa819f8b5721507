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
	// b is header, payload and continuation headers. Its capacity reaches to the
	// end of its slab, so that neighbouring frames can be sent as one range.
	b    []byte
	size int   // payload bytes per chunk
	slab *slab // nil if b has its own memory
	off  int   // offset in the slab
	held int   // see Hold; only for a frame without a slab
}

// slab is memory that neighbouring frames share.
type slab struct {
	size int
	held int // by frames in it
}

// Bytes returns the chunks of f, with message stream id MediaStreamID.
func (f *Frame) Bytes() []byte { return f.b }

// Len returns the number of bytes on the wire.
func (f *Frame) Len() int { return len(f.b) }

// Size returns the number of payload bytes in a chunk.
func (f *Frame) Size() int { return f.size }

// Follows reports whether f directly follows g in memory: g's bytes, resliced by len(f)
// more, are g's and f's.
func (f *Frame) Follows(g *Frame) bool {
	return f.slab != nil && f.slab == g.slab && g.off+len(g.b) == f.off
}

// Hold adds an owner of the frame, and returns by how many bytes that increases the
// memory that is kept: those of the frame, or of its slab. Drop undoes it. For all frames
// of a Framer, only one goroutine at a time may call Hold and Drop.
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

// Apart returns f, or a copy of it if f lies in a slab, so that the caller can keep it
// without its neighbours.
func (f *Frame) Apart() *Frame {
	if f.slab == nil {
		return f
	}
	return &Frame{Header: f.Header, b: bytes.Clone(f.b), size: f.size}
}

// Head returns the payload up to the end of the first chunk.
func (f *Frame) Head() []byte {
	h := headerLen(f.Time)
	return f.b[h : h+min(f.Length, f.size)]
}

// Payload returns the whole payload: a view if the message fits in one chunk, else a
// copy.
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

// chunks iterates over the payload's pieces, one for each chunk.
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

// Layout is how frames are laid out for a receiver that cannot use the shared bytes.
type Layout struct {
	StreamID uint32
	Offset   uint32 // added to each time, modulo 2^32
	Size     int    // payload bytes per chunk
	// Prefix is inserted before the payload, as a part of it.
	Prefix []byte
	// Tags makes each frame a tag of an FLV file, with its size after it, instead of
	// chunks. StreamID and Size have no meaning then.
	Tags bool
}

// Shared reports whether frames of a Framer with this chunk size can be sent unchanged.
func (l Layout) Shared(size int) bool {
	return l.StreamID == MediaStreamID && l.Offset == 0 && l.Size == size && l.Prefix == nil && !l.Tags
}

// AppendTo appends f in layout l to iov, and returns both slices. Headers are written to
// scratch; the payload is shared. Headers already in scratch must not move, so a full
// scratch is replaced, not reallocated.
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

	if l.Tags {
		header(appendTagHeader)
		if len(l.Prefix) > 0 {
			iov = append(iov, l.Prefix)
		}
		for p := range f.chunks() {
			if len(p) > 0 {
				iov = append(iov, p[:len(p):len(p)])
			}
		}
		header(appendTagSize)
		return iov, scratch
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
// collector frees a slab when none of its messages is in use. A Framer belongs to the
// goroutine that reads the publisher.
type Framer struct {
	Size   int    // payload bytes per chunk sent
	Offset uint32 // added to each message's time, modulo 2^32
	// Continuous continues timestamps that jump back, with one offset for audio,
	// video and data. A message whose time is out of line is sent with the time of
	// the message before it.
	Continuous bool
	// Media reports whether an audio or video message contains coded media. head is
	// its first PeekSize bytes or all of it. Other messages are headers, which do
	// not move the clock. If Media is nil, all messages contain coded media.
	Media func(typ uint8, head []byte) bool
	// Idle returns for how many milliseconds the publisher had sent nothing before
	// the current message: its clock may have advanced by as much. Idle may be
	// nil.
	Idle func() int64

	// MaxSlab, if not nil, returns the largest permitted size of the next slab.
	MaxSlab func() int

	clock clock
	free  []byte // rest of the current slab
	slab  *slab  // the current one
	off   int    // where free begins in slab
	next  int    // size of the next slab
	most  int    // last result of MaxSlab, within minSlab and maxSlab
	began uint32 // time of the current slab's first message
}

// Resume makes f the next Framer of a stream that had another one: if times are
// Continuous, its first audio or video gets the time that at then returns.
func (f *Framer) Resume(at func() uint32) { f.clock.resume = at }

// Shift adds d, modulo 2^32, to the times of all later messages if times are
// Continuous.
func (f *Framer) Shift(d uint32) { f.clock.shift(d) }

// A slab is sized for slabTime to 4 x slabTime of the stream, because the log keeps the
// whole slab for as long as it keeps one message in it.
const (
	minSlab  = 1 << 10
	newSlab  = 4 << 10 // the first one
	maxSlab  = 256 << 10
	slabTime = 100 // milliseconds
)

// PeekSize is how many bytes of a message suffice to tell its kind.
const PeekSize = 32

// begin reserves the space of a message that begins with head.
func (f *Framer) begin(h Header, head []byte) *Frame { return f.place(h, head, false) }

// place reserves the space of a message, outside a slab if alone.
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

// Alone is Frame in its own memory, for messages that may be kept for long.
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

// space returns the space of the payload from offset at to the end of its chunk.
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
