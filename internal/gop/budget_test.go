package gop

import (
	"sync"
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
	one, two := newFeed(wide), newFeed(Limits{Bytes: 100, Messages: 1 << 20, Age: 1 << 62})
	one.SetBudget(b)
	two.SetBudget(b)
	for range 50 {
		for _, f := range []*feed{one, two} {
			f.video(avcKey, avcInter, avcInter)
		}
		require.Equal(t, one.bytes+two.bytes, b.Used())
	}
	one.Release()
	require.Equal(t, two.bytes, b.Used())
	one.video(avcKey, avcInter)
	require.Equal(t, two.bytes, b.Used())
	two.Release()
	require.Zero(t, b.Used())
	require.Zero(t, b.logs.Load())
}

// A Log may be released while its publisher still appends.
func TestBudgetReleaseWhileAppending(t *testing.T) {
	b := NewBudget(1 << 20)
	var wg sync.WaitGroup
	for range 100 {
		f := newFeed(wide)
		f.SetBudget(b)
		wg.Go(func() {
			for range 50 {
				f.video(avcKey, avcInter)
			}
		})
		wg.Go(f.Release)
	}
	wg.Wait()
	require.Zero(t, b.Used())
}

// Near the limit each Log keeps its share: who holds more gives up the rest
// with the next message.
func TestBudgetShortensLogs(t *testing.T) {
	b := NewBudget(1000)
	one, two := newFeed(wide), newFeed(wide)
	one.SetBudget(b)
	two.SetBudget(b)
	one.video(avcKey)
	for !b.Above(ShortenAt) {
		one.video(avcInter)
	}
	require.Greater(t, one.bytes, 400)
	one.video(avcInter)
	require.LessOrEqual(t, one.bytes, 400)
	require.False(t, b.Above(RefuseAt))
}
