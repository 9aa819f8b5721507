package gop

import "sync/atomic"

// guestShare says that unfinished messages of guests may use 1/guestShare of a Budget.
const guestShare = 8

// Account counts the unfinished messages of one peer in a Budget. A peer is a guest until
// Accept. All guests together have an eighth of the Budget; if they need more, the guest
// that holds most is evicted. So guests cannot displace accepted peers, and a guest that
// holds nothing is never evicted. The methods are for the goroutine that reads from the
// peer.
type Account struct {
	b     *Budget
	evict func()
	held  atomic.Int64
	guest atomic.Bool // guarded by b.mu when written
	gone  bool        // evicted; guarded by b.mu
}

// Account returns the Account of a new guest. evict ends the peer's connection, so that
// its memory is given back soon. It may be called by any goroutine and must not block.
func (b *Budget) Account(evict func()) *Account {
	a := &Account{b: b, evict: evict}
	a.guest.Store(true)
	return a
}

// Accept says that the peer is accepted. It has no effect on a peer that has already been
// evicted.
func (a *Account) Accept() {
	b := a.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.guest.Load() && !a.gone { // an evicted guest no longer counts
		a.guest.Store(false)
		b.guests.Add(-a.held.Load())
		delete(b.hold, a)
	}
}

// Charge counts n more bytes, or fewer if n is negative. If there is no room it counts
// nothing and returns ErrBudget. For an accepted peer there is room as long as guests
// can be evicted.
func (a *Account) Charge(delta int) error {
	if a.guest.Load() {
		return a.chargeGuest(int64(delta))
	}
	b := a.b
	for {
		used, limit := b.used.Add(int64(delta)), b.limit.Load()
		if delta <= 0 || limit < 0 || used <= limit {
			break
		}
		b.used.Add(-int64(delta))
		if !b.evictGuest(nil, 0) {
			return ErrBudget
		}
	}
	a.held.Add(int64(delta))
	b.partial.Add(int64(delta))
	return nil
}

func (a *Account) chargeGuest(delta int64) error {
	b := a.b
	for {
		b.mu.Lock()
		if a.gone {
			b.mu.Unlock()
			if delta > 0 {
				return ErrBudget
			}
			return nil // evictGuest has already given it back
		}
		limit := b.limit.Load()
		over := delta > 0 && limit >= 0 && (b.guests.Load()+delta > limit/guestShare || b.used.Load()+delta > limit)
		if !over {
			a.add(delta)
			b.mu.Unlock()
			return nil
		}
		b.mu.Unlock()
		if !b.evictGuest(a, delta) {
			return ErrBudget
		}
	}
}

// add changes the count of a guest by delta. b.mu is held.
func (a *Account) add(delta int64) {
	b := a.b
	held := a.held.Add(delta)
	b.used.Add(delta)
	b.partial.Add(delta)
	b.guests.Add(delta)
	if held > 0 {
		b.hold[a] = struct{}{}
	} else {
		delete(b.hold, a)
	}
}

// evictGuest ends the guest that holds most. It returns false if there is none, or if asks
// itself would hold most with more bytes.
func (b *Budget) evictGuest(asks *Account, more int64) bool {
	b.mu.Lock()
	var most *Account
	var holds int64
	if asks != nil {
		holds = asks.held.Load() + more
	}
	for a := range b.hold {
		if held := a.held.Load(); a != asks && held > holds {
			most, holds = a, held
		}
	}
	if most == nil {
		b.mu.Unlock()
		return false
	}
	most.gone = true
	most.add(-most.held.Load())
	b.mu.Unlock()
	most.evict()
	return true
}

// Guests returns how many bytes guests hold.
func (b *Budget) Guests() int { return int(b.guests.Load()) }
