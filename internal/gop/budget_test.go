package gop

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBudgetAbove(t *testing.T) {
	for _, row := range []struct {
		limit         int
		used, percent int64
		want          bool
	}{
		{1000, 799, 80, false}, {1000, 800, 80, true}, {1000, 801, 80, true},
		{10, 8, 90, false}, {10, 9, 90, true},
		{150, 119, 80, false}, {150, 120, 80, true},
		{-1, 1 << 40, 95, false},
	} {
		b := NewBudget(row.limit)
		b.used.Store(row.used)
		require.Equal(t, row.want, b.Above(row.percent), "%+v", row)
	}
}

// What is counted is what the Logs hold, and nothing after Release.
func TestBudgetCountsWhatLogsHold(t *testing.T) {
	b := NewBudget(1 << 20)
	one, two := newFeed(wide), newFeed(Limits{Bytes: 4 * (messageCost + 25), Age: 1 << 62})
	one.SetBudget(b)
	two.SetBudget(b)
	for range 50 {
		for _, f := range []*feed{one, two} {
			f.video(avcKey, avcInter, avcInter)
		}
		require.Equal(t, one.held+two.held, b.Used())
	}
	one.End()
	one.Release()
	require.Equal(t, two.held, b.Used())
	two.End()
	two.Release()
	require.Zero(t, b.Used())
	require.Empty(t, b.logs)
}

// Near the limit each Log keeps its share: who holds more gives up the rest
// with the next message.
func TestBudgetShortensLogs(t *testing.T) {
	const limit = 1 << 20
	b := NewBudget(limit)
	one, two := newFeed(wide), newFeed(wide)
	for _, f := range []*feed{one, two} {
		f.SetBudget(b)
		f.framer.MaxSlab = f.MaxSlab
	}
	large := append(slices.Clone(avcInter), make([]byte, 2000)...)
	one.video(avcKey)
	for !b.Above(ShortenAt) {
		one.video(large)
	}
	require.Greater(t, one.Held(), limit/100*40)
	one.video(large)
	require.LessOrEqual(t, one.Held(), limit/100*40)
	require.Greater(t, one.Held(), limit/100*35, "its share is used")
	require.False(t, b.Above(RefuseAt))
}

func TestBudgetCharge(t *testing.T) {
	for _, row := range []struct {
		limit, held, delta int
		want               error
		used               int
	}{
		{1000, 900, 99, nil, 999},
		{1000, 900, 100, nil, 1000},
		{1000, 900, 101, ErrBudget, 900},
		{1000, 1000, -100, nil, 900},
		{0, 0, 1, ErrBudget, 0},
		{-1, 900, 1 << 30, nil, 900 + 1<<30},
	} {
		b := NewBudget(row.limit)
		b.used.Store(int64(row.held))
		require.Equal(t, row.want, b.accepted().Charge(row.delta), "%+v", row)
		require.Equal(t, row.used, b.Used(), "%+v", row)
	}
}

// accepted is the account of one who has been let in.
func (b *Budget) accepted() *Account {
	a := b.Account(func() { panic("evicted") })
	a.Accept()
	return a
}

// guest is an account that holds some, and whether it has been evicted.
func (b *Budget) guest(t *testing.T, holds int) (a *Account, evicted *bool) {
	evicted = new(bool)
	a = b.Account(func() { *evicted = true })
	require.NoError(t, a.Charge(holds))
	return a, evicted
}

// Guests have an eighth together: what goes over it ends the one that holds most,
// which may be the one that asks.
func TestBudgetGuests(t *testing.T) {
	b := NewBudget(8000)
	large, largeGone := b.guest(t, 500)
	small, smallGone := b.guest(t, 300)
	_, noneGone := b.guest(t, 0) // waits for a hook
	require.NoError(t, small.Charge(200), "just an eighth")
	require.ErrorIs(t, small.Charge(1), ErrBudget, "it would be the one that holds most")
	require.False(t, *largeGone)
	require.NoError(t, large.Charge(-10))
	require.NoError(t, large.Charge(10))
	require.NoError(t, small.Charge(-100))
	next, nextGone := b.guest(t, 100)
	require.False(t, *largeGone)
	require.NoError(t, next.Charge(50))
	require.True(t, *largeGone)
	require.False(t, *smallGone)
	require.Equal(t, 550, b.Used())
	require.ErrorIs(t, large.Charge(1), ErrBudget)
	require.NoError(t, large.Charge(-500), "which were given back")
	require.Equal(t, 550, b.Used())
	require.NoError(t, next.Charge(-150))
	require.NoError(t, small.Charge(100))

	// The limit is that of guests alone.
	in := b.accepted()
	require.NoError(t, in.Charge(7000))
	more, moreGone := b.guest(t, 400)
	require.Equal(t, 7900, b.Used())

	// Who has been let in has the place of guests, the largest first.
	require.NoError(t, in.Charge(100))
	require.False(t, *smallGone)
	require.NoError(t, in.Charge(1))
	require.True(t, *smallGone)
	require.False(t, *moreGone)
	more.Accept()
	require.Zero(t, b.guests.Load())
	require.ErrorIs(t, in.Charge(1000), ErrBudget)
	require.False(t, *moreGone, "it has been let in")
	require.False(t, *noneGone)
	require.NoError(t, more.Charge(-400))
	require.NoError(t, in.Charge(-7101))
	require.Zero(t, b.Used())
	require.Zero(t, b.partial.Load())
	require.Empty(t, b.hold)
	require.False(t, *nextGone)
}

// A guest may be evicted while it is being let in. What it held was given back
// then, and is not given back a second time.
func TestBudgetGuestLetInTooLate(t *testing.T) {
	b := NewBudget(800)
	late, gone := b.guest(t, 60)
	other, _ := b.guest(t, 50)
	require.True(t, *gone)
	late.Accept()
	require.ErrorIs(t, late.Charge(1), ErrBudget)
	require.NoError(t, late.Charge(-60))
	require.Equal(t, 50, b.Used())
	require.NoError(t, other.Charge(-50))
	require.Zero(t, b.Used())
	require.Zero(t, b.partial.Load())
	require.Zero(t, b.guests.Load())
}

// What Logs may hold is what unfinished messages leave, but half of it in any
// case.
func TestBudgetShare(t *testing.T) {
	for _, row := range []struct{ partial, logs, want int }{
		{0, 0, 800}, {0, 1, 800}, {0, 4, 200}, {200, 3, 200}, {400, 1, 400}, {401, 1, 400}, {1000, 2, 200},
	} {
		b := NewBudget(1000)
		require.NoError(t, b.accepted().Charge(row.partial))
		for range row.logs {
			newFeed(wide).SetBudget(b)
		}
		require.Equal(t, row.want, b.share(), "%+v", row)
	}
}

// Others hold nearly all and receive nothing more: a Log keeps no more than
// there is room for, but its newest message.
func TestBudgetIsNotExceeded(t *testing.T) {
	for _, size := range []int{20, 2000, 200_000} { // of a message
		const limit = 8 << 20
		b := NewBudget(limit)
		long := Limits{Bytes: 16 << 20, Age: 1 << 62}
		idle, live := newFeed(long), newFeed(long)
		for _, f := range []*feed{idle, live} {
			f.SetBudget(b)
			f.framer.MaxSlab = f.MaxSlab
		}
		live.Slowest = func() uint64 { return live.Head() - 1 }
		key, inter := append(slices.Clone(avcKey), make([]byte, size)...), append(slices.Clone(avcInter), make([]byte, size)...)
		idle.video(key)
		for b.Used() < limit/10*9-size {
			idle.video(inter)
		}
		for range 50 {
			live.video(key)
			for range 2 * limit / 50 / size {
				live.video(inter)
			}
			require.LessOrEqual(t, b.Used(), limit, size)
			require.GreaterOrEqual(t, live.bytes, size, size)
		}
		require.NoError(t, b.accepted().Charge(limit-b.Used()))
		live.video(inter)
		require.LessOrEqual(t, b.Used(), limit, size)
		b.SetLimit(10)
		live.video(inter)
		messages, _ := live.Len()
		require.Equal(t, 1, messages, "who is up to date gets the newest message")
	}
}

// lags is a Log with a receiver that keeps so many bytes, until it is cut off.
func lags(b *Budget, bytes int) (*feed, *int) {
	f, cuts := newFeed(wide), new(int)
	f.Slowest = func() uint64 {
		if *cuts > 0 {
			return f.Head()
		}
		return 1
	}
	f.Lagging = func(int64) (int, func()) {
		if *cuts > 0 {
			return 0, nil
		}
		return bytes, func() { *cuts++ }
	}
	f.SetBudget(b)
	return f, cuts
}

func TestBudgetCutsWhoKeepsMost(t *testing.T) {
	b := NewBudget(1 << 20)
	none, noCuts := lags(b, 0)
	small, smallCuts := lags(b, 1000)
	large, largeCuts := lags(b, 2000)
	silent, silentCuts := lags(b, 3000)
	cuts := func() []int { return []int{*noCuts, *smallCuts, *largeCuts, *silentCuts} }
	silent.video(avcKey)
	now := silent.now + int64(liveFor) + 1
	for _, f := range []*feed{none, small, large} {
		f.now = now
		f.video(avcKey, avcInter, avcInter)
	}
	now = large.now

	// Just below the step, and at it.
	b.SetLimit(1000)
	b.used.Store(949)
	b.Shed(now)
	require.Equal(t, []int{0, 0, 0, 0}, cuts())
	b.used.Store(950)
	b.Shed(now)
	require.Equal(t, []int{0, 0, 1, 0}, cuts(), "not whose stream receives nothing")
	b.used.Store(990)
	b.Shed(now + int64(cutEvery) - 1)
	require.Equal(t, []int{0, 0, 1, 0}, cuts(), "it takes time to help")

	// What was kept for it goes with the next message, whatever that is.
	b.SetLimit(1 << 20)
	large.video(avcKey)
	large.video(avcInter)
	require.EqualValues(t, 4, large.first())
	require.EqualValues(t, 1, small.first())

	b.SetLimit(1000)
	b.used.Store(1000)
	b.Shed(now + int64(cutEvery))
	require.Equal(t, []int{0, 1, 1, 0}, cuts())
	b.Shed(now + 2*int64(cutEvery))
	require.Equal(t, []int{0, 1, 1, 0}, cuts(), "there is nobody left")
}

func TestLogBehind(t *testing.T) {
	f := newFeed(Limits{Bytes: 3 * (messageCost + 25), Age: 1 << 62})
	f.video(avcKey, avcInter, avcInter, avcInter)
	all := f.bytes
	now := f.now + 1000
	for _, row := range []struct {
		seq   uint64
		bytes int
		age   int64
	}{
		{1, all, math.MaxInt64}, // not kept any more
		{2, all, 1000 + 20e6}, {3, all * 2 / 3, 1000 + 10e6}, {4, all / 3, 1000}, {5, 0, 0},
	} {
		n, age := f.Behind(row.seq, now)
		require.Equal(t, row.bytes, n, "%+v", row)
		require.Equal(t, row.age, age, "%+v", row)
	}
}

// A stream that has ended gives way where new ones are refused, before any that
// lives.
func TestBudgetCutsReceiversOfEndedStreams(t *testing.T) {
	b := NewBudget(1 << 20)
	live, liveCuts := lags(b, 2000)
	ended, endedCuts := lags(b, 1000)
	live.video(avcKey)
	ended.video(avcKey)
	ended.End()
	now := live.now + int64(cutEvery)
	b.SetLimit(1000)
	b.used.Store(799)
	b.Shed(now)
	require.Zero(t, *endedCuts)
	b.used.Store(800)
	b.Shed(now)
	require.Equal(t, 1, *endedCuts)
	b.Shed(now + int64(cutEvery))
	require.Equal(t, 1, *endedCuts)
	require.Zero(t, *liveCuts)
}
