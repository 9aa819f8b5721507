package gop

// Batch holds the messages that are sent in one write. It can be filled for one cursor
// after the other; cursors at the same position share the work.
type Batch struct {
	iov   [][]byte
	marks []mark
	times []times // state after each message, for a cursor with Times
	bytes int

	// identify the cursors that may share the batch
	log      *Log
	from, to uint64
	limit    int
	push     bool
	tags     bool

	scratch []byte
	filling uint64
}

// mark is the end of a message in a batch.
type mark struct {
	end int
	m   *Message
	// skipped is how many messages were left out before the message, needKey
	// whether the cursor still waits for a keyframe after it.
	skipped uint64
	needKey bool
	// pictures is the number of pictures up to and including the message.
	pictures int
}

// joins reports whether m directly follows the mark's message in memory, and that message
// is sent unchanged.
func (k *mark) joins(m *Message, push bool) bool {
	return m.Frame.Follows(k.m.Frame) && !(push && k.m.Wrap)
}

// Fill collects the messages that c sends next: all there are, up to the message with
// which limit bytes are reached. The batch is empty if c is up to date.
func (b *Batch) Fill(c *Cursor, limit int) {
	head := c.log.head.Load()
	from := c.next.Load()
	stop := c.stop.Load()
	plain := c.plain() && !stop
	if plain && b.holds(c, from, head, limit) {
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
	for seq := from; seq < head && b.bytes < limit && len(b.iov) < maxPieces; seq++ {
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
		b.log, b.from, b.to, b.limit = c.log, from, head, limit
		b.push, b.tags = c.opt.Push, c.opt.Layout.Tags
	}
}

func (b *Batch) holds(c *Cursor, from, head uint64, limit int) bool {
	return b.log == c.log && b.from == from && b.to == head && b.push == c.opt.Push &&
		b.tags == c.opt.Layout.Tags && b.limit == limit
}

// Holds reports whether b is filled for another cursor with what Fill would collect for
// c. Then both can send it, and neither must be sent something else before.
func (b *Batch) Holds(c *Cursor, limit int) bool {
	return c.plain() && !c.stop.Load() && b.holds(c, c.next.Load(), c.log.head.Load(), limit)
}

// filler holds the state that the cursor will have when the batch is sent.
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
				c.waited(1)
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
		// The messages are neighbours in memory: send one range.
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

// time returns the timestamp of m for a cursor with times of its own.
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

// Filling returns a number that changes with the content of the batch. While it stays the
// same, so does IOV.
func (b *Batch) Filling() uint64 { return b.filling }

// IOV returns the bytes to send. They stay valid until the next Fill for another
// position.
func (b *Batch) IOV() [][]byte { return b.iov }

// Arrived returns when the batch's first message arrived, in nanoseconds of the clock of
// Append. The batch must not be empty.
func (b *Batch) Arrived() int64 { return b.marks[0].m.arrived }

// Len returns the number of bytes to send.
func (b *Batch) Len() int { return b.bytes }

// Sent advances c after n bytes of the batch were sent. It returns the number of messages,
// and of pictures among them. A message that was sent in part counts as sent: rest, its
// other bytes, must be sent before anything else.
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
	if last.skipped > 0 {
		c.waited(last.skipped)
	}
	if n < last.end {
		rest = cut(b.iov, n, last.end)
		b.scratch = nil // rest may be part of it
	}
	return i + 1, last.pictures, rest
}

// cut returns the bytes of iov from offset from up to offset to. They share iov's memory.
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
