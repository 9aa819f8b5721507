package fanout

import (
	"sync/atomic"
	"time"
)

// OnStall sets a function that is called when Stalled changes: the peer has taken nothing
// for the time after although there is something to send, or takes data again. f must not
// block. OnStall must be called before the first Send.
func (s *Sender) OnStall(after time.Duration, f func()) {
	s.stallAfter, s.onStall = after, f
	ref := new(atomic.Pointer[Sender])
	ref.Store(s)
	s.stalls = ref
	s.stall = time.AfterFunc(after, func() {
		if s := ref.Load(); s != nil {
			s.checkStall()
		}
	})
	s.stall.Stop()
}

// Stalled reports whether the peer is stalled: see OnStall.
func (s *Sender) Stalled() bool { return s.stalled.Load() }

// checkStall is called when the peer may have taken nothing for stallAfter.
func (s *Sender) checkStall() {
	left := s.stallAfter - s.full()
	switch {
	case s.state.Load() != parked || s.closed.Load():
	case left > 0:
		s.stall.Reset(left)
	case !s.stalled.Swap(true):
		if s.state.Load() != parked { // no longer
			s.stalled.Store(false)
			return
		}
		s.onStall()
	}
}

// goesOn is called when the peer has taken data, or when nothing is left to send.
func (s *Sender) goesOn() {
	if s.stalled.Load() && s.stalled.Swap(false) {
		s.stall.Reset(s.stallAfter)
		s.onStall()
	}
}

// full returns how long the socket has accepted nothing, if a goroutine waits for it.
func (s *Sender) full() time.Duration {
	return time.Duration(Clock() - max(s.progress.Load(), s.blocked.Load()))
}
