package chunk

import "encoding/binary"

// tagHeader is the length of the header of an FLV tag.
const tagHeader = 11

// appendTagHeader appends the header of an FLV tag (Flash Video File Format 10.1, E.4.1).
// Message types are tag types.
func appendTagHeader(b []byte, h Header) []byte {
	return append(b, h.Type,
		byte(h.Length>>16), byte(h.Length>>8), byte(h.Length),
		byte(h.Time>>16), byte(h.Time>>8), byte(h.Time), byte(h.Time>>24),
		0, 0, 0) // the id of the stream, always 0
}

// appendTagSize appends what follows an FLV tag: its size.
func appendTagSize(b []byte, h Header) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(tagHeader+h.Length))
}
