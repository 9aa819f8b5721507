package gop

import (
	"sync/atomic"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
)

// Cursor is one receiver's position in a Log. Only the goroutine that sends to the
// receiver may call its methods, except those whose comments say otherwise.
type Cursor struct {
	log *Log
	opt Options // Skipped is set

	next  atomic.Uint64
	begun atomic.Pointer[beginning]
	set   *HeaderSet // the headers that the receiver has
	since int64      // when needKey began; 0: with the first video that waits
	under int64      // see UnderWay
	stops int64      // arrival of the first message that was read with stop; 0: none
	stop  atomic.Bool

	// Small fields are grouped to save memory: there are many cursors.

	shared  bool // the log's frames are sent unchanged
	uniform bool // all cursors with these Options send the same bytes
	preface bool // the header set must be sent before the next message
	needKey bool // video waits for a keyframe
	stopped bool // because of stop
}

// Skipped counts the messages that a receiver did not get. It is safe for
// concurrent use.
type Skipped struct {
	Overtaken atomic.Uint64 // because the receiver was too slow
	Waited    atomic.Uint64 // because they depend on a keyframe that the receiver has not got
	// Blind says that no keyframe came in time, and the receiver began with other
	// video.
	Blind atomic.Bool
}

// maxStop is how long, in nanoseconds, a cursor waits for a keyframe to stop at. The
// connection that continues from there is already publishing, and servers close a publish
// without media after 15 or 20 s.
const maxStop = 10e9

// maxWait is how long, in nanoseconds, video waits for a keyframe. Then a receiver gets
// the next frame: streams with intra refresh have one keyframe at the start and no
// other.
const maxWait = 5e9

// Options says how a cursor reads.
type Options struct {
	// Live begins with the next keyframe, not the last one.
	Live bool
	// From, if not 0, is the message to begin with, regardless of Live: the one
	// before which another cursor of the receiver has stopped, or one with which a
	// receiver may begin (see Log.Begins).
	From uint64
	// Push sends metadata inside @setDataFrame, and @clearDataFrame unchanged.
	// Without it @clearDataFrame is not sent. NoMeta sends no metadata.
	Push, NoMeta bool
	// Layout is the receiver's layout. Size is the chunk size of the log's frames.
	Layout chunk.Layout
	Size   int
	// Times are the receiver's timestamps; nil: those of the log.
	Times *Times
	// Skipped counts for the receiver, which may have several cursors one after
	// another; nil: the cursor has its own.
	Skipped *Skipped
	// All, if not nil, counts for several receivers, in addition.
	All *Skipped
	// OnBlind, if not nil, is called when Skipped.Blind becomes true. Locks are
	// held: it must not block.
	OnBlind func()
}

var setDataFrame = []byte(flv.SetDataFrame)

// layout returns the receiver's layout of a message, inside @setDataFrame if wrap.
func (o *Options) layout(wrap bool) chunk.Layout {
	l := o.Layout
	if wrap {
		l.Prefix = setDataFrame
	}
	return l
}

// Start places a new cursor: at the last keyframe, or at the head if there is none, to
// begin with the next one. In a stream without video it places the cursor at the newest
// message.
func (l *Log) Start(c *Cursor, o Options) {
	c.log, c.opt = l, o
	c.shared = o.Times == nil && o.Layout.Shared(o.Size)
	c.uniform = c.shared || o.Times == nil && o.Layout.Tags
	c.set, c.preface, c.needKey = nil, true, true
	if c.opt.Skipped == nil {
		c.opt.Skipped = new(Skipped)
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

// place puts the cursor at a message with which a receiver may begin, not before from.
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

// beginning is the initial backlog: what there was to send when the cursor was placed, up
// to a message.
type beginning struct {
	backlog
	until uint64
}

// begin records the initial backlog after the cursor has been placed.
func (c *Cursor) begin() {
	until := c.log.head.Load()
	c.begun.Store(&beginning{c.log.backlog(c.next.Load(), until), until})
	c.since = 0
	if newest := c.log.Get(until - 1); newest != nil && c.log.video.Load() {
		c.since = newest.arrived
	}
}

// waits reports whether m is video that waits for a keyframe. If the stream had no video
// when the cursor was placed, the wait begins with the first video.
func (c *Cursor) waits(m *Message) bool {
	if !m.Inter {
		return false
	}
	if c.since == 0 {
		c.since = m.arrived
	}
	return m.arrived-c.since <= maxWait
}

// allows returns how far a receiver may lag that is still being sent its initial backlog.
// allowed is the log's limit.
func (b *beginning) allows(allowed backlog) backlog {
	return backlog{max(allowed.age, b.age+allowed.age/4), max(allowed.bytes, b.bytes+allowed.bytes/4)}
}

// Backlog is how far a receiver has fallen behind, and how far it may fall behind: in
// bytes, and in nanoseconds between the arrivals of the first and the last of them.
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

// Next returns the sequence number of the next message to send. It is safe for
// concurrent use.
func (c *Cursor) Next() uint64 { return c.next.Load() }

// Lag returns by how many messages the cursor lags. It is safe for concurrent use.
func (c *Cursor) Lag() uint64 {
	if c.log == nil {
		return 0
	}
	next := c.next.Load() // before head, which it must not pass
	return c.log.head.Load() - next
}

// waited counts n messages that the receiver does not get because they need a keyframe.
func (c *Cursor) waited(n uint64) {
	c.opt.Skipped.Waited.Add(n)
	if c.opt.All != nil {
		c.opt.All.Waited.Add(n)
	}
}

// Skipped returns the counts of messages that the receiver did not get.
func (c *Cursor) Skipped() (overtaken, waited uint64) {
	return c.opt.Skipped.Overtaken.Load(), c.opt.Skipped.Waited.Load()
}

// StopAtKeyframe ends the cursor before the next keyframe that it reaches, or before the
// next message in a stream without video. After maxStop without a keyframe it ends before
// the next message. It is safe for concurrent use.
func (c *Cursor) StopAtKeyframe() { c.stop.Store(true) }

// UnderWay sets for how many nanoseconds bytes have been in flight to the receiver.
// Including that time, the receiver may lag by nine tenths of the log's Age when it is sent
// more. The last tenth allows for changes after the measurement.
func (c *Cursor) UnderWay(d int64) { c.under = d }

// stopsBefore reports whether the cursor stops before m. Its stop flag is set.
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
	n := c.next.Load() - old
	c.opt.Skipped.Overtaken.Add(n)
	if c.opt.All != nil {
		c.opt.All.Overtaken.Add(n)
	}
}

// skip continues at the newest keyframe, or at the newest message in a stream without
// video, if the receiver lags by more than the log's lag and there is such a message
// ahead. head is the log's.
//
// If the receiver lags by more than the log's Age, it skips in any case, and then waits
// for a keyframe.
//
// The initial backlog does not count: a receiver that begins with an old keyframe is late
// from the start, and may still catch up.
//
// Lag is measured by the arrival of messages, not by their timestamps: a receiver does not
// become late because a publisher sends an hour of media in a minute, or pauses.
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
	// There is no newer keyframe, and the receiver is so late that it waits for one.
	if most := max(l.limits.Age, allowed.age); lag.age > most {
		c.jump()
	}
}

// Read advances by one message and returns it, or nil if the cursor is up to date. If set
// is not nil, it must be sent before the message.
func (c *Cursor) Read() (m *Message, set *HeaderSet) {
	for c.next.Load() < c.log.head.Load() {
		m := c.log.Get(c.next.Load())
		if m == nil {
			c.jump()
			continue
		}
		c.next.Store(m.Seq + 1)
		if c.needKey && c.waits(m) {
			c.waited(1)
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

// beginBlind records that the receiver gets video without a keyframe before it.
func (c *Cursor) beginBlind() {
	if !c.opt.Skipped.Blind.Swap(true) && c.opt.OnBlind != nil {
		c.opt.OnBlind()
	}
}

// leavesOut reports whether a message is not for this receiver.
func (c *Cursor) leavesOut(m *Message) bool {
	return c.opt.NoMeta && m.Metadata || !c.opt.Push && m.Clear
}

// maxPieces is the number of slices from which on a batch gets no more messages: one
// system call accepts 1024.
const maxPieces = 960

// plain reports whether c gets the same bytes as all others at its position, unless it
// stops.
func (c *Cursor) plain() bool { return c.uniform && !c.preface && !c.needKey && !c.opt.NoMeta }
