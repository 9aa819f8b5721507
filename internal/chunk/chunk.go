// Package chunk implements RTMP's chunk stream (RTMP 1.0, 5.3): a Reader assembles
// messages, and a Framer lays them out for sending. The package knows no commands and
// no policy.
package chunk

import (
	"encoding/binary"
	"math"
)

// Message types (RTMP 1.0, 5.4 and 7.1).
const (
	TypeSetChunkSize     = 1
	TypeAbort            = 2
	TypeAck              = 3
	TypeUserControl      = 4
	TypeWindowAckSize    = 5
	TypeSetPeerBandwidth = 6
	TypeAudio            = 8
	TypeVideo            = 9
	TypeDataAMF3         = 15
	TypeSharedObjectAMF3 = 16
	TypeCommandAMF3      = 17
	TypeData             = 18
	TypeSharedObject     = 19
	TypeCommand          = 20
	TypeAggregate        = 22
)

// Chunk stream ids that we send on. All are below 32: nginx-rtmp closes the connection
// on a higher one.
const (
	StreamControl = 2
	StreamCommand = 3
	StreamAudio   = 4
	StreamData    = 5
	StreamVideo   = 6
)

const (
	// DefaultSize is the chunk size of each direction until SetChunkSize.
	DefaultSize = 128
	// MaxMessage is the greatest length of a message that the format can express.
	MaxMessage = 1<<24 - 1
	// maxTime24 in a timestamp field means that an extended timestamp follows
	// (RTMP 1.0, 5.3.1.3).
	maxTime24 = 1<<24 - 1
	// maxHeader is the length of the longest header that we write: basic header,
	// type 0 message header, extended timestamp.
	maxHeader = 1 + 11 + 4
	// MediaStreamID is the message stream id of shared frames, because nearly
	// every peer answers the first createStream with 1.
	MediaStreamID = 1
)

// Header is a message's header, with the chunk types resolved.
type Header struct {
	Time     uint32 // milliseconds, modulo 2^32
	Length   int    // bytes of payload
	Type     uint8
	StreamID uint32 // message stream id
}

// StreamFor returns the chunk stream on which we send messages of a type.
func StreamFor(typ uint8) uint8 {
	switch typ {
	case TypeAudio:
		return StreamAudio
	case TypeVideo:
		return StreamVideo
	case TypeData, TypeDataAMF3:
		return StreamData
	case TypeCommand, TypeCommandAMF3:
		return StreamCommand
	}
	return StreamControl
}

// Append appends a whole message to b, split into chunks of size bytes, on the
// chunk stream that StreamFor returns. h.Length is ignored.
func Append(b []byte, h Header, payload []byte, size int) []byte {
	h.Length = len(payload)
	b = appendHeader(b, h)
	for len(payload) > size {
		b = append(b, payload[:size]...)
		b = appendContinuation(b, h)
		payload = payload[size:]
	}
	return append(b, payload...)
}

// appendHeader appends a type 0 chunk header.
func appendHeader(b []byte, h Header) []byte {
	t := min(h.Time, maxTime24)
	b = append(b, StreamFor(h.Type),
		byte(t>>16), byte(t>>8), byte(t),
		byte(h.Length>>16), byte(h.Length>>8), byte(h.Length), h.Type)
	b = binary.LittleEndian.AppendUint32(b, h.StreamID)
	if t == maxTime24 {
		b = binary.BigEndian.AppendUint32(b, h.Time)
	}
	return b
}

// appendContinuation appends the header of a message's further chunks: type 3, with
// the extended timestamp repeated as the specification requires.
func appendContinuation(b []byte, h Header) []byte {
	b = append(b, 3<<6|StreamFor(h.Type))
	if h.Time >= maxTime24 {
		b = binary.BigEndian.AppendUint32(b, h.Time)
	}
	return b
}

func headerLen(time uint32) int {
	if time >= maxTime24 {
		return maxHeader
	}
	return maxHeader - 4
}

func continuationLen(time uint32) int {
	if time >= maxTime24 {
		return 5
	}
	return 1
}

// AppendControl appends a protocol control message of one 32-bit value
// (RTMP 1.0, 5.4): SetChunkSize, Abort, Ack or WindowAckSize.
func AppendControl(b []byte, typ uint8, v uint32) []byte {
	var p [4]byte
	binary.BigEndian.PutUint32(p[:], v)
	return Append(b, Header{Type: typ}, p[:], math.MaxInt)
}
