package forwardtest

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rtmp-forward/forward/internal/flv"
)

// Recorder records a received stream and checks it:
//
//   - sequence headers come before the frames that need them;
//   - video starts at a keyframe, and continues at one after missing frames;
//   - no frame is missing, unless Gaps allows it, none comes twice or in the wrong
//     order, and none is changed;
//   - timestamps of audio, and of video, do not go back.
//
// It identifies the frames of Media by themselves, and those of other streams by
// Reference. Of unknown streams it checks the rest. A recording may begin and end
// anywhere in the stream.
//
// The zero Recorder is ready for use; set its fields before. Its methods are safe for
// concurrent use.
type Recorder struct {
	// Reference is what was sent, if it is not from Media. A frame is identified by its
	// type, timestamp and payload.
	Reference []Message
	// Gaps allows missing frames, as with a receiver that is too slow.
	Gaps bool
	// Discard keeps no messages: they are only checked.
	Discard bool

	mu       sync.Mutex
	changed  signal
	messages []Message
	report   Report

	index   *reference
	known   bool // a frame was known
	id      uint32
	past    map[uint32]bool // ids that are over
	last    uint64          // number of the last frame
	offset  uint32          // of timestamps, by Media's own time
	headers map[trackID]bool
	tracks  map[trackID]*track
}

// Report is the result of a Recorder.
type Report struct {
	Messages  int // of all kinds
	Frames    int // of audio and video, without sequence headers
	Keyframes int // of video
	// Missing is the number of missing frames, in Gaps gaps. Frames that were not
	// sent because their keyframe was missing count, too.
	Missing, Gaps int
	// First and Last are the numbers of the first and the last identified frame in
	// their publish, counted from 1.
	First, Last uint64
	// Wrong lists what is wrong, in one sentence each, at most 20.
	Wrong []string
}

// String returns the report in one line, and one more for each item of Wrong.
func (r Report) String() string {
	s := fmt.Sprintf("%d messages, %d frames (%d to %d), %d keyframes, %d missing in %d gaps",
		r.Messages, r.Frames, r.First, r.Last, r.Keyframes, r.Missing, r.Gaps)
	if len(r.Wrong) > 0 {
		s += "\n\t" + strings.Join(r.Wrong, "\n\t")
	}
	return s
}

// trackID names a track of a stream: its type and its number, 0 where it has
// none (Enhanced RTMP v2, "Multitrack").
type trackID struct {
	typ uint8
	id  uint8
}

func (t trackID) String() string {
	name := "video"
	if t.typ == TypeAudio {
		name = "audio"
	}
	if t.id > 0 {
		name += fmt.Sprintf(" track %d", t.id)
	}
	return name
}

type track struct {
	last   uint64 // number in the track, 0: none yet
	time   uint32
	keyed  bool // a keyframe has come
	frames int
}

// Record records a message. It keeps the payload, which must not be changed.
func (r *Recorder) Record(m Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.Discard {
		r.messages = append(r.messages, m)
	}
	r.report.Messages++
	if m.Type == TypeAudio || m.Type == TypeVideo {
		r.media(m)
	}
	r.changed.notify()
}

// Messages returns the recorded messages.
func (r *Recorder) Messages() []Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

// Report returns the result so far.
func (r *Recorder) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reportLocked()
}

func (r *Recorder) reportLocked() Report {
	report := r.report
	report.Wrong = slices.Clone(report.Wrong)
	return report
}

// Err returns what is wrong so far, nil if nothing is. A stream without a frame is
// wrong.
func (r *Recorder) Err() error {
	report := r.Report()
	if report.Frames == 0 {
		report.Wrong = append(report.Wrong, "no frame has come")
	}
	if len(report.Wrong) == 0 {
		return nil
	}
	return errors.New("forwardtest: " + report.String())
}

// Check fails t if something is wrong so far.
func (r *Recorder) Check(t testing.TB) {
	t.Helper()
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// Wait waits until done, called after each message, returns true.
func (r *Recorder) Wait(ctx context.Context, done func(Report) bool) error {
	err := await(ctx, &r.mu, &r.changed, func() bool { return done(r.reportLocked()) })
	if err != nil {
		return fmt.Errorf("forwardtest: %w after %v", err, r.Report())
	}
	return nil
}

// WaitFrames waits for n frames in all.
func (r *Recorder) WaitFrames(ctx context.Context, n int) error {
	return r.Wait(ctx, func(r Report) bool { return r.Frames >= n })
}

// media checks an audio or video message.
func (r *Recorder) media(m Message) {
	var tag flv.Tag
	if m.Type == TypeVideo {
		tag = flv.Video(m.Payload)
	} else {
		tag = flv.Audio(m.Payload)
	}
	if r.tracks == nil {
		r.tracks, r.headers, r.past = make(map[trackID]*track), make(map[trackID]bool), make(map[uint32]bool)
		if r.Reference != nil {
			r.index = newReference(r.Reference)
		}
	}
	id := trackID{m.Type, tag.Track}
	if tag.SequenceHeader {
		for t := range flv.Tracks(m.Type, m.Payload) {
			r.headers[trackID{m.Type, t.ID}] = true
		}
	}
	if !tag.Frames {
		return
	}
	r.report.Frames++
	if tag.Keyframe {
		r.report.Keyframes++
	}
	f, known := r.identify(m, id)
	t := r.tracks[id]
	if t == nil {
		t = new(track)
		r.tracks[id] = t
	}
	if !r.headers[id] && needsHeader(tag.Codec) {
		r.wrong(m, "%v frame before its sequence header", id)
		r.headers[id] = true // said once
	}
	gap := known && r.order(m, id, t, f)
	if m.Type == TypeVideo && tag.Track == 0 {
		switch {
		case !tag.Keyframe && !t.keyed:
			r.wrong(m, "video does not start at a keyframe")
		case !tag.Keyframe && gap:
			r.wrong(m, "video goes on at a frame that is no keyframe")
		}
		t.keyed = true
	}
	if t.frames > 0 && int32(m.Timestamp-t.time) < 0 {
		r.wrong(m, "%v goes back from %d ms", id, t.time)
	}
	t.time = m.Timestamp
	t.frames++
}

// order checks the numbers of an identified frame. It reports whether frames are
// missing before it in its track.
func (r *Recorder) order(m Message, id trackID, t *track, f frame) (gap bool) {
	if r.report.First == 0 {
		r.report.First = f.number
	}
	if f.number <= r.last {
		r.wrong(m, "%v frame %d after frame %d", id, f.number, r.last)
		return false
	}
	r.last, r.report.Last = f.number, f.number
	if t.last > 0 && f.track > t.last+1 {
		gap = true
		r.report.Gaps++
		r.report.Missing += int(f.track - t.last - 1)
		if !r.Gaps {
			r.wrong(m, "%d %v frames are missing before frame %d", f.track-t.last-1, id, f.number)
		}
	}
	t.last = f.track
	return gap
}

// identify determines which frame m is.
func (r *Recorder) identify(m Message, id trackID) (f frame, known bool) {
	if r.index != nil {
		f, ok := r.index.find(m)
		if !ok {
			r.wrong(m, "%v frame was not sent like this", id)
		}
		return f, ok
	}
	f, err := parseFrame(m.Type, m.Payload)
	switch {
	case err == errNoFrame && !r.known:
		return f, false
	case err != nil:
		r.wrong(m, "%v frame %v", id, err)
		return f, false
	}
	if !r.known || f.id != r.id {
		if r.past[f.id] {
			r.wrong(m, "%v frame %d of publish %d, which was over", id, f.number, f.id)
			return f, false
		}
		if r.known {
			// Another publish begins at a keyframe of its own.
			r.past[r.id] = true
			clear(r.tracks)
		}
		r.known, r.id, r.last = true, f.id, 0
		r.offset = m.Timestamp - f.time
	}
	if m.Timestamp-f.time != r.offset {
		r.wrong(m, "%v frame %d was sent with %d ms", id, f.number, f.time+r.offset)
	}
	return f, true
}

func (r *Recorder) wrong(m Message, format string, args ...any) {
	if len(r.report.Wrong) < 20 {
		at := fmt.Sprintf("message %d, %d ms: ", r.report.Messages, m.Timestamp)
		r.report.Wrong = append(r.report.Wrong, at+fmt.Sprintf(format, args...))
	}
}

// needsHeader reports whether a codec's frames can't be decoded without a
// sequence header.
func needsHeader(c flv.Codec) bool {
	switch c {
	case flv.CodecAVC, flv.CodecHEVC, flv.CodecVVC, flv.CodecAAC:
		return true
	}
	return false
}

// reference finds frames among those that were sent.
type reference struct {
	frames map[frameKey][]frame
}

// frameKey identifies a frame.
type frameKey struct {
	typ  uint8
	time uint32
	hash uint64
}

var seed = maphash.MakeSeed()

func keyOf(m Message) frameKey {
	return frameKey{m.Type, m.Timestamp, maphash.Bytes(seed, m.Payload)}
}

func newReference(messages []Message) *reference {
	r := &reference{frames: make(map[frameKey][]frame)}
	tracks := make(map[trackID]uint64)
	var number uint64
	for _, m := range messages {
		var tag flv.Tag
		switch m.Type {
		case TypeVideo:
			tag = flv.Video(m.Payload)
		case TypeAudio:
			tag = flv.Audio(m.Payload)
		}
		if !tag.Frames {
			continue
		}
		number++
		id := trackID{m.Type, tag.Track}
		tracks[id]++
		key := keyOf(m)
		r.frames[key] = append(r.frames[key], frame{number: number, track: tracks[id], time: m.Timestamp})
	}
	return r
}

// find returns which frame m is. Equal frames are found once each, in order.
func (r *reference) find(m Message) (frame, bool) {
	key := keyOf(m)
	same := r.frames[key]
	if len(same) == 0 {
		return frame{}, false
	}
	if len(same) > 1 {
		r.frames[key] = same[1:]
	}
	return same[0], true
}
