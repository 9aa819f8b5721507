package soak

import (
	"runtime"
	"time"
)

// LiveHeap is how many bytes of the process are in use, with those of stacks.
func LiveHeap() int {
	runtime.GC()
	runtime.GC() // behind the second one pools are empty
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// A leak is what has grown by more than both: the first is more than what a
// heap differs by from one time to the other.
const (
	leakBytes   = 512 << 10
	leakPerHour = 1 << 20
)

// Growth compares the heaps of equal times, one behind the other: the mean of
// the second half with that of the first.
type Growth struct {
	Bytes   float64
	PerHour float64
}

// GrowthOf returns that of at least two heaps, which are so far apart.
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
