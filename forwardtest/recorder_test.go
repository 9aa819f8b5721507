package forwardtest_test

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

// without drops the messages i to j-1.
func without(m []forwardtest.Message, i, j int) []forwardtest.Message {
	return slices.Delete(slices.Clone(m), i, j)
}

func swap(m []forwardtest.Message, i, j int) []forwardtest.Message {
	m = slices.Clone(m)
	m[i], m[j] = m[j], m[i]
	return m
}

func change(m []forwardtest.Message, i int, f func(*forwardtest.Message)) []forwardtest.Message {
	m = slices.Clone(m)
	m[i].Payload = slices.Clone(m[i].Payload)
	f(&m[i])
	return m
}

func flip(at int) func(*forwardtest.Message) {
	return func(m *forwardtest.Message) { m.Payload[at] ^= 1 }
}

func TestRecorder(t *testing.T) {
	// metadata, two headers, then video without audio: frame n is sent[n+2],
	// a keyframe each 10.
	sent := collect(forwardtest.Media{FPS: 10, KeyframeInterval: time.Second, AudioBitrate: -1}, 3*time.Second)
	const head = 2 // metadata and the video's header
	require.Len(t, sent, head+30)
	other := collect(forwardtest.Media{ID: 1, FPS: 10, KeyframeInterval: time.Second, AudioBitrate: -1}, 3*time.Second)
	tests := []struct {
		name     string
		received []forwardtest.Message
		gaps     bool
		wrong    string // empty: nothing
	}{
		{"all", sent, false, ""},
		{"the end is missing", sent[:head+15], false, ""},
		{"the beginning is missing", without(sent, head, head+10), false, ""},
		{"no metadata", sent[1:], false, ""},
		{"nothing", nil, false, "no frame has come"},
		{"headers only", sent[:head], false, "no frame has come"},
		{"no sequence header", sent[head:], false, "message 1, 0 ms: video frame before its sequence header"},
		{"sequence header late", swap(sent, head-1, head), false, "video frame before its sequence header"},
		{"begins in a GOP", without(sent, head, head+1), false, "message 3, 100 ms: video does not start at a keyframe"},
		{"a frame is missing", without(sent, head+5, head+6), false, "message 8, 600 ms: 1 video frames are missing before frame 7"},
		{"goes on in a GOP", without(sent, head+5, head+6), true, "video goes on at a frame that is no keyframe"},
		{"goes on at a keyframe", without(sent, head+5, head+10), true, ""},
		{"goes on at a keyframe, no gaps allowed", without(sent, head+5, head+10), false, "5 video frames are missing before frame 11"},
		{"twice", slices.Concat(sent[:head+5], sent[head+4:]), false, "video frame 5 after frame 5"},
		{"a GOP twice", slices.Concat(sent[:head+20], sent[head+10:]), false, "video frame 11 after frame 20"},
		{"wrong order", swap(sent, head+5, head+6), false, "video frame 6 after frame 7"},
		{"changed", change(sent, head+3, flip(60)), false, "video frame does not match its hash"},
		{"changed number", change(sent, head+3, flip(20)), false, "video frame does not match its hash"},
		{"changed magic", change(sent, head+3, flip(10)), false, "video frame not a generated frame"},
		{"cut off", change(sent, head+3, func(m *forwardtest.Message) { m.Payload = m.Payload[:30] }), false, "video frame not a generated frame"},
		{"changed timestamp", change(sent, head+3, func(m *forwardtest.Message) { m.Timestamp++ }), false, "video frame 4 was sent with 300 ms"},
		{"timestamp goes back", change(sent, head+3, func(m *forwardtest.Message) { m.Timestamp = 100 }), false, "video goes back from 200 ms"},
		{"two publishes", slices.Concat(sent, other), false, ""},
		{"the second begins in a GOP", slices.Concat(sent, other[:head], other[head+5:]), false, "video does not start at a keyframe"},
		{"back to the first", slices.Concat(sent[:head+10], other, sent[head+10:]), false, "video frame 11 of publish 0, which was over"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rec := &forwardtest.Recorder{Gaps: test.gaps}
			for _, m := range test.received {
				rec.Record(m)
			}
			err := rec.Err()
			if test.wrong == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.wrong)
			}
			require.Equal(t, len(test.received), len(rec.Messages()))
			var failed failing
			rec.Check(&failed)
			require.Equal(t, err != nil, failed.errors > 0)
		})
	}
}

// failing notes that a test would have failed.
type failing struct {
	testing.TB
	errors int
}

func (f *failing) Helper()      {}
func (f *failing) Error(...any) { f.errors++ }

func TestRecorderWithReference(t *testing.T) {
	f, err := os.Open("../testdata/h264_aac.flv")
	require.NoError(t, err)
	defer f.Close()
	sent, err := forwardtest.ReadFLV(f)
	require.NoError(t, err)
	tests := []struct {
		name     string
		received []forwardtest.Message
		wrong    string
	}{
		{"all", sent, ""},
		{"the end is missing", sent[:50], ""},
		{"a frame is missing", without(sent, 20, 21), "frames are missing"},
		{"twice", slices.Concat(sent[:20], sent[19:]), "after frame"},
		{"changed", change(sent, 20, flip(50)), "frame was not sent like this"},
		{"changed timestamp", change(sent, 20, func(m *forwardtest.Message) { m.Timestamp += 5 }), "frame was not sent like this"},
		{"no headers", without(sent, 0, 3), "video frame before its sequence header"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rec := &forwardtest.Recorder{Reference: sent}
			for _, m := range test.received {
				rec.Record(m)
			}
			if test.wrong == "" {
				require.NoError(t, rec.Err())
			} else {
				require.ErrorContains(t, rec.Err(), test.wrong)
			}
		})
	}
}

func TestRecorderWait(t *testing.T) {
	rec := new(forwardtest.Recorder)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- rec.WaitFrames(ctx, 5) }()
	for m := range media.Messages(time.Second) {
		rec.Record(m)
	}
	require.NoError(t, <-done)
	go func() { done <- rec.WaitFrames(ctx, 1000) }()
	cancel()
	err := <-done
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "72 frames (1 to 72), 1 keyframes")
}

func TestRecorderSaysOnlySoMuch(t *testing.T) {
	rec := &forwardtest.Recorder{Discard: true}
	for m := range media.Messages(10 * time.Second) {
		m.Timestamp = -m.Timestamp
		rec.Record(m)
	}
	require.Len(t, rec.Report().Wrong, 20)
	require.Empty(t, rec.Messages())
}

func TestMedia(t *testing.T) {
	m := forwardtest.Media{}
	first, second := collect(m, 10*time.Second), collect(m, 10*time.Second)
	require.Equal(t, first, second)
	bytes := map[uint8]int{}
	count := map[uint8]int{}
	keys := 0
	for i, msg := range first {
		bytes[msg.Type] += len(msg.Payload)
		count[msg.Type]++
		if msg.Type == forwardtest.TypeVideo && msg.Payload[0] == 0x17 {
			keys++
		}
		if i > 0 {
			require.LessOrEqual(t, first[i-1].Timestamp, msg.Timestamp)
		}
	}
	require.Equal(t, map[uint8]int{forwardtest.TypeData: 1, forwardtest.TypeVideo: 251, forwardtest.TypeAudio: 470}, count)
	require.Equal(t, 1+5, keys) // the sequence header and five keyframes
	require.InDelta(t, 625_000, bytes[forwardtest.TypeVideo], 10_000)
	require.InDelta(t, 80_000, bytes[forwardtest.TypeAudio], 1_000)

	audio := collect(forwardtest.Media{VideoBitrate: -1}, time.Second)
	require.Len(t, audio, 2+47)
	require.Empty(t, collect(forwardtest.Media{VideoBitrate: -1, AudioBitrate: -1}, -1)[1:])
}
