// Package gop is the log of a live stream: each message once, framed, with
// the header set in force at its place. One goroutine appends; any number of
// cursors read it without locks.
package gop

import (
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
)

// Message is one message in a Log. It never changes.
type Message struct {
	Seq  uint64 // from 1
	Time uint32
	Type uint8
	// Frame is what players get, and so do destinations where Wrap is not set.
	Frame *chunk.Frame
	// Set is the header set in force before the message, After the one in force after it.
	Set, After *HeaderSet
	// Keyframe: a cursor may start here.
	Keyframe bool
	// Wrap: it goes to destinations inside @setDataFrame, as metadata does.
	Wrap bool
	// Inter: the message holds video that refers to what came before.
	Inter bool
	// Media: the message holds coded media.
	Media bool
	// Picture: coded media of the main video track.
	Picture bool
	// Metadata: onMetaData.
	Metadata bool
	// Clear: @clearDataFrame, which is for servers: where metadata goes out
	// plain, the message does not.
	Clear bool
	// Changed: a header that was in force for a track is not any more. Another
	// one has taken its place, or its codec another's.
	Changed bool

	arrived int64
	end     uint64 // cost of the stream up to and with this message
}

// messageCost is about how many bytes a message takes beside its frame's bytes:
// Message and Frame, its slot of the ring, its part of slabs and header sets. It
// counts wherever bytes do, so that a flood of small messages needs no limit of
// its own.
const messageCost = 200

// Cost is how many bytes the message counts as.
func (m *Message) Cost() int { return m.Frame.Len() + messageCost }

// Limits bounds a Log. What goes over a limit is dropped at the old end.
type Limits struct {
	Bytes int // messageCost for each message included
	// Age is how long after its arrival, in nanoseconds, a message is kept for
	// receivers that lag. For new ones everything from the last keyframe on is kept.
	Age int64
	// Live says that no receiver begins with the last keyframe, which is then kept
	// no longer than the rest.
	Live bool
}

// lag is how far a receiver may lag. The rest, up to the limits, is for bytes in flight
// and for new receivers.
func (l *Limits) lag() backlog { return backlog{l.Age / 5 * 4, uint64(l.Bytes) / 2} }

// Log is a live stream's messages, from the last keyframe on, or from where
// the slowest cursor is, within Limits, to Release. Append and End are for one
// goroutine at a time, and nothing is appended after End; all else is safe for
// concurrent use.
type Log struct {
	limits Limits
	// Slowest, where it is set, is the sequence number of the first message
	// that a cursor still needs. It is called while appending.
	Slowest func() uint64
	// Lagging is the receiver that keeps most of the log and is not up to
	// date: how many bytes, 0 for none, and what cuts it off. now is that of
	// Append. Any goroutine calls it. A Log with a Budget must have it.
	Lagging func(now int64) (bytes int, cut func())

	ring  atomic.Pointer[ring]
	head  atomic.Uint64 // sequence number of the next message
	tail  atomic.Uint64 // and of the first that is kept
	key   atomic.Pointer[Message]
	video atomic.Bool // video has been seen
	ended atomic.Bool

	pictures pictures

	budget   *Budget      // nil: not counted
	charged  atomic.Int64 // bytes counted there
	trimNext atomic.Bool  // whatever the next message is

	// Owned by the appending goroutine.
	set   *HeaderSet
	sets  uint64     // counts how often set has changed
	was   *HeaderSet // before Restart, until media comes
	bytes int        // cost of the messages kept
	held  int        // bytes of memory that it takes
	most  int        // messages kept at once, since the ring was fitted last
	total uint64
	track uint8 // lowest video track with media
	alive [2]alive
	info  Info
	stats atomic.Pointer[Info]
}

// ring holds the messages by sequence number. It is replaced by a larger one
// when it is full.
type ring struct {
	mask  uint64
	slots []atomic.Pointer[Message]
}

// slotSize is what a slot takes.
const slotSize = int(unsafe.Sizeof(atomic.Pointer[Message]{}))

func newRing(n int) *ring {
	return &ring{mask: uint64(n - 1), slots: make([]atomic.Pointer[Message], n)}
}

func (r *ring) at(seq uint64) *atomic.Pointer[Message] { return &r.slots[seq&r.mask] }

const (
	// trimEvery is how often, in messages, a stream without keyframes is trimmed
	// to what is needed.
	trimEvery = 64
	// fitEvery is how often, in messages, the ring is looked at, which may have
	// become too large.
	fitEvery = 1024
	// firstRing is how many slots a ring has at least.
	firstRing = 64
)

// Trims reports whether appending m has dropped messages that are not needed.
func (m *Message) Trims() bool { return m.Keyframe || m.Seq%trimEvery == 0 }

// New returns an empty Log.
func New(limits Limits) *Log {
	l := &Log{limits: limits, track: 255, held: firstRing * slotSize}
	l.ring.Store(newRing(firstRing))
	l.head.Store(1)
	l.tail.Store(1)
	return l
}

// MaxLag is how far a receiver may lag, in nanoseconds.
func (l *Log) MaxLag() int64 { return l.limits.lag().age }

// Head is the sequence number that the next message will get.
func (l *Log) Head() uint64 { return l.head.Load() }

// End says that nothing more will come.
func (l *Log) End() { l.ended.Store(true) }

// Release drops all media. It is called once, after End, when no cursor needs any more:
// those that are left are at the end. A Log that is kept afterwards keeps nothing of the
// stream.
func (l *Log) Release() {
	l.tail.Store(l.head.Load())
	l.ring.Store(newRing(1))
	l.key.Store(nil)
	l.set, l.was, l.bytes, l.held = nil, nil, 0, 0
	if l.budget != nil {
		l.budget.remove(l)
	}
}

// Ended reports whether End has been called.
func (l *Log) Ended() bool { return l.ended.Load() }

// Begins reports whether a receiver may begin at a message, if that is kept: at a
// keyframe, in a stream without video anywhere.
func (l *Log) Begins(seq uint64) bool {
	m := l.Get(seq)
	return m == nil || l.begins(m)
}

func (l *Log) begins(m *Message) bool { return m.Keyframe || !l.video.Load() }

// Len is what the log holds.
func (l *Log) Len() (messages, bytes int) {
	return int(l.head.Load() - l.tail.Load()), l.Since(0)
}

// Since is the number of bytes kept from a message on. As everywhere in a Log,
// each message counts for about 200 bytes more than its frame has.
func (l *Log) Since(seq uint64) int {
	head := l.head.Load()
	first, last := l.Get(max(seq, l.tail.Load())), l.Get(head-1)
	if first == nil || last == nil {
		return 0
	}
	return int(last.end-first.end) + first.Cost()
}

// Behind is what a receiver has before it whose next message is seq: how many
// bytes are kept of it, and for how long the first has waited, which is for
// ever where it is not kept any more.
func (l *Log) Behind(seq uint64, now int64) (bytes int, age int64) {
	switch m := l.Get(seq); {
	case seq >= l.Head():
		return 0, 0
	case m == nil:
		return l.Since(seq), math.MaxInt64
	default:
		return l.Since(seq), now - m.arrived
	}
}

// Age is how much later than the message seq the newest one has arrived, in
// nanoseconds.
func (l *Log) Age(seq uint64) int64 {
	return l.backlog(max(seq, l.tail.Load()), l.head.Load()).age
}

// backlog is what there is from one message to another: the nanoseconds in
// which it has arrived, and bytes.
type backlog struct {
	age   int64
	bytes uint64
}

// backlog is nothing where one of the two is not kept. A cursor may be placed at
// a keyframe that the head does not tell of yet.
func (l *Log) backlog(from, to uint64) backlog {
	first, last := l.Get(from), l.Get(to-1)
	if first == nil || last == nil || from >= to {
		return backlog{}
	}
	return backlog{last.arrived - first.arrived, last.end - first.end}
}

// Append appends a message: frame as players get it, to destinations inside
// @setDataFrame where wrap is set. now is when it arrived, in nanoseconds of a
// clock that never goes back.
func (l *Log) Append(frame *chunk.Frame, wrap bool, now int64) *Message {
	m := &Message{
		Seq: l.head.Load(), Time: frame.Time, Type: frame.Type,
		Frame: frame, Wrap: wrap, Set: l.set, arrived: now,
	}
	m.Media = l.classify(m)
	m.After = l.set
	m.Changed = !m.Set.within(m.After)
	if m.Media && l.was != nil {
		m.Changed = !l.was.within(m.After)
		l.was = nil
	}

	l.held += m.hold()
	l.bytes += m.Cost()
	l.total += uint64(m.Cost())
	m.end = l.total
	r := l.ring.Load()
	if m.Seq-l.tail.Load() == uint64(len(r.slots)) {
		r = l.resize(r, 2*len(r.slots))
	}
	r.at(m.Seq).Store(m)
	if m.Keyframe {
		l.key.Store(m)
	}
	l.head.Store(m.Seq + 1)
	l.most = max(l.most, int(m.Seq+1-l.tail.Load()))
	l.trim(m, now)
	if m.Seq%fitEvery == 0 {
		l.fit(r)
	}
	l.charge()
	return m
}

// Restart announces that later messages come from another publisher, to which no header
// of the previous one applies. Only the appending goroutine may call it.
func (l *Log) Restart() {
	if l.was == nil {
		l.was = l.set
	}
	l.track, l.info = 255, Info{}
	l.pictures.open = 0
	l.inForce(nil)
	l.stats.Store(nil)
	l.video.Store(false)
}

// Look says what a message means for where a stream may begin: media begins it,
// with video a keyframe, and headers come before that.
func Look(f *chunk.Frame) (media, keyframe, header bool) {
	switch f.Type {
	case chunk.TypeVideo:
		t := flv.Video(f.Head())
		if t.Multitrack {
			t = flv.Video(f.Payload())
		}
		return t.Frames && !t.SequenceHeader, t.Keyframe, t.SequenceHeader || t.Config
	case chunk.TypeAudio:
		t := flv.Audio(f.Head())
		if t.Multitrack {
			t = flv.Audio(f.Payload())
		}
		return t.Frames && !t.SequenceHeader, false, t.SequenceHeader || t.Config
	case chunk.TypeData:
		return false, false, flv.Data(f.Head(), false).OnMetaData
	}
	return false, false, false
}

// Get returns a message, or nil if it has been dropped or not been appended yet.
func (l *Log) Get(seq uint64) *Message {
	if m := l.ring.Load().at(seq).Load(); m != nil && m.Seq == seq {
		return m
	}
	return nil
}

const (
	// shownWithin is how many of the last messages hold the picture that is shown
	// last, and shownAtMost how much later, in milliseconds, that can be.
	shownWithin = 64
	shownAtMost = 2000
)

// ShownAfter is how many milliseconds after a time the last picture is shown: in
// a stream with B-frames that is later than the time of its last message.
func (l *Log) ShownAfter(ms uint32) (after uint32) {
	head := l.head.Load()
	for seq := head - 1; seq+shownWithin >= head; seq-- {
		m := l.Get(seq)
		if m == nil {
			break
		}
		if m.Type != chunk.TypeVideo {
			continue
		}
		if ct, ok := flv.CompositionTime(m.Frame.Head()); ok {
			if d := int32(m.Time + uint32(ct) - ms); d <= shownAtMost {
				after = max(after, uint32(max(d, 0)))
			}
		}
	}
	return after
}

// classify looks at the message and brings the header set up to date. It reports
// whether it is media.
func (l *Log) classify(m *Message) (media bool) {
	switch body := m.Frame.Head(); m.Type {
	case chunk.TypeVideo:
		t := flv.Video(body)
		if m.Frame.Length > len(body) && (t.Multitrack || t.SequenceHeader || t.Config) {
			body = m.Frame.Payload() // what matters lies across chunks
			t = flv.Video(body)
		}
		l.video.Store(true)
		if t.End && t.Track <= l.track {
			l.track = 255 // another one may be the main track now
		}
		// What holds no media has no track of its own, and says 0.
		if t.SequenceHeader || t.Frames && !t.Opaque {
			l.track = min(l.track, t.Track)
		}
		m.Keyframe = t.Keyframe && t.Track == l.track
		m.Inter = t.Frames && !m.Keyframe
		if t.SequenceHeader || t.Config {
			l.inForce(l.set.with(m.Frame, body))
		}
		l.outlive(m.Type, t)
		l.note(&l.info.Video, t)
		media = t.Frames
		if m.Picture = media && !t.SequenceHeader && t.Track == l.track; m.Picture {
			l.pictures.note(m.Keyframe, m.Time)
		}
	case chunk.TypeAudio:
		t := flv.Audio(body)
		if m.Frame.Length > len(body) && (t.Multitrack || t.SequenceHeader || t.Config) {
			body = m.Frame.Payload()
			t = flv.Audio(body)
		}
		if t.SequenceHeader || t.Config {
			l.inForce(l.set.with(m.Frame, body))
		}
		l.outlive(m.Type, t)
		l.note(&l.info.Audio, t)
		media = t.Frames
	case chunk.TypeData:
		d := flv.Data(body, false)
		m.Metadata, m.Clear = d.OnMetaData, d.Clear
		switch {
		case d.OnMetaData && d.Clear:
			l.inForce(l.set.withMetadata(nil))
		case d.OnMetaData:
			l.inForce(l.set.withMetadata(m.Frame))
		}
	}
	return media
}

// inForce says what the header set is from now on.
func (l *Log) inForce(s *HeaderSet) {
	if s != l.set {
		l.set = s
		l.sets++
	}
}

// alive is the codec of media of a track for which a set's headers are.
type alive struct {
	set   uint64 // as Log.sets counts them
	track uint8
	codec flv.Codec
}

// outlive drops the headers of a track whose codec has changed without new
// ones. For most messages nothing has changed since the one before.
func (l *Log) outlive(typ uint8, t flv.Tag) {
	if !t.Frames || t.Opaque || t.SequenceHeader {
		return
	}
	was := &l.alive[typ&1] // 8 is audio, 9 is video
	if now := (alive{l.sets, t.Track, t.Codec}); *was != now {
		l.inForce(l.set.outlived(typ, t.Track, t.Codec))
		now.set = l.sets
		*was = now
	}
}

// fit makes the ring smaller where what was kept lately needs a quarter of it at
// most.
func (l *Log) fit(r *ring) {
	if n := len(r.slots); n > firstRing && l.most <= n/4 {
		l.resize(r, n/2)
	}
	l.most = 0
}

func (l *Log) resize(r *ring, slots int) *ring {
	n := newRing(slots)
	l.held += (slots - len(r.slots)) * slotSize
	for seq := l.tail.Load(); seq < l.head.Load(); seq++ {
		n.at(seq).Store(r.at(seq).Load())
	}
	l.ring.Store(n)
	return n
}

// trim drops messages that are not needed or exceed the limits.
func (l *Log) trim(m *Message, now int64) {
	tail, head := l.tail.Load(), m.Seq+1
	to := tail
	if m.Trims() || l.trimNext.Load() {
		l.trimNext.Store(false)
		to = head
		if key := l.key.Load(); key != nil {
			to = key.Seq
		}
		if l.Slowest != nil {
			to = min(to, l.Slowest())
		}
		to = max(to, tail)
	}
	r := l.ring.Load()
	room := l.room()
	last := head // new receivers need the log from here on
	if key := l.key.Load(); key != nil && !l.limits.Live {
		last = key.Seq
	}
	for ; tail < head; tail++ {
		old := r.at(tail).Load()
		if tail >= to && l.bytes <= l.limits.Bytes && l.held <= room && (tail >= last || now-old.arrived <= l.limits.Age) {
			break
		}
		// A message larger than the whole limit still reaches receivers that are up
		// to date.
		if tail == m.Seq && tail >= to {
			break
		}
		if key := l.key.Load(); key == old {
			l.key.Store(nil)
		}
		l.bytes -= old.Cost()
		l.held -= old.drop()
		l.tail.Store(tail + 1)
		r.at(tail).Store(nil)
	}
}

// Info describes a stream's codecs.
type Info struct {
	Video, Audio flv.Codec // seen last
	Enhanced     bool      // some message was in a form of Enhanced RTMP
}

// Info returns the codecs seen so far.
func (l *Log) Info() Info {
	if i := l.stats.Load(); i != nil {
		return *i
	}
	return Info{}
}

func (l *Log) note(c *flv.Codec, t flv.Tag) {
	codec := t.Codec
	if codec == 0 {
		codec = *c
	}
	if codec != *c || t.Enhanced && !l.info.Enhanced {
		*c = codec
		l.info.Enhanced = l.info.Enhanced || t.Enhanced
		info := l.info
		l.stats.Store(&info)
	}
}
