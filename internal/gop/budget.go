package gop

import "sync/atomic"

// The steps at which a Budget sheds, in percent: no new streams, shorter logs,
// and the receiver that lags most is cut off.
const (
	RefuseAt  = 80
	ShortenAt = 90
	CutAt     = 95
)

// Budget counts the bytes that several Logs hold together. Its methods are
// safe for concurrent use.
type Budget struct {
	limit atomic.Int64
	used  atomic.Int64
	logs  atomic.Int64
}

// NewBudget returns a Budget of so many bytes; negative is none.
func NewBudget(limit int) *Budget {
	b := new(Budget)
	b.SetLimit(limit)
	return b
}

// SetLimit changes the limit.
func (b *Budget) SetLimit(limit int) { b.limit.Store(int64(limit)) }

// Used is how many bytes are held.
func (b *Budget) Used() int { return int(b.used.Load()) }

// Above reports whether that many percent of the limit are held, or more.
func (b *Budget) Above(percent int64) bool {
	limit := b.limit.Load()
	return limit >= 0 && b.used.Load() >= limit/100*percent+limit%100*percent/100
}

// share is what each Log may hold once logs are to be shorter: together they
// are where new streams are refused.
func (b *Budget) share() int {
	return int(b.limit.Load() / 100 * RefuseAt / max(b.logs.Load(), 1))
}

// SetBudget has what the Log holds counted in b, until Release. It comes before
// the first Append.
func (l *Log) SetBudget(b *Budget) {
	l.budget = b
	b.logs.Add(1)
}

// Release ends counting. It may be called once, at any time, by any goroutine.
func (l *Log) Release() {
	l.budget.logs.Add(-1)
	l.released.Store(true)
	l.giveBack()
}

// charge counts what an Append has changed.
func (l *Log) charge(delta int) {
	if l.budget == nil || delta == 0 {
		return
	}
	l.charged.Add(int64(delta))
	l.budget.used.Add(int64(delta))
	if l.released.Load() { // Release may have come in between
		l.giveBack()
	}
}

func (l *Log) giveBack() { l.budget.used.Add(-l.charged.Swap(0)) }

// maxBytes is the limit now.
func (l *Log) maxBytes() int {
	if l.budget != nil && l.budget.Above(ShortenAt) {
		return min(l.limits.Bytes, l.budget.share())
	}
	return l.limits.Bytes
}
