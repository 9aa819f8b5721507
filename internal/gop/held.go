package gop

import (
	"unsafe"

	"github.com/rtmp-forward/forward/internal/chunk"
)

// The memory of a Log is counted by reference, because its parts are shared: frames share
// slabs, messages share header sets, and sets share headers, whose bytes may be those of a
// frame. Each part counts its users; its size is added with the first user and subtracted
// with the last. All of this is for the goroutine that appends.

// The sizes of the memory for each message, header set and header, without the bytes of
// frames.
const (
	messageSize = int(unsafe.Sizeof(Message{}) + unsafe.Sizeof(chunk.Frame{}))
	setSize     = int(unsafe.Sizeof(HeaderSet{}))
	headerSize  = int(unsafe.Sizeof(header{}) + unsafe.Sizeof((*header)(nil)))
	slotsSize   = int(unsafe.Sizeof(slot{}))
)

// Kept returns how many bytes a frame keeps that is in no Log and shares no slab.
func Kept(f *chunk.Frame) int { return messageSize + f.Len() }

// hold counts a message that is appended to the Log. It returns by how many bytes that
// increases the memory that is kept.
func (m *Message) hold() int { return messageSize + m.Frame.Hold() + m.Set.hold() + m.After.hold() }

// drop undoes hold.
func (m *Message) drop() int { return messageSize + m.Frame.Drop() + m.Set.drop() + m.After.drop() }

func (s *HeaderSet) hold() int {
	if s == nil {
		return 0
	}
	if s.held++; s.held > 1 {
		return 0
	}
	n := setSize
	if s.meta != nil {
		n += s.meta.Hold()
	}
	for _, h := range s.headers {
		if h.held++; h.held == 1 {
			n += headerSize + len(h.slots)*slotsSize + h.frame.Hold()
		}
	}
	return n
}

func (s *HeaderSet) drop() int {
	if s == nil {
		return 0
	}
	if s.held--; s.held > 0 {
		return 0
	}
	n := setSize
	if s.meta != nil {
		n += s.meta.Drop()
	}
	for _, h := range s.headers {
		if h.held--; h.held == 0 {
			n += headerSize + len(h.slots)*slotsSize + h.frame.Drop()
		}
	}
	return n
}
