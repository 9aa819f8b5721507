package chunk

const (
	// maxStep is the largest step, in milliseconds and in either direction, that
	// is still in line from one audio or video message to the next of the same
	// track.
	maxStep = 2000
	// maxSeam bounds the distance, in milliseconds, between the last time before
	// a clock was set back and the first after it.
	maxSeam = 100
	// agree is how many messages in a row confirm a jump without the other track.
	agree = 3
	// settled is the time, in milliseconds, after which the distance to the other
	// track from before a jump of only one track is forgotten.
	settled = 30_000
	// maxPause is the largest step, in milliseconds, that the next step may repeat,
	// in a stream with only occasional pictures.
	maxPause = 60_000
)

// clock turns a publisher's timestamps into one timeline. Audio, video and data share
// one offset, which changes when the publisher's clock is set back. Times are modulo
// 2^32.
//
// A single message that is out of line is sent with the time of the message before it,
// and changes nothing. If several messages in a row on one track are out of line but
// agree with each other, they are sent as if the clock had been set. The jump is
// confirmed when the other track agrees or is silent. After a confirmed jump forward,
// times pass unchanged; after a confirmed jump back, times continue from where they
// were. Sequence headers and data never move the clock.
//
// A confirmed jump is on trial until a track has continued from it for maxStep. The
// position and the offset from before the jump are kept meanwhile: a message that
// belongs there reverts the jump, and one that belongs to the jump restores it.
//
// A track is found when two of its messages in a row are near each other, or one is
// near the other track. Until then its times pass unchanged, because it is not yet known
// which of them are out of line. The position where it began is kept on trial in the same
// way. Until a track is found, a message of a next publisher that would be sent with a
// time before the end of the last publisher's stream is sent at that end: either this
// message or the one before it is out of line. If neither is, because the tracks have
// different origins, the next message shows it.
//
// So messages in line keep the distance between the tracks that the publisher gave them,
// whatever comes between them. There are exceptions, after outliers that agree with each
// other, because a message must be sent before a later one contradicts them:
//   - A track has not been found: it begins with the outliers.
//   - One outlier of each track is lower than the other messages: the two count as a
//     clock that was set back, and messages from before them may be up to maxSeam late.
//   - Outliers of both tracks have two positions within one trial.
//   - Outliers of one track continue for maxStep, or there are 3 of them while the other
//     track is silent.
type clock struct {
	audio, video timeline
	offset       uint32
	before       uint32 // the previous offset
	home         uint32 // the offset before the jump on trial
	header       uint32 // time sent with the last header before any media
	headers      bool   // header is set

	resume  func() uint32 // returns the time of the next publisher's first media
	resumed bool          // resume was called
	begin   uint32        // result of resume
	// idle returns the time since the last message, in milliseconds. It may be nil.
	idle func() int64
}

// timeline is the timeline of audio or of video. Its times are those of the publisher,
// except those that were sent.
type timeline struct {
	begun bool // a message has come
	found bool // two messages agree on its position
	line
	out  uint32 // the last time that was sent
	held uint32 // the first received time that was sent as out
	prev uint32 // the last received time, in line or not

	other uint32 // position of the other track at the last message in line
	heard uint32 // sent time of the other track at the last message
	tie   int32  // distance by which this track is ahead of the other

	jump  jump
	trial trial
	home  line   // position if the trial is reverted
	row   int    // messages in line since the trial began or was last reverted
	at    uint32 // time of the first of them
	alone bool   // the other track has not jumped too
}

// trial is a decision that can still be reverted.
type trial uint8

const (
	none      trial = iota
	beginning       // the position where the track began
	jumped          // the last jump
)

// line is the position of a track, at the last message in line.
type line struct {
	in   uint32
	step int32 // distance from the message before
	n    int   // messages on this line
}

// jump is a possible jump of a track.
type jump struct {
	n           int // messages in a row that agree; 0 without a jump
	strays      int // messages in a row that are out of line
	first, last uint32
	offset      uint32 // continues the timeline from the last message in line
	exact       bool   // the offset is known, not estimated
	other       uint32 // position of the other track at the first message
	contrary    bool   // the other track has had a message in line since
}

// time returns the time with which a message is sent. media says that it contains coded
// media.
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

// data returns the time of a data message.
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

// beside returns the time of a sequence header of track x.
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

// media returns the time of coded media of track x.
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
			// Two messages of this track contradict the beginning of the other.
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
	// Messages out of line may have been sent with later times than those in line.
	if back := min(0, int32(t-x.prev), int32(t-x.held)); int32(out-x.out) < back {
		out = x.out + uint32(back)
	}
	if out != x.out {
		x.held = t
	}
	x.out, x.prev, x.heard = out, t, y.out
	return out
}

// goOnFrom moves the timeline of a next publisher if a message of track x would be sent
// with a time before c.begin. Either that message or the first one is out of line.
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

// follows reports whether a time is near the last one in line, or steps back from it to
// the position before.
func (l *line) follows(t uint32) bool {
	step := int32(t - l.in)
	return -max(maxStep, min(l.step, 2*maxStep)) <= step && step <= maxStep+l.step
}

// isInLine reports whether a time is at the position of track x according to the other
// track, or after a pause.
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

// isHome reports whether a time is at the position of track x without the trial. If so,
// it reverts the trial.
func (c *clock) isHome(t uint32, x, y *timeline) bool {
	if x.trial == none || !Near(t, x.home.in, maxStep) {
		return false
	}
	x.swap()
	x.in = t - uint32(x.step) // as if the track had continued there
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

// inLine moves track x to a time that is in line, and returns the time to send.
func (c *clock) inLine(t uint32, x, y *timeline) uint32 {
	if x.begun {
		if !x.follows(t) {
			y.other = t // this step does not count as time that has passed
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

// stray returns the time of a message that is out of line.
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

// goOn returns the offset with which track x continues at a time that is out of line.
// exact says that the time fits a sender's clock of 24 or 31 bits that has wrapped
// around, or one that has returned to its state before it was set back.
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

// alive reports whether track y has sent something within maxStep, as seen from track x.
func alive(x, y *timeline) bool { return y.begun && int32(x.out-y.heard) <= maxStep }

// isTrue reports whether track x alone confirms its jump.
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

// turn makes the jump of track x, and that of track y if both jump.
func (c *clock) turn(x, y *timeline, both bool) {
	more := max(0, int32(x.jump.offset-c.offset))
	if both {
		more = max(more, int32(y.jump.offset-c.offset))
	}
	if x.jump.exact && (both && y.jump.exact || !alive(x, y)) {
		more = int32(x.jump.offset - c.offset)
	}
	fresh := x.trial != jumped || x.n > x.home.n // else the older home is the better one
	if fresh {
		c.home = c.offset
	}
	if more != 0 {
		c.before, c.offset = c.offset, c.offset+uint32(more)
	}
	from := x.in
	x.settle(!both, fresh)
	y.heard += x.in + c.offset - x.out
	switch {
	case both:
		y.settle(false, fresh)
		y.other = x.in
	case y.begun:
		y.other += x.in - from
		y.out += uint32(more)
		y.trial = none
	}
	x.other = y.in
}

// settle moves a track to the position to which it has jumped. fresh makes the present
// position the home of the trial.
func (x *timeline) settle(alone, fresh bool) {
	if fresh {
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

// shift adds d to all times from now on.
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

// apart returns the distance between a time and the one before it, or 0 if the distance
// is implausible.
func apart(t, before uint32) int32 {
	switch d := int32(t - before); {
	case 0 < d && d <= maxPause:
		return d
	case -2*maxStep <= d && d < 0:
		return -d
	}
	return 0
}

// Near reports whether two times are at most within milliseconds apart.
func Near(a, b uint32, within int32) bool {
	d := int32(a - b)
	return -within <= d && d <= within
}
