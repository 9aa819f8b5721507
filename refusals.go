package forward

import (
	"net"
	"net/netip"
	"time"
)

// refusals counts refused requests, in all and by address.
type refusals struct {
	total  uint64
	byAddr map[netip.Addr]refusal
}

// note counts a refusal. If there are too many addresses, it forgets the oldest. It
// reports whether the address is shut out from now on: after limit refusals within a
// minute, if limit is not negative.
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

type refusal struct {
	count  uint64
	last   time.Time
	began  time.Time // when the current minute began
	recent int       // refusals in that minute
	until  time.Time // until when the address is shut out
}

// refusedError is an error with which OnPublish has refused a publish.
type refusedError struct{ error }

func (e refusedError) Unwrap() error { return e.error }

const (
	// refusalDelay slows down guessing of keys and passwords. It is the time from the
	// request to its refusal.
	refusalDelay = 250 * time.Millisecond
	// maxRefusedAddrs bounds the addresses that are counted.
	maxRefusedAddrs = 1024
	// refusalTime is the minute of Limits.RefusalsPerAddress.
	refusalTime = time.Minute
)

// clientAddr returns the part of an address that counts as one client: of IPv6 the first
// 64 bits. It is invalid if the connection has no address.
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
