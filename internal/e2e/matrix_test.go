package e2e

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// matrix is what the tests of faults have measured.
var matrix struct {
	sync.Mutex
	rows   []measurement
	faults int           // for which rule R0 was checked
	added  time.Duration // gap of a healthy destination
}

type measurement struct {
	row              int
	what, figure, is string
}

// measured notes a figure of the matrix. figure is what was asked for, which a
// comment in the test says more about where it is not what is asserted.
func measured(row int, what, figure, format string, args ...any) {
	matrix.Lock()
	defer matrix.Unlock()
	matrix.rows = append(matrix.rows, measurement{row, what, figure, fmt.Sprintf(format, args...)})
}

// noteIsolation notes what rule R0 is about: in one row for all faults.
func noteIsolation(added time.Duration) {
	matrix.Lock()
	defer matrix.Unlock()
	matrix.faults++
	matrix.added = max(matrix.added, added)
}

// printMatrix writes the table, in the order of its rows.
func printMatrix() {
	matrix.Lock()
	defer matrix.Unlock()
	if len(matrix.rows) == 0 {
		return
	}
	matrix.rows = append(matrix.rows, measurement{0, "R0: others during each of the faults", "0 lost, gap <= 50 ms p99, 200 ms max",
		fmt.Sprintf("%d faults: 0 lost, added gap at most %v", matrix.faults, matrix.added)})
	slices.SortStableFunc(matrix.rows, func(a, b measurement) int { return cmp.Compare(a.row, b.row) })
	for _, m := range matrix.rows {
		fmt.Fprintf(os.Stderr, "%3d  %-56s  %-38s  %s\n", m.row, m.what, m.figure, m.is)
	}
}
