package chunk

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	// lengths lie around chunk sizes of 100 and 60000, and around what a slab
	// takes.
	lengths = []int{0, 1, 2, 99, 100, 101, 200, 201, 1000, 59999, 60000, 60001, 65523, 65524, 65525, 120000, 120001, 200000}
	// times lie around the ends of 24, 31 and 32 bits.
	times = []uint32{0, 1000, 0xfffffe, 0xffffff, 0x1000000, 0x7fffffff, 0xffffffff}
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func TestNewFrame(t *testing.T) {
	for _, size := range []int{1, 100, 60000, MaxMessage} {
		for _, n := range lengths {
			if size == 1 && n > 1000 {
				continue
			}
			for _, time := range times {
				h, p := Header{Time: time, Type: TypeVideo, StreamID: 77, Length: 5}, pattern(n)
				f := NewFrame(h, p, size)
				h.Length, h.StreamID = n, MediaStreamID
				require.Equal(t, h, f.Header)
				require.True(t, bytes.Equal(reference(h, p, size), f.Bytes()), "size %d, length %d, time %#x", size, n, time)
				require.Equal(t, cap(f.Bytes()), f.Len())
				checkPayload(t, f, p, size)
				clear(p) // it is a copy
				require.True(t, bytes.Equal(pattern(n), f.Payload()))
			}
		}
	}
}

func checkPayload(t *testing.T, f *Frame, p []byte, size int) {
	require.True(t, bytes.Equal(p, f.Payload()))
	require.True(t, bytes.Equal(p[:min(len(p), size)], f.Head()))
	require.True(t, bytes.Equal(append([]byte("before"), p...), f.AppendPayload([]byte("before"))))
}

func TestFramer(t *testing.T) {
	for _, size := range []int{100, 60000} {
		for _, offset := range []uint32{0, 0xfff000, 0xfffffff0} {
			framer := Framer{Size: size, Offset: offset}
			var frames []*Frame
			var want [][]byte
			for i := range 40 {
				for _, n := range lengths[:8+i%10] {
					h, p := Header{Time: uint32(i * 1000), Type: TypeVideo, StreamID: 9}, pattern(n)
					f := framer.Frame(h, p)
					h.Time, h.Length, h.StreamID = h.Time+offset, n, MediaStreamID
					require.Equal(t, h, f.Header)
					checkPayload(t, f, p, size)
					frames, want = append(frames, f), append(want, reference(h, p, size))
				}
			}
			// Later messages have left the earlier ones alone, and what
			// follows in memory follows on the wire.
			follow := 0
			for i, f := range frames {
				require.True(t, bytes.Equal(want[i], f.Bytes()))
				if i > 0 && f.Follows(frames[i-1]) {
					follow++
					both := frames[i-1].Bytes()
					both = both[:len(both)+f.Len()]
					require.True(t, bytes.Equal(append(bytes.Clone(want[i-1]), want[i]...), both))
				}
				require.False(t, f.Follows(f))
			}
			require.Greater(t, follow, len(frames)/2)
		}
	}
}

func TestFrame_Follows(t *testing.T) {
	framer := Framer{Size: 60000}
	h := Header{Type: TypeAudio}
	a, b, c := framer.Frame(h, pattern(100)), framer.Frame(h, pattern(0)), framer.Frame(h, pattern(100))
	require.True(t, b.Follows(a))
	require.True(t, c.Follows(b))
	require.False(t, c.Follows(a))
	require.False(t, a.Follows(b))

	large := framer.Frame(h, pattern(maxSlab))
	require.False(t, large.Follows(c), "a large message lies by itself")
	require.False(t, framer.Frame(h, nil).Follows(large))

	other := Framer{Size: 60000}
	first := other.Frame(h, pattern(100))
	require.False(t, NewFrame(h, nil, 60000).Follows(NewFrame(h, nil, 60000)))
	require.False(t, a.Follows(first), "of another Framer")

	last, framed := c, 0
	for ; ; framed++ {
		f := framer.Frame(h, pattern(1000))
		if !f.Follows(last) && framed > 0 {
			require.Equal(t, 0, f.off, "only a new slab parts neighbours")
			break
		}
		last = f
	}
	require.Greater(t, framed, 1)
}

// Slabs grow for streams that need it, and shrink again.
func TestFramer_Slabs(t *testing.T) {
	f := Framer{Size: 60000}
	var now uint32
	send := func(messages, size int) {
		for range messages {
			f.Frame(Header{Type: TypeVideo, Time: now}, pattern(size))
			now += 40
		}
	}
	send(1000, 50) // 10 kbit/s
	require.Equal(t, newSlab, f.next)
	send(1000, 20000) // 4 Mbit/s: 50 to 200 kB in 100 to 400 ms
	require.Equal(t, 64<<10, f.next)
	send(1000, 60000)
	require.Equal(t, maxSlab, f.next)
	send(20000, 50)
	require.Equal(t, newSlab, f.next)
}

func TestLayout_Shared(t *testing.T) {
	require.True(t, Layout{MediaStreamID, 0, 60000, nil, false}.Shared(60000))
	require.False(t, Layout{MediaStreamID, 0, 4096, nil, false}.Shared(60000))
	require.False(t, Layout{MediaStreamID, 1, 60000, nil, false}.Shared(60000))
	require.False(t, Layout{2, 0, 60000, nil, false}.Shared(60000))
}

func TestLayout_AppendTo(t *testing.T) {
	for _, from := range []int{64, 100, 60000} {
		for _, l := range []Layout{
			{1, 0, from, nil, false}, {5, 0, from, nil, false}, {1, 0, 128, nil, false}, {1, 1, 60000, nil, false}, {0x04030201, 0xfffff0, 4096, nil, false},
			{1, 0xffffffff, 60000, nil, false}, {2, 0x80000000, 99, nil, false}, {2, 0, MaxMessage, nil, false},
			{1, 0, from, []byte("prefix"), false}, {1, 7, 99, []byte("prefix"), false},
		} {
			t.Run(fmt.Sprintf("chunks of %d to stream %d, offset %#x, chunks of %d behind %q", from, l.StreamID, l.Offset, l.Size, l.Prefix), func(t *testing.T) {
				lengths := lengths
				if min(from, l.Size) < 1000 {
					lengths = lengths[:9]
				}
				framer := Framer{Size: from}
				var iov [][]byte
				var scratch, want []byte
				for _, time := range times {
					for _, n := range lengths {
						p := pattern(n)
						f := framer.Frame(Header{Time: time, Type: TypeVideo}, p)
						before := bytes.Clone(f.Bytes())
						iov, scratch = l.AppendTo(iov, scratch, f)
						want = append(want, reference(Header{Time: time + l.Offset, Type: TypeVideo, StreamID: l.StreamID}, slices.Concat(l.Prefix, p), l.Size)...)
						require.True(t, bytes.Equal(before, f.Bytes()))
					}
				}
				require.True(t, bytes.Equal(want, bytes.Join(iov, nil)))

				lim := limits
				lim.TinySize = len(want)
				r := NewReader(bytes.NewReader(want), 4096, lim)
				r.size = l.Size
				for _, time := range times {
					for _, n := range lengths {
						m, err := r.Next()
						require.NoError(t, err)
						want := slices.Concat(l.Prefix, pattern(n))
						require.Equal(t, Header{time + l.Offset, len(want), TypeVideo, l.StreamID}, m.Header)
						require.True(t, bytes.Equal(want, m.Payload))
					}
				}
				_, err := r.Next()
				require.Equal(t, io.EOF, err)
			})
		}
	}
}

// The payload is shared and not copied.
func TestLayout_AppendToSharesPayload(t *testing.T) {
	f := NewFrame(Header{Type: TypeVideo}, pattern(1000), 600)
	iov, _ := Layout{2, 0, 600, nil, false}.AppendTo(nil, nil, f)
	require.Len(t, iov, 4)
	require.Same(t, &f.Head()[0], &iov[1][0])

	// Nor is there anything to allocate when both slices are used again.
	f = NewFrame(Header{Type: TypeVideo}, pattern(10000), 600)
	l := Layout{2, 0, 128, nil, false}
	iov, scratch := l.AppendTo(nil, make([]byte, 0, 2000), f)
	require.Zero(t, testing.AllocsPerRun(10, func() { iov, scratch = l.AppendTo(iov[:0], scratch[:0], f) }))
}

// Whatever the splits, and whatever the peer's chunk size, a message read
// straight into its place is the message sent; also one that had to grow.
func TestReader_Framer(t *testing.T) {
	for _, peer := range []int{128, 4096, 60000, 1 << 20} {
		for _, size := range []int{100, 4096, 60000} {
			rnd := rand.New(rand.NewPCG(1, uint64(peer+size)))
			stream := AppendControl(nil, TypeSetChunkSize, uint32(peer))
			// The first is far longer than all before it.
			var sent []Header
			for i, n := range append([]int{300000}, lengths...) {
				h := Header{Time: 0xfffff0 + uint32(i), Type: TypeVideo - uint8(i%2), StreamID: 3, Length: n}
				stream = Append(stream, h, pattern(n), peer)
				sent = append(sent, h)
			}
			framer := &Framer{Size: size, Offset: 5}
			got, err := readAll(t, &splitReader{stream, rnd}, limits, framer)
			require.Equal(t, io.EOF, err)
			require.Len(t, got, len(sent)+1)
			for i, m := range got[1:] {
				require.Equal(t, sent[i], m.Header)
				require.True(t, bytes.Equal(pattern(m.Length), m.Frame.Payload()))
			}
		}
	}
}

// Only audio and video of a stream with a Framer is framed.
func TestReader_FramerByStream(t *testing.T) {
	var stream []byte
	for _, h := range []Header{{Type: TypeVideo, StreamID: 1}, {Type: TypeVideo, StreamID: 2}, {Type: TypeData, StreamID: 1}, {Type: TypeAggregate, StreamID: 1}} {
		stream = Append(stream, h, pattern(10), DefaultSize)
	}
	r := NewReader(bytes.NewReader(stream), 4096, limits)
	framer := &Framer{Size: 60000}
	r.Framer = func(id uint32) *Framer {
		if id == 1 {
			return framer
		}
		return nil
	}
	for i := range 4 {
		m, err := r.Next()
		require.NoError(t, err)
		require.Equal(t, i == 0, m.Frame != nil)
		require.Equal(t, pattern(10), payloadOf(m))
	}
}
