package fanout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A rate covers the last seconds, and falls to 0 in silence.
func TestRate(t *testing.T) {
	var r Rate
	now := int64(time.Hour)
	var c Counts
	perSecond := func() float64 {
		bytes, messages, frames := r.PerSecond(now, c)
		require.InDelta(t, bytes/10, messages, 1e-9)
		require.InDelta(t, bytes/20, frames, 1e-9)
		return bytes
	}
	require.Zero(t, perSecond())
	r.Note(now, c)
	run := func(d time.Duration, per10ms uint64) {
		for end := now + int64(d); now < end; {
			now += int64(10 * time.Millisecond)
			c.Bytes, c.Messages, c.Frames = c.Bytes+20*per10ms, c.Messages+2*per10ms, c.Frames+per10ms
			if r.Due(now) {
				r.Note(now, c)
			}
		}
	}
	run(500*time.Millisecond, 1)
	require.InDelta(t, 1000, perSecond(), 1, "no rate is made up of less than a second")
	run(500*time.Millisecond, 1)
	require.InDelta(t, 2000, perSecond(), 1)
	run(time.Minute, 1)
	require.InDelta(t, 2000, perSecond(), 1)
	run(6*time.Second, 3)
	require.InDelta(t, 6000, perSecond(), 1)
	now += int64(6 * time.Second) // silence
	require.Less(t, perSecond(), 1000.0)
	now += int64(time.Hour)
	require.Less(t, perSecond(), 2.0)
	run(6*time.Second, 1)
	require.InDelta(t, 2000, perSecond(), 1, "silence before is forgotten")
}

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, Bounds[0], Bounds[0] + 1, Bounds[len(Bounds)-1], Bounds[len(Bounds)-1] + 1, time.Hour} {
		h.Observe(d)
	}
	counts, sum := h.Read()
	require.EqualValues(t, 2, counts[0])
	require.EqualValues(t, 1, counts[1])
	require.EqualValues(t, 1, counts[len(Bounds)-1])
	require.EqualValues(t, 2, counts[len(Bounds)])
	require.Equal(t, 2*Bounds[0]+2*Bounds[len(Bounds)-1]+2+time.Hour, sum)
}

// A walk counts for each group what it has sent, even if receivers of several groups and
// times alternate.
func TestWalkCounts(t *testing.T) {
	pool := NewPool()
	defer pool.Close()
	groups := []*Group{{pool: pool}, {pool: pool}}
	w := newWalk()
	for i := range 10 {
		w.count(groups[i%2], 100, 3, 1, time.Duration(i)*time.Millisecond)
		w.count(groups[i%2], 10, 0, 0, 0) // the rest of a message
	}
	w.count(nil, 1, 1, 1, time.Hour)
	w.put()
	for _, g := range groups {
		bytes, messages := g.Sent()
		require.EqualValues(t, 550, bytes)
		require.EqualValues(t, 15, messages)
	}
	counts, sum := pool.Latency.Read()
	var n uint64
	for _, c := range counts {
		n += c
	}
	require.EqualValues(t, 10, n)
	require.Equal(t, 45*time.Millisecond, sum)
}
