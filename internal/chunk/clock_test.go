package chunk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A clock that goes on for another one begins where that is, then and not
// before: with media.
func TestClockResumes(t *testing.T) {
	now := uint32(900_000)
	c := clock{resume: func() uint32 { return now }}
	require.EqualValues(t, 900_000, c.time(Header{Type: TypeData, Time: 0}, false))
	require.EqualValues(t, 900_000, c.time(Header{Type: TypeVideo, Time: 5_000_000}, false))
	now += 500
	require.EqualValues(t, 900_500, c.time(Header{Type: TypeVideo, Time: 70_000}, true))
	now += 500
	require.EqualValues(t, 900_490, c.time(Header{Type: TypeAudio, Time: 69_990}, true))
	require.EqualValues(t, 900_540, c.time(Header{Type: TypeVideo, Time: 70_040}, true))
	c.shift(100)
	require.EqualValues(t, 900_680, c.time(Header{Type: TypeVideo, Time: 70_080}, true))
	require.EqualValues(t, 900_611, c.time(Header{Type: TypeAudio, Time: 70_011}, true))
	require.EqualValues(t, 900_680, c.time(Header{Type: TypeData, Time: 70_080}, false))
	require.EqualValues(t, 900_680, c.time(Header{Type: TypeVideo, Time: 0}, true), "an outlier after it")
	require.EqualValues(t, 900_720, c.time(Header{Type: TypeVideo, Time: 70_120}, true))
}

// Where one of the first two messages is out of line, the clock goes on all the
// same.
func TestClockResumesWithAnOutlier(t *testing.T) {
	for name, rows := range map[string][]message{
		"the first":          {{'v', 10_000_000, 900_000}, {'v', 40, 900_000}, {'v', 80, 900_040}, {'a', 85, 900_045}},
		"the second, behind": {{'v', 10_000_000, 900_000}, {'v', 40, 900_000}, {'v', 10_000_080, 900_080}, {'v', 10_000_120, 900_120}, {'a', 10_000_120, 900_120}},
		"none, two origins":  {{'a', 900_000, 900_000}, {'v', 10_000, 900_000}, {'a', 900_020, 900_020}, {'v', 10_040, 10_040}, {'a', 900_043, 900_043}},
		"the first of each":  {{'v', 10_000_000, 900_000}, {'a', 20_000_000, 10_900_000}, {'v', 40, 900_000}, {'a', 45, 900_005}, {'v', 80, 900_040}, {'a', 68, 900_028}},
		"the second, ahead":  {{'v', 40, 900_000}, {'v', 10_000_000, 10_899_960}, {'v', 80, 900_040}, {'v', 120, 900_080}},
	} {
		t.Run(name, func(t *testing.T) {
			c := clock{resume: func() uint32 { return 900_000 }}
			for i, r := range rows {
				require.Equal(t, r.out, r.time(&c), "row %d: %c %d", i, r.typ, r.in)
			}
		})
	}
}

// message is one of a table: A and V are headers.
type message struct {
	typ     rune
	in, out uint32
}

func (m message) time(c *clock) uint32 {
	typ := map[rune]uint8{'a': TypeAudio, 'A': TypeAudio, 'v': TypeVideo, 'V': TypeVideo, 'd': TypeData}[m.typ]
	return c.time(Header{Type: typ, Time: m.in}, m.typ == 'a' || m.typ == 'v')
}

func TestClock(t *testing.T) {
	const far = 10_000_000
	for name, rows := range map[string][]message{
		"forward":          {{'v', 1000, 1000}, {'a', 1010, 1010}, {'v', 1040, 1040}, {'d', 0, 0}, {'v', 1040, 1040}},
		"begins anywhere":  {{'v', 1 << 31, 1 << 31}, {'a', 5, 5}, {'v', 1<<31 + 40, 1<<31 + 40}, {'a', 45, 45}},
		"wraps":            {{'v', 1<<32 - 40, 1<<32 - 40}, {'v', 0, 0}, {'a', 10, 10}, {'v', 40, 40}},
		"small steps back": {{'v', 5000, 5000}, {'v', 3000, 3000}, {'v', 5000, 5000}, {'a', 1000, 1000}, {'a', 0, 0}},

		// One message out of line.
		"one video ahead": {{'v', 0, 0}, {'a', 5, 5}, {'v', 40, 40}, {'a', 28, 28}, {'v', far, 40}, {'a', 51, 51}, {'v', 120, 120}, {'a', 74, 74}, {'d', 120, 120}, {'v', 160, 160}},
		"5 s ahead":       {{'v', 0, 0}, {'a', 5, 5}, {'v', 40, 40}, {'a', 28, 28}, {'v', 5_080, 40}, {'a', 51, 51}, {'v', 120, 120}, {'a', 74, 74}, {'v', 160, 160}},
		"one audio ahead": {{'v', 0, 0}, {'a', 5, 5}, {'v', 40, 40}, {'a', far, 5}, {'v', 80, 80}, {'a', 51, 51}, {'v', 120, 120}},
		"one behind":      {{'v', 900_000, 900_000}, {'a', 900_010, 900_010}, {'v', 0, 900_000}, {'v', 900_040, 900_040}, {'a', 900_030, 900_030}, {'v', 900_080, 900_080}, {'d', 900_080, 900_080}},
		"one half-way round": {{'v', 900_000, 900_000}, {'a', 900_010, 900_010}, {'v', 900_000 + 1<<31, 900_000}, {'a', 900_030, 900_030},
			{'v', 900_040, 900_040}},
		"2.1 s ahead":    {{'v', 0, 0}, {'a', 5, 5}, {'a', 105, 105}, {'a', 205, 205}, {'v', 2_140, 2_140}, {'v', 80, 80}, {'a', 305, 305}, {'v', 120, 120}},
		"1.95 s behind":  {{'v', 3_000, 3_000}, {'a', 3_005, 3_005}, {'v', 1_050, 1_050}, {'v', 3_080, 3_080}, {'a', 3_025, 3_025}, {'v', 3_120, 3_120}},
		"near, then far": {{'v', 0, 0}, {'a', 5, 5}, {'v', 1_950, 1_950}, {'v', 1<<31 + 5_000, 1_950}, {'v', 120, 120}, {'a', 100, 100}, {'v', 160, 160}},

		"the first one":      {{'v', far, far}, {'a', 5, 5}, {'v', 40, 40}, {'a', 28, 28}, {'v', 80, 80}},
		"the first of audio": {{'v', 0, 0}, {'v', 40, 40}, {'a', far, far}, {'v', 80, 80}, {'a', 51, 51}, {'v', 120, 120}, {'a', 74, 74}},
		"the first, alone":   {{'v', far, far}, {'v', 40, 40}, {'v', 80, 80}, {'v', 120, 120}},
		"the second, alone":  {{'v', 0, 0}, {'v', far, far}, {'v', 80, 80}, {'v', 120, 120}},
		"the first of an origin of its own": {{'v', 10_000, 10_000}, {'v', 10_040, 10_040}, {'a', far, far}, {'a', 5_000_020, 5_000_020}, {'v', 10_080, 10_080}, {'a', 5_000_043, 5_000_043},
			{'a', 2 * far, 5_000_043}, {'v', 10_120, 10_120}, {'a', 5_000_066, 5_000_066}},
		"the second of an origin of its own": {{'v', 10_000, 10_000}, {'a', 5_000_000, 5_000_000}, {'a', far, far}, {'v', 10_040, 10_040}, {'a', 5_000_043, 5_000_043}, {'v', far, 10_040}, {'v', 10_080, 10_080}},
		"two that begin a track":             {{'v', 10_000, 10_000}, {'v', 10_040, 10_040}, {'a', 5_000, 5_000}, {'a', far, far}, {'a', far + 20, far + 20}, {'a', 5_066, 5_066}, {'v', 10_080, 10_080}, {'a', 5_089, 5_089}},
		"one of each, and one more": {{'v', 0, 0}, {'a', 5, 5}, {'v', 40, 40}, {'a', 28, 28}, {'v', 5_080, 40}, {'a', 5_051, 5_051}, {'v', 120, 120}, {'a', 5_074, 5_074}, {'a', 97, 97}, {'v', 5_160, 5_160},
			{'a', 120, 120}, {'v', 200, 200}},
		"one of each, and one further": {{'v', 0, 0}, {'a', 5, 5}, {'v', 40, 40}, {'a', 28, 28}, {'v', 5_080, 40}, {'a', 5_051, 5_051}, {'a', 10_074, 5_051}, {'a', 97, 97}, {'v', 120, 120}},
		"one of each behind":           {{'v', 900_000, 900_000}, {'a', 900_010, 900_010}, {'v', 900_040, 900_040}, {'v', 0, 900_040}, {'a', 5, 900_085}, {'v', 900_120, 900_120}, {'a', 900_079, 900_085}, {'a', 900_102, 900_102}, {'v', 900_160, 900_160}},
		"two that disagree":            {{'v', 0, 0}, {'a', 5, 5}, {'v', 40, 40}, {'v', far, 40}, {'v', 2 * far, 40}, {'a', 28, 28}, {'v', 160, 160}, {'a', 51, 51}},
		"video alone":                  {{'v', 0, 0}, {'v', 40, 40}, {'v', far, 40}, {'v', 120, 120}, {'v', 160, 160}},
		"a few that agree":             {{'v', 0, 0}, {'a', 5, 5}, {'v', 40, 40}, {'a', 45, 45}, {'v', far, 40}, {'a', 85, 85}, {'v', far + 40, 120}, {'a', 125, 125}, {'v', far + 80, 160}, {'a', 165, 165}, {'v', 200, 200}, {'a', 205, 205}},
		"one of each, and no":          {{'v', 0, 0}, {'a', 5, 5}, {'v', 40, 40}, {'a', 28, 28}, {'v', far, 40}, {'a', far + 11, far + 11}, {'v', 120, 120}, {'a', 74, 74}, {'v', 160, 160}, {'a', 97, 97}},

		// Jumps forward pass when they are true.
		"jump":                {{'v', 0, 0}, {'a', 0, 0}, {'v', far, 0}, {'a', far + 10, far + 10}, {'v', far + 40, far + 40}, {'d', far + 40, far + 40}},
		"jump of 5 s":         {{'v', 0, 0}, {'a', 0, 0}, {'v', 5_000, 0}, {'a', 5_010, 5_010}, {'v', 5_040, 5_040}},
		"jump, video alone":   {{'v', 0, 0}, {'v', 40, 40}, {'v', far, 40}, {'v', far + 40, 120}, {'v', far + 80, far + 80}, {'v', far + 120, far + 120}},
		"jump, audio later":   {{'v', 0, 0}, {'a', 5, 5}, {'v', 40, 40}, {'v', far, 40}, {'a', 28, 28}, {'v', far + 40, 63}, {'a', far + 11, far + 11}, {'v', far + 80, far + 80}},
		"a picture each 10 s": {{'v', 0, 0}, {'v', 10_000, 10_000}, {'v', 20_000, 20_000}, {'v', 30_000, 30_000}, {'v', 40_000, 40_000}, {'v', 50_000, 50_000}},
		"and sound":           {{'v', 0, 0}, {'a', 0, 0}, {'a', 1500, 1500}, {'a', 3000, 3000}, {'a', 4500, 4500}, {'a', 6000, 6000}, {'v', 6000, 6000}, {'a', 7500, 7500}},

		// Clocks that are set back go on.
		"set back": {{'v', 900_000, 900_000}, {'a', 900_020, 900_020}, {'v', 900_040, 900_040}, {'a', 900_043, 900_043},
			{'v', 0, 900_040}, {'a', 10, 900_090}, {'v', 40, 900_120}, {'d', 40, 900_120}, {'a', 33, 900_113}},
		"set back, audio first":               {{'v', 900_000, 900_000}, {'a', 900_020, 900_020}, {'v', 900_040, 900_040}, {'a', 0, 900_020}, {'v', 900_080, 900_080}, {'v', 20, 900_120}, {'a', 23, 900_123}},
		"set back, one late by the old clock": {{'v', 900_000, 900_000}, {'a', 899_990, 899_990}, {'v', 900_040, 900_040}, {'v', 0, 900_040}, {'a', 900_010, 900_010}, {'a', 12, 900_092}, {'v', 40, 900_120}},
		"set back, video alone":               {{'v', 900_000, 900_000}, {'v', 900_040, 900_040}, {'v', 0, 900_040}, {'v', 40, 900_120}, {'v', 80, 900_160}, {'v', 120, 900_200}},
		"set back twice":                      {{'v', 900_000, 900_000}, {'a', 900_000, 900_000}, {'v', 0, 900_000}, {'a', 0, 900_000}, {'v', 2_000, 902_000}, {'a', 2_000, 902_000}, {'v', 4_000, 904_000}, {'a', 4_000, 904_000}, {'v', 0, 904_000}, {'a', 0, 904_100}, {'v', 40, 904_140}},
		"audio that begins after it":          {{'v', 900_000, 900_000}, {'v', 900_040, 900_040}, {'v', 0, 900_040}, {'v', 40, 900_120}, {'a', 20, 900_100}, {'v', 80, 900_160}},
		"origins of their own":                {{'v', 10_000, 10_000}, {'a', 5_000_000, 5_000_000}, {'v', 10_040, 10_040}, {'a', 5_000_020, 5_000_020}, {'v', 0, 10_040}, {'a', 0, 5_000_040}, {'v', 40, 5_000_080}, {'a', 20, 5_000_060}},
		"24 bits": {{'v', 1<<24 - 60, 1<<24 - 60}, {'a', 1<<24 - 50, 1<<24 - 50}, {'v', 1<<24 - 20, 1<<24 - 20}, {'a', 1<<24 - 27, 1<<24 - 27}, {'v', 20, 1<<24 + 3}, {'a', 1<<24 - 4, 1<<24 - 4},
			{'v', 60, 1<<24 + 26}, {'a', 19, 1<<24 + 19}, {'v', 100, 1<<24 + 100}, {'d', 100, 1<<24 + 100}, {'a', 42, 1<<24 + 42}},
		"31 bits":            {{'v', 1<<31 - 60, 1<<31 - 60}, {'a', 1<<31 - 50, 1<<31 - 50}, {'v', 1<<31 - 20, 1<<31 - 20}, {'a', 1<<31 - 10, 1<<31 - 10}, {'v', 20, 1<<31 + 20}, {'a', 30, 1<<31 + 30}, {'v', 60, 1<<31 + 60}},
		"set back over 2^32": {{'v', 1<<32 - 90, 1<<32 - 90}, {'a', 1<<32 - 50, 1<<32 - 50}, {'v', 1<<32 - 50, 1<<32 - 50}, {'v', 1 << 31, 1<<32 - 50}, {'a', 1 << 31, 1<<32 - 10}, {'v', 1<<31 + 40, 30}},

		// Headers and data.
		"a header with a clock of its own": {{'d', 0, 0}, {'A', 0, 0}, {'V', far, 0}, {'a', 0, 0}, {'v', 10, 10}, {'V', far, 10}, {'A', 0, 0}, {'a', 5_000, 0}, {'v', 50, 50}, {'a', 23, 23}},
		"headers at 0":                     {{'d', 0, 0}, {'A', 0, 0}, {'V', 0, 0}, {'v', 900_000, 900_000}, {'a', 900_010, 900_010}, {'V', 0, 900_000}, {'v', 900_040, 900_040}, {'A', 0, 900_010}, {'d', 0, 900_040}},
		"headers at the time of the media": {{'V', 900_000, 900_000}, {'A', 900_000, 900_000}, {'v', 900_000, 900_000}, {'V', 900_040, 900_040}, {'v', 900_040, 900_040}},
		"a header of a track to come":      {{'a', 900_000, 900_000}, {'V', 0, 900_000}, {'v', 900_040, 900_040}},
		"data far off":                     {{'v', 0, 0}, {'a', 5, 5}, {'d', far, 5}, {'v', 40, 40}, {'d', 1 << 31, 40}, {'d', 1_000, 1_000}},
	} {
		t.Run(name, func(t *testing.T) {
			var c clock
			for i, r := range rows {
				require.Equal(t, r.out, r.time(&c), "row %d: %c %d", i, r.typ, r.in)
			}
		})
	}
}

// Where nothing has come for a while, the clock may have gone on for so long.
func TestClockAfterPause(t *testing.T) {
	idle := int64(0)
	c := clock{idle: func() int64 { return idle }}
	for _, r := range []message{{'v', 0, 0}, {'v', 40, 40}} {
		require.Equal(t, r.out, r.time(&c))
	}
	idle = 10_000
	require.EqualValues(t, 10_040, message{'v', 10_040, 0}.time(&c))
	idle = 40
	require.EqualValues(t, 10_080, message{'v', 10_080, 0}.time(&c))
	require.EqualValues(t, 10_080, message{'v', 20_080, 0}.time(&c))
}

// A message larger than the first bytes, in chunks of a size below them, is
// known for what it is as well.
func TestFramerSeesHeaders(t *testing.T) {
	for _, size := range []int{1, PeekSize - 1, PeekSize, 128} {
		var b []byte
		at := func(ms uint32, p string) {
			b = Append(b, Header{Type: TypeVideo, Time: ms, StreamID: 1}, append([]byte(p), make([]byte, 100)...), size)
		}
		b = AppendControl(b, TypeSetChunkSize, uint32(size))
		at(5000, "m")
		at(10_000_000, "h")
		at(5040, "m")
		at(0, "h")
		at(5080, "m")
		seen := 0
		framer := &Framer{Size: 128, Continuous: true, Media: func(_ uint8, head []byte) bool {
			require.Len(t, head, PeekSize)
			seen++
			return head[0] == 'm'
		}}
		r := NewReader(bytes.NewReader(b), 4096, Limits{Media: 1000, Command: 100, Partial: 10_000, Streams: 4, TinySize: 10_000})
		r.Framer = func(uint32) *Framer { return framer }
		var got []uint32
		for {
			m, err := r.Next()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			if m.Frame != nil {
				got = append(got, m.Frame.Time)
			}
		}
		require.Equal(t, []uint32{5000, 5000, 5040, 5040, 5080}, got, size)
		require.Equal(t, 5, seen)
	}
}

// A Framer passes times on as they are unless it is told not to.
func TestFramerOfOneTimeline(t *testing.T) {
	for _, continuous := range []bool{true, false} {
		f := Framer{Size: 128, Continuous: continuous}
		f.Frame(Header{Type: TypeVideo, Time: 1 << 24}, []byte("x"))
		f.Frame(Header{Type: TypeVideo, Time: 1<<24 + 100}, []byte("x"))
		f.Frame(Header{Type: TypeVideo, Time: 7}, []byte("x"))
		fr := f.Frame(Header{Type: TypeVideo, Time: 7}, []byte("xy"))
		want := "\x06\x00\x00\x07\x00\x00\x02\x09\x01\x00\x00\x00xy"
		if continuous {
			want = "\x06\xff\xff\xff\x00\x00\x02\x09\x01\x00\x00\x00\x01\x00\x00\xc8xy"
		}
		require.Equal(t, want, string(fr.Bytes()))
	}
}

// live is a stream whose messages are in order, but those that are made to
// stand out.
type live struct {
	video bool
	at    uint32
	out   bool // of line
}

// inOrder makes a stream of n messages that come in the order of their progress,
// or nearly so.
func inOrder(rnd *rand.Rand, n int) (all []live) {
	start := [...]uint32{0, 1_000, 900_000, 1<<24 - 3_000, 1<<31 - 3_000, 1<<32 - 3_000, rnd.Uint32()}[rnd.IntN(7)]
	origin := [2]uint32{start, start}
	switch rnd.IntN(4) {
	case 0:
		origin[1] += uint32(rnd.IntN(1_500))
	case 1:
		origin[0] += rnd.Uint32()
	}
	step := [2]uint32{uint32(10 + rnd.IntN(60)), uint32(10 + rnd.IntN(200))}
	early := uint32(rnd.IntN(1 + rnd.IntN(300)))
	var went [2]uint32
	for range n {
		k := 0
		if went[1]+early*uint32(rnd.IntN(2)) < went[0]+early*uint32(rnd.IntN(2)) {
			k = 1
		}
		all = append(all, live{video: k == 1, at: origin[k] + went[k]})
		went[k] += step[k]
	}
	return all
}

// standOut makes some messages stand out: anywhere, or close to each other. Until
// both tracks have two in a row that don't, none is near another one.
func standOut(rnd *rand.Rand, all []live, close bool, by func() uint32) {
	chosen := make([]bool, len(all))
	from, within := 0, len(all)
	if close {
		from, within = rnd.IntN(len(all)), 20
	}
	for range rnd.IntN(1 + rnd.IntN(12)) {
		chosen[min(from+rnd.IntN(within), len(all)-1)] = true
	}
	var row [2]int
	for i := range all {
		m, x := &all[i], 0
		if m.video {
			x = 1
		}
		switch found := row[0] > 1 && row[1] > 1; {
		case !chosen[i]:
			row[x]++
			continue
		case found:
			m.at += by()
		default:
			row[x] = 0
			m.at += uint32(i+1)*10_000_000 + rnd.Uint32N(5_000_000)
		}
		m.out = true
	}
}

// Any messages but k are in order: the others go out as they came. No time goes
// back by more than the input does.
func TestClockOutliers(t *testing.T) {
	outliers, changed := 0, 0
	for seed := range uint64(8_000) {
		rnd := rand.New(rand.NewPCG(seed, 40))
		all := inOrder(rnd, 20+rnd.IntN(200))
		standOut(rnd, all, seed%2 == 0, func() uint32 {
			by := uint32(2_500 + rnd.IntN(1<<31-5_000))
			switch rnd.IntN(4) {
			case 0:
				return 5_000
			case 1:
				return -by
			}
			return by
		})
		// One apart from these that is hardly out of line, or hardly in line.
		if i := 20 + rnd.IntN(len(all)); i+20 < len(all) && !slices.ContainsFunc(all[i-20:i+20], func(m live) bool { return m.out }) {
			by := uint32(1_900 + rnd.IntN(500))
			if rnd.IntN(2) == 0 {
				by = -by
			}
			all[i].at += by
			all[i].out = true
		}
		k, moved := checkOutliers(t, &clock{}, all, 0, fmt.Sprint("seed ", seed))
		outliers, changed = outliers+k, changed+moved
	}
	require.Greater(t, outliers, 15_000)
	require.Zero(t, changed)
}

// Outliers of both tracks that agree on a time before the others can't be told
// from a clock that was set back. What follows is hardly late.
func TestClockOutliersBehind(t *testing.T) {
	changed := 0
	for seed := range uint64(8_000) {
		rnd := rand.New(rand.NewPCG(seed, 41))
		all := inOrder(rnd, 20+rnd.IntN(200))
		standOut(rnd, all, true, func() uint32 { return 1<<32 - 5_000 })
		_, moved := checkOutliers(t, &clock{}, all, maxSeam, fmt.Sprint("seed ", seed))
		changed += moved
	}
	require.Less(t, changed, 2_000)
}

// The stream of a next publisher goes on where it was, whichever of the first
// messages of its tracks are out of line.
func TestClockResumesWithOutliers(t *testing.T) {
	const at = 900_000
	for seed := range uint64(8_000) {
		rnd := rand.New(rand.NewPCG(seed, 42))
		all := inOrder(rnd, 20+rnd.IntN(200))
		var began [2]bool
		first := map[bool]uint32{}
		for i := range all {
			m, x := &all[i], 0
			if m.video {
				x = 1
			}
			if _, ok := first[m.video]; !ok {
				first[m.video] = m.at
			}
			if !began[x] && rnd.IntN(2) == 0 {
				m.at += uint32(i+1)*10_000_000 + rnd.Uint32N(5_000_000)
				m.out = true
			}
			began[x] = true
		}
		if !Near(first[true], first[false], 1_500) {
			continue // two origins: which one the stream goes on from is open
		}
		c := &clock{resume: func() uint32 { return at }}
		checkOutliers(t, c, all, 0, fmt.Sprint("seed ", seed))
		last := all[len(all)-1]
		if out := last.at + c.offset; !Near(out, at+last.at-first[last.video], 2_000) {
			t.Fatalf("seed %d: the last message goes out at %d", seed, out)
		}
	}
}

// checkOutliers checks that those in line lie no further apart than they came,
// except for a slack, and counts those of them that did not go out as they came.
func checkOutliers(t *testing.T, c *clock, all []live, slack int64, what string) (outliers, moved int) {
	var tracks [2]struct {
		begun   bool
		in, out uint32 // of the last message
		held    uint32 // the first of those that went out as this one
		lined   bool
		at, as  uint32 // of the last one in line
	}
	var most int64
	for i, m := range all {
		typ, x := uint8(TypeAudio), 0
		if m.video {
			typ, x = TypeVideo, 1
		}
		if m.out {
			outliers++
		}
		out := c.time(Header{Type: typ, Time: m.at}, true)
		s, o := &tracks[x], &tracks[1-x]
		if s.begun {
			if back := min(0, int32(m.at-s.in), int32(m.at-s.held)); int32(out-s.out) < back {
				t.Fatalf("%s: message %d goes back by %d, it came %d back", what, i, int32(out-s.out), back)
			}
		}
		if !s.begun || s.out != out {
			s.held = m.at
		}
		s.begun, s.in, s.out = true, m.at, out
		if m.out {
			continue
		}
		s.lined, s.at, s.as = true, m.at, out
		if out != m.at {
			moved++
		}
		if o.lined {
			came, went := int64(int32(s.at-o.at)), int64(int32(s.as-o.as))
			most = max(most, came, -came)
			if max(went, -went) > most+slack {
				t.Fatalf("%s: message %d came %d from the other track, went out %d from it", what, i, came, went)
			}
		}
	}
	return outliers, moved
}

// Whatever comes, no time of a track goes back by more than it has come back
// from some time before.
func FuzzClock(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 9, 1, 0, 0, 0, 9, 0, 1, 0, 0, 0})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 0x80, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c clock
		type state struct {
			in  []uint32
			out uint32
		}
		var kinds [2]state
		for ; len(b) >= 5; b = b[5:] {
			typ, k := uint8(TypeAudio), &kinds[0]
			if b[0]&1 == 1 {
				typ, k = TypeVideo, &kinds[1]
			}
			in := binary.BigEndian.Uint32(b[1:])
			if b[0]&2 != 0 {
				c.time(Header{Type: typ, Time: in}, false)
				continue
			}
			out := c.time(Header{Type: typ, Time: in}, true)
			back := int32(0)
			for _, before := range k.in {
				back = min(back, int32(in-before))
			}
			if len(k.in) > 0 && int32(out-k.out) < back {
				t.Fatalf("%d after %d became %d after %d", in, k.in, out, k.out)
			}
			k.in, k.out = append(k.in, in), out
		}
	})
}
