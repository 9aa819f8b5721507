package fanout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQueue_UnderWay(t *testing.T) {
	var q queue
	for i := range 100 { // 1000 bytes a second, looked at each second
		q.add(look{int64(i) * int64(time.Second), uint64(i) * 1000})
	}
	for _, row := range []struct {
		outstanding int
		want        time.Duration
	}{
		{0, 0}, {1, time.Second}, {1000, time.Second}, {1001, 2 * time.Second}, {10_000, 10 * time.Second},
		{31_000, 31 * time.Second}, {32_000, 31 * time.Second}, {1 << 30, 31 * time.Second}, // as far back as there are looks
	} {
		require.Equal(t, row.want, time.Duration(q.underWay(row.outstanding)), row.outstanding)
	}
	var young queue
	young.add(look{0, 500})
	young.add(look{int64(time.Second), 1000})
	require.Equal(t, time.Second, time.Duration(young.underWay(800)))
}
