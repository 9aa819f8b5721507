package gop

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/stretchr/testify/require"
)

// first is the sequence number of the first message that the log keeps, as
// Get tells it.
func (f *feed) first() uint64 {
	for seq := uint64(1); ; seq++ {
		if seq == f.Head() || f.Get(seq) != nil {
			return seq
		}
	}
}

func TestLog_KeepsFromTheLastKeyframe(t *testing.T) {
	f := newFeed(wide)
	f.video(avcHeader, avcKey, avcInter, avcInter)
	require.EqualValues(t, 2, f.first())
	f.video(avcKey)
	require.EqualValues(t, 5, f.first())
	f.video(avcInter)
	require.EqualValues(t, 5, f.first())
	require.Nil(t, f.Get(0))
	require.Nil(t, f.Get(f.Head()))
}

// The log keeps what its slowest cursor has before it.
func TestLog_KeepsForTheSlowest(t *testing.T) {
	f := newFeed(wide)
	need := uint64(3)
	f.Slowest = func() uint64 { return need }
	for range 10 {
		f.video(avcKey, avcInter, avcInter)
	}
	require.EqualValues(t, 3, f.first())
	need = 20
	f.video(avcKey)
	require.EqualValues(t, 20, f.first())
	need = 1000
	f.video(avcKey)
	require.EqualValues(t, 32, f.first(), "not more than to the last keyframe")
}

func TestLog_Limits(t *testing.T) {
	const frame = 12 + 13 + messageCost // an AVC frame of this test on the wire
	require.Len(t, avcInter, 13)
	ms := int64(time.Millisecond)
	for _, tt := range []struct {
		name   string
		limits Limits
		keep   int
	}{
		{"bytes", Limits{Bytes: 10 * frame, Age: 1e12}, 10},
		{"bytes, one less", Limits{Bytes: 10*frame - 1, Age: 1e12}, 9},
		{"age", Limits{Bytes: 1e9, Age: 50 * ms, Live: true}, 6},
		{"age, one less", Limits{Bytes: 1e9, Age: 50*ms - 1, Live: true}, 5},
		{"nothing fits", Limits{}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFeed(tt.limits)
			f.Slowest = func() uint64 { return 1 } // limits are above it
			f.video(avcKey)
			require.NotNil(t, f.key.Load())
			for i := range 200 {
				f.video(avcInter)
				messages, bytes := f.Len()
				require.Equal(t, min(tt.keep, i+2), messages)
				require.Equal(t, messages*frame, bytes)
				require.EqualValues(t, f.Head()-uint64(messages), f.first())
			}
			// The keyframe is gone: new receivers wait for the next.
			require.Nil(t, f.key.Load())
			require.Equal(t, f.Head(), f.start(false).Next())
			f.video(avcKey)
			require.Equal(t, f.Head()-1, f.start(false).Next())
		})
	}
}

// A message larger than the limit still reaches who is up to date.
func TestLog_MessageAboveTheLimit(t *testing.T) {
	f := newFeed(Limits{Bytes: 1000, Age: 1e12})
	f.video(avcHeader, avcKey)
	c := f.start(false)
	drain(t, c, 1)
	large := append(bytes.Clone(avcInter), make([]byte, 2000)...)
	f.video(large)
	require.Equal(t, items(30, large), parse(t, drain(t, c, 1), chunkSize))
	messages, _ := f.Len()
	require.Equal(t, 1, messages)
}

// The ring grows with what is kept, and everything stays in its place.
func TestLog_RingGrows(t *testing.T) {
	f := newFeed(Limits{Bytes: 1e9, Age: 1e15})
	f.Slowest = func() uint64 { return 30 }
	f.video(avcHeader, avcKey)
	for range 62 {
		f.video(avcInter)
	}
	require.Equal(t, 64, len(f.ring.Load().slots))
	for i := range 2000 {
		if i%50 == 0 {
			f.video(avcKey)
		} else {
			f.video(avcInter)
		}
		for seq := f.first(); seq < f.Head(); seq += 17 {
			require.Equal(t, seq, f.Get(seq).Seq)
		}
	}
	require.EqualValues(t, 30, f.first())
	require.Equal(t, 2048, len(f.ring.Load().slots))
	for seq := uint64(30); seq < f.Head(); seq++ {
		require.Equal(t, seq, f.Get(seq).Seq)
	}
}

func TestCursor_Overtaken(t *testing.T) {
	for _, name := range []string{"batch", "read"} {
		t.Run(name, func(t *testing.T) {
			take := func(c *Cursor) []item {
				if name == "read" {
					return read(c)
				}
				return parse(t, drain(t, c, 40), chunkSize)
			}
			f := newFeed(Limits{Bytes: 20 * (messageCost + 20), Age: 1e12})
			f.data(metadata)
			f.video(avcHeader, avcKey) // 2, 3
			c, same := f.start(false), f.start(false)
			take(c)
			take(same)
			for range 5 {
				f.video(avcInter) // 4 to 8
			}
			f.video(avcHeader2, avcKey, avcInter) // 9, 10, 11
			for range 10 {
				f.audio(aacFrame) // 12 to 21
			}
			require.Greater(t, f.first(), c.Next())
			got := take(c)
			require.Equal(t, slices.Concat(items(100, metadata, avcHeader2, avcKey), items(110, avcInter)), got[:4])
			require.Len(t, got, 4+10)
			overtaken, waited := c.Skipped()
			require.EqualValues(t, 6, overtaken)
			require.Zero(t, waited)

			// Who has the headers already does not get them again.
			c = f.start(false)
			require.Len(t, take(c), 4+10)
			f.video(avcKey, avcInter) // 22, 23
			at := f.time
			f.Slowest = same.Next
			f.limits.Bytes = 1
			f.video(avcKey) // 24
			require.Equal(t, items(at+10, avcKey), take(c))
			overtaken, _ = c.Skipped()
			require.EqualValues(t, 2, overtaken)
		})
	}
}

// Overtaken where there is no keyframe: video goes on with the next one.
func TestCursor_OvertakenWithoutKeyframe(t *testing.T) {
	f := newFeed(Limits{Bytes: 6 * (messageCost + 25), Age: 1e12})
	f.video(avcHeader, avcKey)
	c := f.start(false)
	drain(t, c, 1)
	for range 10 {
		f.video(avcInter)
	}
	require.Empty(t, drain(t, c, 1))
	overtaken, waited := c.Skipped()
	require.EqualValues(t, 10, overtaken)
	require.Zero(t, waited)
	f.Slowest = c.Next
	f.video(avcInter)
	f.audio(aacFrame)
	f.video(avcKey)
	require.Equal(t, append(items(140, aacFrame), items(150, avcKey)...), parse(t, drain(t, c, 1<<20), chunkSize))
	overtaken, waited = c.Skipped()
	require.EqualValues(t, 10, overtaken)
	require.EqualValues(t, 1, waited)
}

// Audio alone: the cursor that was overtaken goes on at the newest message.
func TestCursor_OvertakenInAudio(t *testing.T) {
	f := newFeed(Limits{Bytes: 3 * (messageCost + 25), Age: 1e12})
	f.audio(aacHeader)
	c := f.start(false)
	drain(t, c, 1)
	for range 9 {
		f.audio(aacFrame)
	}
	require.Equal(t, items(100, aacFrame), parse(t, drain(t, c, 1<<20), chunkSize))
	overtaken, _ := c.Skipped()
	require.EqualValues(t, 8, overtaken)
}

// One goroutine appends, others read, with a log so short that all but one are
// overtaken again and again: each sees a rising sequence without gaps but
// where it jumps, jumps to keyframes only, and every message is accounted for.
func TestLog_Concurrent(t *testing.T) {
	const total = 20000
	f := newFeed(Limits{Bytes: 200 * (messageCost + 25), Age: 1e15})
	f.video(avcHeader, avcKey)
	cursors := make([]*Cursor, 6)
	for i := range cursors {
		cursors[i] = f.start(i%2 == 1)
	}
	f.Slowest = func() uint64 { return min(cursors[0].Next(), cursors[5].Next()) }

	var wg sync.WaitGroup
	for i, c := range cursors {
		begin := c.Next()
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 0))
			s := sequence{t: t}
			var b Batch
			for !c.Done() {
				if i < 3 {
					if m, set := c.Read(); m != nil {
						if set == nil && m.Set != s.set || set != nil && (set != m.Set || set == s.set) {
							t.Errorf("message %d with other headers", m.Seq)
						}
						s.message(m)
					}
				} else {
					b.Fill(c, 1+rnd.IntN(2000))
					for _, mark := range b.marks {
						s.message(mark.m)
					}
					if n, _, rest := b.Sent(c, b.Len()); n != len(b.marks) || rest != nil {
						t.Errorf("%d of %d messages sent, %d slices left", n, len(b.marks), len(rest))
					}
				}
				if i > 0 && rnd.IntN(50) == 0 {
					for before := f.Head(); f.Head() < before+150 && !f.Ended(); {
						runtime.Gosched() // fall behind
					}
				}
			}
			overtaken, waited := c.Skipped()
			if got := begin - 1 + s.seen + overtaken + waited; got != total {
				t.Errorf("cursor %d: %d seen, %d overtaken, %d waited, in all %d of %d", i, s.seen, overtaken, waited, got, total)
			}
		})
	}
	wg.Go(func() { // statistics
		for !f.Ended() {
			for _, c := range cursors {
				if lag := c.Lag(); lag > total {
					t.Errorf("lag %d", lag)
				}
			}
		}
	})
	rnd := rand.New(rand.NewPCG(100, 0))
	headers := [][]byte{avcHeader, avcHeader2}
	for f.Head() <= total {
		switch n := rnd.IntN(40); {
		case n == 0 && f.Head() < total:
			f.video(headers[rnd.IntN(2)], avcKey)
		case n == 1:
			f.video(avcKey)
		case n < 15:
			f.audio(aacFrame)
		default:
			f.video(avcInter)
		}
		for cursors[0].Lag() > 100 {
			runtime.Gosched()
		}
	}
	f.End()
	wg.Wait()
	overtaken, _ := cursors[0].Skipped()
	require.Zero(t, overtaken)
}

// sequence checks what a cursor sees.
type sequence struct {
	t     *testing.T
	begin uint64 // first message seen
	last  uint64
	seen  uint64
	set   *HeaderSet
}

func (s *sequence) message(m *Message) {
	s.seen++
	if s.begin == 0 {
		s.begin = m.Seq
		if !m.Keyframe {
			s.t.Errorf("starts at %d, no keyframe", m.Seq)
		}
	}
	if m.Seq <= s.last {
		s.t.Errorf("message %d after %d", m.Seq, s.last)
	}
	if s.last != 0 && m.Seq != s.last+1 && m.Inter {
		s.t.Errorf("message %d, no keyframe, after %d", m.Seq, s.last)
	}
	s.last, s.set = m.Seq, m.After
}

func BenchmarkAppend(b *testing.B) {
	f := newFeed(wide)
	frames := benchmarkGOP(f)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		fr := frames[i%len(frames)]
		f.now += int64(time.Millisecond)
		f.Append(fr, false, f.now)
	}
}

func BenchmarkJoin(b *testing.B) {
	f := newFeed(wide)
	f.data(metadata)
	f.video(avcHeader)
	f.audio(aacHeader)
	for _, fr := range benchmarkGOP(f) {
		f.Append(fr, false, f.now)
	}
	o := Options{Layout: chunk.Layout{StreamID: chunk.MediaStreamID, Size: chunkSize}, Size: chunkSize}
	var batch Batch
	b.ReportAllocs()
	for b.Loop() {
		var c Cursor
		f.Start(&c, o)
		for c.Lag() > 0 {
			batch.Fill(&c, 128<<10)
			batch.Sent(&c, batch.Len())
		}
	}
}

// benchmarkGOP is two seconds of 5 Mbit/s, framed.
func benchmarkGOP(f *feed) (frames []*chunk.Frame) {
	add := func(typ uint8, b []byte, n int) {
		frames = append(frames, f.framer.Frame(chunk.Header{Type: typ}, append(bytes.Clone(b), make([]byte, n)...)))
	}
	add(chunk.TypeVideo, avcKey, 120000)
	for range 59 {
		add(chunk.TypeAudio, aacFrame, 350)
		add(chunk.TypeVideo, avcInter, 16000)
	}
	return frames
}

// Behind a Restart nothing is known of what came before.
func TestRestart(t *testing.T) {
	f := newFeed(Limits{Bytes: 1 << 20, Age: 1 << 62})
	f.data(metadata)
	f.audio(aacHeader)
	f.video(avcHeader, avcKey)
	f.Restart()
	require.Zero(t, f.Info())
	m := f.video(avcHeader2)
	require.Nil(t, m.Set)
	require.NotNil(t, m.After)
	key := f.video(avcKey)
	var types []uint8
	key.Set.All(func(typ uint8, _ []byte) { types = append(types, typ) })
	require.Equal(t, []uint8{chunk.TypeVideo}, types)
	f.Restart()
	f.audio(aacHeader)
	require.False(t, f.video0(), "this one may have none")
}

func TestLook(t *testing.T) {
	for name, c := range map[string]struct {
		typ                     uint8
		body                    []byte
		media, keyframe, header bool
	}{
		"metadata":       {chunk.TypeData, metadata, false, false, true},
		"other data":     {chunk.TypeData, []byte("\x02\x00\x0aonCuePoint"), false, false, false},
		"AVC header":     {chunk.TypeVideo, avcHeader, false, false, true},
		"AVC keyframe":   {chunk.TypeVideo, avcKey, true, true, false},
		"AVC inter":      {chunk.TypeVideo, avcInter, true, false, false},
		"AVC end":        {chunk.TypeVideo, body("17 02 000000"), false, false, false},
		"HEVC header":    {chunk.TypeVideo, hevcHeader, false, false, true},
		"HEVC keyframe":  {chunk.TypeVideo, hevcKey, true, true, false},
		"track 1":        {chunk.TypeVideo, track1Key, true, true, false},
		"AAC header":     {chunk.TypeAudio, aacHeader, false, false, true},
		"AAC":            {chunk.TypeAudio, body("af 01 21"), true, false, false},
		"MP3":            {chunk.TypeAudio, body("2f ff fb"), true, false, false},
		"something else": {chunk.TypeAck, body("00 00 00 01"), false, false, false},
	} {
		f := chunk.NewFrame(chunk.Header{Type: c.typ}, c.body, 4096)
		media, keyframe, header := Look(f)
		require.Equal(t, [3]bool{c.media, c.keyframe, c.header}, [3]bool{media, keyframe, header}, name)
	}
}
