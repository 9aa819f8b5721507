// Package flv reads and writes the messages of a stream as FLV files, of any codec. A
// Subscription and a Writer record a stream; a Reader and a Publisher publish a file.
// (Flash Video File Format 10.1, annex E; Enhanced RTMP v2.)
package flv

import (
	"io"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/flv"
)

// The errors of a Reader, besides io.ErrUnexpectedEOF for a file that ends inside a
// tag.
var (
	ErrNotFLV      = flv.ErrNotFLV      // the file does not begin like an FLV file
	ErrTagTooLarge = flv.ErrTagTooLarge // also of a Writer, from 16 MiB
	ErrEncrypted   = flv.ErrEncrypted
)

// Writer writes the messages of one stream as a file. It is for one goroutine.
type Writer struct {
	tags  *flv.Writer
	start uint32 // the timestamp of the first frame
	begun bool   // the first frame has been written
}

// NewWriter returns a Writer that writes to w, three small writes for each message: use a
// bufio.Writer for a file.
func NewWriter(w io.Writer) *Writer { return &Writer{tags: flv.NewWriter(w)} }

// Write writes a message. The timestamps of the file begin at 0 with the first coded
// frame. Metadata and sequence headers before it get timestamp 0, and so do later messages
// with an earlier timestamp. After an error of the underlying writer the file is broken.
func (w *Writer) Write(m forward.Message) error {
	if !w.begun && coded(m) {
		w.start, w.begun = m.Timestamp, true
	}
	var at uint32
	if d := m.Timestamp - w.start; w.begun && int32(d) >= 0 {
		at = d
	}
	return w.tags.WriteTag(m.Type, at, m.Payload)
}

// coded reports whether a message contains coded media, and is not only a sequence header
// or metadata.
func coded(m forward.Message) bool {
	switch m.Type {
	case forward.TagAudio:
		t := flv.Audio(m.Payload)
		return t.Frames && !t.SequenceHeader
	case forward.TagVideo:
		t := flv.Video(m.Payload)
		return t.Frames && !t.SequenceHeader
	}
	return false
}

// Reader reads the messages of a file. It is for one goroutine.
type Reader struct{ tags *flv.Reader }

// NewReader returns a Reader that reads r in small pieces: use a bufio.Reader for a file.
// A tag of more than 8 MiB is an error.
func NewReader(r io.Reader) *Reader { return &Reader{flv.NewReader(r)} }

// Next returns the next message, whose payload belongs to the caller, and io.EOF after
// the last one. Tags other than audio, video and data are skipped. After an error the
// Reader cannot be used.
func (r *Reader) Next() (forward.Message, error) {
	for {
		typ, at, body, err := r.tags.Next()
		if err != nil {
			return forward.Message{}, err
		}
		switch typ {
		case forward.TagAudio, forward.TagVideo, forward.TagData:
			return forward.Message{Type: typ, Timestamp: at, Payload: append([]byte(nil), body...)}, nil
		}
	}
}
