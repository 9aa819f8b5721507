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
	// readStep is the first step, in bytes, by which the buffer grows. So an announced
	// size takes memory only when the bytes arrive.
	readStep = 64 << 10
)

// Reader reads the tags of an FLV file or stream (Flash Video File Format 10.1, annex E). It
// is not safe for concurrent use.
type Reader struct {
	// MaxTagSize is the maximum size of a tag's body, in bytes. 0 means 8 MiB. A negative
	// value means the format's own limit, one byte less than 16 MiB.
	MaxTagSize int

	r       io.Reader
	started bool
	flags   byte
	body    []byte
	scratch [tagHeaderSize]byte
}

// NewReader returns a Reader that reads from r in small pieces. Use a bufio.Reader unless r
// is in memory.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Header returns the flags of the file header, and reads it if necessary. The flags of some
// files are wrong.
func (r *Reader) Header() (audio, video bool, err error) {
	if err := r.start(); err != nil {
		return false, false, err
	}
	return r.flags&4 != 0, r.flags&1 != 0, nil
}

// Next returns the next tag: its type (TypeAudio, TypeVideo, TypeData or another), its
// timestamp in milliseconds, including the extension, and its body, which is valid until the
// next call. The error is io.EOF after the last tag, io.ErrUnexpectedEOF if the file ends
// inside a tag, ErrNotFLV, ErrTagTooLarge, ErrEncrypted, or the error of the underlying
// reader. After an error the Reader can't be used.
func (r *Reader) Next() (typ uint8, timestamp uint32, body []byte, err error) {
	if err := r.start(); err != nil {
		return 0, 0, nil, err
	}
	// The size of the previous tag is ignored, because many writers set it wrongly.
	if err := r.skip(4); err != nil {
		return 0, 0, nil, err
	}
	h := r.scratch[:tagHeaderSize]
	if _, err := io.ReadFull(r.r, h); err != nil {
		return 0, 0, nil, err // io.EOF if there are no more tags
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

// start reads the file header if it has not been read.
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

// skip discards n bytes. It returns io.EOF if there are none at all.
func (r *Reader) skip(n int64) error {
	if n <= tagHeaderSize {
		_, err := io.ReadFull(r.r, r.scratch[:n])
		return err
	}
	_, err := io.CopyN(io.Discard, r.r, n)
	return err
}

// readBody reads size bytes into r.body, which grows as they arrive.
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

// unexpected returns err, or io.ErrUnexpectedEOF for io.EOF.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Writer writes an FLV file or stream (Flash Video File Format 10.1, annex E). It is not safe
// for concurrent use.
type Writer struct {
	w       io.Writer
	started bool
	scratch [tagHeaderSize]byte
}

// NewWriter returns a Writer that writes to w. It writes each tag in three pieces: use a
// bufio.Writer if each write is expensive.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// WriteHeader writes the file header, which announces audio and video. If it is not called,
// the first WriteTag writes a header that announces both.
func (w *Writer) WriteHeader(audio, video bool) error {
	if w.started {
		return errors.New("FLV header written twice")
	}
	w.started = true
	_, err := w.w.Write(AppendHeader(nil, audio, video))
	return err
}

// AppendHeader appends the bytes that WriteHeader writes.
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

// WriteTag writes one tag with its type, timestamp in milliseconds, and body. The error is
// ErrTagTooLarge for a body of 16 MiB or more. WriteTag does not keep body. After an error of
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
