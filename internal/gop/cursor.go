package gop

import (
	"sync/atomic"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
)

// Cursor is one receiver's place in a Log. Its methods are for the one
// goroutine that sends to the receiver at a time, except those that say
// otherwise.
type Cursor struct {
	log    *Log
	opt    Options
	shared bool

	next    atomic.Uint64
	begun   atomic.Pointer[beginning]
	set     *HeaderSet // what the receiver has
	preface bool       // the header set goes before the next message
	needKey bool       // video waits for a keyframe,
	since   int64      // from here on; 0: from the first that waits on
	under   int64      // see UnderWay
	stops   int64      // when the first message came that was read with stop; 0: none
	stop    atomic.Bool
	stopped bool // because of stop

	skipped *Skipped
}

// Skipped counts the messages that a receiver did not get. It is safe for
// concurrent use.
type Skipped struct {
	Overtaken atomic.Uint64 // because the receiver was too slow
	Waited    atomic.Uint64 // because they referred to a keyframe it had not got
	// Blind: no keyframe came for so long that it got what came.
	Blind atomic.Bool
}

// maxStop is for how long, in nanoseconds, a keyframe to stop at is waited for:
// what is to go on from there is a connection that publishes, and servers close one
// without media after 15 or 20 s.
const maxStop = 10e9

// maxWait is how long, in nanoseconds, video waits for a keyframe. Then a receiver gets
// the next frame: streams with intra refresh have one keyframe at the start and no
// other.
const maxWait = 5e9

// Options says how a cursor reads.
type Options struct {
	// Live: begin with the next keyframe, not the last.
	Live bool
	// From, where it is not 0, is where to begin, whatever Live says: where
	// another cursor of the receiver has stopped, or where a receiver may begin
	// (see Log.Begins).
	From uint64
	// Push: metadata goes out inside @setDataFrame, and @clearDataFrame, which
	// is left out otherwise, as it came. NoMeta: metadata does not go out at
	// all.
	Push, NoMeta bool
	// Layout is the receiver's; size is the chunk size of the log's frames.
	Layout chunk.Layout
	Size   int
	// Times are the receiver's; nil: those of the log.
	Times *Times
	// Skipped counts for the receiver, which may have one cursor after another;
	// nil: the cursor counts for itself.
	Skipped *Skipped
	// OnBlind, where it is not nil, is called when Blind of Skipped becomes
	// true, with locks held: it must not block.
	OnBlind func()
}

var setDataFrame = []byte(flv.SetDataFrame)

// layout is the receiver's layout of a message, inside @setDataFrame or not.
func (o *Options) layout(wrap bool) chunk.Layout {
	l := o.Layout
	if wrap {
		l.Prefix = setDataFrame
	}
	return l
}

// Start places a new cursor: at the last keyframe; where there is none, at
// the head, to begin with the next one; in a stream without video at the
// newest message.
func (l *Log) Start(c *Cursor, o Options) {
	c.log, c.opt = l, o
	c.shared = o.Times == nil && o.Layout.Shared(o.Size)
	c.set, c.preface, c.needKey = nil, true, true
	if c.skipped = o.Skipped; c.skipped == nil {
		c.skipped = new(Skipped)
	}
	switch {
	case o.From > 0:
		c.next.Store(o.From)
		c.needKey = l.Begins(o.From)
		c.begin()
	case o.Live:
		c.next.Store(l.head.Load())
		c.begin()
	default:
		c.place(l.tail.Load())
	}
}

// place puts the cursor where a receiver may begin, not before from.
func (c *Cursor) place(from uint64) {
	l := c.log
	head := l.head.Load()
	switch key := l.key.Load(); {
	case key != nil && key.Seq >= from:
		c.next.Store(key.Seq)
	case l.video.Load():
		c.next.Store(head)
	default:
		c.next.Store(max(from, head-1))
	}
	c.needKey = true
	c.begin()
}

// beginning is what there was to send when a cursor was placed, up to a message.
type beginning struct {
	backlog
	until uint64
}

// begin notes what there is to send when the cursor has been placed.
func (c *Cursor) begin() {
	until := c.log.head.Load()
	c.begun.Store(&beginning{c.log.backlog(c.next.Load(), until), until})
	c.since = 0
	if newest := c.log.Get(until - 1); newest != nil && c.log.video.Load() {
		c.since = newest.arrived
	}
}

// waits reports whether m is video that waits for a keyframe. Where the stream had
// no video when the cursor was placed, the wait begins with the video.
func (c *Cursor) waits(m *Message) bool {
	if !m.Inter {
		return false
	}
	if c.since == 0 {
		c.since = m.arrived
	}
	return m.arrived-c.since <= maxWait
}

// allows is how far a receiver that is still being sent its initial backlog may lag.
// allowed is the log's limit.
func (b *beginning) allows(allowed backlog) backlog {
	return backlog{max(allowed.age, b.age+allowed.age/4), max(allowed.bytes, b.bytes+allowed.bytes/4)}
}

// Backlog is how far a receiver has fallen behind, and how far it may: in bytes,
// and in nanoseconds in which they have arrived.
type Backlog struct {
	Bytes, MaxBytes int
	Age, MaxAge     int64
}

// Begins reports whether the receiver is still being sent its initial backlog. It is
// safe for concurrent use.
func (c *Cursor) Begins() bool { return c.next.Load() < c.begun.Load().until }

// Backlog returns how far the receiver has fallen behind, and how far it may before it
// loses messages. Its initial backlog does not count. It is safe for concurrent use.
func (c *Cursor) Backlog() Backlog {
	l := c.log
	at := c.next.Load()
	lag, allowed := l.backlog(at, l.head.Load()), l.limits.lag()
	kept := uint64(max(l.MaxBytes(), 0))
	allowed.bytes = min(allowed.bytes, kept/2)
	from := backlog{}
	if g := c.begun.Load(); at < g.until {
		from = g.backlog
		allowed = g.allows(allowed)
		allowed.bytes = min(allowed.bytes, max(kept, from.bytes))
	}
	return Backlog{
		Bytes: int(lag.bytes) - int(from.bytes), MaxBytes: int(allowed.bytes - from.bytes),
		Age: lag.age - from.age, MaxAge: allowed.age - from.age,
	}
}

// Next is the sequence number of the next message to send. It is safe for
// concurrent use.
func (c *Cursor) Next() uint64 { return c.next.Load() }

// Lag is by how many messages the cursor lags. It is safe for concurrent use.
func (c *Cursor) Lag() uint64 {
	if c.log == nil {
		return 0
	}
	next := c.next.Load() // first, since it may move on up to the head
	return c.log.head.Load() - next
}

// Skipped are the counts of what the receiver did not get.
func (c *Cursor) Skipped() (overtaken, waited uint64) {
	return c.skipped.Overtaken.Load(), c.skipped.Waited.Load()
}

// StopAtKeyframe ends the cursor before the next keyframe that it comes to, in
// a stream without video before the next message. After maxStop without a keyframe
// it ends before whatever comes. It is safe for concurrent use.
func (c *Cursor) StopAtKeyframe() { c.stop.Store(true) }

// UnderWay tells for how many nanoseconds bytes have been in flight to the receiver.
// Including these, the receiver may lag by nine tenths of the log's Age when it gets
// more: the rest allows for changes since then.
func (c *Cursor) UnderWay(d int64) { c.under = d }

// stopsBefore reports whether the cursor, which is to stop, does so before m.
func (c *Cursor) stopsBefore(m *Message) bool {
	if c.stops == 0 {
		c.stops = m.arrived
	}
	return c.log.begins(m) || m.arrived-c.stops > maxStop
}

// Done reports whether everything is sent: of a log that has ended, or before the
// message at which StopAtKeyframe stopped.
func (c *Cursor) Done() bool {
	if c.stopped {
		return true
	}
	// In this order: nothing is appended after the end.
	return c.log.Ended() && c.next.Load() == c.log.head.Load()
}

// jump continues at the newest keyframe, because the next message has been dropped or
// is too old.
func (c *Cursor) jump() {
	old := c.next.Load()
	c.place(max(old, c.log.tail.Load()))
	c.preface = true
	c.skipped.Overtaken.Add(c.next.Load() - old)
}

// skip continues at the newest keyframe, in a stream without video at the newest
// message, if the receiver lags by more than the log's lag, and there is one ahead.
// head is the log's.
//
// If it lags by more than the log's Age it skips in any case, and waits.
//
// The backlog that a receiver has begun with does not count: after a keyframe that was
// old already it is late from the start, and may well catch up.
//
// The clock is the arrival of messages, not their own time: no receiver becomes late
// because a publisher sends an hour in a minute, or pauses.
func (c *Cursor) skip(head uint64) {
	l, at := c.log, c.next.Load()
	lag, allowed := l.backlog(at, head), l.limits.lag()
	if b := c.begun.Load(); at < b.until {
		allowed = b.allows(allowed)
	} else if c.under > 0 {
		allowed.age = min(allowed.age, l.limits.Age/10*9-c.under)
	}
	if lag.age <= allowed.age && lag.bytes <= allowed.bytes {
		return
	}
	if key := l.key.Load(); key != nil && key.Seq > at || !l.video.Load() {
		c.jump()
		return
	}
	// There is no other keyframe: so late a receiver waits for the next one.
	if most := max(l.limits.Age, allowed.age); lag.age > most {
		c.jump()
	}
}

// Read moves on by one message and returns it, nil when the cursor is up to
// date. Before the message comes set, where it is not nil.
func (c *Cursor) Read() (m *Message, set *HeaderSet) {
	for c.next.Load() < c.log.head.Load() {
		m := c.log.Get(c.next.Load())
		if m == nil {
			c.jump()
			continue
		}
		c.next.Store(m.Seq + 1)
		if c.needKey && c.waits(m) {
			c.skipped.Waited.Add(1)
			continue
		}
		if c.leavesOut(m) {
			continue
		}
		if c.needKey && m.Inter {
			c.beginBlind()
		}
		c.needKey = c.needKey && !m.Keyframe && !m.Inter
		if c.preface && m.Set != c.set {
			set = m.Set
		}
		c.preface, c.set = false, m.After
		return m, set
	}
	return nil, nil
}

// beginBlind notes that the receiver gets video without a keyframe before it.
func (c *Cursor) beginBlind() {
	if !c.skipped.Blind.Swap(true) && c.opt.OnBlind != nil {
		c.opt.OnBlind()
	}
}

// leavesOut reports whether a message is not for this receiver.
func (c *Cursor) leavesOut(m *Message) bool {
	return c.opt.NoMeta && m.Metadata || !c.opt.Push && m.Clear
}

// Batch is what is sent in one write. It can be filled for one cursor after the other;
// cursors at the same position share the work.
type Batch struct {
	iov   [][]byte
	marks []mark
	times []times // as they are after each message, for a cursor with its own
	bytes int

	// what it was filled for, when others may share it
	log      *Log
	from, to uint64
	limit    int
	push     bool

	scratch []byte
	filling uint64
}

// mark is the end of a message in a batch.
type mark struct {
	end int
	m   *Message
	// skipped is how many messages were left out before it, needKey
	// whether the cursor still waits for a keyframe after it.
	skipped uint64
	needKey bool
	// pictures is how many pictures there are up to and with it.
	pictures int
}

// joins reports whether m directly follows the mark's message in memory, which has been
// sent unchanged.
func (k *mark) joins(m *Message, push bool) bool {
	return m.Frame.Follows(k.m.Frame) && !(push && k.m.Wrap)
}

// Fill collects what c sends next: everything there is, up to the message
// with which limit bytes are reached. It is empty when c is up to date.
func (b *Batch) Fill(c *Cursor, limit int) {
	head := c.log.head.Load()
	from := c.next.Load()
	stop := c.stop.Load()
	plain := c.shared && !c.preface && !c.needKey && !c.opt.NoMeta && !stop
	if plain && b.log == c.log && b.from == from && b.to == head && b.push == c.opt.Push && b.limit == limit {
		return
	}
	b.Reset()
	if from == head {
		return
	}
	if c.skip(head); c.next.Load() != from {
		plain, from, head = false, c.next.Load(), c.log.head.Load()
	}
	f := filler{Batch: b, c: c, preface: c.preface, needKey: c.needKey}
	for seq := from; seq < head && b.bytes < limit; seq++ {
		m := c.log.Get(seq)
		if m == nil {
			if len(b.marks) > 0 {
				break
			}
			c.jump()
			plain, f.preface, f.needKey = false, true, true
			seq = c.next.Load() - 1
			continue
		}
		if stop && c.stopsBefore(m) {
			c.stopped = len(b.marks) == 0
			break
		}
		f.add(m)
	}
	if plain && len(b.marks) > 0 {
		b.log, b.from, b.to, b.push, b.limit = c.log, from, head, c.opt.Push, limit
	}
}

// filler is the state of a cursor as it will be when the batch is sent.
type filler struct {
	*Batch
	c                *Cursor
	preface, needKey bool
	skipped          uint64
	pictures         int
}

func (f *filler) add(m *Message) {
	c := f.c
	waits := f.needKey && c.waits(m)
	if waits || c.leavesOut(m) {
		switch {
		case len(f.marks) == 0:
			c.next.Store(m.Seq + 1)
			if waits {
				c.skipped.Waited.Add(1)
			}
		case waits:
			f.skipped++
		}
		return
	}
	if f.needKey && m.Inter {
		c.beginBlind()
	}
	f.needKey = f.needKey && !m.Keyframe && !m.Inter
	layout := c.opt.layout(c.opt.Push && m.Wrap)
	if c.opt.Times != nil {
		layout.Offset = f.time(m) - m.Time
	}
	if f.preface {
		f.preface = false
		if m.Set != c.set {
			opt := c.opt
			opt.Layout.Offset = layout.Offset
			n := len(f.iov)
			f.iov, f.scratch = m.Set.AppendTo(f.iov, f.scratch, opt, m.Time, c.set == nil)
			f.added(n)
		}
	}
	n := len(f.iov)
	switch {
	case !c.shared || layout.Prefix != nil:
		f.iov, f.scratch = layout.AppendTo(f.iov, f.scratch, m.Frame)
		f.added(n)
	case len(f.marks) > 0 && f.marks[len(f.marks)-1].joins(m, c.opt.Push):
		// Neighbours in memory: one range.
		f.iov[n-1] = f.iov[n-1][:len(f.iov[n-1])+m.Frame.Len()]
		f.bytes += m.Frame.Len()
	default:
		f.iov = append(f.iov, m.Frame.Bytes())
		f.added(n)
	}
	if m.Picture {
		f.pictures++
	}
	f.marks = append(f.marks, mark{f.bytes, m, f.skipped, f.needKey, f.pictures})
}

// time is the time that m goes out with to a cursor with times of its own.
func (f *filler) time(m *Message) uint32 {
	own := f.c.opt.Times
	state := own.state
	if n := len(f.times); n > 0 {
		state = f.times[n-1]
	}
	at := own.time(&state, m, m.Keyframe || !f.c.log.video.Load())
	f.times = append(f.times, state)
	return at
}

// added counts the bytes appended to iov from index n on.
func (b *Batch) added(n int) {
	for _, p := range b.iov[n:] {
		b.bytes += len(p)
	}
}

// Reset empties the batch.
func (b *Batch) Reset() {
	clear(b.iov)
	clear(b.marks)
	b.iov, b.marks, b.times, b.bytes, b.log = b.iov[:0], b.marks[:0], b.times[:0], 0, nil
	b.scratch = b.scratch[:0]
	b.filling++
}

// Filling numbers what the batch holds: while it stays the same, so does IOV.
func (b *Batch) Filling() uint64 { return b.filling }

// IOV returns the bytes to send. They stay valid until the next Fill for another
// position.
func (b *Batch) IOV() [][]byte { return b.iov }

// Arrived is when the first message of a batch that is not empty arrived, in
// nanoseconds of the clock of Append.
func (b *Batch) Arrived() int64 { return b.marks[0].m.arrived }

// Len is the number of bytes to be sent.
func (b *Batch) Len() int { return b.bytes }

// Sent moves c on after n bytes of the batch were sent. A message sent in
// part counts as sent: rest, its other bytes, must go out before anything
// else. It returns the number of messages, and of pictures among them.
func (b *Batch) Sent(c *Cursor, n int) (messages, pictures int, rest [][]byte) {
	if n == 0 {
		return 0, 0, nil
	}
	i := len(b.marks) - 1
	for i > 0 && b.marks[i-1].end >= n {
		i--
	}
	last := b.marks[i]
	c.next.Store(last.m.Seq + 1)
	c.set, c.preface, c.needKey = last.m.After, false, last.needKey
	if c.opt.Times != nil {
		c.opt.Times.state = b.times[i]
	}
	c.skipped.Waited.Add(last.skipped)
	if n < last.end {
		rest = cut(b.iov, n, last.end)
		b.scratch = nil // rest may lie in it, too
	}
	return i + 1, last.pictures, rest
}

// cut returns bytes from to to of iov, in slices of its own.
func cut(iov [][]byte, from, to int) [][]byte {
	var out [][]byte
	at := 0
	for _, p := range iov {
		lo, hi := max(from-at, 0), min(to-at, len(p))
		if lo < hi {
			out = append(out, p[lo:hi:hi])
		}
		at += len(p)
		if at >= to {
			break
		}
	}
	return out
}
