package gop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/chunk"
)

func TestPictures(t *testing.T) {
	l := New(Limits{Bytes: 1 << 20, Age: int64(time.Minute)})
	add := func(ms uint32, typ uint8, payload string) {
		l.Append(chunk.NewFrame(chunk.Header{Type: typ, Time: ms, StreamID: 1}, []byte(payload), 4096), false, int64(ms)*int64(time.Millisecond))
	}
	const key, inter, header, sound = "\x17\x01\x00\x00\x00k", "\x27\x01\x00\x00\x00i", "\x17\x00\x00\x00\x00h", "\xaf\x01s"
	add(0, chunk.TypeVideo, inter) // before any keyframe
	add(40, chunk.TypeVideo, header)
	require.Equal(t, Pictures{Frames: 1}, l.Pictures())
	for i := range uint32(3) {
		at := 1000 + 500*i
		add(at, chunk.TypeVideo, key)
		add(at, chunk.TypeAudio, sound)
		add(at+100, chunk.TypeVideo, inter)
	}
	require.Equal(t, Pictures{Frames: 7, Keyframes: 3, GOP: 500 * time.Millisecond, GOPFrames: 2}, l.Pictures())
	l.Restart()
	add(9000, chunk.TypeVideo, key)
	require.Equal(t, 500*time.Millisecond, l.Pictures().GOP, "the GOP that another publisher cut off is none")
	require.EqualValues(t, 4, l.Pictures().Keyframes)

	first := l.Get(l.Head() - 1)
	require.Equal(t, Lag{Messages: 1, Bytes: first.Cost(), Age: time.Second}, l.LagOf(first.Seq, int64(10*time.Second)))
	add(9700, chunk.TypeVideo, inter)
	lag := l.LagOf(first.Seq, int64(10*time.Second))
	require.Equal(t, 700*time.Millisecond, lag.Media)
	require.EqualValues(t, 2, lag.Messages)
	require.Zero(t, l.LagOf(l.Head(), int64(10*time.Second)))
	require.NotZero(t, l.LagOf(0, 0).Messages, "of which the first are not kept any more")
}
