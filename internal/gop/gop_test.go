package gop

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/stretchr/testify/require"
)

const chunkSize = 60000

var wide = Limits{Bytes: 16 << 20, Age: int64(10 * time.Second)}

// Bodies as encoders send them.
var (
	avcHeader   = body("17 00 000000 01 64001f ffe1 0004 6764001f 01 0003 68eb8f")
	avcHeader2  = body("17 00 000000 01 640028 ffe1 0004 67640028 01 0003 68ee3c")
	avcKey      = body("17 01 000000 00000004 65888400")
	avcInter    = body("27 01 000050 00000004 419a0100")
	aacHeader   = body("af 00 1210")
	aacHeader2  = body("af 00 1190")
	aacFrame    = body("af 01 211004")
	mp3Frame    = body("2f fffb9064")
	vp8Key      = body("91 76703038 30010000")
	hevcHeader  = body("90 68766331 01 0160000000")
	hevcKey     = body("91 68766331 000000 00000004 26010000")
	hevcInter   = body("a1 68766331 000000 00000004 02010000")
	avcColor    = append(body("94 61766331"), colorInfo...) // the legacy headers' codec
	hevcColor   = append(body("94 68766331"), colorInfo...)
	colorInfo   = body("02 0009 636f6c6f72496e666f 03 000009")
	track0      = body("96 00 61766331 00 01 64001f ffe1")
	track1      = body("96 00 61766331 01 01 640020 ffe1")
	tracks01    = body("96 10 61766331 00 000003 01aaaa 01 000003 01bbbb")
	track1Key   = body("96 01 61766331 01 000000 00000004 65888400")
	track1Inter = body("a6 01 61766331 01 000000 00000004 419a0100")
	metadata    = body("02 000a 6f6e4d65746144617461 03 0005 7769647468 00 409e000000000000 000009")
	metadata2   = body("02 000a 6f6e4d65746144617461 03 0005 7769647468 00 4094000000000000 000009")
	clearFrame  = append(body("02 000f 40636c656172446174614672616d65"), metadata[:13]...)
)

func body(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// feed appends to a log as a server does.
type feed struct {
	*Log
	framer chunk.Framer
	now    int64
	time   uint32
}

func newFeed(l Limits) *feed {
	return &feed{Log: New(l), framer: chunk.Framer{Size: chunkSize}}
}

// add appends a message 10 ms after the one before it.
func (f *feed) add(typ uint8, b []byte) *Message {
	f.time += 10
	f.now += int64(10 * time.Millisecond)
	frame := f.framer.Frame(chunk.Header{Time: f.time, Type: typ}, b)
	d := flv.Data(b, false)
	return f.Append(frame, typ == chunk.TypeData && d.OnMetaData && !d.Clear, f.now)
}

func (f *feed) video(b ...[]byte) (last *Message) {
	for _, b := range b {
		last = f.add(chunk.TypeVideo, b)
	}
	return last
}

func (f *feed) audio(b ...[]byte) (last *Message) {
	for _, b := range b {
		last = f.add(chunk.TypeAudio, b)
	}
	return last
}

func (f *feed) data(b []byte) *Message { return f.add(chunk.TypeData, b) }

// start returns a new cursor that shares the log's bytes.
func (f *feed) start(push bool) *Cursor {
	c := new(Cursor)
	f.Start(c, Options{Push: push, Layout: chunk.Layout{StreamID: chunk.MediaStreamID, Size: chunkSize}, Size: chunkSize})
	return c
}

// item is what a receiver gets.
type item struct {
	time uint32
	body []byte
}

func items(at uint32, bodies ...[]byte) (out []item) {
	for _, b := range bodies {
		out = append(out, item{at, b})
	}
	return out
}

// parse reads what was sent.
func parse(t testing.TB, b []byte, size int) (out []item) {
	stream := append(chunk.AppendControl(nil, chunk.TypeSetChunkSize, uint32(size)), b...)
	r := chunk.NewReader(bytes.NewReader(stream), 4096, chunk.Limits{
		Media: 1 << 24, Command: 1 << 24, Partial: 1 << 26, Streams: 8, TinySize: 1 << 30,
	})
	_, err := r.Next()
	require.NoError(t, err)
	for {
		m, err := r.Next()
		if err != nil {
			require.Equal(t, io.EOF, err)
			return out
		}
		out = append(out, item{m.Time, m.Payload})
	}
}

// drain sends all there is by batches, whole ones.
func drain(t testing.TB, c *Cursor, limit int) []byte {
	var out []byte
	var b Batch
	for {
		b.Fill(c, limit)
		if b.Len() == 0 {
			require.Zero(t, c.Lag())
			return out
		}
		sent := bytes.Join(b.IOV(), nil)
		require.Len(t, sent, b.Len())
		n, _, rest := b.Sent(c, b.Len())
		require.Positive(t, n)
		require.Nil(t, rest)
		out = append(out, sent...)
	}
}

// headerTime is the time of a header message that goes before m.
func headerTime(m *Message, typ uint8, first bool) uint32 {
	if typ == chunk.TypeData && first {
		return 0
	}
	return m.Time
}

// read is drain by Read: the messages in the form of items, header sets at the
// time of the message behind them.
func read(c *Cursor) (out []item) {
	first := c.set == nil
	for {
		m, set := c.Read()
		if m == nil {
			return out
		}
		set.All(func(typ uint8, p []byte) { out = append(out, item{headerTime(m, typ, first), p}) })
		first = false
		out = append(out, item{m.Time, m.sent(c.opt.Push)})
	}
}

// sent is the payload that goes to a receiver.
func (m *Message) sent(push bool) []byte {
	if push && m.Wrap {
		return append([]byte(flv.SetDataFrame), m.Frame.Payload()...)
	}
	return m.Frame.Payload()
}

// joined is the set's messages for a receiver.
func (s *HeaderSet) joined(o Options, time uint32, first bool) []byte {
	iov, _ := s.AppendTo(nil, nil, o, time, first)
	return bytes.Join(iov, nil)
}

// check drains a new cursor by batches of several sizes and by Read, and
// expects the same of all.
func check(t *testing.T, f *feed, want []item) {
	t.Helper()
	for _, limit := range []int{1, 50, 1 << 20} {
		require.Equal(t, want, parse(t, drain(t, f.start(false), limit), chunkSize), "limit %d", limit)
	}
	require.Equal(t, want, read(f.start(false)))
}

func TestStart_LastKeyframe(t *testing.T) {
	f := newFeed(wide)
	f.data(metadata)
	f.video(avcHeader)
	f.audio(aacHeader, aacFrame)
	f.video(avcKey, avcInter)
	check(t, f, slices.Concat(items(0, metadata), items(50, avcHeader, aacHeader, avcKey), items(60, avcInter)))

	f.audio(aacFrame)
	f.video(avcInter, avcKey) // 90
	f.audio(aacFrame)
	f.video(avcInter)
	check(t, f, slices.Concat(items(0, metadata), items(90, avcHeader, aacHeader, avcKey), items(100, aacFrame), items(110, avcInter)))
}

// Destinations get the metadata inside @setDataFrame, in the header set and
// in its place.
func TestStart_Push(t *testing.T) {
	f := newFeed(wide)
	f.data(metadata)
	f.video(avcHeader, avcKey)
	f.data(metadata2)
	set := func(b []byte) []byte { return append([]byte(flv.SetDataFrame), b...) }
	require.Equal(t, slices.Concat(items(0, set(metadata)), items(30, avcHeader, avcKey), items(40, set(metadata2))),
		parse(t, drain(t, f.start(true), 1<<20), chunkSize))
	check(t, f, slices.Concat(items(0, metadata), items(30, avcHeader, avcKey), items(40, metadata2)))
}

func TestStart_Empty(t *testing.T) {
	f := newFeed(wide)
	c := f.start(false)
	require.EqualValues(t, 1, c.Next())
	require.Empty(t, drain(t, c, 1<<20))
	f.Slowest = c.Next
	f.video(avcHeader, avcKey)
	require.EqualValues(t, 2, c.Lag())
	require.Equal(t, append(items(10, avcHeader), items(20, avcKey)...), parse(t, drain(t, c, 1<<20), chunkSize))
}

func TestStart_NoKeyframeYet(t *testing.T) {
	f := newFeed(wide)
	f.video(avcHeader, avcInter)
	f.audio(aacHeader)
	c, r := f.start(false), f.start(false)
	require.Zero(t, c.Lag())
	f.Slowest = c.Next

	f.video(avcInter) // 40
	f.audio(aacFrame) // 50: passes, with the headers before it
	f.video(avcInter) // 60
	f.audio(aacFrame) // 70
	f.video(avcInter) // 80
	f.video(avcKey)   // 90
	f.video(avcInter) // 100
	want := slices.Concat(items(50, avcHeader, aacHeader, aacFrame), items(70, aacFrame), items(90, avcKey), items(100, avcInter))
	require.Equal(t, want, parse(t, drain(t, c, 1<<20), chunkSize))
	require.Equal(t, want, read(r))
	for _, c := range []*Cursor{c, r} {
		overtaken, waited := c.Skipped()
		require.Zero(t, overtaken)
		require.EqualValues(t, 3, waited)
	}
}

// What has been skipped before a keyframe is counted once, however the
// messages fall into batches.
func TestBatch_SkippedAcrossBatches(t *testing.T) {
	for _, limit := range []int{1, 40, 60, 1 << 20} {
		f := newFeed(wide)
		f.video(avcHeader, avcInter)
		c := f.start(false)
		f.Slowest = c.Next
		for range 10 {
			f.video(avcInter, avcInter)
			f.audio(aacFrame)
		}
		f.video(avcInter, avcKey, avcInter)
		require.Len(t, parse(t, drain(t, c, limit), chunkSize), 1+10+2)
		_, waited := c.Skipped()
		require.EqualValues(t, 21, waited)
	}
}

func TestStart_AudioOnly(t *testing.T) {
	f := newFeed(wide)
	f.audio(aacHeader, aacFrame, aacFrame)
	c := f.start(false)
	require.Equal(t, items(30, aacHeader, aacFrame), parse(t, drain(t, c, 1<<20), chunkSize))
	f.audio(aacFrame)
	require.Equal(t, items(40, aacFrame), parse(t, drain(t, c, 1<<20), chunkSize))

	// What nobody needs is dropped without keyframes, too.
	for range 1000 {
		f.audio(aacFrame)
	}
	messages, _ := f.Len()
	require.Less(t, messages, 2*trimEvery)
	_, waited := c.Skipped()
	require.Zero(t, waited)
}

// A header that changes between keyframes passes in its place; who starts
// before it gets the old ones, who starts behind it the new (F9).
func TestHeaderChange(t *testing.T) {
	f := newFeed(wide)
	f.video(avcHeader)
	f.audio(aacHeader)
	f.video(avcKey, avcInter, avcHeader2, avcInter)
	f.audio(aacHeader2, aacFrame)
	want := items(30, avcHeader, aacHeader, avcKey)
	for i, b := range [][]byte{avcInter, avcHeader2, avcInter, aacHeader2, aacFrame} {
		want = append(want, items(uint32(40+10*i), b)...)
	}
	check(t, f, want)
	f.video(avcKey)
	check(t, f, items(90, avcHeader2, aacHeader2, avcKey))
}

// Encoders that repeat their headers at each keyframe cost nothing (F9).
func TestHeaderRepeated(t *testing.T) {
	f := newFeed(wide)
	f.data(metadata)
	f.video(avcHeader)
	set := f.audio(aacHeader).After
	for range 3 {
		for _, m := range []*Message{f.data(metadata), f.video(avcHeader), f.audio(aacHeader), f.video(avcKey)} {
			require.Same(t, set, m.Set)
			require.Same(t, set, m.After)
		}
	}
	require.NotSame(t, set, f.video(avcHeader2).After)
}

func bodiesOf(s *HeaderSet) (out [][]byte) {
	s.All(func(_ uint8, p []byte) { out = append(out, p) })
	return out
}

func TestHeaderSet(t *testing.T) {
	type step struct {
		typ  uint8
		body []byte
	}
	v := func(b []byte) step { return step{chunk.TypeVideo, b} }
	a := func(b []byte) step { return step{chunk.TypeAudio, b} }
	d := func(b []byte) step { return step{chunk.TypeData, b} }
	for _, tt := range []struct {
		name  string
		steps []step
		want  [][]byte
	}{
		{"none", nil, nil},
		{"frames are none", []step{v(avcKey), v(avcInter), a(aacFrame)}, nil},
		{"metadata first", []step{v(avcHeader), a(aacHeader), d(metadata)}, [][]byte{metadata, avcHeader, aacHeader}},
		{"in the order in which they came", []step{a(aacHeader), v(avcHeader)}, [][]byte{aacHeader, avcHeader}},
		{"F9 replaced in place", []step{v(avcHeader), a(aacHeader), v(avcHeader2)}, [][]byte{avcHeader2, aacHeader}},
		{"metadata replaced", []step{d(metadata), v(avcHeader), d(metadata2)}, [][]byte{metadata2, avcHeader}},
		{"metadata deleted", []step{d(metadata), v(avcHeader), d(clearFrame)}, [][]byte{avcHeader}},
		{"metadata deleted that was not there", []step{d(clearFrame)}, nil},
		{"color beside the header", []step{v(hevcHeader), v(hevcColor)}, [][]byte{hevcHeader, hevcColor}},
		{"F10 another codec ends header and color", []step{v(avcHeader), v(avcColor), v(hevcHeader)}, [][]byte{hevcHeader}},
		{"F10 and back", []step{v(hevcHeader), v(hevcColor), v(avcHeader)}, [][]byte{avcHeader}},
		{"a new header of the same codec keeps the color", []step{v(avcHeader), v(avcColor), v(avcHeader2)}, [][]byte{avcHeader2, avcColor}},
		{"two tracks", []step{v(track0), v(track1)}, [][]byte{track0, track1}},
		{"F10 on one track leaves the other", []step{v(avcHeader), v(track1), v(hevcHeader)}, [][]byte{hevcHeader, track1}},
		{"one message for two tracks", []step{v(track0), v(track1), v(tracks01)}, [][]byte{tracks01}},
		{"one of its tracks replaced", []step{v(tracks01), v(track0)}, [][]byte{tracks01, track0}},
		{"both of its tracks replaced", []step{v(tracks01), v(track0), v(track1)}, [][]byte{track1, track0}},
		{"both replaced, and sent again", []step{v(tracks01), v(track0), v(tracks01)}, [][]byte{tracks01}},
		{"video and audio do not mix", []step{v(track0), a(body("95 00 4f707573 00 4f7075734865616401")), v(track0)},
			[][]byte{track0, body("95 00 4f707573 00 4f7075734865616401")}},
		{"a codec without header ends that of the old one", []step{v(avcHeader), a(aacHeader), a(mp3Frame)}, [][]byte{avcHeader}},
		{"and back", []step{v(avcHeader), a(aacHeader), a(mp3Frame), a(aacFrame), a(aacHeader2)}, [][]byte{avcHeader, aacHeader2}},
		{"a codec without header ends header and color", []step{v(hevcHeader), v(hevcColor), a(aacHeader), v(vp8Key)}, [][]byte{aacHeader}},
		{"but on its track alone", []step{v(tracks01), v(vp8Key)}, [][]byte{tracks01}},
		{"the same codec in another form ends nothing", []step{v(avcHeader), v(body("91 61766331 000000 65"))}, [][]byte{avcHeader}},
		{"nor does an unknown one", []step{v(avcHeader), v(body("10 65")), a(aacHeader), a(body("c2 00"))}, [][]byte{avcHeader, aacHeader}},
		{"an empty header replaces none", []step{v(avcHeader), v(body("17 00 000000"))}, [][]byte{avcHeader}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFeed(wide)
			m := f.audio(aacFrame)
			for _, s := range tt.steps {
				before := f.set
				had := bodiesOf(before)
				m = f.add(s.typ, s.body)
				require.Same(t, before, m.Set)
				require.Equal(t, had, bodiesOf(before), "sets do not change")
			}
			require.Equal(t, tt.want, bodiesOf(m.After))
		})
	}
}

func TestHeaderSet_Bounded(t *testing.T) {
	f := newFeed(wide)
	for i := range 256 {
		f.video(append(body("96 00 61766331"), byte(i), 1, 2, 3))
	}
	require.Len(t, bodiesOf(f.set), maxHeaders)

	f = newFeed(wide)
	f.video(avcHeader)
	m := f.video(append(bytes.Clone(avcHeader2), make([]byte, maxHeaderBytes)...))
	require.Same(t, m.Set, m.After)
	require.Equal(t, [][]byte{avcHeader}, bodiesOf(m.After))
	require.NotNil(t, f.Get(m.Seq), "it is passed on")
}

// A header set does not keep the slab in which its messages came, nor depend
// on what comes after.
func TestHeaderSet_AppendTo(t *testing.T) {
	f := newFeed(wide)
	f.data(metadata)
	f.video(avcHeader)
	set := f.audio(aacHeader).After
	for _, l := range []chunk.Layout{{StreamID: 1, Size: chunkSize}, {StreamID: 7, Offset: 0xffffff, Size: 10}, {StreamID: 7, Size: 128}} {
		for _, push := range []bool{false, true} {
			first := l.StreamID == 7
			b := set.joined(Options{Push: push, Layout: l}, 500, first)
			var want []byte
			for i, p := range [][]byte{metadata, avcHeader, aacHeader} {
				if i == 0 && push {
					p = append([]byte(flv.SetDataFrame), p...)
				}
				at := 500 + l.Offset
				if i == 0 && first {
					at = 0
				}
				want = chunk.Append(want, chunk.Header{
					Time: at, Type: []uint8{chunk.TypeData, chunk.TypeVideo, chunk.TypeAudio}[i], StreamID: l.StreamID,
				}, p, l.Size)
			}
			require.Equal(t, want, b)
		}
	}
	var none *HeaderSet
	require.Empty(t, none.joined(Options{Push: true, Layout: chunk.Layout{Size: 1}}, 0, true))
	none.All(func(uint8, []byte) { t.Fail() })
}

// A header that does not fit one chunk is looked at in whole.
func TestHeaderSet_LongHeader(t *testing.T) {
	f := newFeed(wide)
	f.framer.Size = 8
	m := f.video(tracks01)
	require.Equal(t, [][]byte{tracks01}, bodiesOf(m.After))
	m = f.audio(append(bytes.Clone(aacHeader), make([]byte, 100)...))
	require.Len(t, bodiesOf(m.After), 2)
}

func TestKeyframe(t *testing.T) {
	f := newFeed(wide)
	require.False(t, f.video(avcHeader).Keyframe)
	m := f.video(avcKey)
	require.True(t, m.Keyframe)
	require.False(t, m.Inter)
	m = f.video(avcInter)
	require.False(t, m.Keyframe)
	require.True(t, m.Inter)
	m = f.audio(aacFrame)
	require.False(t, m.Keyframe || m.Inter)
	m = f.video(track1Key)
	require.False(t, m.Keyframe, "of another track than the main one")
	require.True(t, m.Inter)
	require.True(t, f.video(track1Inter).Inter)
	require.True(t, f.video(hevcHeader, hevcKey).Keyframe)
	require.True(t, f.video(hevcInter).Inter)
	require.False(t, f.video(body("57 00")).Inter, "a command")
}

// The main track is the lowest that has media, whatever else came before.
func TestKeyframe_MainTrack(t *testing.T) {
	for _, first := range [][]byte{{}, body("57 00"), body("96"), body("96 30 00"), body("17 02 000000")} {
		f := newFeed(wide)
		f.video(first)
		f.video(track1)
		require.True(t, f.video(track1Key).Keyframe, "after %x", first)
	}
}

// When the main track ends another one takes its place, until it is back.
func TestKeyframe_MainTrackEnds(t *testing.T) {
	f := newFeed(wide)
	f.video(track0, track1)
	require.False(t, f.video(track1Key).Keyframe)
	f.video(body("96 02 61766331 01"))
	require.False(t, f.video(track1Key).Keyframe, "the end of another track")
	f.video(body("96 02 61766331 00"))
	require.True(t, f.video(track1Key).Keyframe)
	f.video(track0)
	require.False(t, f.video(track1Key).Keyframe, "track 0 is back")
}

func TestInfo(t *testing.T) {
	f := newFeed(wide)
	require.Zero(t, f.Info())
	f.video(avcHeader)
	f.audio(aacHeader)
	require.Equal(t, Info{flv.CodecAVC, flv.CodecAAC, false}, f.Info())
	f.video([]byte("\x80avc1\x01"))
	require.Equal(t, Info{flv.CodecAVC, flv.CodecAAC, true}, f.Info(), "the same codec in another form")
	f.video(hevcHeader)
	require.Equal(t, Info{flv.CodecHEVC, flv.CodecAAC, true}, f.Info())
	f.video(avcKey)
	require.Equal(t, Info{flv.CodecAVC, flv.CodecAAC, true}, f.Info())
}

func TestEnd(t *testing.T) {
	f := newFeed(wide)
	f.video(avcHeader, avcKey)
	c := f.start(false)
	require.False(t, c.Done())
	f.End()
	require.True(t, f.Ended())
	require.False(t, c.Done())
	drain(t, c, 1)
	require.True(t, c.Done())
	require.True(t, f.Get(f.Head()-1).Keyframe)
}

func TestCursor_ZeroLag(t *testing.T) {
	require.Zero(t, new(Cursor).Lag())
}

// Real recordings: who starts at any time gets headers and the newest
// keyframe, and then all of the rest.
func TestRecordings(t *testing.T) {
	for _, name := range []string{"h264_aac", "hevc_aac", "av1_opus", "aac_only", "mp3_only", "h264_only", "multitrack_h264x2_aacx2", "multitrack_hevc_aac_opus"} {
		t.Run(name, func(t *testing.T) {
			file, err := os.ReadFile("../../testdata/" + name + ".flv")
			require.NoError(t, err)
			in := flv.NewReader(bytes.NewReader(file))
			f := newFeed(wide)
			f.Slowest = func() uint64 { return 1 }
			var cursors []*Cursor
			var begins []uint64
			for {
				typ, ts, b, err := in.Next()
				if err == io.EOF {
					break
				}
				require.NoError(t, err)
				frame := f.framer.Frame(chunk.Header{Time: ts, Type: typ}, b)
				f.Append(frame, false, f.now)
				if f.Head()%20 == 0 {
					c := f.start(false)
					cursors, begins = append(cursors, c), append(begins, c.Next())
				}
			}
			require.NotEmpty(t, cursors)
			video := f.video0()
			for i, c := range cursors {
				got := parse(t, drain(t, c, 100000), chunkSize)
				first := f.Get(begins[i])
				var want []item
				first.Set.All(func(typ uint8, p []byte) { want = append(want, item{headerTime(first, typ, true), p}) })
				waiting := true
				for seq := first.Seq; seq < f.Head(); seq++ {
					m := f.Get(seq)
					if waiting = waiting && !m.Keyframe; waiting && m.Inter {
						continue
					}
					want = append(want, item{m.Time, m.Frame.Payload()})
				}
				require.Equal(t, want, got)
				if video {
					require.True(t, first.Keyframe)
				}
			}
		})
	}
}

// video0 reports whether the log holds video.
func (f *feed) video0() bool { return f.Log.video.Load() }
