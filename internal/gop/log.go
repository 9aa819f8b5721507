// Package gop implements the log of a live stream: it holds each message once, framed,
// with the header set in force at its position. One goroutine appends; any number of
// cursors read without locks.
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
	// Frame is sent to players, and also to destinations unless Wrap is set.
	Frame *chunk.Frame
	// Set is the header set in force before the message, After the one after it.
	Set, After *HeaderSet
	// Keyframe says that a cursor may start here.
	Keyframe bool
	// Wrap says that destinations get the message inside @setDataFrame, like
	// metadata.
	Wrap bool
	// Inter says that the message contains video that depends on earlier video.
	Inter bool
	// Media says that the message contains coded media.
	Media bool
	// Picture says that it is coded media of the main video track.
	Picture bool
	// Metadata says that it is onMetaData.
	Metadata bool
	// Clear says that it is @clearDataFrame, which is for servers. It is not sent
	// to receivers that get plain metadata.
	Clear bool
	// Changed says that a track's header is no longer in force, because another
	// header or another codec has replaced it.
	Changed bool

	arrived int64
	end     uint64 // cost of the stream up to and with this message
}

// messageCost is roughly how many bytes a message uses beyond the bytes of its frame: for
// Message and Frame, its slot in the ring, its part of slabs and header sets. It is
// included wherever bytes are counted, so that a flood of small messages needs no limit of
// its own.
const messageCost = 200

// Cost returns how many bytes the message counts as.
func (m *Message) Cost() int { return m.Frame.Len() + messageCost }

// Limits bounds a Log. The oldest messages are dropped when a limit is exceeded.
type Limits struct {
	Bytes int // messageCost for each message included
	// Age is how long after its arrival, in nanoseconds, a message is kept for
	// receivers that lag. For new ones everything from the last keyframe on is kept.
	Age int64
	// Live says that no receiver begins with the last keyframe, which is then kept
	// no longer than the rest.
	Live bool
}

// lag returns how far a receiver may lag. The rest, up to the limits, is for bytes in
// flight and for new receivers.
func (l *Limits) lag() backlog { return backlog{l.Age / 5 * 4, uint64(l.Bytes) / 2} }

// Log holds a live stream's messages, from the last keyframe or from the slowest cursor on,
// within Limits, until Release. Append and End are for one goroutine at a time, and
// nothing may be appended after End; all other methods are safe for concurrent use.
type Log struct {
	limits Limits
	// Slowest, if not nil, returns the sequence number of the first message that
	// a cursor still needs. It is called while appending.
	Slowest func() uint64
	// Lagging finds the receiver that keeps most of the log and is not up to date.
	// It returns how many bytes that keeps, 0 if there is none, and a function that
	// cuts it off. now is on the clock of Append. Any goroutine may call it. A Log
	// with a Budget must have it.
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
	held  int        // bytes of memory in use
	most  int        // most messages kept at the same time, since the ring was last fitted
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

// slotSize is the size of a slot, in bytes.
const slotSize = int(unsafe.Sizeof(atomic.Pointer[Message]{}))

func newRing(n int) *ring {
	return &ring{mask: uint64(n - 1), slots: make([]atomic.Pointer[Message], n)}
}

func (r *ring) at(seq uint64) *atomic.Pointer[Message] { return &r.slots[seq&r.mask] }

const (
	// trimEvery is the number of messages after which messages that are not needed are
	// dropped, in a stream without keyframes.
	trimEvery = 64
	// fitEvery is the number of messages after which the ring is checked: it may have
	// become too large.
	fitEvery = 1024
	// firstRing is the smallest number of slots of a ring.
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

// SetBytes changes Limits.Bytes. Only the appending goroutine may call it, and only of a Log
// without cursors.
func (l *Log) SetBytes(n int) { l.limits.Bytes = n }

// MaxLag returns how far a receiver may lag, in nanoseconds.
func (l *Log) MaxLag() int64 { return l.limits.lag().age }

// Head returns the sequence number that the next message will get.
func (l *Log) Head() uint64 { return l.head.Load() }

// End says that no more messages will be appended.
func (l *Log) End() { l.ended.Store(true) }

// Release drops all messages. It is called once, after End, when no cursor needs any
// message. A Log that is referenced after it keeps no memory of the stream.
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

// Begins reports whether a receiver may begin with a message that is still kept: with a
// keyframe, or with any message in a stream without video.
func (l *Log) Begins(seq uint64) bool {
	m := l.Get(seq)
	return m == nil || l.begins(m)
}

func (l *Log) begins(m *Message) bool { return m.Keyframe || !l.video.Load() }

// Len returns the number of messages and bytes that the log holds.
func (l *Log) Len() (messages, bytes int) {
	return int(l.head.Load() - l.tail.Load()), l.Since(0)
}

// Since returns the number of bytes kept from a message on. As everywhere in a Log, each
// message counts messageCost more than its frame.
func (l *Log) Since(seq uint64) int {
	head := l.head.Load()
	first, last := l.Get(max(seq, l.tail.Load())), l.Get(head-1)
	if first == nil || last == nil {
		return 0
	}
	return int(last.end-first.end) + first.Cost()
}

// Behind returns the lag of a receiver whose next message is seq: how many bytes are kept
// from there on, and how long the first of them has waited. If that message is no longer
// kept, age is the largest int64.
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

// Age returns how much later than message seq the newest message arrived, in nanoseconds.
func (l *Log) Age(seq uint64) int64 {
	return l.backlog(max(seq, l.tail.Load()), l.head.Load()).age
}

// backlog is a range of messages: the nanoseconds between its first and last arrival, and
// its bytes.
type backlog struct {
	age   int64
	bytes uint64
}

// backlog returns the backlog from one message up to another, zero if one of the two is not
// kept. A cursor may be at a keyframe that head does not include yet.
func (l *Log) backlog(from, to uint64) backlog {
	first, last := l.Get(from), l.Get(to-1)
	if first == nil || last == nil || from >= to {
		return backlog{}
	}
	return backlog{last.arrived - first.arrived, last.end - first.end}
}

// Append appends a message. frame is sent to players unchanged, and to destinations inside
// @setDataFrame if wrap is set. now is the arrival of the message, in nanoseconds of a
// monotonic clock.
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

// Look reports what a message means for the beginning of a stream: a stream begins with
// media, and with a keyframe if it has video; headers come before that.
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
	// shownWithin is how many of the last messages may contain the picture that is
	// shown last, and shownAtMost how much later, in milliseconds, it can be shown.
	shownWithin = 64
	shownAtMost = 2000
)

// ShownAfter returns how many milliseconds after ms the last picture is shown. With
// B-frames that is later than the timestamp of the last message.
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

// classify sets the message's properties and updates the header set. It reports whether
// the message is media.
func (l *Log) classify(m *Message) (media bool) {
	switch body := m.Frame.Head(); m.Type {
	case chunk.TypeVideo:
		t := flv.Video(body)
		if m.Frame.Length > len(body) && (t.Multitrack || t.SequenceHeader || t.Config) {
			body = m.Frame.Payload() // the relevant bytes lie across chunks
			t = flv.Video(body)
		}
		l.video.Store(true)
		if t.End && t.Track <= l.track {
			l.track = 255 // another track may be the main one now
		}
		// A message without media has no track, but Track is 0.
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

// inForce sets the header set for later messages.
func (l *Log) inForce(s *HeaderSet) {
	if s != l.set {
		l.set = s
		l.sets++
	}
}

// alive caches the codec of a track's media, for which the headers of a set are valid.
type alive struct {
	set   uint64 // as Log.sets counts them
	track uint8
	codec flv.Codec
}

// outlive drops the headers of a track whose codec has changed without new headers. For
// most messages nothing has changed since the previous one.
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

// fit makes the ring smaller if the messages kept lately need at most a quarter of it.
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
	last := head // first message that new receivers need
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
	Enhanced     bool      // a message had a form of Enhanced RTMP
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
