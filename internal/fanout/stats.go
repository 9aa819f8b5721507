package fanout

import (
	"time"
)

// Stats is a snapshot of a Sender.
type Stats struct {
	Bytes, Messages   uint64
	Overtaken, Waited uint64 // messages not sent: too slow, no keyframe yet
	Lag               uint64 // messages
	Blind             bool   // it was begun without a keyframe
	// Full is how long the socket has taken nothing although there is
	// something to send.
	Full time.Duration
}

// Stats returns a snapshot. Its counters only grow, whatever is attached.
func (s *Sender) Stats() Stats {
	st := Stats{
		Bytes: s.bytes.Load(), Messages: s.messages.Load(),
		Overtaken: s.skipped.Overtaken.Load(), Waited: s.skipped.Waited.Load(),
		Blind: s.skipped.Blind.Load(),
	}
	if a := s.current.Load(); a != nil {
		st.Lag = a.cursor.Lag()
	}
	if s.state.Load() == parked {
		st.Full = s.full()
	}
	return st
}
