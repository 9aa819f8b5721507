package flv

import (
	"errors"
	"fmt"
	"io"
)

// Errors of Reader.
var (
	ErrNotFLV      = errors.New("not an FLV file")
	ErrTagTooLarge = errors.New("FLV tag too large")
	ErrEncrypted   = errors.New("encrypted FLV tag")
)

const (
	headerSize    = 9
	tagHeaderSize = 11
	maxBody       = 1<<24 - 1
	// readStep is by how much the buffer grows at first: an announced size
	// costs memory only as it arrives.
	readStep = 64 << 10
)

// Reader reads the tags of an FLV file or stream (Flash Video File Format
// 10.1, annex E). It is for one goroutine.
type Reader struct {
	// MaxTagSize bounds a tag's body, in bytes; 0 is 8 MiB, negative is the
	// format's own limit, 16 MiB less one.
	MaxTagSize int

	r       io.Reader
	started bool
	flags   byte
	body    []byte
	scratch [tagHeaderSize]byte
}

// NewReader returns a Reader on r, which it reads in small pieces: give it a
// bufio.Reader unless r is in memory.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Header returns what the file header promises, reading it if need be. Files
// are known to promise wrongly.
func (r *Reader) Header() (audio, video bool, err error) {
	if err := r.start(); err != nil {
		return false, false, err
	}
	return r.flags&4 != 0, r.flags&1 != 0, nil
}

// Next returns the next tag: its type (TypeAudio, TypeVideo, TypeData or another), its
// timestamp in milliseconds, extension included, and its body, which is valid until the
// next call. The error is io.EOF after the last tag, io.ErrUnexpectedEOF if the file is
// cut off inside one, ErrNotFLV, ErrTagTooLarge, ErrEncrypted, or that of the
// underlying reader; after it the Reader cannot be used.
func (r *Reader) Next() (typ uint8, timestamp uint32, body []byte, err error) {
	if err := r.start(); err != nil {
		return 0, 0, nil, err
	}
	// The size of the tag before: nothing relies on it, and many write it wrong.
	if err := r.skip(4); err != nil {
		return 0, 0, nil, err
	}
	h := r.scratch[:tagHeaderSize]
	if _, err := io.ReadFull(r.r, h); err != nil {
		return 0, 0, nil, err // io.EOF if there is no more tag
	}
	if h[0]&0x20 != 0 {
		return 0, 0, nil, ErrEncrypted
	}
	typ = h[0] & 0x1f
	size := int(h[1])<<16 | int(h[2])<<8 | int(h[3])
	timestamp = uint32(h[7])<<24 | uint32(h[4])<<16 | uint32(h[5])<<8 | uint32(h[6])
	if size > r.maxTagSize() {
		return 0, 0, nil, fmt.Errorf("%w: %d bytes", ErrTagTooLarge, size)
	}
	if err := r.readBody(size); err != nil {
		return 0, 0, nil, fmt.Errorf("tag of %d bytes: %w", size, err)
	}
	return typ, timestamp, r.body, nil
}

func (r *Reader) maxTagSize() int {
	switch {
	case r.MaxTagSize == 0:
		return 8 << 20
	case r.MaxTagSize < 0:
		return maxBody
	}
	return r.MaxTagSize
}

// start reads the file header once.
func (r *Reader) start() error {
	if r.started {
		return nil
	}
	h := r.scratch[:headerSize]
	if _, err := io.ReadFull(r.r, h); err != nil {
		return fmt.Errorf("FLV header: %w", unexpected(err))
	}
	offset := uint32(h[5])<<24 | uint32(h[6])<<16 | uint32(h[7])<<8 | uint32(h[8])
	if string(h[:3]) != "FLV" || offset < headerSize {
		return ErrNotFLV
	}
	r.flags = h[4]
	if err := r.skip(int64(offset) - headerSize); err != nil {
		return fmt.Errorf("FLV header: %w", unexpected(err))
	}
	r.started = true
	return nil
}

// skip discards n bytes. It returns io.EOF if there is none of them.
func (r *Reader) skip(n int64) error {
	if n <= tagHeaderSize {
		_, err := io.ReadFull(r.r, r.scratch[:n])
		return err
	}
	_, err := io.CopyN(io.Discard, r.r, n)
	return err
}

// readBody fills r.body with size bytes, growing it as they arrive.
func (r *Reader) readBody(size int) error {
	r.body = r.body[:0]
	for len(r.body) < size {
		n := min(size-len(r.body), max(cap(r.body)-len(r.body), len(r.body), readStep))
		at := len(r.body)
		if at+n > cap(r.body) {
			r.body = append(make([]byte, 0, at+n), r.body...)
		}
		r.body = r.body[:at+n]
		if _, err := io.ReadFull(r.r, r.body[at:]); err != nil {
			return unexpected(err)
		}
	}
	return nil
}

// unexpected is for an end where something must follow.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Writer writes an FLV file or stream (Flash Video File Format 10.1, annex E).
// It is for one goroutine.
type Writer struct {
	w       io.Writer
	started bool
	scratch [tagHeaderSize]byte
}

// NewWriter returns a Writer on w, to which it writes each tag in three pieces:
// give it a bufio.Writer where that costs.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// WriteHeader writes the file header, which says whether audio and video are
// to be expected. Without it the first WriteTag writes one that promises both.
func (w *Writer) WriteHeader(audio, video bool) error {
	if w.started {
		return errors.New("FLV header written twice")
	}
	w.started = true
	_, err := w.w.Write(AppendHeader(nil, audio, video))
	return err
}

// AppendHeader appends what WriteHeader writes.
func AppendHeader(b []byte, audio, video bool) []byte {
	h := [headerSize + 4]byte{'F', 'L', 'V', 1, 0, 0, 0, 0, headerSize}
	if audio {
		h[4] |= 4
	}
	if video {
		h[4] |= 1
	}
	return append(b, h[:]...)
}

// WriteTag writes one tag: type, timestamp in milliseconds, and a body of less
// than 16 MiB, else ErrTagTooLarge. It does not keep body. After an error of
// the underlying writer the file is broken.
func (w *Writer) WriteTag(typ uint8, timestamp uint32, body []byte) error {
	if len(body) > maxBody {
		return fmt.Errorf("%w: %d bytes", ErrTagTooLarge, len(body))
	}
	if !w.started {
		if err := w.WriteHeader(true, true); err != nil {
			return err
		}
	}
	n := len(body)
	w.scratch = [tagHeaderSize]byte{
		typ, byte(n >> 16), byte(n >> 8), byte(n),
		byte(timestamp >> 16), byte(timestamp >> 8), byte(timestamp), byte(timestamp >> 24),
	}
	if _, err := w.w.Write(w.scratch[:]); err != nil {
		return err
	}
	if _, err := w.w.Write(body); err != nil {
		return err
	}
	n += tagHeaderSize
	w.scratch = [tagHeaderSize]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	_, err := w.w.Write(w.scratch[:4])
	return err
}
