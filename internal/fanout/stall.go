package fanout

import (
	"sync/atomic"
	"time"
)

// OnStall has f called when Stalled changes: the peer has taken nothing for so long
// although there is something to send, or takes something again. f must not block.
// OnStall comes before the first Send.
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

// Stalled is what OnStall tells of.
func (s *Sender) Stalled() bool { return s.stalled.Load() }

// checkStall is called when the peer may have taken nothing for long enough.
func (s *Sender) checkStall() {
	left := s.stallAfter - s.full()
	switch {
	case s.state.Load() != parked || s.closed.Load():
	case left > 0:
		s.stall.Reset(left)
	case !s.stalled.Swap(true):
		if s.state.Load() != parked { // meanwhile
			s.stalled.Store(false)
			return
		}
		s.onStall()
	}
}

// goesOn notes that the peer has taken something, or that there is nothing left.
func (s *Sender) goesOn() {
	if s.stalled.Load() && s.stalled.Swap(false) {
		s.stall.Reset(s.stallAfter)
		s.onStall()
	}
}

// full is how long the socket has taken nothing, where it is waited for.
func (s *Sender) full() time.Duration {
	return time.Duration(Clock() - max(s.progress.Load(), s.blocked.Load()))
}
