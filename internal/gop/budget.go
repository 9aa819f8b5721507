package gop

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// The levels at which a Budget sheds load, in percent: no new streams, shorter logs, and
// cutting off the receiver that keeps most.
const (
	RefuseAt  = 80
	ShortenAt = 90
	CutAt     = 95
)

const (
	// cutEvery is the time between cutting off two receivers, so that the memory of
	// the first can be freed.
	cutEvery = 50 * time.Millisecond
	// liveFor is how recently a stream must have received a message for its receivers
	// to be cut off: only its publisher can drop what they hold.
	liveFor = time.Second
)

// ErrBudget says that there is no room for an unfinished message.
var ErrBudget = errors.New("the memory budget is used up")

// Budget counts the bytes that Logs and unfinished messages hold together. Its
// methods are safe for concurrent use.
type Budget struct {
	limit   atomic.Int64
	used    atomic.Int64
	partial atomic.Int64 // part of used: unfinished messages
	guests  atomic.Int64 // part of partial: those of guests
	cut     atomic.Int64 // when Shed last looked for receivers at CutAt
	looked  atomic.Int64 // when Shed last did so below CutAt

	mu   sync.Mutex
	logs map[*Log]struct{}
	n    atomic.Int64          // length of logs
	hold map[*Account]struct{} // guests that hold something
}

// NewBudget returns a Budget with a limit in bytes; negative means no limit.
func NewBudget(limit int) *Budget {
	b := &Budget{logs: make(map[*Log]struct{}), hold: make(map[*Account]struct{})}
	b.SetLimit(limit)
	return b
}

// SetLimit changes the limit.
func (b *Budget) SetLimit(limit int) { b.limit.Store(int64(limit)) }

// Limit returns how many bytes may be held; negative means no limit.
func (b *Budget) Limit() int { return int(b.limit.Load()) }

// Used returns how many bytes are held.
func (b *Budget) Used() int { return int(b.used.Load()) }

// Above reports whether at least percent of the limit are held.
func (b *Budget) Above(percent int64) bool {
	limit := b.limit.Load()
	return limit >= 0 && b.used.Load() >= limit/100*percent+limit%100*percent/100
}

// Shed cuts off receivers to free memory. From CutAt on, that is the receiver that keeps
// most of any stream which still receives messages. From RefuseAt on, it is all lagging
// receivers of a stream that has ended, which only they keep in memory. Shed is cheap if
// there is nothing to do. now is on the clock of Append.
func (b *Budget) Shed(now int64) {
	if !b.Above(RefuseAt) {
		return
	}
	short, since := b.Above(CutAt), &b.looked
	if short {
		since = &b.cut
	}
	last := since.Load()
	if d := now - last; d >= 0 && d < int64(cutEvery) || !since.CompareAndSwap(last, now) {
		return
	}
	var victim *Log
	var cut func()
	most := 0
	b.mu.Lock()
	for l := range b.logs {
		newest := l.Get(l.Head() - 1)
		live := newest != nil && now-newest.arrived <= int64(liveFor)
		if !l.Ended() && !(live && short) {
			continue
		}
		if n, c := l.Lagging(now); n > most {
			victim, most, cut = l, n, c
		}
	}
	b.mu.Unlock()
	if victim != nil {
		cut()
		victim.trimNext.Store(true)
	}
}

// share returns how many bytes each Log may hold when logs must be shorter: all Logs
// together then reach RefuseAt. Unfinished messages reduce it by half at most.
func (b *Budget) share() int {
	all := b.limit.Load() / 100 * RefuseAt
	return int((all - min(b.partial.Load(), all/2)) / max(b.n.Load(), 1))
}

// SetBudget counts the Log's memory in b, until Release. It must be called before the
// first Append, and after Lagging is set.
func (l *Log) SetBudget(b *Budget) {
	l.budget = b
	b.mu.Lock()
	b.logs[l] = struct{}{}
	b.n.Store(int64(len(b.logs)))
	b.mu.Unlock()
}

// remove stops counting l.
func (b *Budget) remove(l *Log) {
	b.mu.Lock()
	delete(b.logs, l)
	b.n.Store(int64(len(b.logs)))
	b.mu.Unlock()
	b.used.Add(-l.charged.Swap(0))
}

// charge counts the memory that an Append has added or freed.
func (l *Log) charge() {
	if l.budget == nil {
		return
	}
	delta := int64(l.held) - l.charged.Load()
	if delta == 0 {
		return
	}
	l.charged.Add(delta)
	l.budget.used.Add(delta)
}

// Held returns how many bytes of memory the Log uses, as counted in the Budget.
func (l *Log) Held() int { return int(l.charged.Load()) }

// MaxSlab returns the largest permitted slab of the Log's frames. It keeps the memory in
// slabs that the Log's messages do not use small.
func (l *Log) MaxSlab() int {
	n := l.limits.Bytes
	if b := l.budget; b != nil && b.limit.Load() >= 0 {
		n = min(n, b.share())
	}
	return n / 16
}

// MaxBytes returns how many bytes the Log may hold now.
func (l *Log) MaxBytes() int { return min(l.limits.Bytes, l.room()) }

// room returns how much memory the Log may use now.
func (l *Log) room() int {
	b := l.budget
	if b == nil || !b.Above(ShortenAt) {
		return math.MaxInt
	}
	// Other Logs may hold more than their share while they receive nothing. They
	// reduce the room.
	left := l.charged.Load() + b.limit.Load() - b.used.Load()
	return min(b.share(), int(max(left, 0)))
}
