package forward

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"time"
)

// ServerStats is a snapshot of a Server. Counters only grow.
type ServerStats struct {
	Connections  int // of clients
	Streams      int // live, or about to be
	Destinations int // of all streams
	// Buffered is how many bytes of Config.MemoryBudget are in use: by all
	// Servers that share it, where it is the process's.
	Buffered int

	// Refused counts the connects, publishes and plays that were refused by
	// a hook, by PublishAuth or by a Resolver (ErrRefused). The answer to
	// each comes 250 ms after the request at the earliest.
	Refused uint64
	// RefusedFrom has them by address, of IPv6 the first 64 bits, for the
	// 1024 addresses that were refused last.
	RefusedFrom map[netip.Addr]uint64
}

// Stats returns a snapshot.
func (s *Server) Stats() ServerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ServerStats{
		Connections: len(s.conns), Streams: len(s.sources), Destinations: s.pushes, Buffered: s.memory.Load().Used(),
		Refused: s.refusals.total, RefusedFrom: maps.Collect(s.refusals.counts),
	}
}

const (
	// refusalDelay makes it slow to try keys and passwords, one after the
	// other. It counts from the request.
	refusalDelay = 250 * time.Millisecond
	// maxRefusedAddrs bounds the addresses that are counted.
	maxRefusedAddrs = 1024
	// refusalTime is that of Limits.RefusalsPerAddress.
	refusalTime = time.Minute
)

// refusals counts those who were refused.
type refusals struct {
	total  uint64
	byAddr map[netip.Addr]refusal
}

type refusal struct {
	count  uint64
	last   time.Time
	began  time.Time // the minute in which
	recent int       // so many were refused
	until  time.Time // when the address is not shut out any more
}

// note counts a refusal. Where there are too many addresses, that of the
// oldest is forgotten. It reports whether the address is shut out from now on:
// with limit refusals within a minute, where limit is not negative.
func (r *refusals) note(addr netip.Addr, now time.Time, limit int) (shut bool) {
	r.total++
	if !addr.IsValid() {
		return false
	}
	if r.byAddr == nil {
		r.byAddr = make(map[netip.Addr]refusal)
	}
	n, known := r.byAddr[addr]
	if !known && len(r.byAddr) >= maxRefusedAddrs {
		var oldest netip.Addr
		for a, n := range r.byAddr {
			if !oldest.IsValid() || n.last.Before(r.byAddr[oldest].last) {
				oldest = a
			}
		}
		delete(r.byAddr, oldest)
	}
	if now.Sub(n.began) >= refusalTime {
		n.began, n.recent = now, 0
	}
	n.count, n.last, n.recent = n.count+1, now, n.recent+1
	was := now.Before(n.until)
	if limit >= 0 && (was || n.recent >= limit) {
		n.until = now.Add(refusalTime)
		shut = !was
	}
	r.byAddr[addr] = n
	return shut
}

// shut reports whether an address is shut out.
func (r *refusals) shut(addr netip.Addr, now time.Time) bool {
	return now.Before(r.byAddr[addr].until)
}

func (r *refusals) counts(yield func(netip.Addr, uint64) bool) {
	for a, n := range r.byAddr {
		if !yield(a, n.count) {
			return
		}
	}
}

// refusedError is what OnPublish has refused with.
type refusedError struct{ error }

func (e refusedError) Unwrap() error { return e.error }

// delayRefusal counts a client that is about to be refused, for what it has
// asked at the given time, and waits.
func (c *conn) delayRefusal(asked time.Time) {
	limit := c.srv.cfg.Load().Limits.RefusalsPerAddress
	c.srv.mu.Lock()
	shut := c.srv.refusals.note(c.addr, time.Now(), limit)
	c.srv.mu.Unlock()
	if shut {
		c.srv.notices.write(slog.LevelWarn, "address shut out", "", "client", c.id, "addr", c.peer, "refusals", limit)
	}
	ctx, cancel := context.WithDeadline(c.ctx, asked.Add(refusalDelay))
	defer cancel()
	<-ctx.Done()
}

// clientAddr is what counts as one address: of IPv6, whoever has one has its
// first 64 bits. It is not valid where the connection has none.
func clientAddr(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(logAddr(a))
	if err != nil {
		return netip.Addr{}
	}
	ip := at.Addr().Unmap()
	if ip.Is6() {
		p, _ := ip.WithZone("").Prefix(64)
		return p.Addr()
	}
	return ip
}
