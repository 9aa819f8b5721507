package chunk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// limits are those of an accepted publisher.
var limits = Limits{Media: 8 << 20, Command: 256 << 10, Partial: 16 << 20, Streams: 32, TinySize: 64 << 10}

// wire turns "02 000000 aa*128" into bytes.
func wire(s string) []byte {
	var b []byte
	for token := range strings.FieldsSeq(s) {
		digits, times, repeated := strings.Cut(token, "*")
		p, err := hex.DecodeString(digits)
		if err != nil {
			panic(err)
		}
		n := 1
		if repeated {
			if n, err = strconv.Atoi(times); err != nil {
				panic(err)
			}
		}
		b = append(b, bytes.Repeat(p, n)...)
	}
	return b
}

// msg is a message as a test states it.
type msg struct {
	time    uint32
	typ     uint8
	stream  uint32
	payload string // in the form of wire
}

// readAll reads until the error. With a framer, audio and video go into its
// frames, whose bytes must be those of the reference writer.
func readAll(t testing.TB, src io.Reader, lim Limits, framer *Framer) ([]Message, error) {
	r := NewReader(src, 64, lim)
	if framer != nil {
		r.Framer = func(uint32) *Framer { return framer }
	}
	var got []Message
	for {
		m, err := r.Next()
		if err != nil {
			return got, err
		}
		require.Equal(t, m.Length, len(payloadOf(m)))
		if framer != nil && (m.Type == TypeAudio || m.Type == TypeVideo) {
			require.NotNil(t, m.Frame)
			require.Nil(t, m.Payload)
			h := m.Header
			h.StreamID, h.Time = MediaStreamID, h.Time+framer.Offset
			require.Equal(t, h, m.Frame.Header)
			require.True(t, bytes.Equal(reference(h, m.Frame.Payload(), framer.Size), m.Frame.Bytes()))
		} else {
			require.Nil(t, m.Frame)
		}
		got = append(got, m)
	}
}

func payloadOf(m Message) []byte {
	if m.Frame != nil {
		return m.Frame.Payload()
	}
	return m.Payload
}

// reference lays a message out as Append should, by other means: chunk by
// chunk, each from the specification's drawing (RTMP 1.0, 5.3.1).
func reference(h Header, payload []byte, size int) []byte {
	csid := map[uint8]byte{8: 4, 9: 6, 18: 5, 15: 5, 20: 3, 17: 3}[h.Type]
	if csid == 0 {
		csid = 2
	}
	return bytes.Join(referenceChunks(refHeader{format: 0, csid: uint32(csid), field: h.Time, repeat: true}, h, payload, size), nil)
}

// refHeader says how referenceChunks writes a message.
type refHeader struct {
	format byte
	csid   uint32
	form   int // least bytes of the basic header, from chunk stream 64 on
	field  uint32
	repeat bool // the extended timestamp in continuations
}

func referenceChunks(r refHeader, h Header, payload []byte, size int) [][]byte {
	var chunks [][]byte
	for at := 0; at == 0 || at < len(payload); at += size {
		var b bytes.Buffer
		format := r.format
		if at > 0 {
			format = 3
		}
		switch {
		case r.csid < 64:
			b.WriteByte(format<<6 + byte(r.csid))
		case r.csid < 320 && r.form <= 2:
			b.Write([]byte{format << 6, byte(r.csid - 64)})
		default:
			b.Write([]byte{format<<6 + 1, byte((r.csid - 64) % 256), byte((r.csid - 64) / 256)})
		}
		if format < 3 {
			if r.field >= 0xffffff {
				b.Write([]byte{0xff, 0xff, 0xff})
			} else {
				b.Write([]byte{byte(r.field / 65536), byte(r.field / 256), byte(r.field)})
			}
		}
		if format < 2 {
			b.Write([]byte{byte(len(payload) / 65536), byte(len(payload) / 256), byte(len(payload)), h.Type})
		}
		if format < 1 {
			b.Write([]byte{byte(h.StreamID), byte(h.StreamID >> 8), byte(h.StreamID >> 16), byte(h.StreamID >> 24)})
		}
		if r.field >= 0xffffff && (at == 0 || r.repeat) {
			b.Write([]byte{byte(r.field >> 24), byte(r.field >> 16), byte(r.field >> 8), byte(r.field)})
		}
		b.Write(payload[at:min(at+size, len(payload))])
		chunks = append(chunks, b.Bytes())
	}
	return chunks
}

// readTable is PROTOCOL's chunk layer, requirement by requirement. The streams
// are also FuzzReader's seeds.
var readTable = []struct {
	name string
	wire string
	want []msg
	err  error // nil: io.EOF
}{
	{"C1 chunk stream 2, the lowest", "02 000000 000001 08 00000000 aa", []msg{{0, 8, 0, "aa"}}, nil},
	{"C1 chunk stream 63, the last of one byte", "3f 000001 000001 09 01000000 aa", []msg{{1, 9, 1, "aa"}}, nil},
	{"C1 chunk stream 64, two bytes", "00 00 000001 000001 09 01000000 aa", []msg{{1, 9, 1, "aa"}}, nil},
	{"C1 chunk stream 319, two bytes", "00 ff 000001 000001 09 01000000 aa", []msg{{1, 9, 1, "aa"}}, nil},
	{"C1 chunk stream 65599, three bytes", "01 ffff 000001 000001 09 01000000 aa", []msg{{1, 9, 1, "aa"}}, nil},
	{"C1 two and three bytes name the same chunk stream",
		"01 0500 000001 000081 09 01000000 aa*128 c0 05 bb",
		[]msg{{1, 9, 1, "aa*128 bb"}}, nil},
	{"C1 three bytes are little-endian",
		"01 0102 000001 000081 09 01000000 aa*128 c1 0102 bb",
		[]msg{{1, 9, 1, "aa*128 bb"}}, nil},
	{"C1 and not big-endian",
		"01 0102 000001 000081 09 01000000 aa*128 c1 0201 bb", nil, ErrProtocol},
	{"C1 three bytes, chunk stream 319",
		"00 ff 000001 000081 09 01000000 aa*128 c1 ff00 bb",
		[]msg{{1, 9, 1, "aa*128 bb"}}, nil},

	{"C2 types 0 to 3",
		"06 0003e8 000003 09 01000000 270100 46 000014 000002 08 af01 86 000015 af02 c6 af03",
		[]msg{{1000, 9, 1, "270100"}, {1020, 8, 1, "af01"}, {1041, 8, 1, "af02"}, {1062, 8, 1, "af03"}}, nil},
	{"C2 type 3 goes on with a message",
		"06 000000 000101 09 01000000 aa*128 c6 bb*128 c6 cc",
		[]msg{{0, 9, 1, "aa*128 bb*128 cc"}}, nil},
	{"C2 a message of exactly one chunk has no other",
		"06 000005 000080 09 01000000 aa*128 c6 bb*128",
		[]msg{{5, 9, 1, "aa*128"}, {10, 9, 1, "bb*128"}}, nil},
	{"C2 type 3 begins a message after type 1",
		"06 000064 000001 09 01000000 aa 46 000014 000001 09 bb c6 cc c6 dd",
		[]msg{{100, 9, 1, "aa"}, {120, 9, 1, "bb"}, {140, 9, 1, "cc"}, {160, 9, 1, "dd"}}, nil},
	{"C2 type 3 begins a message after type 2",
		"06 000064 000001 09 01000000 aa 86 00000a bb c6 cc",
		[]msg{{100, 9, 1, "aa"}, {110, 9, 1, "bb"}, {120, 9, 1, "cc"}}, nil},
	{"C2 a continuation does not add the delta",
		"06 000064 000001 09 01000000 aa 46 000014 000081 09 bb*128 c6 bb 86 000001 cc*128 c6 cc",
		[]msg{{100, 9, 1, "aa"}, {120, 9, 1, "bb*129"}, {121, 9, 1, "cc*129"}}, nil},

	{"C3 type 3 begins a message after type 0: its time is the delta",
		"06 0003e8 000001 09 01000000 aa c6 bb c6 cc",
		[]msg{{1000, 9, 1, "aa"}, {2000, 9, 1, "bb"}, {3000, 9, 1, "cc"}}, nil},

	{"C4 type 1 first, as in librtmp's pings",
		"42 000007 000006 04 0006 00000001", []msg{{7, 4, 0, "0006 00000001"}}, nil},
	{"C4 type 2 first", "84 000007 aa", nil, ErrProtocol},
	{"C4 type 3 first", "c4 aa", nil, ErrProtocol},
	{"C4 type 3 first, behind another chunk stream",
		"06 000000 000001 09 01000000 aa c4 aa", []msg{{0, 9, 1, "aa"}}, ErrProtocol},

	{"C5 0xFFFFFE is not extended",
		"06 fffffe 000001 09 01000000 aa", []msg{{0xfffffe, 9, 1, "aa"}}, nil},
	{"C5 0xFFFFFF is",
		"06 ffffff 000001 09 01000000 00ffffff aa", []msg{{0xffffff, 9, 1, "aa"}}, nil},
	{"C5 2^24", "06 ffffff 000001 09 01000000 01000000 aa", []msg{{1 << 24, 9, 1, "aa"}}, nil},
	{"C5 2^32-1", "06 ffffff 000001 09 01000000 ffffffff aa", []msg{{0xffffffff, 9, 1, "aa"}}, nil},
	{"C5 extended without need", "06 ffffff 000001 09 01000000 00000005 aa", []msg{{5, 9, 1, "aa"}}, nil},
	{"C5 delta of 0xFFFFFF",
		"06 000001 000001 09 01000000 aa 86 ffffff 00ffffff bb",
		[]msg{{1, 9, 1, "aa"}, {1 << 24, 9, 1, "bb"}}, nil},
	{"C5 in type 1 behind length and type",
		"06 000001 000001 09 01000000 aa 46 ffffff 000002 08 01000000 bbcc",
		[]msg{{1, 9, 1, "aa"}, {1<<24 + 1, 8, 1, "bbcc"}}, nil},
	{"C5 in a type 3 that begins a message",
		"06 000001 000001 09 01000000 aa 86 ffffff 01000000 bb c6 01000000 cc",
		[]msg{{1, 9, 1, "aa"}, {1<<24 + 1, 9, 1, "bb"}, {2<<24 + 1, 9, 1, "cc"}}, nil},
	{"C5 a later header without ends it",
		"06 ffffff 000001 09 01000000 01000000 aa 86 000001 bb c6 cc",
		[]msg{{1 << 24, 9, 1, "aa"}, {1<<24 + 1, 9, 1, "bb"}, {1<<24 + 2, 9, 1, "cc"}}, nil},

	{"C6 repeated",
		"06 ffffff 000101 09 01000000 01020304 aa*128 c6 01020304 bb*128 c6 01020304 cc",
		[]msg{{0x01020304, 9, 1, "aa*128 bb*128 cc"}}, nil},
	{"C6 not repeated",
		"06 ffffff 000101 09 01000000 01020304 aa*128 c6 bb*128 c6 cc",
		[]msg{{0x01020304, 9, 1, "aa*128 bb*128 cc"}}, nil},
	{"C6 not repeated, and the payload looks like it at first",
		"06 ffffff 000084 09 01000000 01020304 aa*128 c6 01020305 86 000001 bb*128 c6 010203bb",
		[]msg{{0x01020304, 9, 1, "aa*128 01020305"}, {0x01020305, 9, 1, "bb*128 010203bb"}}, nil},
	{"C6 not repeated, one byte at the end of the stream",
		"06 ffffff 000081 09 01000000 01020304 aa*128 c6 bb",
		[]msg{{0x01020304, 9, 1, "aa*128 bb"}}, nil},
	{"C6 extended delta, the delta repeated",
		"06 000001 000081 09 01000000 aa*128 c6 aa 86 ffffff 01000000 bb*128 c6 01000000 bb c6 01000000 cc*128 c6 01000000 cc",
		[]msg{{1, 9, 1, "aa*129"}, {1<<24 + 1, 9, 1, "bb*129"}, {2<<24 + 1, 9, 1, "cc*129"}}, nil},
	{"C6 extended delta, the time repeated",
		"06 000001 000081 09 01000000 aa*128 c6 aa 86 ffffff 01000000 bb*128 c6 01000001 bb c6 02000001 cc*128 c6 02000001 cc",
		[]msg{{1, 9, 1, "aa*129"}, {1<<24 + 1, 9, 1, "bb*129"}, {2<<24 + 1, 9, 1, "cc*129"}}, nil},
	{"C6 extended delta, not repeated",
		"06 000001 000081 09 01000000 aa*128 c6 aa 86 ffffff 01000000 bb*128 c6 bb",
		[]msg{{1, 9, 1, "aa*129"}, {1<<24 + 1, 9, 1, "bb*129"}}, nil},

	{"C8 over 2^24", "06 fffff0 000001 09 01000000 aa 86 000020 bb",
		[]msg{{0xfffff0, 9, 1, "aa"}, {0x1000010, 9, 1, "bb"}}, nil},
	{"C8 over 2^31", "06 ffffff 000001 09 01000000 7ffffff0 aa 86 000020 bb",
		[]msg{{0x7ffffff0, 9, 1, "aa"}, {0x80000010, 9, 1, "bb"}}, nil},
	{"C8 over 2^32", "06 ffffff 000001 09 01000000 fffffff0 aa 86 000020 bb",
		[]msg{{0xfffffff0, 9, 1, "aa"}, {0x10, 9, 1, "bb"}}, nil},
	{"C8 five hours at once", "06 000000 000001 09 01000000 aa 86 ffffff 0112a880 bb",
		[]msg{{0, 9, 1, "aa"}, {18_000_000, 9, 1, "bb"}}, nil},
	{"C8 back by a delta", "06 0003e8 000001 09 01000000 aa 86 ffffff fffffff6 bb",
		[]msg{{1000, 9, 1, "aa"}, {990, 9, 1, "bb"}}, nil},
	{"C8 back by type 0", "06 0003e8 000001 09 01000000 aa 06 000001 000001 09 01000000 bb",
		[]msg{{1000, 9, 1, "aa"}, {1, 9, 1, "bb"}}, nil},

	{"C9 audio between the chunks of video",
		"06 000001 000081 09 01000000 aa*128 04 000002 000002 08 01000000 af01 c6 bb",
		[]msg{{2, 8, 1, "af01"}, {1, 9, 1, "aa*128 bb"}}, nil},
	{"C9 three messages at once",
		"06 000001 000101 09 01000000 aa*128 04 000002 000081 08 01000000 11*128 05 000003 000081 12 01000000 22*128 " +
			"c6 aa*128 c5 33 c4 44 c6 55",
		[]msg{{3, 18, 1, "22*128 33"}, {2, 8, 1, "11*128 44"}, {1, 9, 1, "aa*256 55"}}, nil},
	{"C9 a ping between chunks",
		"06 000001 000081 09 01000000 aa*128 02 000000 000006 04 00000000 0006 00000001 c6 bb",
		[]msg{{0, 4, 0, "0006 00000001"}, {1, 9, 1, "aa*128 bb"}}, nil},
	{"C9 the chunk size grows inside a message",
		"06 000001 000200 09 01000000 aa*128 02 000000 000004 01 00000000 00000100 c6 bb*256 c6 cc*128",
		[]msg{{0, 1, 0, "00000100"}, {1, 9, 1, "aa*128 bb*256 cc*128"}}, nil},
	{"C9 the chunk size shrinks inside a message",
		"06 000001 000084 09 01000000 aa*128 02 000000 000004 01 00000000 00000001 c6 b1 c6 b2 c6 b3 c6 b4",
		[]msg{{0, 1, 0, "00000001"}, {1, 9, 1, "aa*128 b1b2b3b4"}}, nil},

	{"C10 chunk size 0", "02 000000 000004 01 00000000 00000000", nil, ErrProtocol},
	{"C10 chunk size 1", "02 000000 000004 01 00000000 00000001 06 000000 000002 09 01000000 aa c6 bb",
		[]msg{{0, 1, 0, "00000001"}, {0, 9, 1, "aabb"}}, nil},
	{"C10 chunk size 2^31", "02 000000 000004 01 00000000 80000000", nil, ErrProtocol},
	{"C10 chunk size 2^32-1", "02 000000 000004 01 00000000 ffffffff", nil, ErrProtocol},
	{"C10 chunk size 2^31-1", "02 000000 000004 01 00000000 7fffffff 06 000000 001000 09 01000000 aa*4096",
		[]msg{{0, 1, 0, "7fffffff"}, {0, 9, 1, "aa*4096"}}, nil},
	{"C10 chunk size 134217728", "02 000000 000004 01 00000000 08000000 06 000000 001000 09 01000000 aa*4096",
		[]msg{{0, 1, 0, "08000000"}, {0, 9, 1, "aa*4096"}}, nil},
	{"C10 short", "02 000000 000003 01 00000000 000100", nil, ErrProtocol},
	{"C10 empty", "02 000000 000000 01 00000000", nil, ErrProtocol},
	{"C10 longer than needed", "02 000000 000005 01 00000000 0000010077 06 000000 000100 09 01000000 aa*256",
		[]msg{{0, 1, 0, "0000010077"}, {0, 9, 1, "aa*256"}}, nil},

	{"C12 abort drops the message of its chunk stream, and no other",
		"06 000001 000081 09 01000000 aa*128 04 000002 000081 08 01000000 11*128 " +
			"02 000000 000004 02 00000000 00000006 06 000003 000001 09 01000000 bb c4 22",
		[]msg{{0, 2, 0, "00000006"}, {3, 9, 1, "bb"}, {2, 8, 1, "11*128 22"}}, nil},
	{"C12 after an abort type 3 begins a message",
		"06 000001 000081 09 01000000 aa*128 02 000000 000004 02 00000000 00000006 c6 bb*128 c6 cc",
		[]msg{{0, 2, 0, "00000006"}, {2, 9, 1, "bb*128 cc"}}, nil},
	{"C12 abort of an unknown chunk stream", "02 000000 000004 02 00000000 00000006 06 000003 000001 09 01000000 bb",
		[]msg{{0, 2, 0, "00000006"}, {3, 9, 1, "bb"}}, nil},
	{"C12 abort of an idle chunk stream",
		"06 000003 000001 09 01000000 aa 02 000000 000004 02 00000000 00000006 c6 bb",
		[]msg{{3, 9, 1, "aa"}, {0, 2, 0, "00000006"}, {6, 9, 1, "bb"}}, nil},
	{"C12 abort of the chunk stream it comes on",
		"02 000000 000004 02 00000000 00000002 c2 00000002",
		[]msg{{0, 2, 0, "00000002"}, {0, 2, 0, "00000002"}}, nil},
	{"C12 short", "02 000000 000002 02 00000000 0006", nil, ErrProtocol},

	{"C13 type 0 inside a message", "06 000001 000081 09 01000000 aa*128 06 000001 000001 09 01000000 aa", nil, ErrProtocol},
	{"C13 type 1 inside a message", "06 000001 000081 09 01000000 aa*128 46 000001 000001 09 aa", nil, ErrProtocol},
	{"C13 type 2 inside a message", "06 000001 000081 09 01000000 aa*128 86 000001 aa", nil, ErrProtocol},

	{"C14-C17 control messages come as they are",
		"02 000000 000004 03 00000000 00001000 02 000000 000004 05 00000000 ffffffff " +
			"02 000000 000005 06 00000000 002625a002 02 000000 000001 04 00000000 00",
		[]msg{{0, 3, 0, "00001000"}, {0, 5, 0, "ffffffff"}, {0, 6, 0, "002625a002"}, {0, 4, 0, "00"}}, nil},

	{"C19 empty messages",
		"04 000001 000000 08 01000000 84 000002 c4 06 000005 000000 09 01000000 05 000006 000000 12 01000000 04 000007 000001 08 01000000 af",
		[]msg{{1, 8, 1, ""}, {3, 8, 1, ""}, {5, 8, 1, ""}, {5, 9, 1, ""}, {6, 18, 1, ""}, {7, 8, 1, "af"}}, nil},
	{"C19 an empty message between chunks",
		"06 000001 000081 09 01000000 aa*128 04 000001 000000 08 01000000 c6 bb",
		[]msg{{1, 8, 1, ""}, {1, 9, 1, "aa*128 bb"}}, nil},
	{"C19 an empty message with extended timestamp",
		"04 ffffff 000000 08 01000000 01000000 c4 01000000",
		[]msg{{1 << 24, 8, 1, ""}, {2 << 24, 8, 1, ""}}, nil},

	{"C20 one chunk stream for everything",
		"04 000000 000003 14 00000000 020000 04 000001 000002 12 01000000 0200 44 000001 000002 08 af00 " +
			"44 000001 000002 09 1700 44 000001 000001 08 af 04 000005 000001 14 00000000 02",
		[]msg{{0, 20, 0, "020000"}, {1, 18, 1, "0200"}, {2, 8, 1, "af00"}, {3, 9, 1, "1700"}, {4, 8, 1, "af"}, {5, 20, 0, "02"}}, nil},

	{"C21 the message stream id is little-endian",
		"06 000000 000001 09 01020304 aa", []msg{{0, 9, 0x04030201, "aa"}}, nil},

	{"C22 unknown types",
		"06 000000 000001 63 01000000 aa 06 000000 000001 00 01000000 aa 06 000000 000001 ff 01000000 aa " +
			"06 000000 000001 10 01000000 aa 06 000000 000001 13 01000000 aa 06 000000 000001 16 01000000 aa",
		[]msg{{0, 99, 1, "aa"}, {0, 0, 1, "aa"}, {0, 255, 1, "aa"}, {0, 16, 1, "aa"}, {0, 19, 1, "aa"}, {0, 22, 1, "aa"}}, nil},

	{"C23 the end between messages", "06 000000 000001 09 01000000 aa", []msg{{0, 9, 1, "aa"}}, nil},
	{"C23 the end inside a header", "06 000000 000001 09 01000000 aa 06 0000", []msg{{0, 9, 1, "aa"}}, io.ErrUnexpectedEOF},
	{"C23 the end inside a basic header", "01 00", nil, io.ErrUnexpectedEOF},
	{"C23 the end inside an extended timestamp", "06 ffffff 000001 09 01000000 0100", nil, io.ErrUnexpectedEOF},
	{"C23 the end inside a payload", "06 000000 000002 09 01000000 aa", nil, io.ErrUnexpectedEOF},
	{"C23 the end between the chunks of a message", "06 000000 000081 09 01000000 aa*128", nil, nil},
	{"C23 an empty stream", "", nil, nil},
}

func TestReader(t *testing.T) {
	for _, tt := range readTable {
		t.Run(tt.name, func(t *testing.T) {
			for _, delivery := range []struct {
				name   string
				source func(io.Reader) io.Reader
			}{
				{"at once", func(r io.Reader) io.Reader { return r }},
				{"byte by byte", iotest.OneByteReader},
				{"in halves", iotest.HalfReader},
				{"error with the last bytes", iotest.DataErrReader},
			} {
				for _, framer := range []*Framer{nil, {Size: 60000}, {Size: 64, Offset: 0xfffff0}} {
					got, err := readAll(t, delivery.source(bytes.NewReader(wire(tt.wire))), limits, framer)
					want := tt.err
					if want == nil {
						want = io.EOF
					}
					require.ErrorIs(t, err, want, delivery.name)
					require.Len(t, got, len(tt.want), delivery.name)
					for i, w := range tt.want {
						p := wire(w.payload)
						require.Equal(t, Header{w.time, len(p), w.typ, w.stream}, got[i].Header, delivery.name)
						require.True(t, bytes.Equal(p, payloadOf(got[i])), "%s: payload of message %d", delivery.name, i)
					}
				}
			}
		})
	}
}

func TestReader_ErrorsAreOfOneKind(t *testing.T) {
	for _, tt := range readTable {
		_, err := readAll(t, bytes.NewReader(wire(tt.wire)), limits, nil)
		require.False(t, errors.Is(err, ErrProtocol) && errors.Is(err, ErrLimit), tt.name)
	}
}

// A disconnect at any byte: the messages before it, and nothing of the one
// that it cuts (C23).
func TestReader_Disconnect(t *testing.T) {
	stream, ends := []byte{}, []int{}
	for i, m := range []struct {
		typ uint8
		n   int
	}{{20, 200}, {9, 300}, {8, 10}, {8, 0}, {9, 129}, {18, 128}} {
		stream = Append(stream, Header{Time: 0xffff00 + uint32(i)*0x100, Type: m.typ, StreamID: 1}, bytes.Repeat([]byte{0xaa}, m.n), DefaultSize)
		ends = append(ends, len(stream))
	}
	for cut := range stream {
		whole := 0
		for whole < len(ends) && ends[whole] <= cut {
			whole++
		}
		got, err := readAll(t, bytes.NewReader(stream[:cut]), limits, &Framer{Size: 60000})
		require.Len(t, got, whole, "cut at %d", cut)
		if err != io.EOF {
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		}
		if whole > 0 && ends[whole-1] == cut || cut == 0 {
			require.Equal(t, io.EOF, err)
		}
	}
}

// A source's own error is passed on.
func TestReader_SourceError(t *testing.T) {
	broken := errors.New("connection reset")
	for cut := range 20 {
		src := io.MultiReader(bytes.NewReader(wire("06 000000 000014 09 01000000 aa*20")[:cut]), iotest.ErrReader(broken))
		_, err := readAll(t, src, limits, nil)
		require.ErrorIs(t, err, broken)
	}
}

// A source that gives neither bytes nor an error for ever must not spin us.
func TestReader_NoProgress(t *testing.T) {
	for _, s := range []string{"", "06 0000", "02 000000 000004 01 00000000 00ffffff 06 000000 00ffff 09 01000000 aa*40000"} {
		_, err := readAll(t, io.MultiReader(bytes.NewReader(wire(s)), stuck{}), limits, nil)
		require.ErrorIs(t, err, io.ErrNoProgress)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestReader_Limits(t *testing.T) {
	const accepted = "accepted"
	header := func(csid byte, typ uint8, n int) []byte {
		return []byte{csid, 0, 0, 0, byte(n >> 16), byte(n >> 8), byte(n), typ, 1, 0, 0, 0}
	}
	many := func(n, size int) (b []byte) {
		for i := range n {
			b = append(b, header(2+byte(i), TypeVideo, size)...)
			b = append(b, make([]byte, min(size, DefaultSize))...)
		}
		return b
	}
	tiny := func(n int) []byte {
		b := wire("02 000000 000004 01 00000000 00000001")
		b = append(b, header(6, TypeVideo, n)...)
		for range n {
			b = append(b, 0xaa, 0xc6)
		}
		return b[:len(b)-1]
	}
	wide := limits
	wide.Media, wide.Command = MaxMessage, MaxMessage
	for _, tt := range []struct {
		name string
		lim  Limits
		wire []byte
		ok   bool
	}{
		{"video below", limits, header(6, TypeVideo, limits.Media-1), true},
		{"video at", limits, header(6, TypeVideo, limits.Media), true},
		{"video above", limits, header(6, TypeVideo, limits.Media+1), false},
		{"audio at", limits, header(4, TypeAudio, limits.Media), true},
		{"audio above", limits, header(4, TypeAudio, limits.Media+1), false},
		{"aggregate at", limits, header(4, TypeAggregate, limits.Media), true},
		{"aggregate above", limits, header(4, TypeAggregate, limits.Media+1), false},
		{"command below", limits, header(3, TypeCommand, limits.Command-1), true},
		{"command at", limits, header(3, TypeCommand, limits.Command), true},
		{"command above", limits, header(3, TypeCommand, limits.Command+1), false},
		{"data above", limits, header(3, TypeData, limits.Command+1), false},
		{"chunk size above", limits, header(2, TypeSetChunkSize, limits.Command+1), false},
		{"unknown type above", limits, header(2, 99, limits.Command+1), false},
		{"16 MiB announced", limits, header(6, TypeVideo, MaxMessage), false},
		{"16 MiB announced and taken", wide, header(6, TypeVideo, MaxMessage), true},
		{"31 chunk streams", limits, many(31, 1), true},
		{"32 chunk streams", limits, many(32, 1), true},
		{"33 chunk streams", limits, many(33, 1), false},
		{"partial below", Limits{Media: 4096, Partial: 1001, Streams: 32}, many(2, 500), true},
		{"partial at", Limits{Media: 4096, Partial: 1000, Streams: 32}, many(2, 500), true},
		{"partial above", Limits{Media: 4096, Partial: 999, Streams: 32}, many(2, 500), false},
		{"tiny chunks below", limits, tiny(limits.TinySize - 1), true},
		{"tiny chunks at", limits, tiny(limits.TinySize), true},
		{"tiny chunks above", limits, tiny(limits.TinySize + 1), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.lim.Command = max(tt.lim.Command, 4)
			_, err := readAll(t, bytes.NewReader(tt.wire), tt.lim, nil)
			if tt.ok {
				require.NotErrorIs(t, err, ErrLimit, accepted)
				require.NotErrorIs(t, err, ErrProtocol, accepted)
			} else {
				require.ErrorIs(t, err, ErrLimit)
			}
		})
	}
}

// What is unfinished counts against Partial only while it is.
func TestReader_PartialIsGivenBack(t *testing.T) {
	abort := wire("02 000000 000004 02 00000000 00000006")
	whole := Append(nil, Header{Type: TypeVideo, StreamID: 1}, make([]byte, 9000), DefaultSize)
	long := Append(nil, Header{Type: TypeVideo, StreamID: 1}, make([]byte, 20000), DefaultSize)
	for _, framer := range []*Framer{nil, {Size: 60000}, {Size: 100}} {
		var stream []byte
		for range 20 {
			stream = append(stream, long...) // the first has to grow
			stream = append(stream, whole...)
			stream = append(stream, whole[:12+128]...)
			stream = append(stream, abort...)
			stream = append(stream, long[:12+128+1+128]...)
			stream = append(stream, abort...)
			stream = append(stream, wire("06 000000 000000 09 01000000")...)
			stream = append(stream, whole...)
			stream = append(stream, abort...) // of an idle chunk stream
		}
		r := NewReader(bytes.NewReader(stream), 4096, Limits{Media: 20000, Command: 4, Partial: 20000 + 4, Streams: 8})
		if framer != nil {
			r.Framer = func(uint32) *Framer { return framer }
		}
		n := 0
		for ; ; n++ {
			if _, err := r.Next(); err != nil {
				require.Equal(t, io.EOF, err)
				break
			}
		}
		require.Equal(t, 140, n)
		require.Zero(t, r.reserved)
	}
}

// Counters and buffer: what is received and not used is known, and stays when
// the buffer is replaced.
func TestReader_Resize(t *testing.T) {
	one := wire("06 000001 000014 09 01000000 aa*20")
	stream := bytes.Repeat(one, 50)
	r := NewReader(bytes.NewReader(stream), 64, limits)
	for i, size := range []int{64, 16, 4096, 32, 1024} {
		m, err := r.Next()
		require.NoError(t, err)
		require.Equal(t, wire("aa*20"), m.Payload)
		require.EqualValues(t, (i+1)*len(one), int(r.Received())-r.Buffered())
		r.Resize(size)
		require.EqualValues(t, (i+1)*len(one), int(r.Received())-r.Buffered())
	}
	n := 5
	for ; ; n++ {
		if _, err := r.Next(); err == io.EOF {
			break
		}
	}
	require.Equal(t, 50, n)
	require.EqualValues(t, len(stream), r.Received())
	require.Zero(t, r.Buffered())
}

var writeTable = []struct {
	name    string
	header  Header
	payload string
	size    int
	want    string
}{
	{"audio", Header{Time: 1, Type: TypeAudio, StreamID: 1}, "af01", 128, "04 000001 000002 08 01000000 af01"},
	{"video", Header{Time: 0x010203, Type: TypeVideo, StreamID: 0x04030201}, "2701", 128, "06 010203 000002 09 01020304 2701"},
	{"data", Header{Type: TypeData, StreamID: 1}, "02", 128, "05 000000 000001 12 01000000 02"},
	{"AMF3 data", Header{Type: TypeDataAMF3, StreamID: 1}, "00", 128, "05 000000 000001 0f 01000000 00"},
	{"command", Header{Type: TypeCommand}, "02", 128, "03 000000 000001 14 00000000 02"},
	{"AMF3 command", Header{Type: TypeCommandAMF3}, "00", 128, "03 000000 000001 11 00000000 00"},
	{"empty", Header{Time: 5, Type: TypeAudio, StreamID: 1}, "", 128, "04 000005 000000 08 01000000"},
	{"one chunk", Header{Type: TypeVideo, StreamID: 1}, "aa*128", 128, "06 000000 000080 09 01000000 aa*128"},
	{"one byte more", Header{Type: TypeVideo, StreamID: 1}, "aa*129", 128, "06 000000 000081 09 01000000 aa*128 c6 aa"},
	{"two chunks", Header{Type: TypeAudio, StreamID: 1}, "aa*256", 128, "04 000000 000100 08 01000000 aa*128 c4 aa*128"},
	{"chunks of one byte", Header{Type: TypeVideo, StreamID: 1}, "aabbcc", 1, "06 000000 000003 09 01000000 aa c6 bb c6 cc"},
	{"C5 0xFFFFFE", Header{Time: 0xfffffe, Type: TypeVideo, StreamID: 1}, "aa*129", 128, "06 fffffe 000081 09 01000000 aa*128 c6 aa"},
	{"C5 0xFFFFFF, C7 repeated", Header{Time: 0xffffff, Type: TypeVideo, StreamID: 1}, "aa*257", 128,
		"06 ffffff 000101 09 01000000 00ffffff aa*128 c6 00ffffff aa*128 c6 00ffffff aa"},
	{"C5 2^32-1", Header{Time: 0xffffffff, Type: TypeVideo, StreamID: 1}, "aa*129", 128,
		"06 ffffff 000081 09 01000000 ffffffff aa*128 c6 ffffffff aa"},
	{"C11 chunk size", Header{Type: TypeSetChunkSize}, "0000ea60", 128, "02 000000 000004 01 00000000 0000ea60"},
}

func TestAppend(t *testing.T) {
	for _, tt := range writeTable {
		t.Run(tt.name, func(t *testing.T) {
			want, p := wire(tt.want), wire(tt.payload)
			require.Equal(t, want, reference(tt.header, p, tt.size))
			tt.header.Length = 77 // ignored
			require.Equal(t, append([]byte("before"), want...), Append([]byte("before"), tt.header, p, tt.size))

			r := NewReader(bytes.NewReader(want), 64, limits)
			r.size = tt.size
			m, err := r.Next()
			require.NoError(t, err)
			tt.header.Length = len(p)
			require.Equal(t, tt.header, m.Header)
			require.True(t, bytes.Equal(p, m.Payload))
		})
	}
}

func TestAppendControl(t *testing.T) {
	require.Equal(t, wire("02 000000 000004 01 00000000 0000ea60"), AppendControl(nil, TypeSetChunkSize, 60000))
	require.Equal(t, wire("aa 02 000000 000004 03 00000000 ffffffff"), AppendControl([]byte{0xaa}, TypeAck, 0xffffffff))
	require.Equal(t, wire("02 000000 000004 05 00000000 002625a0"), AppendControl(nil, TypeWindowAckSize, 2500000))
	require.Equal(t, wire("02 000000 000004 02 00000000 00000006"), AppendControl(nil, TypeAbort, 6))
}

func TestAppendUserControl(t *testing.T) {
	require.Equal(t, wire("02 000000 000006 04 00000000 0000 00000001"), AppendUserControl(nil, 0, 1))
	require.Equal(t, wire("aa 02 000000 000006 04 00000000 0007 01020304"), AppendUserControl([]byte{0xaa}, 7, 0x01020304))
}

// What we write stays below chunk stream 32, in the one-byte form.
func TestStreamFor(t *testing.T) {
	for typ := range 256 {
		id := StreamFor(uint8(typ))
		require.True(t, id >= 2 && id < 32)
	}
	for typ, id := range map[uint8]uint8{
		TypeAudio: StreamAudio, TypeVideo: StreamVideo, TypeData: StreamData, TypeDataAMF3: StreamData,
		TypeCommand: StreamCommand, TypeCommandAMF3: StreamCommand,
		TypeSetChunkSize: StreamControl, TypeUserControl: StreamControl, TypeAck: StreamControl,
	} {
		require.Equal(t, id, StreamFor(typ))
	}
}

// splitReader hands out its bytes in random pieces.
type splitReader struct {
	b   []byte
	rnd *rand.Rand
}

func (r *splitReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := 1 + r.rnd.IntN(300)
	if r.rnd.IntN(8) == 0 {
		n = 1 + r.rnd.IntN(100000)
	}
	n = copy(p, r.b[:min(n, len(r.b))])
	r.b = r.b[n:]
	return n, nil
}
