package fanout

import (
	"net"
	"sync"
	"time"

	"github.com/rtmp-forward/forward/internal/gop"
)

// walk is the state that a goroutine carries from sender to sender: the batches that
// senders at the same position share.
type walk struct {
	batches [forms]gop.Batch
	one     [1][]byte
	gather  []byte
	joined  *gop.Batch // the batch whose bytes are in gather, or nil
	filling uint64
	sealed  []byte // space for records
	scratch ioScratch
	now     int64 // on Clock, when the walk began
	tally   tally
	round   *round
}

// tally counts what a walk has sent since the last flush. It is cheaper than counting in
// the group.
type tally struct {
	group           *Group
	bytes, messages int
	bucket, samples int
	late            time.Duration // of all samples
}

// count counts n bytes and a number of messages that were sent to a receiver of g. If
// samples is 1, late is the latency of the first of them.
func (w *walk) count(g *Group, n, messages, samples int, late time.Duration) {
	t := &w.tally
	at := t.bucket
	if samples > 0 {
		at = bucket(late)
	}
	if t.group != g || t.bucket != at {
		w.flush()
		t.group, t.bucket = g, at
	}
	t.bytes += n
	t.messages += messages
	if samples > 0 {
		t.samples++
		t.late += late
	}
}

// flush adds the counts to the group.
func (w *walk) flush() {
	t := &w.tally
	if g := t.group; g != nil {
		g.bytes.Add(uint64(t.bytes))
		g.messages.Add(uint64(t.messages))
		if t.samples > 0 {
			g.pool.Latency.add(t.bucket, uint64(t.samples), t.late)
		}
	}
	w.tally = tally{}
}

// clockEvery is the number of senders after which a walk reads the clock again.
const clockEvery = 32

var walks = sync.Pool{New: func() any { return new(walk) }}

func newWalk() *walk {
	w := walks.Get().(*walk)
	w.now = Clock()
	return w
}

// form says which senders share batches.
type form int

const (
	formPlay form = iota // to players
	formPush             // to destinations
	formTags             // as FLV
	forms
)

func formOf(o gop.Options) form {
	switch {
	case o.Layout.Tags:
		return formTags
	case o.Push:
		return formPush
	}
	return formPlay
}

// walk makes senders send everything that is pending, in part when the walk is put.
func (w *walk) walk(senders []*Sender) {
	for i, s := range senders {
		if i%clockEvery == clockEvery-1 {
			w.now = Clock()
		}
		switch {
		case s.holds():
		case s.holder == nil || !s.state.CompareAndSwap(idle, running):
			s.kick(w)
		case !w.prepare(s):
			s.run(w)
		}
	}
}

// put ends the walk's last round, and returns the walk to its pool without references to
// a stream.
func (w *walk) put() {
	w.writeRound()
	w.flush()
	for i := range w.batches {
		w.batches[i].Reset()
	}
	w.one[0], w.joined = nil, nil
	w.scratch.reset()
	if w.round != nil {
		w.round.reset()
	}
	walks.Put(w)
}

// passed counts n bytes from plain that were sent or encrypted. batch is their batch, or
// nil.
func (s *Sender) passed(batch *gop.Batch, n int, now int64, w *walk) {
	s.bytes.Add(uint64(n))
	switch {
	case s.rest != nil:
		s.rest = dropFirst(s.rest, n)
		w.count(s.group.Load(), n, 0, 0, 0)
	case batch != nil && n > 0:
		late := time.Duration(now - batch.Arrived())
		samples := 1
		if s.active.cursor.Begins() {
			samples = 0 // old messages with which the receiver begins have no latency
		}
		var messages, pictures int
		messages, pictures, s.rest = batch.Sent(&s.active.cursor, n)
		s.messages.Add(uint64(messages))
		w.count(s.group.Load(), n, messages, samples, late)
		if m := s.measure; m != nil {
			m.note(s, pictures, now)
		}
	case batch != nil:
	default:
		if s.out = s.out[n:]; len(s.out) == 0 {
			s.out = nil
		}
	}
}

// writeAll writes the first bytes of iov, up to limit, to a connection without writes that
// do not block. It gathers them first, for full TLS records and fewer calls.
func (s *Sender) writeAll(iov [][]byte, limit int, w *walk) (int, error) {
	if tcp, ok := s.conn.(*net.TCPConn); ok {
		buffers := net.Buffers(cut(iov, limit)) // a copy, because WriteTo consumes it
		n, err := buffers.WriteTo(tcp)
		return int(n), err
	}
	if len(iov) == 1 {
		return s.conn.Write(iov[0][:min(len(iov[0]), limit)])
	}
	n, err := s.conn.Write(w.join(iov, nil, limit))
	if cap(w.gather) > 2*catchUp {
		w.gather = nil
	}
	return n, err
}

// cut returns the first bytes of iov, up to limit, in a new slice of slices.
func cut(iov [][]byte, limit int) (out [][]byte) {
	for _, p := range iov {
		if limit <= 0 {
			break
		}
		p = p[:min(len(p), limit)]
		out = append(out, p)
		limit -= len(p)
	}
	return out
}

// dropFirst returns iov without its first n bytes. It changes iov.
func dropFirst(iov [][]byte, n int) [][]byte {
	for len(iov) > 0 && n >= len(iov[0]) {
		n -= len(iov[0])
		iov = iov[1:]
	}
	if len(iov) == 0 {
		return nil
	}
	iov[0] = iov[0][n:]
	return iov
}
