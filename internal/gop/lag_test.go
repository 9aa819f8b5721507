package gop

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// after appends a message so long after the one before it.
func (f *feed) after(d time.Duration, typ func(...[]byte) *Message, b []byte) *Message {
	f.now += int64(d) - int64(10*time.Millisecond)
	return typ(b)
}

// next is what c sends in one batch.
func next(t testing.TB, c *Cursor) []item {
	var b Batch
	b.Fill(c, 1)
	if b.Len() == 0 {
		return nil
	}
	sent := slices.Concat(b.IOV()...)
	b.Sent(c, b.Len())
	return parse(t, sent, chunkSize)
}

// Who has fallen behind by more than 8 s goes on at the newest keyframe, with
// what headers have changed in between.
func TestLag_SkipsToTheNewestKeyframe(t *testing.T) {
	for _, push := range []bool{false, true} {
		f := newFeed(wide)
		f.Slowest = func() uint64 { return 1 }
		f.video(avcHeader)
		f.audio(aacHeader)
		f.video(avcKey)
		c := f.start(push)
		require.Len(t, next(t, c), 3)
		f.video(avcInter) // where c is
		f.after(2*time.Second, f.video, avcKey)
		f.after(2*time.Second, f.video, avcHeader2)
		key := f.after(2*time.Second, f.video, avcKey)
		f.after(2*time.Second+1, f.video, avcInter)
		require.Equal(t, append(items(key.Time, avcHeader2), items(key.Time, aacHeader, avcKey)...), next(t, c))
		overtaken, waited := c.Skipped()
		require.EqualValues(t, 3, overtaken)
		require.Zero(t, waited)
		require.EqualValues(t, 1, c.Lag())
	}
}

func TestLag_WithinTheLimit(t *testing.T) {
	f := newFeed(wide)
	f.Slowest = func() uint64 { return 1 }
	f.video(avcHeader, avcKey)
	c := f.start(false)
	next(t, c)
	late := f.video(avcInter)
	f.after(4*time.Second, f.video, avcKey)
	f.after(4*time.Second, f.video, avcInter)
	require.Equal(t, items(late.Time, avcInter), next(t, c))
	f.after(4*time.Second+1, f.video, avcInter)
	require.Equal(t, items(late.Time+10, avcKey), next(t, c), "the keyframe is the newest")
	overtaken, _ := c.Skipped()
	require.Zero(t, overtaken)
}

// What is under way to the receiver counts, but not while it is sent what it has
// begun with.
func TestLag_UnderWay(t *testing.T) {
	f := newFeed(wide)
	f.Slowest = func() uint64 { return 1 }
	f.video(avcHeader, avcKey)
	c := f.start(false)
	c.UnderWay(int64(7 * time.Second))
	f.after(2*time.Second, f.video, avcKey)
	require.Len(t, next(t, c), 2)
	late := f.video(avcInter)
	f.after(time.Second, f.video, avcKey)
	require.Equal(t, items(late.Time-10, avcKey), next(t, c), "not 9 s behind in all")
	c.UnderWay(int64(8*time.Second) + 1)
	require.Equal(t, items(late.Time+10, avcKey), next(t, c))
	overtaken, _ := c.Skipped()
	require.EqualValues(t, 1, overtaken)
}

// Without a newer keyframe nobody is helped by skipping.
func TestLag_NoNewerKeyframe(t *testing.T) {
	f := newFeed(wide)
	f.Slowest = func() uint64 { return 1 }
	f.video(avcHeader, avcKey)
	c := f.start(false)
	next(t, c)
	for range 9 {
		f.after(time.Second, f.video, avcInter)
	}
	f.after(500*time.Millisecond, f.audio, aacFrame)
	for range 9 {
		require.Len(t, next(t, c), 1)
	}
	overtaken, waited := c.Skipped()
	require.Zero(t, overtaken)
	require.Zero(t, waited)
}

// A receiver begins with a keyframe that may be older than 8 s. It is given 2 s
// more to catch up with what there was then; after that it is as others.
func TestLag_BeginsBehind(t *testing.T) {
	for _, row := range []struct {
		name            string
		sent            int           // of the 26 messages that it begins with
		later           time.Duration // comes the next keyframe but one
		overtaken, lags uint64
	}{
		{"catches up", 25, 1900 * time.Millisecond, 0, 2},
		{"9.4 s behind", 1, 2100 * time.Millisecond, 0, 26},
		{"9.6 s behind", 1, 2300 * time.Millisecond, 26, 0},
		{"8.1 s behind, after it had all of that", 26, 8100 * time.Millisecond, 1, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFeed(wide)
			f.Slowest = func() uint64 { return 1 }
			f.video(avcHeader, avcKey)
			for range 25 {
				f.after(300*time.Millisecond, f.video, avcInter)
			}
			c := f.start(false) // 7.5 s behind
			f.after(100*time.Millisecond, f.video, avcKey)
			for range row.sent {
				next(t, c)
			}
			f.after(row.later, f.video, avcKey)
			next(t, c)
			overtaken, _ := c.Skipped()
			require.Equal(t, row.overtaken, overtaken)
			require.Equal(t, row.lags, c.Lag())
		})
	}
}

// Bytes count as time does.
func TestLag_Bytes(t *testing.T) {
	l := wide
	l.Bytes = 2 * (500 + 2*messageCost)
	f := newFeed(l)
	f.Slowest = func() uint64 { return 1 }
	f.video(avcHeader, avcKey)
	c := f.start(false)
	next(t, c)
	late := f.video(avcInter)
	f.video(avcKey, append(slices.Clone(avcInter), make([]byte, 440)...))
	require.LessOrEqual(t, int(f.Get(f.Head()-1).end-late.end), l.Bytes/2)
	require.Equal(t, items(late.Time, avcInter), next(t, c))
	key := f.video(avcKey)
	f.video(append(slices.Clone(avcInter), make([]byte, 100)...))
	require.Equal(t, items(key.Time, avcKey), next(t, c))
	overtaken, _ := c.Skipped()
	require.EqualValues(t, 2, overtaken)
}

// A publisher that is faster than real time makes nobody late by its
// timestamps, and one that pauses does not either.
func TestLag_IsNotMediaTime(t *testing.T) {
	f := newFeed(wide)
	f.Slowest = func() uint64 { return 1 }
	f.video(avcHeader, avcKey)
	c := f.start(false)
	next(t, c)
	for range 100 {
		f.time += 1000
		f.video(avcInter, avcKey)
	}
	for range 200 {
		require.Len(t, next(t, c), 1)
	}
	f.now += int64(time.Minute)
	f.video(avcInter)
	require.Len(t, next(t, c), 1)
	overtaken, _ := c.Skipped()
	require.Zero(t, overtaken)
}

// Audio alone: each message is as good as a keyframe.
func TestLag_AudioAlone(t *testing.T) {
	f := newFeed(wide)
	f.Slowest = func() uint64 { return 1 }
	f.audio(aacHeader, aacFrame)
	c := f.start(false)
	next(t, c)
	for range 9 {
		f.after(1001*time.Millisecond, f.audio, aacFrame)
	}
	require.Equal(t, items(f.time, aacFrame), next(t, c))
	overtaken, _ := c.Skipped()
	require.EqualValues(t, 8, overtaken)
}
