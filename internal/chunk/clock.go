package chunk

const (
	// maxStep is how far, in milliseconds, a message of audio or of video may
	// be ahead of the one before it, or behind it, and be in line.
	maxStep = 2000
	// maxSeam bounds the distance between the last time before a clock was set
	// back and the first after it.
	maxSeam = 100
	// agree is how many messages in a row, without the other track, make a
	// jump true.
	agree = 3
	// settled is after how many milliseconds the distance to the other track
	// before a jump of one track alone is forgotten.
	settled = 30_000
	// maxPause is how far a step may be for the next one to be as far, in a
	// stream of a picture now and then.
	maxPause = 60_000
)

// clock makes one timeline of a publisher's times. Audio, video and data share
// one offset, which changes where the publisher's clock was set back.
//
// A message that is out of line goes out with the time of the one before it,
// and changes nothing. Several in a row on one track that agree with each other
// go out as if its clock had been set; when the other track agrees, or has
// nothing to say, the jump is true. From there on times pass, after a jump
// forward, or go on where they were, after a jump back. Sequence headers and
// data never move the clock. Times are modulo 2^32.
type clock struct {
	audio, video timeline
	offset       uint32
	before       uint32 // the offset before this one
	alone        bool   // one track has jumped without the other,
	since        uint32 // at this time
	header       uint32 // the last header before any media
	headers      bool   // there was one

	resume func() uint32 // what the first media to come goes out as
	// idle is for how many milliseconds nothing has come. It may be nil.
	idle func() int64
}

// timeline is that of audio or of video. What is said of times as they go out
// holds without what has been moved since.
type timeline struct {
	count int    // of messages in line, up to 2
	in    uint32 // the last time in line, as it came,
	base  uint32 // as it went out,
	step  int32  // and how far it was from the one before
	out   uint32 // the last time that went out
	prev  uint32 // the last time that came, in line or not

	other uint32 // the other track's base when the last message in line came
	heard uint32 // the other track's out when the last message came
	tie   int32  // how far this track was ahead of the other then

	fresh  bool   // a jump was taken for true less than maxStep ago,
	jumped uint32 // to here,
	home   uint32 // from here
	jump   jump
}

// jump is where a track seems to have gone.
type jump struct {
	n           int // messages in a row that agree, 0: none
	strays      int // messages in a row that are out of line
	first, last uint32
	offset      uint32 // with which they go on from the last one in line
	exact       bool   // the offset is known, not made up
	other       uint32 // the other track's base at first
	contrary    bool   // the other track has been in line since
}

// time is the time that a message goes out with. media: it holds coded media.
func (c *clock) time(h Header, media bool) uint32 {
	x, y := &c.audio, &c.video
	if h.Type == TypeVideo {
		x, y = y, x
	}
	switch {
	case h.Type != TypeAudio && h.Type != TypeVideo:
		return c.data(h.Time)
	case !media:
		return c.beside(h.Time, x, y)
	}
	if c.resume != nil {
		c.offset = c.resume() - h.Time
		c.before, c.resume = c.offset, nil
	}
	return c.media(h.Time, x, y)
}

// data is the time of a data message.
func (c *clock) data(t uint32) uint32 {
	if c.resume != nil {
		return c.resume()
	}
	a, v := &c.audio, &c.video
	out := t + c.offset
	switch {
	case a.count == 0 && v.count == 0,
		a.count > 0 && Near(out, a.out, maxStep),
		v.count > 0 && Near(out, v.out, maxStep):
		return out
	case a.count == 0 || v.count > 0 && int32(v.out-a.out) > 0:
		return v.out
	}
	return a.out
}

// beside is the time of a header of track x.
func (c *clock) beside(t uint32, x, y *timeline) uint32 {
	out := t + c.offset
	switch {
	case c.resume != nil:
		return c.resume()
	case x.count > 0 && !Near(out, x.out, maxStep):
		return x.out
	case x.count == 0 && y.count > 0 && !Near(out, y.out, maxStep):
		return y.out
	case x.count > 0 || y.count > 0:
		return out
	case c.headers && int32(out-c.header) > maxStep:
		return c.header
	}
	c.headers, c.header = true, out
	return out
}

// media is the time of coded media of track x.
func (c *clock) media(t uint32, x, y *timeline) uint32 {
	var out uint32
	came := x.prev
	if x.count > 0 && x.out == x.base && int32(t-x.in) < min(0, int32(t-came)) {
		came = x.in // what went out last is that, and went no further
	}
	switch {
	case x.count == 0:
		if y.jump.n > 0 && Near(t, y.jump.last, maxStep) && !Near(t, y.in, maxStep) {
			c.turn(y, x, false)
		}
		x.out, came = t+c.offset, t
		out = c.inLine(t, x, y)
		y.other, y.jump.other = out, out
	case c.isInLine(t, x, y):
		if !x.follows(t) && int32(t-x.in) < int32(t-x.prev) {
			came = x.in // what went out last is as far on as that
		}
		out = c.inLine(t, x, y)
	default:
		out = c.stray(t, x, y)
	}
	// What was out of line may have gone further than what is in line.
	if back := min(0, int32(t-came)); int32(out-x.out) < back {
		out = x.out + uint32(back)
	}
	x.out, x.prev = out, t
	y.heard = out
	return out
}

// follows reports whether a time is near the last one in line, or comes back
// from it to where the track was before.
func (x *timeline) follows(t uint32) bool {
	step := int32(t - x.in)
	return -max(maxStep, min(x.step, 2*maxStep)) <= step && step <= maxStep+x.step
}

// isInLine reports whether a time goes on from the last one of track x, or is
// where the track would be by the other one.
func (c *clock) isInLine(t uint32, x, y *timeline) bool {
	if x.follows(t) {
		return true
	}
	step, out := int32(t-x.in), t+c.offset
	if Near(out, x.out, maxStep) {
		return true
	}
	if x.fresh && Near(out, x.home, 2*maxStep) {
		return true // the jump was none
	}
	if y.count > 0 {
		if y.count >= x.count && Near(out, y.base+uint32(x.tie), maxStep) {
			return true
		}
		if passed := int32(y.base - x.other); step > 0 && int64(step) <= maxStep+int64(passed) {
			return true
		}
	}
	return step > 0 && c.idle != nil && int64(step) <= maxStep+c.idle()
}

// inLine moves track x on to a time that is in line.
func (c *clock) inLine(t uint32, x, y *timeline) uint32 {
	out := t + c.offset
	if x.count > 0 {
		if !x.follows(t) {
			y.other = out // that far the time has not gone on
		}
		x.step = apart(t, x.in)
	}
	x.count = min(x.count+1, 2)
	x.in, x.base, x.other = t, out, y.base
	x.fresh = x.fresh && Near(out, x.jumped, maxStep)
	x.jump = jump{}
	if y.jump.n > 0 {
		y.jump.contrary = true
	}
	if c.alone && int32(out-c.since) > settled {
		c.alone = false
	}
	if x.count > 1 && y.count > 1 && !c.alone {
		x.tie = int32(out - y.base)
	}
	return out
}

// stray is the time of a message that is out of line.
func (c *clock) stray(t uint32, x, y *timeline) uint32 {
	j := &x.jump
	j.strays++
	if ahead := int32(t - j.last); j.n > 0 && -maxStep <= ahead && ahead <= maxStep {
		j.n, j.last = j.n+1, t
	} else {
		*j = jump{n: 1, strays: j.strays, first: t, last: t, other: y.base}
		j.offset, j.exact = c.goOn(t, x)
	}
	both := y.jump.n > 0 && Near(x.out, y.heard, maxStep) &&
		(Near(t, y.jump.last, maxStep) || Near(t-x.in, y.jump.last-y.in, maxStep))
	if both || c.isTrue(x, y) {
		c.turn(x, y, both)
		return x.in + c.offset
	}
	out := x.out
	if j.n > 1 || j.exact {
		out = t + j.offset
	}
	if alive(x, y) {
		if most := x.base + uint32(max(0, int32(y.base-x.other))); int32(out-most) > 0 {
			out = most
		}
	}
	if int32(out-x.out) < 0 {
		return x.out
	}
	return out
}

// goOn is the offset with which track x goes on with a time that is out of
// line. exact: it is where the track would be if the sender's clock has 24 or
// 31 bits, or has come back to where it was before it was set back.
func (c *clock) goOn(t uint32, x *timeline) (offset uint32, exact bool) {
	for _, offset := range [...]uint32{c.offset + 1<<24, c.offset + 1<<31, c.before} {
		known := t <= maxStep || offset == c.before
		if step := int32(t + offset - x.base); known && 0 <= step && step <= maxStep {
			return offset, true
		}
	}
	return x.base + uint32(min(x.step, maxSeam)) - t, false
}

// alive reports whether track y still sends something, as seen from track x.
func alive(x, y *timeline) bool { return y.count > 0 && int32(x.out-y.heard) <= maxStep }

// isTrue reports whether track x alone makes its jump true.
func (c *clock) isTrue(x, y *timeline) bool {
	j := &x.jump
	if !alive(x, y) {
		return j.strays >= agree
	}
	passed := int32(j.last - j.first)
	if j.contrary {
		passed = int32(y.base - j.other)
	}
	return j.n >= agree && passed > maxStep
}

// turn makes the jump of track x true, and that of the other where both jump.
func (c *clock) turn(x, y *timeline, both bool) {
	more := max(0, int32(x.jump.offset-c.offset))
	if both {
		more = max(more, int32(y.jump.offset-c.offset))
	}
	if x.jump.exact && (both && y.jump.exact || !alive(x, y)) {
		more = int32(x.jump.offset - c.offset)
	}
	if more != 0 {
		c.before, c.offset = c.offset, c.offset+uint32(more)
	}
	c.alone = false
	settle := func(t *timeline) {
		t.step = apart(t.jump.last, t.in)
		t.in, t.base, t.home = t.jump.last, t.jump.last+c.offset, t.base
		t.fresh, t.jumped = true, t.base
		t.jump = jump{}
	}
	from := x.base
	settle(x)
	switch {
	case both:
		settle(y)
		y.other = x.base
	case y.count > 0:
		c.alone, c.since = true, x.base
		y.other += x.base - from
		y.base += uint32(more)
		y.out += uint32(more)
	}
	x.other = y.base
	x.count = 2
}

// shift moves all times to come.
func (c *clock) shift(d uint32) {
	c.offset += d
	c.before += d
	c.since += d
	c.header += d
	for _, t := range []*timeline{&c.audio, &c.video} {
		t.base += d
		t.jumped += d
		t.home += d
		t.out += d
		t.other += d
		t.heard += d
		t.jump.offset += d
		t.jump.other += d
	}
}

// apart is how far a time is from the one before it, 0 where that is out of all
// proportion.
func apart(t, before uint32) int32 {
	switch d := int32(t - before); {
	case 0 < d && d <= maxPause:
		return d
	case -2*maxStep <= d && d < 0:
		return -d
	}
	return 0
}

// Near reports whether two times are at most so many milliseconds apart.
func Near(a, b uint32, within int32) bool {
	d := int32(a - b)
	return -within <= d && d <= within
}
