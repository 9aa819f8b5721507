package soak

import (
	"runtime"
	"time"
)

// LiveHeap is the number of bytes in use by the process, including stacks.
func LiveHeap() int {
	runtime.GC()
	runtime.GC() // after the second collection, pools are empty
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// The heap leaks if it grows by more than both limits. The first is more than the
// normal variation of a heap.
const (
	leakBytes   = 512 << 10
	leakPerHour = 1 << 20
)

// Growth compares heap sizes measured at equal intervals: the mean of the second half
// with the mean of the first.
type Growth struct {
	Bytes   float64
	PerHour float64
}

// GrowthOf returns the growth of at least two heap sizes, measured at this interval.
func GrowthOf(heaps []int, apart time.Duration) Growth {
	half := len(heaps) / 2
	last := len(heaps) - half
	grown := mean(heaps[last:]) - mean(heaps[:half])
	return Growth{grown, grown / (time.Duration(last) * apart).Hours()}
}

// Leak reports whether something has leaked.
func (g Growth) Leak() bool { return g.Bytes > leakBytes && g.PerHour > leakPerHour }

func mean(v []int) (sum float64) {
	for _, x := range v {
		sum += float64(x) / float64(len(v))
	}
	return sum
}
