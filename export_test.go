package forward

import (
	"maps"
	"net/netip"
)

// WithDefaults is for the test that compares the documents with the code.
func (c Config) WithDefaults() Config { return c.withDefaults() }

// WithDefaults is as that of Config.
func (d Destination) WithDefaults() Destination { return d.withDefaults() }

// What tests of whole servers see of the inside, where nothing public tells it.

// Left counts what is kept of clients, streams and destinations, by table, without
// tables that are empty.
func (s *Server) Left() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := map[string]int{
		"audiences": len(s.audiences), "pushing": len(s.pushing), "perAddr": len(s.perAddr), "counted": s.counted,
		"closing": s.closingConns,
	}
	maps.DeleteFunc(left, func(_ string, n int) bool { return n == 0 })
	return left
}

// ConnectionsFrom counts the connections of an address.
func (s *Server) ConnectionsFrom(addr netip.Addr) (open, closing int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.perAddr[addr]
	return n.open, n.closing
}

// PendingHandshakes counts the connections whose handshake is under way.
func (s *Server) PendingHandshakes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}

// GuestMemory is what clients that were not let in hold of unfinished messages.
func (s *Server) GuestMemory() int { return s.memory.Load().Guests() }

// Settings are those in force.
func (s *Server) Settings() *Config { return s.cfg.Load() }

// IsClaimable reports whether r may have the place of the next publisher.
func (s *Source) IsClaimable(r *Request) bool { return s.inputs.isClaimable(r) }

// GraceOver is the end of the time that a stream waits for its next publisher.
func (s *Source) GraceOver() { s.inputs.graceOver() }

// BeginClose is the beginning of Close.
func (f *Forwarder) BeginClose() { f.beginClose(nil) }

// Held is the memory of the log.
func (s *Source) Held() int { return s.log.Held() }

// For tests outside the package.
var (
	ErrEvicted          = errEvicted
	SameResolver        = sameResolver
	ProcessMemory       = processMemory
	DefaultMemoryBudget = defaultMemoryBudget
)

const (
	// NextHold is how long a next publisher without a keyframe keeps its place.
	NextHold = nextHold
	// LingerTime is how long a connection may take to read its end.
	LingerTime = lingerTime
)
