package gop

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/stretchr/testify/require"
)

// layouts are a receiver's that shares bytes and some that do not.
var layouts = []chunk.Layout{
	{StreamID: chunk.MediaStreamID, Size: chunkSize},
	{StreamID: 5, Size: chunkSize},
	{StreamID: chunk.MediaStreamID, Offset: 0xffffe0, Size: chunkSize},
	{StreamID: chunk.MediaStreamID, Size: 128},
	{StreamID: 3, Offset: 0xffffff00, Size: 7},
}

func (f *feed) startWith(l chunk.Layout, push bool) *Cursor {
	c := new(Cursor)
	f.Start(c, Options{Push: push, Layout: l, Size: chunkSize})
	return c
}

// stream is a log with all there is: headers, a GOP, one that is skipped, a
// header change.
func stream() *feed {
	f := newFeed(wide)
	f.Slowest = func() uint64 { return 1 }
	f.data(metadata)
	f.video(avcHeader)
	f.audio(aacHeader)
	f.video(avcKey, avcInter)
	f.audio(aacFrame)
	f.data(metadata2)
	f.video(append(bytes.Clone(avcInter), make([]byte, 300)...), avcHeader2, avcKey, avcInter)
	return f
}

// began is a cursor at the start of a stream's fourth message, the first
// keyframe.
func began(f *feed, l chunk.Layout, push bool) *Cursor {
	c := f.startWith(l, push)
	c.next.Store(4)
	return c
}

// A batch may be sent up to any byte: what was sent, the rest of its last
// message and the batches after it are the whole stream.
func TestBatch_SentInPart(t *testing.T) {
	for _, l := range layouts {
		for _, push := range []bool{false, true} {
			t.Run(fmt.Sprintf("%+v, push %v", l, push), func(t *testing.T) {
				f := stream()
				want := drain(t, began(f, l, push), 1<<20)
				// What we send is what the header set and the messages say.
				var expect []byte
				expect = append(expect, f.Get(4).Set.joined(Options{Push: push, Layout: l}, f.Get(4).Time, true)...)
				for seq := uint64(4); seq < f.Head(); seq++ {
					fr := f.Get(seq)
					expect = chunk.Append(expect, chunk.Header{Time: fr.Time + l.Offset, Type: fr.Type, StreamID: l.StreamID}, fr.sent(push), l.Size)
				}
				require.Equal(t, expect, want)

				for _, limit := range []int{1, 200, 1 << 20} {
					for n := 0; n <= len(want); n++ {
						c := began(f, l, push)
						var b Batch
						b.Fill(c, limit)
						if n > b.Len() {
							break
						}
						before, ends := c.Next(), ends(&b)
						sent := bytes.Join(b.IOV(), nil)[:n]
						messages, _, rest := b.Sent(c, n)
						require.Equal(t, begun(ends, n), messages, "%d bytes of %v", n, ends)
						require.EqualValues(t, messages, c.Next()-before)
						// The rest must outlive the batch.
						b.Fill(f.startWith(layouts[4], push), 1<<20)
						got := append(sent, bytes.Join(rest, nil)...)
						require.Equal(t, want, append(got, drain(t, c, 1<<20)...), "%d bytes, limit %d", n, limit)
					}
				}
			})
		}
	}
}

// ends are the ends of a batch's messages.
func ends(b *Batch) (out []int) {
	for _, m := range b.marks {
		out = append(out, m.end)
	}
	return out
}

// begun is how many messages n bytes have begun.
func begun(ends []int, n int) (messages int) {
	for i := range ends {
		if i == 0 && n > 0 || i > 0 && n > ends[i-1] {
			messages++
		}
	}
	return messages
}

// A message may be sent in any number of parts.
func TestBatch_SentByteByByte(t *testing.T) {
	for _, l := range layouts {
		f := stream()
		want := drain(t, began(f, l, true), 1<<20)
		c := began(f, l, true)
		var got []byte
		var b Batch
		for {
			b.Fill(c, 1<<20)
			if b.Len() == 0 {
				break
			}
			got = append(got, bytes.Join(b.IOV(), nil)[0])
			_, _, rest := b.Sent(c, 1)
			got = append(got, bytes.Join(rest, nil)...)
		}
		require.Equal(t, want, got)
	}
}

func TestBatch_Limit(t *testing.T) {
	f := stream()
	c := began(f, layouts[0], false)
	drain := func(limit int) (messages int) {
		var b Batch
		b.Fill(c, limit)
		return len(b.marks)
	}
	require.Equal(t, 1, drain(1), "one message at least")
	var b Batch
	b.Fill(c, 1)
	one := b.Len()
	require.Equal(t, 1, drain(one))
	require.Equal(t, 2, drain(one+1))
	require.Equal(t, 8, drain(1<<20))
}

// Neighbours in memory go out as one range.
func TestBatch_Coalesces(t *testing.T) {
	f := newFeed(wide)
	f.video(avcHeader, avcKey)
	for range 50 {
		f.video(avcInter)
		f.audio(aacFrame)
	}
	c := f.start(false)
	var b Batch
	b.Fill(c, 1<<20)
	require.Len(t, b.marks, 101)
	require.Len(t, b.IOV(), 3, "a header, its payload, and the rest")
	require.Equal(t, drain(t, f.start(false), 1), bytes.Join(b.IOV(), nil))
}

// Cursors at the same place share the work: nothing is allocated for the
// second one.
func TestBatch_Shared(t *testing.T) {
	f := stream()
	var b Batch
	at := func(c *Cursor) *Cursor {
		b.Fill(c, 1)
		b.Sent(c, b.Len())
		return c
	}
	one, two := at(began(f, layouts[0], false)), at(began(f, layouts[0], false))
	require.Equal(t, one.Next(), two.Next())
	b.Fill(one, 1<<20)
	iov := b.IOV()
	require.NotEmpty(t, iov)
	require.Zero(t, testing.AllocsPerRun(100, func() { b.Fill(two, 1<<20) }))
	require.Same(t, &iov[0], &b.IOV()[0])
	require.Same(t, &iov[0][0], &b.IOV()[0][0])
	b.Sent(one, b.Len())
	b.Sent(two, b.Len())
	require.Zero(t, one.Lag())
	require.Zero(t, two.Lag())

	other := stream()
	fresh := func() *Cursor { return at(began(f, layouts[0], false)) }
	waiting := fresh()
	waiting.needKey = true
	for _, tt := range []struct {
		name   string
		cursor *Cursor
		limit  int
	}{
		{"another limit", fresh(), 50},
		{"another place", at(fresh()), 1 << 20},
		{"a destination", at(began(f, layouts[0], true)), 1 << 20},
		{"another layout", at(began(f, layouts[1], false)), 1 << 20},
		{"a new cursor", began(f, layouts[0], false), 1 << 20},
		{"one that waits for a keyframe", waiting, 1 << 20},
		{"another log", at(began(other, layouts[0], false)), 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.Fill(fresh(), 1<<20)
			var own Batch
			own.Fill(tt.cursor, tt.limit)
			b.Fill(tt.cursor, tt.limit)
			require.Equal(t, own.IOV(), b.IOV())
			require.Equal(t, own.Len(), b.Len())
			require.Len(t, b.marks, len(own.marks))
			for i, m := range own.marks {
				require.Same(t, m.m, b.marks[i].m)
			}
		})
	}

	// New messages are seen.
	c := fresh()
	b.Fill(c, 1<<20)
	n := b.Len()
	f.video(avcInter)
	b.Fill(c, 1<<20)
	require.Greater(t, b.Len(), n)
}

// A batch that was used holds on to nothing.
func TestBatch_Reset(t *testing.T) {
	f := stream()
	var b Batch
	b.Fill(began(f, layouts[3], false), 1<<20)
	iov, marks := b.iov, b.marks
	b.Reset()
	require.Zero(t, b.Len())
	require.Empty(t, b.IOV())
	for _, p := range iov {
		require.Nil(t, p)
	}
	for _, m := range marks {
		require.Nil(t, m.m)
	}
	require.Nil(t, b.log)
	b.Fill(f.start(false), 1<<20)
	require.NotZero(t, b.Len())
}

// @clearDataFrame goes to destinations alone. Players get the same without it,
// wherever it is: at the end, too, after which they are up to date.
func TestCursor_ClearDataFrame(t *testing.T) {
	for _, l := range layouts {
		f := newFeed(wide)
		f.Slowest = func() uint64 { return 1 }
		f.data(metadata)           // at 10
		f.video(avcHeader, avcKey) // 20, 30
		f.data(clearFrame)         // 40
		f.data(clearFrame)         // 50
		f.video(avcInter)          // 60
		f.data(clearFrame)         // 70
		f.video(avcKey)            // 80
		f.data(clearFrame[:18:18]) // 90, of no name
		at := func(o []item) []item {
			for i := range o {
				o[i].time += l.Offset
			}
			return o
		}
		for _, limit := range []int{1, 50, 1 << 20} {
			play := slices.Concat(items(10, metadata), items(20, avcHeader), items(30, avcKey), items(60, avcInter), items(80, avcKey))
			push := slices.Concat(items(10, append([]byte(flv.SetDataFrame), metadata...)), items(20, avcHeader), items(30, avcKey),
				items(40, clearFrame), items(50, clearFrame), items(60, avcInter), items(70, clearFrame), items(80, avcKey), items(90, clearFrame[:18]))
			for to, want := range map[bool][]item{false: play, true: push} {
				c := f.startWith(l, to)
				c.next.Store(1)
				require.Equal(t, at(want), parse(t, drain(t, c, limit), l.Size), "push %v, limit %d", to, limit)
			}
			// Who begins behind it gets no metadata.
			late := f.startWith(l, false)
			require.Equal(t, at(items(80, avcHeader, avcKey)), parse(t, drain(t, late, limit), l.Size))
		}
		c := f.startWith(l, false)
		c.next.Store(1)
		require.Equal(t, slices.Concat(items(10, metadata), items(20, avcHeader), items(30, avcKey), items(60, avcInter), items(80, avcKey)), read(c))
		require.Zero(t, c.Lag())
	}
}

// Two players share a batch that begins behind what is left out, whatever of it
// the first has sent.
func TestBatch_SharedBehindClearDataFrame(t *testing.T) {
	for _, sent := range []bool{false, true} {
		f := newFeed(wide)
		f.video(avcHeader, avcKey)
		one, two := f.start(false), f.start(false)
		drain(t, one, 1<<20)
		drain(t, two, 1<<20)
		f.data(clearFrame)
		f.video(avcInter)
		f.data(clearFrame)
		var b Batch
		for i, c := range []*Cursor{one, two, one} {
			b.Fill(c, 1<<20)
			if i == 2 && sent {
				require.Zero(t, b.Len())
				break
			}
			require.Equal(t, items(40, avcInter), parse(t, bytes.Join(b.IOV(), nil), chunkSize))
			if i > 0 || sent {
				b.Sent(c, b.Len())
			}
		}
		for _, c := range []*Cursor{one, two} {
			b.Fill(c, 1<<20)
			require.Zero(t, b.Len())
			require.Zero(t, c.Lag())
		}
	}
}

// Nothing sent: nothing moves, and the headers still go first.
func TestBatch_NothingSent(t *testing.T) {
	f := stream()
	c := began(f, layouts[0], false)
	var b Batch
	for range 3 {
		b.Fill(c, 1<<20)
		messages, _, rest := b.Sent(c, 0)
		require.Zero(t, messages)
		require.Nil(t, rest)
	}
	require.EqualValues(t, 4, c.Next())
	require.Equal(t, append(items(0, metadata), items(40, avcHeader, aacHeader, avcKey)...), parse(t, drain(t, c, 1<<20), chunkSize)[:4])
}

// A started Cursor can be started again, on another log.
func TestStart_Again(t *testing.T) {
	f, g := stream(), newFeed(wide)
	c := f.start(false)
	drain(t, c, 1<<20)
	g.video(hevcHeader, hevcKey)
	g.Start(c, Options{Layout: layouts[0], Size: chunkSize})
	require.Equal(t, items(20, hevcHeader, hevcKey), parse(t, drain(t, c, 1<<20), chunkSize))
}

func BenchmarkFill(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("%d cursors", n), func(b *testing.B) {
			f := newFeed(wide)
			frames := benchmarkGOP(f)
			cursors := make([]*Cursor, n)
			for i := range cursors {
				cursors[i] = f.start(true)
			}
			f.Slowest = f.Head
			var batch Batch
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				fr := frames[i%len(frames)]
				i++
				f.Append(fr, false, f.now)
				for _, c := range cursors {
					batch.Fill(c, 128<<10)
					batch.Sent(c, batch.Len())
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/message/cursor")
		})
	}
}
