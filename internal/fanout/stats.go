package fanout

import (
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/sys"
)

// Counters only grow, whatever is attached.
type Counters struct {
	Bytes, Messages   uint64
	Overtaken, Waited uint64 // messages not sent: too slow, no keyframe yet
}

// Counters returns a snapshot.
func (s *Sender) Counters() Counters {
	return Counters{s.bytes.Load(), s.messages.Load(), s.skipped.Overtaken.Load(), s.skipped.Waited.Load()}
}

// Stats is a snapshot of a Sender.
type Stats struct {
	Counters
	Lag   gop.Lag
	Blind bool // it was begun without a keyframe
	// Full is how long the socket has taken nothing although there is
	// something to send.
	Full time.Duration

	// What Measure asks for.

	BytesPerSecond, MessagesPerSecond, PicturesPerSecond float64
	// FirstPicture is how long after the beginning of the log the first picture was
	// sent; 0: none was.
	FirstPicture time.Duration
}

// measure is what a Sender that is measured knows beyond its counters.
type measure struct {
	rate     Rate
	pictures atomic.Uint64
	began    atomic.Int64 // when the first log was attached
	first    atomic.Int64 // the first picture, from there on, in nanoseconds
}

// Measure has Stats tell rates and the time to the first picture. It comes before the
// first Send.
func (s *Sender) Measure() { s.measure = new(measure) }

// begins notes that a log has been attached.
func (m *measure) begins(now int64) {
	if m.began.CompareAndSwap(0, now) {
		m.rate.Note(now, Counts{})
	}
}

// note takes pictures that were sent into account.
func (m *measure) note(s *Sender, pictures int, now int64) {
	if pictures > 0 {
		m.pictures.Add(uint64(pictures))
		if m.first.Load() == 0 {
			d := max(now-m.began.Load(), 1)
			m.first.Store(d)
			if g := s.group.Load(); g != nil {
				g.pool.FirstPicture.Observe(time.Duration(d))
			}
		}
	}
	if m.rate.Due(now) {
		m.rate.Note(now, m.counts(s))
	}
}

func (m *measure) counts(s *Sender) Counts {
	return Counts{s.bytes.Load(), s.messages.Load(), m.pictures.Load()}
}

// Path is what is under way to the peer: bytes that it has not acknowledged, and the
// round-trip time; 0 where the system does not tell.
func (s *Sender) Path() (outstanding int, rtt time.Duration) {
	return sys.Outstanding(s.conn), sys.RTT(s.conn)
}

// Stats returns a snapshot.
func (s *Sender) Stats() Stats {
	st := Stats{Counters: s.Counters(), Blind: s.skipped.Blind.Load()}
	now := Clock()
	if a := s.current.Load(); a != nil {
		st.Lag = a.log.LagOf(a.cursor.Next(), now)
	}
	if m := s.measure; m != nil {
		st.BytesPerSecond, st.MessagesPerSecond, st.PicturesPerSecond = m.rate.PerSecond(now, m.counts(s))
		st.FirstPicture = time.Duration(m.first.Load())
	}
	if s.state.Load() == parked {
		st.Full = s.full()
	}
	return st
}
