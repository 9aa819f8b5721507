package gop

import "sync/atomic"

// guestShare is the part of a Budget that unfinished messages of guests may take.
const guestShare = 8

// Account is what one peer holds of a Budget in unfinished messages. A peer is a
// guest until Accept: all guests together have an eighth of the Budget, and when
// they need more, the one that holds most is evicted. So nobody who has not been
// let in takes the place of those who have, and no guest that holds nothing is
// ever in the way. The methods are for the goroutine that reads from the peer.
type Account struct {
	b     *Budget
	evict func()
	held  atomic.Int64
	guest atomic.Bool // guarded by b.mu when written
	gone  bool        // evicted; guarded by b.mu
}

// Account returns that of a new guest. evict ends the peer's connection, so that
// what it holds is given back soon; any goroutine calls it, and it must not block.
func (b *Budget) Account(evict func()) *Account {
	a := &Account{b: b, evict: evict}
	a.guest.Store(true)
	return a
}

// Accept says that the peer has been let in. It comes too late for one that was
// evicted while it was decided about.
func (a *Account) Accept() {
	b := a.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.guest.Load() && !a.gone { // for one that is gone nothing counts any more
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
			return nil // it was given back for a
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

// add counts what a guest holds. b.mu is held.
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

// evictGuest ends the guest that holds most. It is false where that is nobody, or
// the one that asks for so much more.
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

// Guests is how many bytes guests hold.
func (b *Budget) Guests() int { return int(b.guests.Load()) }
