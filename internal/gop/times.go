package gop

import "github.com/rtmp-forward/forward/internal/chunk"

// Times gives the messages of one receiver times of their own. The zero value
// leaves them unchanged. It belongs to a connection, and to the goroutine that sends to
// it.
type Times struct {
	// Zero: the first message goes out with 0.
	Zero bool
	// Increasing: audio and video go out later than the audio or video before.
	Increasing bool

	state times
}

// times holds the timestamps of the messages sent so far.
type times struct {
	begun        bool
	last         uint32 // of audio or video
	offset       uint32 // of what came last, for data
	audio, video line
}

// line is that of audio or of video.
type line struct {
	begun          bool
	offset, before uint32
}

const (
	// ownOrigin is how far apart, in milliseconds, audio and video begin where
	// each has an origin of its own.
	ownOrigin = 10_000
	// behind is how much lower, in milliseconds, a time may be than the one before for
	// it alone to be raised, without all that follow on its line.
	behind = 2_000
	// rebaseAt is where times that begin with 0 do so again: some servers take
	// 31 bits. From there on a keyframe is waited for.
	rebaseAt = 1<<31 - 3_600_000
)

// time is the time that m goes out with. start: a receiver may begin with m.
func (t Times) time(s *times, m *Message, start bool) uint32 {
	if t.Zero && start && s.last >= rebaseAt {
		*s = times{}
	}
	if t.Zero && !s.begun {
		s.offset = -m.Time
	}
	l := &s.audio
	switch m.Type {
	case chunk.TypeAudio:
	case chunk.TypeVideo:
		l = &s.video
	default:
		out := m.Time + s.offset
		if s.begun && t.Increasing && int32(out-s.last) < 0 {
			return s.last
		}
		return t.floor(s, out)
	}
	if !m.Media {
		return t.header(s, l, m.Time)
	}
	if !l.begun {
		*l = line{true, s.offset, s.offset}
		if t.Zero && s.begun && !chunk.Near(m.Time+l.offset, s.last, ownOrigin) {
			l.offset = s.last - m.Time
		}
	}
	if t.Increasing && !chunk.Near(m.Time+l.offset, s.last, behind) && chunk.Near(m.Time+l.before, s.last, behind) {
		l.offset = l.before // back from a message with a time of its own
	}
	out := t.floor(s, m.Time+l.offset)
	if d := int32(out - s.last); s.begun && t.Increasing && d <= 0 {
		out = s.last + 1
		if d < -behind {
			l.before, l.offset = l.offset, out-m.Time
		}
	}
	s.begun, s.last, s.offset = true, out, l.offset
	return out
}

// header is the time of a sequence header, which the times of the media do not
// depend on.
func (t Times) header(s *times, l *line, in uint32) uint32 {
	out := in + s.offset
	if l.begun {
		out = in + l.offset
	}
	out = t.floor(s, out)
	if s.begun && t.Increasing {
		if d := int32(out - s.last); d <= 0 || d > behind {
			out = s.last + 1
		}
		s.last = out
	}
	return out
}

// floor keeps what is older than the first message, which begins with 0, from
// going out as a time before it.
func (t Times) floor(s *times, out uint32) uint32 {
	if t.Zero && s.last < ownOrigin && int32(out) < 0 {
		return 0
	}
	return out
}
