package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrLimit is wrapped by every error which says that a peer has exceeded a limit.
var ErrLimit = errors.New("limit exceeded")

// ErrProtocol is wrapped by every error which says that a peer has violated the format.
var ErrProtocol = errors.New("chunk stream")

// Limits bounds what a Reader keeps for its peer.
type Limits struct {
	Media    int // bytes of an audio, video or aggregate message
	Command  int // bytes of any other message
	Partial  int // bytes kept in unfinished messages
	Streams  int // chunk streams in use
	TinySize int // payload bytes accepted at a chunk size below 128
	Step     int // bytes from one call of Charge to the next; 0: 16 KiB
}

// Message is one message. A media message of a stream that has a Framer is in Frame, any
// other message in Payload, which is valid until the next call of Next.
type Message struct {
	Header
	Payload []byte
	Frame   *Frame
}

// Reader assembles the messages of one connection. It applies protocol control messages
// that concern the format (SetChunkSize, Abort), and also returns them. It is for one
// goroutine.
//
// Its memory depends on the bytes that have arrived, not on the lengths that were
// announced. A message gets memory for its whole length only if the sum of such memory,
// including that of aborted messages, stays in proportion to the bytes that the
// connection has sent so far. Otherwise its memory grows as it arrives.
type Reader struct {
	// Framer, if it returns non-nil for a message stream id, lays out the audio
	// and video messages of that stream.
	Framer func(streamID uint32) *Framer
	Limits Limits
	// Charge, if not nil, is called when the memory of unfinished messages has
	// changed by Limits.Step; an error ends reading. Release gives back the rest.
	Charge func(delta int) error

	src      io.Reader
	buf      []byte
	pos, end int
	received uint64

	size     int // peer's chunk size
	tiny     int // payload bytes accepted at a small chunk size
	streams  []*stream
	last     *stream
	reserved int    // bytes of memory for unfinished messages
	wasted   uint64 // bytes of such memory that were unused when messages were aborted
	charged  int    // part of reserved that Charge was called with
}

// stream is one chunk stream.
type stream struct {
	id    uint32
	delta uint32
	field uint32 // the extended timestamp, if ext is set
	seen  bool
	ext   bool // the last header had an extended timestamp
	busy  bool // a message is unfinished

	h       Header
	got     int
	frame   *Frame
	payload []byte
}

const (
	// firstPlace is the initial memory of a message that does not get all of its
	// memory yet.
	firstPlace = 512
	// frameCost is roughly the memory of a frame beyond its payload.
	frameCost = 112
)

// chargeStep is the default of Limits.Step.
const chargeStep = 16 << 10

// directRead is the size from which data is read from the source directly into its place
// and not through the buffer.
const directRead = 16 << 10

// NewReader returns a Reader of src with a buffer of size bytes.
func NewReader(src io.Reader, size int, lim Limits) *Reader {
	return &Reader{src: src, buf: make([]byte, size), size: DefaultSize, Limits: lim}
}

// Received returns the number of bytes read from the source.
func (r *Reader) Received() uint64 { return r.received }

// Buffered returns the number of bytes that were read and not used yet.
func (r *Reader) Buffered() int { return r.end - r.pos }

// Resize changes the buffer's size and keeps its data.
func (r *Reader) Resize(size int) {
	buf := make([]byte, max(size, r.Buffered()))
	r.end = copy(buf, r.buf[r.pos:r.end])
	r.buf, r.pos = buf, 0
}

// Release gives all memory back to Charge. Next must not be called after it.
func (r *Reader) Release() {
	if r.charged > 0 {
		r.Charge(-r.charged)
		r.charged = 0
	}
}

// Next returns the next message. At the end of the source between two messages it
// returns io.EOF and drops unfinished messages.
func (r *Reader) Next() (Message, error) {
	for {
		s, err := r.header()
		if err != nil {
			return Message{}, err
		}
		if err := r.body(s); err != nil {
			return Message{}, err
		}
		if s.got < s.h.Length {
			continue
		}
		m := Message{Header: s.h, Frame: s.frame}
		if m.Frame == nil {
			m.Payload = s.payload
		}
		r.drop(s)
		if err := r.control(m); err != nil {
			return Message{}, err
		}
		return m, nil
	}
}

// header reads a chunk's header. If the chunk begins a message, it reserves the message's
// memory.
func (r *Reader) header() (*stream, error) {
	if err := r.need(1); err != nil {
		return nil, err
	}
	b := r.buf[r.pos]
	format, id, n := b>>6, uint32(b&0x3f), 1
	switch id {
	case 0:
		if err := r.need(2); err != nil {
			return nil, unexpected(err)
		}
		id, n = 64+uint32(r.buf[r.pos+1]), 2
	case 1:
		if err := r.need(3); err != nil {
			return nil, unexpected(err)
		}
		id, n = 64+uint32(binary.LittleEndian.Uint16(r.buf[r.pos+1:])), 3
	}
	r.pos += n
	s, err := r.stream(id)
	if err != nil {
		return nil, err
	}
	// Type 1 as a chunk stream's first header is legal for librtmp's ping
	// on chunk stream 2: it counts from time 0, stream id 0.
	if !s.seen && format > 1 {
		return nil, fmt.Errorf("%w: type %d is the first header of chunk stream %d", ErrProtocol, format, id)
	}
	if s.busy && format != 3 {
		return nil, fmt.Errorf("%w: type %d inside a message of chunk stream %d", ErrProtocol, format, id)
	}
	if format == 3 {
		return s, r.header3(s)
	}

	n = [...]int{11, 7, 3}[format]
	if err := r.need(n); err != nil {
		return nil, unexpected(err)
	}
	h := r.buf[r.pos : r.pos+n]
	time := uint24(h)
	if format <= 1 {
		s.h.Length, s.h.Type = int(uint24(h[3:])), h[6]
	}
	if format == 0 {
		s.h.StreamID = binary.LittleEndian.Uint32(h[7:])
	}
	r.pos += n
	s.ext = time == maxTime24
	if s.ext {
		if err := r.need(4); err != nil {
			return nil, unexpected(err)
		}
		time = binary.BigEndian.Uint32(r.buf[r.pos:])
		s.field = time
		r.pos += 4
	}
	s.seen = true
	// After a type 0 the delta of a type 3 is the timestamp itself
	// (RTMP 1.0, 5.3.1.2.4).
	s.delta = time
	if format == 0 {
		s.h.Time = time
	} else {
		s.h.Time += time
	}
	return s, r.begin(s)
}

func (r *Reader) header3(s *stream) error {
	if !s.busy {
		// Every sender that knows extended timestamps repeats them at the
		// start of a message, some as the delta, some as the time.
		if s.ext {
			if err := r.need(4); err != nil {
				return unexpected(err)
			}
			r.pos += 4
		}
		s.h.Time += s.delta
		return r.begin(s)
	}
	if !s.ext {
		return nil
	}
	// Old encoders do not repeat it inside a message: then these bytes are
	// payload. No more is waited for than decides the matter.
	for n := 1; ; n++ {
		if err := r.need(n); err != nil {
			return unexpected(err)
		}
		b := r.buf[r.pos : r.pos+n]
		if !bePrefix(b, s.field) && !bePrefix(b, s.h.Time) {
			return nil
		}
		if n == 4 {
			r.pos += 4
			return nil
		}
	}
}

// begin checks a new message against the limits and reserves its memory.
func (r *Reader) begin(s *stream) error {
	limit, media := r.Limits.Command, false
	switch s.h.Type {
	case TypeAudio, TypeVideo, TypeAggregate:
		limit, media = r.Limits.Media, s.h.Type != TypeAggregate
	}
	if s.h.Length > limit {
		return fmt.Errorf("%w: message of type %d announces %d bytes, at most %d are taken", ErrLimit, s.h.Type, s.h.Length, limit)
	}
	s.busy, s.got = true, 0
	s.frame, s.payload = nil, nil
	affordable := uint64(r.reserved+s.h.Length)+r.wasted <= 2*r.received+4096
	if media && affordable && r.Framer != nil {
		if f := r.Framer(s.h.StreamID); f != nil {
			head, err := r.head(s.h.Length)
			if err != nil {
				return unexpected(err)
			}
			if head != nil {
				s.frame = f.begin(s.h, head)
				return r.reserve(s.h.Length)
			}
		}
	}
	n := s.h.Length
	if !affordable {
		n = min(n, r.size, firstPlace)
	}
	if n > 0 {
		s.payload = make([]byte, 0, n)
	}
	return r.reserve(n)
}

// head waits for the first bytes of a message: they decide its time, and the time decides
// the length of its header. It returns nil if they do not lie in one chunk.
func (r *Reader) head(length int) ([]byte, error) {
	n := min(length, PeekSize)
	if n > r.size || n > len(r.buf) {
		return nil, nil
	}
	if err := r.need(n); err != nil {
		return nil, err
	}
	return r.buf[r.pos : r.pos+n : r.pos+n], nil
}

func (r *Reader) reserve(n int) error {
	r.reserved += n
	if r.reserved > r.Limits.Partial {
		return fmt.Errorf("%w: more than %d bytes in unfinished messages", ErrLimit, r.Limits.Partial)
	}
	return r.charge()
}

// charge calls Charge if reserved has changed by a step. A decrease is never an error.
func (r *Reader) charge() error {
	size := r.Limits.Step
	if size == 0 {
		size = chargeStep
	}
	step := r.reserved/size*size - r.charged
	if step == 0 || r.Charge == nil {
		return nil
	}
	if err := r.Charge(step); err != nil {
		return fmt.Errorf("%d bytes in unfinished messages: %w", r.reserved, err)
	}
	r.charged += step
	return nil
}

// body reads one chunk's payload.
func (r *Reader) body(s *stream) error {
	n := min(r.size, s.h.Length-s.got)
	if r.size < DefaultSize {
		if r.tiny += n; r.tiny > r.Limits.TinySize {
			return fmt.Errorf("%w: more than %d bytes in chunks of %d", ErrLimit, r.Limits.TinySize, r.size)
		}
	}
	for n > 0 {
		var dst []byte
		if s.frame != nil {
			dst = s.frame.space(s.got)
		} else {
			if len(s.payload) == cap(s.payload) {
				old := cap(s.payload)
				grown := make([]byte, old, min(s.h.Length, 2*old))
				copy(grown, s.payload)
				s.payload = grown
				if err := r.reserve(cap(grown) - old); err != nil {
					return err
				}
			}
			dst = s.payload[s.got:cap(s.payload)]
		}
		dst = dst[:min(n, len(dst))]
		m, err := r.read(dst)
		s.got += m
		n -= m
		if s.frame == nil {
			s.payload = s.payload[:s.got]
		}
		if err != nil {
			return unexpected(err)
		}
	}
	if s.got == s.h.Length && s.frame == nil {
		r.adopt(s)
	}
	return nil
}

// adopt lays out a media message whose memory had to grow.
func (r *Reader) adopt(s *stream) {
	if (s.h.Type == TypeAudio || s.h.Type == TypeVideo) && r.Framer != nil {
		if f := r.Framer(s.h.StreamID); f != nil {
			s.frame = f.Frame(s.h, s.payload)
		}
	}
}

// control applies messages that concern the chunk stream itself.
func (r *Reader) control(m Message) error {
	if m.Type != TypeSetChunkSize && m.Type != TypeAbort {
		return nil
	}
	if len(m.Payload) < 4 {
		return fmt.Errorf("%w: protocol control message of %d bytes, expected 4", ErrProtocol, len(m.Payload))
	}
	v := binary.BigEndian.Uint32(m.Payload)
	if m.Type == TypeAbort {
		for _, s := range r.streams {
			if s.id == v && s.busy {
				r.drop(s)
			}
		}
		return nil
	}
	if v == 0 || v>>31 != 0 {
		return fmt.Errorf("%w: chunk size %d, expected 1 to 2147483647", ErrProtocol, v)
	}
	r.size = int(min(v, MaxMessage))
	return nil
}

// drop ends the message of s, finished or not.
func (r *Reader) drop(s *stream) {
	place := s.h.Length
	if s.payload != nil {
		place = cap(s.payload)
	}
	r.reserved -= place
	r.charge()
	if s.got < s.h.Length {
		r.wasted += uint64(place - s.got + frameCost)
	}
	s.busy, s.frame, s.payload = false, nil, nil
}

func (r *Reader) stream(id uint32) (*stream, error) {
	if r.last != nil && r.last.id == id {
		return r.last, nil
	}
	for _, s := range r.streams {
		if s.id == id {
			r.last = s
			return s, nil
		}
	}
	if len(r.streams) >= r.Limits.Streams {
		return nil, fmt.Errorf("%w: more than %d chunk streams", ErrLimit, r.Limits.Streams)
	}
	s := &stream{id: id}
	r.streams = append(r.streams, s)
	r.last = s
	return s, nil
}

// need reads until n bytes are in the buffer.
func (r *Reader) need(n int) error {
	for r.end-r.pos < n {
		if r.pos == r.end {
			r.pos, r.end = 0, 0
		} else if r.pos+n > len(r.buf) {
			r.end = copy(r.buf, r.buf[r.pos:r.end])
			r.pos = 0
		}
		m, err := r.receive(r.buf[r.end:])
		r.end += m
		if err != nil && r.end-r.pos < n {
			return err
		}
	}
	return nil
}

// read fills some of dst from the buffer or, if the buffer is empty and dst is large,
// directly from the source.
func (r *Reader) read(dst []byte) (int, error) {
	if r.pos == r.end {
		if len(dst) >= directRead {
			n, err := r.receive(dst)
			if n > 0 {
				err = nil
			}
			return n, err
		}
		if err := r.need(1); err != nil {
			return 0, err
		}
	}
	n := copy(dst, r.buf[r.pos:r.end])
	r.pos += n
	return n, nil
}

// receive reads from the source. The source may sometimes return no data and no error, but
// not forever.
func (r *Reader) receive(p []byte) (int, error) {
	for range 100 {
		n, err := r.src.Read(p)
		r.received += uint64(n)
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func uint24(b []byte) uint32 {
	return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2])
}

// bePrefix reports whether b begins the big-endian form of v.
func bePrefix(b []byte, v uint32) bool {
	for i, c := range b {
		if c != byte(v>>(24-8*i)) {
			return false
		}
	}
	return true
}
