//go:build linux

package main

import (
	"math/bits"
	"slices"
	"time"
)

// histogram counts durations in buckets at most 1/32 wide.
type histogram struct {
	counts [64 * histogramSteps]uint32
	n      uint64
	max    time.Duration
}

const (
	histogramSteps = 32
	histogramShift = 5
)

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))]++
	h.n++
	h.max = max(h.max, d)
}

func bucket(v uint64) int {
	if v < histogramSteps {
		return int(v)
	}
	shift := bits.Len64(v) - histogramShift - 1
	return shift<<histogramShift + int(v>>shift)
}

// quantile returns the middle of the bucket that contains the q-quantile, or 0 if the
// histogram is empty.
func (h *histogram) quantile(q float64) time.Duration {
	rank, seen := uint64(q*float64(h.n)), uint64(0)
	for i, c := range h.counts {
		seen += uint64(c)
		if seen > rank {
			if i < histogramSteps {
				return time.Duration(i)
			}
			shift := i>>histogramShift - 1
			low := uint64(i-shift<<histogramShift) << shift
			return min(time.Duration(low+1<<shift/2), h.max)
		}
	}
	return h.max
}

// phase is a part of a run. It covers the frames sent from..to, whenever they arrive.
type phase struct {
	from, to int64
	latency  histogram
}

// tally sums up what a group of receivers saw.
type tally struct {
	bytes  uint64 // bytes from the sockets
	frames uint64

	lost      uint64 // frames skipped
	gaps      uint64 // in video
	badGaps   uint64 // gaps that resume in mid-GOP
	reordered uint64 // frames that came late or twice
	corrupt   uint64 // messages that differ from what was sent
	closed    uint64 // connections that the server ended

	phases []*phase
}

// begin starts a phase and ends the previous one.
func (t *tally) begin(at int64) *phase {
	t.end(at)
	p := &phase{from: at, to: 1<<63 - 1}
	t.phases = append(t.phases, p)
	return p
}

// end ends the current phase.
func (t *tally) end(at int64) {
	if n := len(t.phases); n > 0 {
		t.phases[n-1].to = min(t.phases[n-1].to, at)
	}
}

func (t *tally) arrived(sent, at int64) {
	for _, p := range slices.Backward(t.phases) {
		if sent >= p.from {
			if sent < p.to {
				p.latency.add(time.Duration(at - sent))
			}
			return
		}
	}
}

// median returns the median of v, which it sorts; 0 if v is empty.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	if m := len(v) / 2; len(v)%2 == 1 {
		return v[m]
	} else {
		return (v[m-1] + v[m]) / 2
	}
}
