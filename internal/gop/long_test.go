package gop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A GOP of 20 s, and a stream with one keyframe only: who joins at any second
// begins with the keyframe.
func TestLongGOP(t *testing.T) {
	f := newFeed(wide)
	f.Slowest = func() uint64 { return f.Head() }
	f.video(avcHeader)
	f.audio(aacHeader)
	key := f.video(avcKey)
	for second := range 60 {
		f.after(time.Second, f.video, avcInter)
		c := f.start(true)
		got := next(t, c)
		require.Equal(t, append(items(key.Time, avcHeader, aacHeader), items(key.Time, avcKey)...), got, "second %d", second)
		for range second + 1 {
			require.Len(t, next(t, c), 1)
		}
		require.Nil(t, next(t, c))
		overtaken, waited := c.Skipped()
		require.Zero(t, overtaken+waited)
	}
	f.video(avcKey)
	messages, _ := f.Len()
	require.Equal(t, 1, messages, "what came before the newest is dropped")
}

// Where nobody begins with the last keyframe, it is kept no longer than the rest.
func TestLongGOP_Live(t *testing.T) {
	limits := wide
	limits.Live = true
	f := newFeed(limits)
	f.video(avcHeader, avcKey)
	for range 20 {
		f.after(time.Second, f.video, avcInter)
	}
	messages, _ := f.Len()
	require.Equal(t, 11, messages)
}

// Lag counts from where a receiver began; later than MaxLatency it waits for the
// next keyframe.
func TestLongGOP_Lag(t *testing.T) {
	f := newFeed(wide)
	f.Slowest = func() uint64 { return 1 }
	f.video(avcHeader, avcKey)
	for range 30 {
		f.after(time.Second, f.video, avcInter)
	}
	c := f.start(false)
	for range 31 {
		require.NotNil(t, next(t, c))
	}
	for range 10 {
		f.after(time.Second, f.video, avcInter)
	}
	require.Len(t, next(t, c), 1, "10 s behind")
	for range 3 {
		f.after(time.Second, f.video, avcInter)
	}
	require.Nil(t, next(t, c), "later than that")
	overtaken, _ := c.Skipped()
	require.EqualValues(t, 12, overtaken)
	key := f.video(avcKey)
	require.Equal(t, items(key.Time, avcKey), next(t, c))
}

// Where there is no keyframe to begin with, a receiver begins after 5 s with what
// comes, headers first.
func TestLongGOP_NoKeyframe(t *testing.T) {
	limits := wide
	limits.Bytes = 12 * (messageCost + 30)
	f := newFeed(limits)
	f.video(avcHeader, avcKey)
	for range 20 {
		f.after(time.Second, f.video, avcInter)
	}
	skipped := new(Skipped)
	c := new(Cursor)
	f.Start(c, Options{Layout: f.start(false).opt.Layout, Size: chunkSize, Skipped: skipped})
	for range 5 {
		f.after(time.Second, f.video, avcInter)
		require.Nil(t, next(t, c))
	}
	require.False(t, skipped.Blind.Load())
	m := f.after(time.Second, f.video, avcInter)
	require.Equal(t, items(m.Time, avcHeader, avcInter), next(t, c))
	require.True(t, skipped.Blind.Load())
	m = f.video(avcInter)
	require.Equal(t, items(m.Time, avcInter), next(t, c))
	require.EqualValues(t, 5, skipped.Waited.Load())
}

// In a stream of audio to which video comes later, the wait for a keyframe begins with
// the video.
func TestLongGOP_VideoLater(t *testing.T) {
	for name, placed := range map[string]bool{"from the beginning": true, "while there is audio": false} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(wide)
			var c *Cursor
			if placed {
				c = f.start(false)
			}
			f.audio(aacHeader, aacFrame)
			if !placed {
				c = f.start(false)
			}
			for range 20 {
				f.after(time.Second, f.audio, aacFrame)
				for next(t, c) != nil {
				}
			}
			f.video(avcHeader)
			require.Len(t, next(t, c), 1)
			for range 4 {
				f.after(time.Second, f.video, avcInter)
				require.Nil(t, next(t, c))
			}
			require.False(t, c.opt.Skipped.Blind.Load())
			for range 2 {
				f.after(time.Second, f.video, avcInter)
				require.Nil(t, next(t, c))
			}
			m := f.after(time.Second, f.video, avcInter)
			require.Equal(t, items(m.Time, avcInter), next(t, c), "after 5 s of video")
			require.True(t, c.opt.Skipped.Blind.Load())
			require.EqualValues(t, 6, c.opt.Skipped.Waited.Load())
		})
	}
}
