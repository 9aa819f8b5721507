package chunk

const (
	// maxStep is the largest step, in milliseconds and in either direction, from
	// one message of audio or of video to the next that is still in line.
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
//
// A true jump is on trial until a track has gone on from it for maxStep. The
// place and the offset from before it are kept meanwhile: a message that belongs
// there takes the jump back, and one that belongs to the jump takes it again.
//
// A track is found when two of its messages in a row are near each other, or
// one is near the other track. Until then its times pass as they came, since
// it is not yet known which of them are out of line; the place where it began is
// kept in the same way. Until one is found, a message of a next publisher that would
// go out before the end of the last publisher's stream goes out at that end: it or
// the message before it is out of line. If neither is, and the tracks have
// origins of their own, the next message shows it.
//
// So the messages in line keep the distance between the tracks that they came
// with, whatever comes between them. That does not hold after outliers that
// agree with each other, where a message must go out before another one
// contradicts them:
//   - where a track has not been found: it begins with them,
//   - one of each track is lower than the others: they count as a clock that was set
//     back, and messages from before that may be up to maxSeam late,
//   - of both tracks, on two places within one trial,
//   - of one track, for maxStep, or 3 of them where the other one is silent.
type clock struct {
	audio, video timeline
	offset       uint32
	before       uint32 // the offset before this one
	home         uint32 // the offset before the jump on trial
	header       uint32 // the last header before any media
	headers      bool   // there was one

	resume  func() uint32 // what the first media to come goes out as
	resumed bool          // it was called
	begin   uint32        // what it returned then
	// idle is for how many milliseconds nothing has come. It may be nil.
	idle func() int64
}

// timeline is the timeline of audio or of video. Its times are those of the publisher,
// except where a field says that they are those that went out.
type timeline struct {
	begun bool // something has come
	found bool // two messages agree on where it is
	line
	out  uint32 // the last time that went out
	held uint32 // the first that came of those that went out with it
	prev uint32 // the last that came, in line or not

	other uint32 // where the other track was when the last message in line came
	heard uint32 // what the other had sent when the last message came
	tie   int32  // how far this track was ahead of the other then

	jump  jump
	trial trial
	home  line   // where the track would be without what is on trial
	row   int    // messages in line since that was last taken or taken back,
	at    uint32 // and the first of them
	alone bool   // the other track has not jumped with it
}

// trial is what can still be taken back.
type trial uint8

const (
	none      trial = iota
	beginning       // where the track seems to begin
	jumped          // its last jump
)

// line is where a track is: at the last message in line.
type line struct {
	in   uint32
	step int32 // how far it was from the one before
	n    int   // messages in line, on this line
}

// jump is where a track seems to have gone.
type jump struct {
	n           int // messages in a row that agree, 0: none
	strays      int // messages in a row that are out of line
	first, last uint32
	offset      uint32 // with which they go on from the last one in line
	exact       bool   // the offset is known, not made up
	other       uint32 // where the other track was at first
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
		c.begin = c.resume()
		c.offset = c.begin - h.Time
		c.before, c.resume, c.resumed = c.offset, nil, true
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
	case !a.begun && !v.begun,
		a.begun && Near(out, a.out, maxStep),
		v.begun && Near(out, v.out, maxStep):
		return out
	case !a.begun || v.begun && int32(v.out-a.out) > 0:
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
	case x.begun && !Near(out, x.out, maxStep):
		return x.out
	case !x.begun && y.begun && !Near(out, y.out, maxStep):
		return y.out
	case x.begun || y.begun:
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
	if !x.found && y.jump.n > 0 && Near(t, y.jump.last, maxStep) && !Near(t, y.in, maxStep) {
		c.turn(y, x, false)
	}
	switch {
	case !x.begun:
		x.prev, x.held, x.out = t, t, t+c.offset
		y.other, y.jump.other, y.heard = t, t, x.out
		x.found = y.begun && Near(t, y.in, maxStep)
		y.found = y.found || x.found
		if y.begun && !y.found {
			x.home = y.line
			c.goOnFrom(t, x, y)
		}
		out = c.inLine(t, x, y)
		x.begun = true
	case x.follows(t), c.isHome(t, x, y):
		if !x.found && !y.found && y.trial == jumped {
			// Two of this track contradict what the other one began with.
			x.out += c.home - c.offset
			y.out += c.home - c.offset
			c.offset, y.trial = c.home, beginning
		}
		x.found = true
		out = c.inLine(t, x, y)
	case !x.found:
		x.found = c.isInLine(t, x, y)
		if x.trial == none {
			x.home, x.trial = x.line, beginning
			if !x.found && !y.found {
				c.goOnFrom(t, x, y)
			}
		}
		x.n, x.row = 0, 0
		out = c.inLine(t, x, y)
	case c.isInLine(t, x, y):
		out = c.inLine(t, x, y)
	default:
		out = c.stray(t, x, y)
	}
	// What was out of line may have gone further than what is in line.
	if back := min(0, int32(t-x.prev), int32(t-x.held)); int32(out-x.out) < back {
		out = x.out + uint32(back)
	}
	if out != x.out {
		x.held = t
	}
	x.out, x.prev, x.heard = out, t, y.out
	return out
}

// goOnFrom moves a stream that a next publisher goes on with, where a message of
// track x would go out before its begin: that message or the one that the stream
// has gone on with is out of line.
func (c *clock) goOnFrom(t uint32, x, y *timeline) {
	back := c.begin - (t + c.offset)
	if !c.resumed || int32(back) <= 0 {
		return
	}
	c.home, x.trial = c.offset, jumped
	c.offset += back
	x.out += back
	y.out += back
}

// follows reports whether a time is near the last one in line, or comes back
// from it to where the track was before.
func (l *line) follows(t uint32) bool {
	step := int32(t - l.in)
	return -max(maxStep, min(l.step, 2*maxStep)) <= step && step <= maxStep+l.step
}

// isInLine reports whether a time is where track x would be by the other one, or
// after a pause.
func (c *clock) isInLine(t uint32, x, y *timeline) bool {
	step := int32(t - x.in)
	if y.begun {
		if (y.found || !x.found) && Near(t, y.in+uint32(x.tie), maxStep) {
			return true
		}
		if passed := int32(y.in - x.other); step > 0 && int64(step) <= maxStep+int64(passed) {
			return true
		}
	}
	return step > 0 && c.idle != nil && int64(step) <= maxStep+c.idle()
}

// isHome reports whether a time is where track x would be without what is on
// trial, and takes that back.
func (c *clock) isHome(t uint32, x, y *timeline) bool {
	if x.trial == none || !Near(t, x.home.in, maxStep) {
		return false
	}
	x.swap()
	x.in = t - uint32(x.step) // as if it had gone on there
	if x.trial == jumped {
		c.offset, c.home = c.home, c.offset
		if y.trial == jumped {
			y.swap()
		}
	}
	y.heard += t + c.offset - x.out
	x.other, y.other = y.in, x.in
	return true
}

// swap exchanges the two lines of a trial.
func (x *timeline) swap() {
	x.line, x.home = x.home, x.line
	x.row = 0
}

// inLine moves track x on to a time that is in line.
func (c *clock) inLine(t uint32, x, y *timeline) uint32 {
	if x.begun {
		if !x.follows(t) {
			y.other = t // that far the time has not gone on
		}
		x.step = apart(t, x.in)
	}
	x.in, x.other = t, y.in
	x.jump = jump{}
	if y.jump.n > 0 {
		y.jump.contrary = true
	}
	x.n++
	if x.row++; x.row == 1 {
		x.at = t
	}
	if x.trial != none && x.row > agree && int32(t-x.at) > maxStep {
		x.trial, y.trial = none, none
	}
	if x.alone && int32(t-x.at) > settled {
		x.alone = false
	}
	if x.found && y.found && !x.alone && !y.alone {
		x.tie = int32(t - y.in)
	}
	return t + c.offset
}

// stray is the time of a message that is out of line.
func (c *clock) stray(t uint32, x, y *timeline) uint32 {
	j := &x.jump
	j.strays++
	if ahead := int32(t - j.last); j.n > 0 && -maxStep <= ahead && ahead <= maxStep {
		j.n, j.last = j.n+1, t
	} else {
		*j = jump{n: 1, strays: j.strays, first: t, last: t, other: y.in}
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
		if most := x.in + c.offset + uint32(max(0, int32(y.in-x.other))); int32(out-most) > 0 {
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
	base := x.in + c.offset
	for _, offset := range [...]uint32{c.offset + 1<<24, c.offset + 1<<31, c.before} {
		known := t <= maxStep || offset == c.before
		if step := int32(t + offset - base); known && 0 <= step && step <= maxStep {
			return offset, true
		}
	}
	return base + uint32(min(x.step, maxSeam)) - t, false
}

// alive reports whether track y still sends something, as seen from track x.
func alive(x, y *timeline) bool { return y.begun && int32(x.out-y.heard) <= maxStep }

// isTrue reports whether track x alone makes its jump true.
func (c *clock) isTrue(x, y *timeline) bool {
	j := &x.jump
	if !alive(x, y) {
		return j.strays >= agree
	}
	passed := int32(j.last - j.first)
	if j.contrary {
		passed = int32(y.in - j.other)
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
	anew := x.trial != jumped || x.n > x.home.n // else the older home is the better one
	if anew {
		c.home = c.offset
	}
	if more != 0 {
		c.before, c.offset = c.offset, c.offset+uint32(more)
	}
	from := x.in
	x.settle(!both, anew)
	y.heard += x.in + c.offset - x.out
	switch {
	case both:
		y.settle(false, anew)
		y.other = x.in
	case y.begun:
		y.other += x.in - from
		y.out += uint32(more)
		y.trial = none
	}
	x.other = y.in
}

// settle moves a track to where it has jumped.
func (x *timeline) settle(alone, anew bool) {
	if anew {
		x.home = x.line
	}
	if alone {
		x.step = apart(x.jump.last, x.in)
	}
	x.in, x.n = x.jump.last, x.jump.n
	x.at, x.row = x.in, 1
	x.trial, x.alone = jumped, alone
	x.jump = jump{}
}

// shift moves all times to come.
func (c *clock) shift(d uint32) {
	c.offset += d
	c.before += d
	c.home += d
	c.begin += d
	c.header += d
	for _, t := range []*timeline{&c.audio, &c.video} {
		t.out += d
		t.heard += d
		t.jump.offset += d
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
