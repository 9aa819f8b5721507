package chunk

const (
	// maxStep is how far, in milliseconds, the times of audio, or of video,
	// may go back and count as unordered, not as a clock that was set back.
	maxStep = 2000
	// seam lies between the last time before such a jump and the first
	// behind it: audio and video lie closer to each other than that.
	seam = 100
)

// clock makes one timeline of a publisher's times. Where they jump back all go
// on from there with another offset, the same one for audio, video and data.
// Jumps forward, and small steps back, are left as they are. Times are modulo
// 2^32.
type clock struct {
	audio, video timeline
	offset       uint32 // the newest, for data

	resume func() uint32 // what the first time to come goes out as
}

// timeline is that of audio or of video.
type timeline struct {
	begun  bool
	last   uint32 // as it came
	offset uint32
	before uint32 // the offset before this one
}

func (t *timeline) end() uint32 { return t.last + t.offset }

// time is the time that a message goes out with.
func (c *clock) time(h Header) uint32 {
	if c.resume != nil {
		at := c.resume()
		if h.Type != TypeAudio && h.Type != TypeVideo {
			return at // its own may be of another clock
		}
		c.resume, c.offset = nil, at-h.Time
	}
	var t, other *timeline
	switch h.Type {
	case TypeAudio:
		t, other = &c.audio, &c.video
	case TypeVideo:
		t, other = &c.video, &c.audio
	default:
		return h.Time + c.offset
	}
	if !t.begun {
		t.begun, t.offset, t.before = true, c.offset, c.offset
	} else if step := int32(h.Time - t.last); step < -maxStep || step > maxStep {
		end := t.end()
		switch {
		case Near(h.Time+c.offset, end, maxStep): // where the other has gone already
			t.turn(c.offset)
		case Near(h.Time+t.before, end, maxStep): // back from a message with a time of its own
			t.turn(t.before)
		case step < -maxStep:
			if other.begun && Near(other.end(), end, maxStep) && int32(other.end()-end) > 0 {
				end = other.end()
			}
			t.turn(end + seam - h.Time)
		}
		c.offset = t.offset
	}
	t.last = h.Time
	return t.end()
}

func (c *clock) shift(d uint32) {
	c.offset += d
	for _, t := range []*timeline{&c.audio, &c.video} {
		t.offset += d
		t.before += d
	}
}

func (t *timeline) turn(offset uint32) { t.before, t.offset = t.offset, offset }

// Near reports whether two times are at most so many milliseconds apart.
func Near(a, b uint32, within int32) bool {
	d := int32(a - b)
	return -within <= d && d <= within
}
