package chunk

import "encoding/binary"

// Frame is one message laid out as chunks, ready to be sent. Its bytes are
// shared by all receivers and never change once the message is complete.
type Frame struct {
	Header
	// b is header, payload and continuation headers. Its capacity reaches
	// to the end of the slab it lies in, so that neighbours can be sent as
	// one range.
	b    []byte
	size int // payload bytes per chunk
	slab uint64
	off  int // place in the slab
}

// Bytes are the chunks of f, message stream id MediaStreamID.
func (f *Frame) Bytes() []byte { return f.b }

// Len is the number of bytes on the wire.
func (f *Frame) Len() int { return len(f.b) }

// Size is the number of payload bytes in a chunk.
func (f *Frame) Size() int { return f.size }

// Follows reports whether f lies directly behind g in memory: g's bytes
// resliced by len(f) more are g's and f's.
func (f *Frame) Follows(g *Frame) bool {
	return f.slab != 0 && f.slab == g.slab && g.off+len(g.b) == f.off
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
	rest, left := f.b[headerLen(f.Time):], f.Length
	for gap := continuationLen(f.Time); ; {
		n := min(left, f.size)
		dst = append(dst, rest[:n]...)
		if left -= n; left == 0 {
			return dst
		}
		rest = rest[n+gap:]
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
}

// Shared reports whether frames of a Framer with this chunk size can be sent
// as they are.
func (l Layout) Shared(size int) bool {
	return l.StreamID == MediaStreamID && l.Offset == 0 && l.Size == size
}

// AppendTo appends f in another layout to iov: headers are written to
// scratch, payload is shared. It returns both, grown. Headers already in
// scratch must not move, so scratch is replaced, not reallocated, when full.
func (l Layout) AppendTo(iov [][]byte, scratch []byte, f *Frame) ([][]byte, []byte) {
	h := f.Header
	h.StreamID = l.StreamID
	h.Time += l.Offset

	header := func(write func([]byte, Header) []byte) {
		if cap(scratch)-len(scratch) < maxHeader {
			scratch = make([]byte, 0, max(512, 2*cap(scratch)))
		}
		n := len(scratch)
		scratch = write(scratch, h)
		iov = append(iov, scratch[n:len(scratch):len(scratch)])
	}

	header(appendHeader)
	rest, left := f.b[headerLen(f.Time):], f.Length
	gap := continuationLen(f.Time)
	in, out := f.size, l.Size // left of the source chunk, of the chunk to send
	for left > 0 {
		if in == 0 {
			rest, in = rest[gap:], f.size
		}
		if out == 0 {
			header(appendContinuation)
			out = l.Size
		}
		n := min(left, in, out)
		iov = append(iov, rest[:n:n])
		rest, left, in, out = rest[n:], left-n, in-n, out-n
	}
	return iov, scratch
}

// Framer lays out one publisher's messages one behind the other in slabs.
// The garbage collector frees a slab when no message in it is used any more.
// A Framer belongs to the goroutine that reads the publisher.
type Framer struct {
	Size   int    // payload bytes per chunk sent
	Offset uint32 // added to each message's time, modulo 2^32
	// Continuous: times that jump back are continued, with a constant offset
	// for audio, video and data.
	Continuous bool

	clock clock
	free  []byte // rest of the current slab
	slab  uint64 // number of the current slab
	off   int    // where free begins in it
	next  int    // size of the next slab
	began uint32 // time of the current slab's first message
}

// Resume makes f the n-th Framer of a stream, from 0: its first audio or video
// goes out with the time that at gives then, where times are continuous.
func (f *Framer) Resume(n int, at func() uint32) {
	f.slab = uint64(n) << 32 // a slab is of one Framer
	f.clock.resume = at
}

// Shift adds d, modulo 2^32, to the times of all messages to come, where times
// are continuous.
func (f *Framer) Shift(d uint32) { f.clock.shift(d) }

// A slab is sized for slabTime to 4 x slabTime of the stream: the log keeps it
// while it keeps one message of it.
const (
	minSlab  = 4 << 10
	maxSlab  = 256 << 10
	slabTime = 100 // milliseconds
)

// begin reserves the place of a message.
func (f *Framer) begin(h Header) *Frame {
	if f.Continuous {
		h.Time = f.clock.time(h)
	}
	h.Time += f.Offset
	h.StreamID = MediaStreamID
	n := framedLen(h, f.Size)
	fr := &Frame{Header: h, size: f.Size}
	if n > maxSlab/4 {
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
	switch lasted := int32(now - f.began); {
	case f.next == 0:
		f.next = minSlab
	case lasted < slabTime:
		f.next = min(2*f.next, maxSlab)
	case lasted > 4*slabTime:
		f.next = max(f.next/2, minSlab)
	}
	f.free = make([]byte, max(f.next, n))
	f.slab++
	f.off, f.began = 0, now
}

// Frame lays out a copy of payload behind the messages before it.
func (f *Framer) Frame(h Header, payload []byte) *Frame {
	h.Length = len(payload)
	fr := f.begin(h)
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
