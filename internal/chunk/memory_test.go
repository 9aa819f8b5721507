package chunk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// allocated is how many bytes f allocates.
func allocated(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// allowed is the bound on what reading may allocate in all: it follows what has
// arrived, never what was announced. A framed message has its Frame and its
// header in any case; an empty one is a single byte on the wire.
func allowed(input, framed int) int { return 8*input + 64<<10 + framed*frameCost }

// consume reads src to its end and returns the number of framed messages.
func consume(src io.Reader, lim Limits, framer *Framer) (framed int, err error) {
	r := NewReader(src, 4096, lim)
	if framer != nil {
		r.Framer = func(uint32) *Framer { return framer }
	}
	for {
		m, err := r.Next()
		if err != nil {
			return framed, err
		}
		if m.Frame != nil {
			framed++
		}
	}
}

func TestReader_Memory(t *testing.T) {
	abort := wire("02 000000 000004 02 00000000 00000006")
	tiny := wire("02 000000 000004 01 00000000 00000001")
	honest := Append(nil, Header{Type: TypeVideo, StreamID: 1}, make([]byte, 1<<20), DefaultSize)
	repeat := func(b []byte, n int) []byte { return bytes.Repeat(b, n) }
	join := func(p ...[]byte) []byte { return bytes.Join(p, nil) }
	var grid []byte
	for i := range byte(30) {
		grid = append(grid, join([]byte{2 + i}, wire("000000 7fffff 09 01000000 aa*128"))...)
	}
	for _, tt := range []struct {
		name string
		wire []byte
	}{
		{"nothing", nil},
		{"8 MiB announced", wire("06 000000 800000 09 01000000 aa*128")},
		{"8 MiB announced on 30 chunk streams", grid},
		{"an honest message", honest},
		{"an honest message, and 4 MiB announced", join(honest, wire("06 000000 400000 09 01000000 aa*128"))},
		{"an honest message, and the same announced and aborted again and again",
			join(honest, repeat(join(wire("06 000000 100000 09 01000000 aa*128"), abort), 1000))},
		{"messages announced and aborted at once, chunks of one byte",
			join(tiny, wire("02 000000 000004 02 00000000 00 c2 00 c2 00 c2 06 06 000000 0fffff 09 01000000 aa"),
				repeat(wire("c2 00 c2 00 c2 00 c2 06 c6 aa"), 5000))},
		{"data announced and aborted",
			repeat(join(wire("06 000000 03ffff 12 01000000 aa*128"), abort), 2000)},
		{"empty messages", join(wire("04 000000 000000 08 01000000"), repeat([]byte{0xc4}, 20000))},
		{"messages of one byte", join(wire("04 000000 000001 08 01000000 aa"), repeat([]byte{0xc4, 0xaa}, 20000))},
		{"commands of one byte", join(wire("03 000000 000001 14 00000000 aa"), repeat([]byte{0xc3, 0xaa}, 20000))},
		{"messages just longer than a slab takes", func() (b []byte) {
			for range 20 {
				b = Append(b, Header{Type: TypeVideo, StreamID: 1}, make([]byte, maxSlab/4+1), DefaultSize)
			}
			return b
		}()},
		{"messages each twice the one before", func() (b []byte) {
			for n := 1; n <= 4<<20; n *= 2 {
				b = Append(b, Header{Type: TypeVideo, StreamID: 1}, make([]byte, n), DefaultSize)
			}
			return b
		}()},
		{"messages each four times all before", func() (b []byte) {
			for len(b) < 1<<20 {
				b = Append(b, Header{Type: TypeVideo, StreamID: 1}, make([]byte, 4*len(b)+4096), DefaultSize)
			}
			return b
		}()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, framer := range []*Framer{nil, {Size: 60000}} {
				var framed int
				n := allocated(func() { framed, _ = consume(bytes.NewReader(tt.wire), limits, framer) })
				t.Logf("%d bytes in, %d allocated, %.2f", len(tt.wire), n, float64(n)/float64(len(tt.wire)))
				require.LessOrEqual(t, n, allowed(len(tt.wire), framed))
			}
		})
	}
}

// Random hostile streams: headers that announce much, aborts, small chunks.
func TestReader_MemoryRandom(t *testing.T) {
	for seed := range uint64(20) {
		stream := hostile(rand.New(rand.NewPCG(seed, 0)))
		var framed int
		n := allocated(func() { framed, _ = consume(bytes.NewReader(stream), limits, &Framer{Size: 60000}) })
		require.LessOrEqual(t, n, allowed(len(stream), framed), "seed %d, %d bytes", seed, len(stream))
	}
}

// hostile is a valid stream whose messages are mostly not sent to the end.
func hostile(rnd *rand.Rand) []byte {
	var b []byte
	size := DefaultSize
	if rnd.IntN(3) == 0 {
		size = 4096
		b = AppendControl(b, TypeSetChunkSize, 4096)
	}
	for range 200 + rnd.IntN(2000) {
		n := 1 << rnd.IntN(20)
		n += rnd.IntN(n)
		n = min(n, limits.Media, 2*len(b)+5000+rnd.IntN(100000))
		typ := uint8(TypeAudio + rnd.IntN(2))
		whole := Append(nil, Header{Type: typ, StreamID: 1}, make([]byte, n), size)
		if n > size && rnd.IntN(10) > 0 {
			chunks := 1 + rnd.IntN(1+min(n/size, 20))/2
			if end := 12 + size + (chunks-1)*(1+size); end < len(whole) {
				whole = AppendControl(whole[:end], TypeAbort, uint32(StreamFor(typ)))
			}
		}
		b = append(b, whole...)
		if len(b) > 256<<10 {
			break
		}
	}
	return b
}

// In the steady state a framed message costs its Frame and its share of a
// slab: no buffers, no growing.
func TestReader_AllocsPerMessage(t *testing.T) {
	const messages = 1000
	stream := AppendControl(nil, TypeSetChunkSize, 4096)
	for i := range messages {
		stream = Append(stream, Header{Time: uint32(i), Type: TypeVideo, StreamID: 1}, make([]byte, 3000), 4096)
	}
	src := bytes.NewReader(nil)
	framer := &Framer{Size: 60000}
	allocs := testing.AllocsPerRun(5, func() {
		src.Reset(stream)
		n, err := consume(src, limits, framer)
		require.Equal(t, io.EOF, err)
		require.Equal(t, messages, n)
	})
	require.Less(t, allocs/messages, 1.05)
}

func BenchmarkReader(b *testing.B) {
	for _, bench := range []struct {
		name string
		size int
	}{{"chunks of 4096", 4096}, {"chunks of 60000", 60000}} {
		b.Run(bench.name, func(b *testing.B) {
			// A second of 5 Mbit/s: a keyframe, 29 others, 47 of audio.
			stream := AppendControl(nil, TypeSetChunkSize, uint32(bench.size))
			messages := 1
			add := func(typ uint8, n int) {
				stream = Append(stream, Header{Type: typ, StreamID: 1}, make([]byte, n), bench.size)
				messages++
			}
			add(TypeVideo, 120000)
			for i := range 47 {
				add(TypeAudio, 350)
				if i < 29 {
					add(TypeVideo, 16000)
				}
			}
			src := bytes.NewReader(nil)
			framer := &Framer{Size: 60000}
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for b.Loop() {
				src.Reset(stream)
				r := NewReader(src, 64<<10, limits)
				r.Framer = func(uint32) *Framer { return framer }
				for {
					if _, err := r.Next(); err != nil {
						break
					}
				}
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*messages), "ns/message")
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N*messages), "B/message")
		})
	}
}

// Charge is told the places of unfinished messages in steps of 16 KiB: of those
// that are made at once, of those that grow, and of what is given back.
func TestReader_Charge(t *testing.T) {
	const step = 16 << 10
	video := func(size int) []byte {
		return Append(nil, Header{Type: TypeVideo, StreamID: 1}, make([]byte, size), DefaultSize)
	}
	abort := wire("02 000000 000004 02 00000000 00000006")
	for _, tt := range []struct {
		name     string
		received int // before: what is affordable is made at once
		wire     []byte
		most     int
		left     int // when all has been read
	}{
		{"below a step", 1 << 20, video(step - 1), 0, 0},
		{"a step", 1 << 20, video(step), step, 0},
		{"above a step", 1 << 20, video(step + 1), step, 0},
		{"many", 1 << 20, video(100 * step), 100 * step, 0},
		{"it grows", 0, video(4 * step), 4 * step, 0},
		{"it is not finished", 1 << 20, video(2*step + 100)[:200], 2 * step, 2 * step},
		{"it has not grown yet", 0, video(8 * step)[:128], 0, 0},
		{"it is aborted", 1 << 20, append(video(3 * step)[:12+128], abort...), 3 * step, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lim := Limits{Media: 8 << 20, Command: 256 << 10, Partial: 16 << 20, Streams: 32, TinySize: 64 << 10}
			r := NewReader(bytes.NewReader(tt.wire), 4096, lim)
			r.received = uint64(tt.received)
			r.Framer = func(uint32) *Framer { return &Framer{Size: 60000} }
			charged, most := 0, 0
			r.Charge = func(delta int) error {
				require.Zero(t, delta%step)
				charged += delta
				most = max(most, charged)
				return nil
			}
			for {
				if _, err := r.Next(); err != nil {
					break
				}
			}
			require.Equal(t, tt.most, most)
			require.Equal(t, tt.left, charged)
			r.Release()
			require.Zero(t, charged)
		})
	}
}

var errFull = errors.New("full")

// An error of Charge ends reading, and what was refused is not given back.
func TestReader_ChargeRefuses(t *testing.T) {
	lim := Limits{Media: 8 << 20, Command: 256 << 10, Partial: 16 << 20, Streams: 32, TinySize: 64 << 10}
	r := NewReader(bytes.NewReader(Append(nil, Header{Type: TypeVideo, StreamID: 1}, make([]byte, 200<<10), 4096)), 4096, lim)
	r.size = 4096
	charged := 0
	r.Charge = func(delta int) error {
		if charged+delta > 64<<10 {
			return errFull
		}
		charged += delta
		return nil
	}
	_, err := r.Next()
	require.ErrorIs(t, err, errFull)
	require.Positive(t, charged)
	r.Release()
	require.Zero(t, charged)
}
