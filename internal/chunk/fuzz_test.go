package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// fuzzLimits are small, so that a short input can reach them.
var fuzzLimits = Limits{Media: 1 << 20, Command: 4096, Partial: 64 << 10, Streams: 8, TinySize: 512}

// FuzzReader holds a stream of any bytes against what must be true of it:
// the same messages and the same error however it is split and whether it is
// framed or not, no byte of payload that was not received, memory in
// proportion.
func FuzzReader(f *testing.F) {
	for i, tt := range readTable {
		f.Add(wire(tt.wire), uint64(i))
	}
	for _, tt := range writeTable {
		f.Add(wire(tt.want), uint64(1))
	}
	f.Add(hostile(rand.New(rand.NewPCG(1, 2)))[:20000], uint64(1))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		want, wantErr := readAll(t, bytes.NewReader(stream), fuzzLimits, nil)
		require.Error(t, wantErr)
		total := 0
		for _, m := range want {
			total += m.Length
		}
		require.LessOrEqual(t, total, len(stream))

		rnd := rand.New(rand.NewPCG(seed, seed))
		framer := &Framer{Size: 1 + rnd.IntN(300), Offset: uint32(seed)}
		got, err := readAll(t, &splitReader{stream, rnd}, fuzzLimits, framer)
		require.Equal(t, wantErr.Error(), err.Error())
		require.Len(t, got, len(want))
		for i, m := range got {
			require.Equal(t, want[i].Header, m.Header)
			require.True(t, bytes.Equal(want[i].Payload, payloadOf(m)))
		}
		if !errors.Is(err, ErrLimit) && !errors.Is(err, ErrProtocol) && err != io.EOF {
			require.Equal(t, io.ErrUnexpectedEOF, err)
		}

		framed := 0
		n := allocated(func() { framed, _ = consume(bytes.NewReader(stream), fuzzLimits, &Framer{Size: 60000}) })
		require.LessOrEqual(t, n, allowed(len(stream), framed))
	})
}

// FuzzRoundTrip writes messages by each of our ways and, interleaved and in
// all header forms, by the reference writer, and reads them back.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte{}, uint64(0), uint32(128), uint32(60000), uint32(0))
	for i, size := range []uint32{1, 2, 127, 128, 129, 4096, 60000} {
		f.Add(pattern(300*i), uint64(i), size, uint32(128), uint32(0xfffff0+i))
	}
	f.Fuzz(func(t *testing.T, script []byte, seed uint64, size, size2, offset uint32) {
		size, size2 = 1+size%70000, 1+size2%70000
		lim := limits
		lim.TinySize = 1 << 30
		msgs := messages(script)
		rnd := rand.New(rand.NewPCG(seed, seed))
		l := Layout{StreamID: uint32(seed), Offset: offset, Size: int(size2)}
		framer := &Framer{Size: int(size)}

		appended := AppendControl(nil, TypeSetChunkSize, size)
		framed := bytes.Clone(appended)
		relaid := AppendControl(nil, TypeSetChunkSize, size2)
		var iov [][]byte
		var scratch []byte
		for _, m := range msgs {
			require.True(t, bytes.Equal(reference(m.Header, m.Payload, int(size)), Append(nil, m.Header, m.Payload, int(size))))
			appended = Append(appended, m.Header, m.Payload, int(size))
			fr := framer.Frame(m.Header, m.Payload)
			framed = append(framed, fr.Bytes()...)
			require.Equal(t, fr.Bytes(), NewFrame(m.Header, m.Payload, int(size)).Bytes())
			iov, scratch = l.AppendTo(iov, scratch, fr)
		}
		relaid = append(relaid, bytes.Join(iov, nil)...)

		for _, way := range []struct {
			name   string
			stream []byte
			change func(*Header)
		}{
			{"Append", appended, func(*Header) {}},
			{"Frame", framed, func(h *Header) { h.StreamID = MediaStreamID }},
			{"Layout", relaid, func(h *Header) { h.StreamID, h.Time = l.StreamID, h.Time+offset }},
		} {
			got, err := readAll(t, &splitReader{way.stream, rnd}, lim, nil)
			require.Equal(t, io.EOF, err, way.name)
			require.Len(t, got, len(msgs)+1, way.name)
			for i, m := range msgs {
				way.change(&m.Header)
				require.Equal(t, m.Header, got[i+1].Header, way.name)
				require.True(t, bytes.Equal(m.Payload, got[i+1].Payload), way.name)
			}
		}

		stream, want := interleave(rnd, msgs, int(size))
		got, err := readAll(t, &splitReader{stream, rnd}, lim, framer)
		require.Equal(t, io.EOF, err)
		require.Len(t, got, len(want))
		for i, m := range want {
			require.Equal(t, m.Header, got[i].Header)
			require.True(t, bytes.Equal(m.Payload, payloadOf(got[i])))
		}
	})
}

// messages makes messages of bytes: 8 for each.
func messages(script []byte) []Message {
	types := []uint8{TypeAudio, TypeVideo, TypeData, TypeCommand, TypeAudio, TypeVideo, TypeAggregate, 99}
	var msgs []Message
	total := 0
	for ; len(script) >= 8 && len(msgs) < 64; script = script[8:] {
		n := int(binary.BigEndian.Uint16(script[5:])) >> (script[7] & 7)
		if total += n; total > 20000 {
			break
		}
		msgs = append(msgs, Message{
			Header:  Header{Time: binary.BigEndian.Uint32(script), Length: n, Type: types[script[4]%8], StreamID: uint32(script[4] >> 3)},
			Payload: pattern(n),
		})
	}
	return msgs
}

// interleave writes messages as a peer may: on several chunk streams at once,
// with the shortest or a longer header. It returns them in the order in which
// they end.
func interleave(rnd *rand.Rand, msgs []Message, size int) (stream []byte, ended []Message) {
	type state struct {
		h      Header
		delta  uint32
		seen   bool
		m      Message
		chunks [][]byte
	}
	ids := []uint32{2, 3, 63, 64, 319, 320, 577, 65599}
	states := make([]state, len(ids))
	stream = AppendControl(nil, TypeSetChunkSize, uint32(size))
	ended = append(ended, Message{Header: Header{Length: 4, Type: TypeSetChunkSize}, Payload: binary.BigEndian.AppendUint32(nil, uint32(size))})
	// Chunk stream 2 has carried SetChunkSize.
	states[0] = state{h: ended[0].Header, seen: true}
	for busy := 0; len(msgs) > 0 || busy > 0; {
		i := rnd.IntN(len(ids))
		s := &states[i]
		if len(s.chunks) == 0 {
			if len(msgs) == 0 {
				continue
			}
			s.m, msgs = msgs[0], msgs[1:]
			delta := s.m.Time - s.h.Time
			formats := []byte{0}
			if s.seen && s.h.StreamID == s.m.StreamID {
				formats = append(formats, 1)
				if s.h.Length == s.m.Length && s.h.Type == s.m.Type {
					formats = append(formats, 2)
					if s.delta == delta {
						formats = append(formats, 3)
					}
				}
			}
			r := refHeader{format: formats[rnd.IntN(len(formats))], csid: ids[i], form: rnd.IntN(4), field: delta}
			if r.format == 0 {
				r.field = s.m.Time
			}
			// Not repeating is told from repeating by the payload alone.
			r.repeat = rnd.IntN(2) == 0 || unclear(s.m, r.field, size)
			s.h, s.delta, s.seen = s.m.Header, r.field, true
			s.chunks = referenceChunks(r, s.m.Header, s.m.Payload, size)
			busy++
		}
		stream = append(stream, s.chunks[0]...)
		if s.chunks = s.chunks[1:]; len(s.chunks) == 0 {
			ended = append(ended, s.m)
			busy--
		}
	}
	return stream, ended
}

// unclear reports whether a chunk's payload, with what may follow it, could be
// taken for a repeated timestamp.
func unclear(m Message, field uint32, size int) bool {
	for at := size; at < len(m.Payload); at += size {
		p := m.Payload[at:min(at+4, at+size, len(m.Payload))]
		if bePrefix(p, field) || bePrefix(p, m.Time) {
			return true
		}
	}
	return false
}
