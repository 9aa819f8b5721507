package fanout

import (
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/sys"
)

// Counters only grow, also when another log is attached.
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
	Blind bool // sending began without a keyframe
	// Full is how long the socket has accepted nothing although there is
	// something to send.
	Full time.Duration

	// Set only with Measure.

	BytesPerSecond, MessagesPerSecond, PicturesPerSecond float64
	// FirstPicture is the time from the first Attach until the first picture was
	// sent; 0 before that.
	FirstPicture time.Duration
}

// measure is the additional state of a Sender with Measure.
type measure struct {
	rate     Rate
	pictures atomic.Uint64
	began    atomic.Int64 // when the first log was attached
	first    atomic.Int64 // the first picture, from there on, in nanoseconds

	onFirst   func(time.Duration)
	onDropped func()
	skipped   uint64 // when onDropped was called; guarded by the Sender's state
}

// Measure makes Stats report rates and the time to the first picture. It calls first with
// that time, and dropped at most once a second when messages were not sent. Both are called
// while the Sender sends: they must not block. Measure comes before the first Send.
func (s *Sender) Measure(first func(time.Duration), dropped func()) {
	s.measure = &measure{onFirst: first, onDropped: dropped}
}

// begins is called when a log is attached.
func (m *measure) begins(now int64) {
	if m.began.CompareAndSwap(0, now) {
		m.rate.Note(now, Counts{})
	}
}

// note counts pictures that were sent.
func (m *measure) note(s *Sender, pictures int, now int64) {
	if pictures > 0 {
		m.pictures.Add(uint64(pictures))
		if m.first.Load() == 0 {
			d := max(now-m.began.Load(), 1)
			m.first.Store(d)
			if g := s.group.Load(); g != nil {
				g.pool.FirstPicture.Observe(time.Duration(d))
			}
			m.onFirst(time.Duration(d))
		}
	}
	if m.rate.Due(now) {
		m.rate.Note(now, m.counts(s))
		if c := s.Counters(); c.Overtaken+c.Waited > m.skipped {
			m.skipped = c.Overtaken + c.Waited
			m.onDropped()
		}
	}
}

func (m *measure) counts(s *Sender) Counts {
	return Counts{s.bytes.Load(), s.messages.Load(), m.pictures.Load()}
}

// Path returns the number of bytes that the peer has not acknowledged, and the round-trip
// time; 0 if the system does not report them.
func (s *Sender) Path() (outstanding int, rtt time.Duration) {
	return sys.Path(s.conn)
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
