package gop

import "github.com/rtmp-forward/forward/internal/chunk"

// Times changes the timestamps of messages for one receiver. The zero value leaves them
// unchanged. It belongs to a connection, and to the goroutine that sends to it.
type Times struct {
	// Zero sends the first message with timestamp 0.
	Zero bool
	// Increasing sends each audio and video message with a later timestamp than the
	// one before.
	Increasing bool

	state times
}

// times holds the timestamps of the messages sent so far.
type times struct {
	begun        bool
	last         uint32 // of audio or video
	offset       uint32 // of the last media, for data
	audio, video line
}

// line is the timeline of audio or of video.
type line struct {
	begun          bool
	offset, before uint32
}

const (
	// ownOrigin is the distance, in milliseconds, from which audio and video count
	// as having different origins.
	ownOrigin = 10_000
	// behind is the largest step back, in milliseconds, for which only the message
	// itself is raised, and not all later ones of its line.
	behind = 2_000
	// rebaseAt is where timestamps that began at 0 begin again at 0, with the next
	// keyframe: some servers accept only 31 bits.
	rebaseAt = 1<<31 - 3_600_000
)

// time returns the timestamp of m for the receiver. start reports whether a receiver may
// begin with m.
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
		l.offset = l.before // the message before was an outlier
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

// header returns the timestamp of a sequence header. It does not affect those of media.
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

// floor keeps messages that are older than the first one, which has timestamp 0, from
// getting a negative timestamp.
func (t Times) floor(s *times, out uint32) uint32 {
	if t.Zero && s.last < ownOrigin && int32(out) < 0 {
		return 0
	}
	return out
}
