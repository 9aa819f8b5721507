package rtmptest

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
)

// FirstChunk starts a message of n bytes on a chunk stream and contains the first part
// of it.
func FirstChunk(csid int, typ uint8, streamID uint32, n int, part []byte) []byte {
	var b []byte
	switch {
	case csid < 64:
		b = []byte{byte(csid)}
	case csid < 320:
		b = []byte{0, byte(csid - 64)}
	default:
		b = binary.LittleEndian.AppendUint16([]byte{1}, uint16(csid-64))
	}
	b = append(b, 0, 0, 0, byte(n>>16), byte(n>>8), byte(n), typ)
	b = binary.LittleEndian.AppendUint32(b, streamID)
	return append(b, part...)
}

// Zeros is a message of n zero bytes in chunks of size bytes.
func Zeros(typ uint8, streamID uint32, n, size int) []byte {
	return chunk.Append(nil, chunk.Header{Type: typ, StreamID: streamID}, make([]byte, n), size)
}

// SetChunkSize announces a chunk size.
func SetChunkSize(n uint32) []byte { return chunk.AppendControl(nil, chunk.TypeSetChunkSize, n) }

// AMF is AMF0.
func AMF(values ...any) []byte {
	var p []byte
	for _, v := range values {
		p = amf.Append(p, v)
	}
	return p
}

// Command is a command on a message stream, in chunks of 128 bytes.
func Command(id uint32, values ...any) []byte { return CommandInChunks(128, id, values...) }

// CommandInChunks is a command on a message stream, in chunks of size bytes.
func CommandInChunks(size int, id uint32, values ...any) []byte {
	return chunk.Append(nil, chunk.Header{Type: chunk.TypeCommand, StreamID: id}, AMF(values...), size)
}

// NestedArrays is a command with depth nested arrays.
func NestedArrays(depth int) []byte {
	b := append(AMF("x", 0), bytes.Repeat([]byte{10, 0, 0, 0, 1}, depth)...)
	return chunk.Append(nil, chunk.Header{Type: chunk.TypeCommand}, append(b, 5), 128)
}

// OnChunkStreams is one message on each of n chunk streams, starting with chunk stream
// from.
func OnChunkStreams(from, n int) (b []byte) {
	for i := range n {
		b = append(b, FirstChunk(from+i, chunk.TypeAck, 0, 4, make([]byte, 4))...)
	}
	return b
}

// Unfinished starts count messages of n bytes and contains only size bytes of each.
func Unfinished(count, n, size int, typ uint8) (b []byte) {
	for i := range count {
		b = append(b, FirstChunk(10+i, typ, 1, n, make([]byte, size))...)
	}
	return b
}

// Aggregate is an aggregate message of n empty audio messages.
func Aggregate(n, size int) []byte {
	one := append([]byte{chunk.TypeAudio, 0, 0, 1}, make([]byte, 7)...)
	one = append(one, 0xaf, 0, 0, 0, 12)
	return chunk.Append(nil, chunk.Header{Type: chunk.TypeAggregate, StreamID: 1}, bytes.Repeat(one, n), size)
}

// NoLimits are limits for reading everything a Server sends.
var NoLimits = chunk.Limits{Media: math.MaxInt32, Command: math.MaxInt32, Partial: math.MaxInt32, Streams: 64, TinySize: math.MaxInt32}
