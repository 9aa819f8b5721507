package chunk

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// A clock that goes on for another one begins where that is, then and not before.
func TestClockResumes(t *testing.T) {
	now := uint32(900_000)
	c := clock{resume: func() uint32 { return now }}
	require.EqualValues(t, 900_000, c.time(Header{Type: TypeData, Time: 0}))
	now += 500
	require.EqualValues(t, 900_500, c.time(Header{Type: TypeVideo, Time: 70_000}))
	now += 500
	require.EqualValues(t, 900_490, c.time(Header{Type: TypeAudio, Time: 69_990}))
	require.EqualValues(t, 900_540, c.time(Header{Type: TypeVideo, Time: 70_040}))
	c.shift(100)
	require.EqualValues(t, 900_680, c.time(Header{Type: TypeVideo, Time: 70_080}))
	require.EqualValues(t, 900_611, c.time(Header{Type: TypeAudio, Time: 70_011}))
	require.EqualValues(t, 900_680, c.time(Header{Type: TypeData, Time: 70_080}))
}

func TestClock(t *testing.T) {
	const a, v, d = TypeAudio, TypeVideo, TypeData
	type row struct {
		typ     uint8
		in, out uint32
	}
	for name, rows := range map[string][]row{
		"forward":          {{v, 1000, 1000}, {a, 1010, 1010}, {v, 1040, 1040}, {d, 0, 0}, {v, 1040, 1040}},
		"begins anywhere":  {{v, 1 << 31, 1 << 31}, {a, 5, 5}, {v, 1<<31 + 40, 1<<31 + 40}, {a, 45, 45}},
		"wraps":            {{v, 1<<32 - 40, 1<<32 - 40}, {v, 0, 0}, {a, 10, 10}, {v, 40, 40}},
		"small steps back": {{v, 5000, 5000}, {v, 3000, 3000}, {v, 5000, 5000}, {a, 1000, 1000}, {a, 0, 0}},
		"jumps forward":    {{v, 0, 0}, {a, 0, 0}, {v, 3_600_000, 3_600_000}, {a, 3_600_010, 3_600_010}, {v, 3_600_040, 3_600_040}},
		"set back": {{v, 900_000, 900_000}, {a, 900_020, 900_020},
			{v, 0, 900_120}, {a, 10, 900_130}, {v, 40, 900_160}, {d, 40, 900_160}, {a, 33, 900_153}},
		"set back, audio first":               {{v, 900_000, 900_000}, {a, 900_020, 900_020}, {a, 0, 900_120}, {v, 900_040, 900_040}, {v, 20, 900_140}},
		"set back, one late by the old clock": {{v, 900_000, 900_000}, {a, 899_990, 899_990}, {v, 0, 900_100}, {a, 900_010, 900_010}, {a, 12, 900_112}, {v, 40, 900_140}},
		"set back twice":                      {{v, 900_000, 900_000}, {v, 0, 900_100}, {v, 10_000, 910_100}, {v, 0, 910_200}, {v, 40, 910_240}},
		"set back over 2^32":                  {{v, 1<<32 - 50, 1<<32 - 50}, {v, 1 << 31, 50}, {v, 1<<31 + 40, 90}},
		"a header at 0 in between":            {{v, 900_000, 900_000}, {a, 900_010, 900_010}, {v, 0, 900_110}, {v, 900_040, 900_040}, {a, 900_030, 900_030}, {v, 900_080, 900_080}, {d, 900_080, 900_080}},
		"origins of their own":                {{v, 10_000, 10_000}, {a, 5_000_000, 5_000_000}, {v, 0, 10_100}, {a, 5_000_020, 5_000_020}, {a, 0, 5_000_120}, {v, 40, 10_140}, {a, 20, 5_000_140}},
		"audio that begins behind it":         {{v, 900_000, 900_000}, {v, 0, 900_100}, {a, 20, 900_120}},
	} {
		t.Run(name, func(t *testing.T) {
			var c clock
			for i, r := range rows {
				require.Equal(t, r.out, c.time(Header{Type: r.typ, Time: r.in}), "row %d", i)
			}
		})
	}
}

// A Framer passes times on as they are unless it is told not to.
func TestFramerOfOneTimeline(t *testing.T) {
	for _, continuous := range []bool{true, false} {
		f := Framer{Size: 128, Continuous: continuous}
		f.Frame(Header{Type: TypeVideo, Time: 1 << 24}, []byte("x"))
		fr := f.Frame(Header{Type: TypeVideo, Time: 7}, []byte("xy"))
		want := "\x06\x00\x00\x07\x00\x00\x02\x09\x01\x00\x00\x00xy"
		if continuous {
			want = "\x06\xff\xff\xff\x00\x00\x02\x09\x01\x00\x00\x00\x01\x00\x00\x64xy"
		}
		require.Equal(t, want, string(fr.Bytes()))
	}
}

// Whatever comes, no time of a kind goes back by more than a step, and what
// moves on by a step does so on the other side.
func FuzzClock(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 9, 1, 0, 0, 0, 9, 0, 1, 0, 0, 0})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 0x80, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c clock
		type state struct {
			begun   bool
			in, out uint32
		}
		var kinds [2]state
		for ; len(b) >= 5; b = b[5:] {
			typ, k := uint8(TypeAudio), &kinds[0]
			if b[0]&1 == 1 {
				typ, k = TypeVideo, &kinds[1]
			}
			in := binary.BigEndian.Uint32(b[1:])
			out := c.time(Header{Type: typ, Time: in})
			if step := int32(out - k.out); k.begun && (step < -maxStep || Near(in, k.in, maxStep) && step != int32(in-k.in)) {
				t.Fatalf("%d behind %d became %d behind %d", in, k.in, out, k.out)
			}
			*k = state{true, in, out}
		}
	})
}
