package gop

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// The steps at which a Budget sheds, in percent: no new streams, shorter logs,
// and the receiver that keeps most is cut off.
const (
	RefuseAt  = 80
	ShortenAt = 90
	CutAt     = 95
)

const (
	// cutEvery is how long the other receivers are spared after one was cut off, so
	// that its memory can be freed first.
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
	partial atomic.Int64 // of used, those of unfinished messages
	guests  atomic.Int64 // of partial, those of whom nobody has let in
	cut     atomic.Int64 // when Shed has looked last at CutAt
	looked  atomic.Int64 // and below that

	mu   sync.Mutex
	logs map[*Log]struct{}
	n    atomic.Int64          // of logs
	hold map[*Account]struct{} // of guests: those that hold something
}

// NewBudget returns a Budget of so many bytes; negative is none.
func NewBudget(limit int) *Budget {
	b := &Budget{logs: make(map[*Log]struct{}), hold: make(map[*Account]struct{})}
	b.SetLimit(limit)
	return b
}

// SetLimit changes the limit.
func (b *Budget) SetLimit(limit int) { b.limit.Store(int64(limit)) }

// Limit is how many bytes may be held; negative is no limit.
func (b *Budget) Limit() int { return int(b.limit.Load()) }

// Used is how many bytes are held.
func (b *Budget) Used() int { return int(b.used.Load()) }

// Above reports whether that many percent of the limit are held, or more.
func (b *Budget) Above(percent int64) bool {
	limit := b.limit.Load()
	return limit >= 0 && b.used.Load() >= limit/100*percent+limit%100*percent/100
}

// Shed cuts off the receiver that keeps most of a stream, of all streams that
// receive something, where CutAt is reached; from RefuseAt on, all receivers that
// lag of a stream that has ended, which only they keep. It returns soon where
// there is nothing to do. now is that of Append.
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

// share is what each Log may hold once logs are to be shorter: together they
// are where new streams are refused. Unfinished messages take no more than half
// of it.
func (b *Budget) share() int {
	all := b.limit.Load() / 100 * RefuseAt
	return int((all - min(b.partial.Load(), all/2)) / max(b.n.Load(), 1))
}

// SetBudget has what the Log holds counted in b, up to Release. It comes before
// the first Append, and after Lagging is set.
func (l *Log) SetBudget(b *Budget) {
	l.budget = b
	b.mu.Lock()
	b.logs[l] = struct{}{}
	b.n.Store(int64(len(b.logs)))
	b.mu.Unlock()
}

// remove ends counting l.
func (b *Budget) remove(l *Log) {
	b.mu.Lock()
	delete(b.logs, l)
	b.n.Store(int64(len(b.logs)))
	b.mu.Unlock()
	b.used.Add(-l.charged.Swap(0))
}

// charge counts what an Append has changed.
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

// Held is how many bytes of memory the Log takes, as the Budget counts them.
func (l *Log) Held() int { return int(l.charged.Load()) }

// MaxSlab is how large the slabs of a Log's frames may be: what a Log holds of
// them beyond its messages is then a small part of it.
func (l *Log) MaxSlab() int {
	n := l.limits.Bytes
	if b := l.budget; b != nil && b.limit.Load() >= 0 {
		n = min(n, b.share())
	}
	return n / 16
}

// MaxBytes is how many bytes the Log may hold now.
func (l *Log) MaxBytes() int { return min(l.limits.Bytes, l.room()) }

// room is how much memory the Log may take now.
func (l *Log) room() int {
	b := l.budget
	if b == nil || !b.Above(ShortenAt) {
		return math.MaxInt
	}
	// Others may hold more than their share and receive nothing: there is no
	// more room than they leave.
	left := l.charged.Load() + b.limit.Load() - b.used.Load()
	return min(b.share(), int(max(left, 0)))
}
