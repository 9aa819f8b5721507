package forward

import (
	"maps"
	"net/netip"
)

// WithDefaults is for the test that compares the documents with the code.
func (c Config) WithDefaults() Config { return c.withDefaults() }

// WithDefaults is like that of Config.
func (d Destination) WithDefaults() Destination { return d.withDefaults() }

// Internal state for the tests of whole servers, which the public API does not show.

// Left counts the entries that are kept for clients, streams and destinations, by table. It
// leaves out empty tables.
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

// PendingHandshakes counts the connections whose handshake is in progress.
func (s *Server) PendingHandshakes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}

// GuestMemory returns how many bytes of unfinished messages clients hold that have not been
// accepted.
func (s *Server) GuestMemory() int { return s.memory.Load().Guests() }

// Settings returns the settings in force.
func (s *Server) Settings() *Config { return s.cfg.Load() }

// IsClaimable reports whether r may take the place of the next publisher.
func (s *Source) IsClaimable(r *Request) bool { return s.inputs.isClaimable(r) }

// GraceOver ends the time for which a stream waits for its next publisher.
func (s *Source) GraceOver() { s.inputs.graceOver() }

// BeginClose is the first part of Close.
func (f *Forwarder) BeginClose() { f.beginClose(nil) }

// Held returns the memory of the log, in bytes.
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
