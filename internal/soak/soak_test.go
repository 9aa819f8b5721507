package soak

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGrowthOf(t *testing.T) {
	const mib = 1 << 20
	for _, row := range []struct {
		heaps   []int
		apart   time.Duration
		bytes   float64
		perHour float64
		leak    bool
	}{
		{[]int{mib, mib}, time.Hour, 0, 0, false},
		{[]int{mib, 3 * mib}, time.Hour, 2 * mib, 2 * mib, true},
		{[]int{3 * mib, mib}, time.Hour, -2 * mib, -2 * mib, false},
		{[]int{0, mib, 2 * mib, 3 * mib}, 10 * time.Minute, 2 * mib, 6 * mib, true},
		{[]int{0, 99 * mib, mib}, time.Hour, mib, mib / 2., false}, // the middle one is in neither half
		{[]int{0, leakBytes}, time.Minute, leakBytes, 60 * leakBytes, false},
		{[]int{0, leakBytes + 1}, time.Minute, leakBytes + 1, 60 * (leakBytes + 1), true},
		{[]int{0, mib}, time.Hour, mib, mib, false},
	} {
		g := GrowthOf(row.heaps, row.apart)
		require.InDelta(t, row.bytes, g.Bytes, 1, "%+v", row)
		require.InDelta(t, row.perHour, g.PerHour, 100, "%+v", row)
		require.Equal(t, row.leak, g.Leak(), "%+v", row)
	}
}

func TestLoopback(t *testing.T) {
	var n Loopback
	refused := func() {
		_, err := n.Dial(t.Context(), "tcp", "a.example:1935")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
	refused()
	for range 3 { // it comes and goes
		l, err := n.Listen("a.example:1935")
		require.NoError(t, err)
		nc, err := n.Dial(t.Context(), "tcp", "a.example:1935")
		require.NoError(t, err)
		nc.Close()
		require.NoError(t, l.Close())
		refused()
	}
}
