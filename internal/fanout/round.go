package fanout

import (
	"syscall"

	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/sys"
)

const (
	// roundSize is how many senders write in a round at most, and roundLoads how many
	// different batches. The last of the senders has waited for all others' writes before
	// the first goes on.
	roundSize  = 64
	roundLoads = 32
)

// round is the writes of a walk that are made in a row: first the batches of all senders
// are prepared, then all system calls are made, then their results are noted. After a
// system call the processor has forgotten where the process's memory is, so little of
// it should be needed before the next one.
type round struct {
	entries []entry
	used    int // of loads

	space [roundSize]entry
	loads [roundLoads]load
}

// load is a batch, and the system's form of it. Senders at the same position share it.
type load struct {
	batch   gop.Batch
	scratch ioScratch
}

// entry is a sender's part of a round. The sender's state is running.
type entry struct {
	fd   uintptr
	held *sys.Descriptor // nil: the descriptor can't be used now
	load *load
	n    int
	err  syscall.Errno
	s    *Sender
}

// prepare adds s to the round. It is false if s has nothing to send, or something else
// than media. The state of s is running.
func (w *walk) prepare(s *Sender) bool {
	a := s.active
	if a == nil || s.rest != nil || len(s.out) > 0 || s.asked.Load() || s.closed.Load() || a.cursor.Lag() == 0 {
		return false
	}
	r := w.round
	if r == nil { // a walk of one sender has none
		r = new(round)
		r.entries = r.space[:0]
		w.round = r
	}
	if len(r.entries) == roundSize {
		w.writeRound()
	}
	l := r.shared(&a.cursor)
	if l == nil {
		if r.used == roundLoads {
			w.writeRound()
		}
		l = &r.loads[r.used]
		if l.batch.Fill(&a.cursor, turn); l.batch.Len() == 0 {
			return false
		}
		l.scratch.convert(l.batch.IOV(), &l.batch)
		r.used++
	}
	r.entries = append(r.entries, entry{s: s, load: l})
	return true
}

// shared returns a load that is also that of c. At a position there is one for each form,
// so that it is one of the last.
func (r *round) shared(c *gop.Cursor) *load {
	for i := r.used - 1; i >= max(r.used-int(forms), 0); i-- {
		if l := &r.loads[i]; l.batch.Holds(c, turn) {
			return l
		}
	}
	return nil
}

// writeRound makes the writes, and lets the senders go on.
func (w *walk) writeRound() {
	r := w.round
	if r == nil || len(r.entries) == 0 {
		return
	}
	for i := range r.entries {
		x := &r.entries[i]
		if x.held = x.s.holder.Hold(); x.held != nil {
			x.fd = x.held.FD()
		}
	}
	r.write()
	for i := range r.entries {
		if d := r.entries[i].held; d != nil {
			d.Release()
		}
	}
	if len(r.entries) >= clockEvery {
		w.now = Clock()
	}
	for i := range r.entries {
		x := &r.entries[i]
		x.s.wrote(x, w)
	}
	clear(r.entries)
	r.entries, r.used = r.entries[:0], 0
}

// wrote is called when the write of s in a round has been made.
func (s *Sender) wrote(x *entry, w *walk) {
	switch {
	case x.held == nil: // closed, or just given to another owner: run finds out
	case x.err == 0 || x.err == syscall.EAGAIN:
		n := 0
		if x.err == 0 {
			n = x.n
		}
		if b := &x.load.batch; s.sent(b, b.IOV(), n, w.now, w) {
			s.state.Store(parked)
			s.park()
			return
		}
	default:
		s.fail(x.err)
	}
	s.run(w)
}

// reset drops the references to streams.
func (r *round) reset() {
	for i := range r.loads {
		l := &r.loads[i]
		l.batch.Reset()
		l.scratch.reset()
	}
}
