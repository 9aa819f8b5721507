package e2e

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// matrix collects the measurements of the fault tests.
var matrix struct {
	sync.Mutex
	rows   []measurement
	faults int           // number of tests that checked rule R0
	added  time.Duration // largest added gap of a healthy destination
}

type measurement struct {
	row             int
	what, limit, is string
}

// measured adds a row to the matrix. limit is the required value; if a test asserts
// another one, a comment there explains it.
func measured(row int, what, limit, format string, args ...any) {
	matrix.Lock()
	defer matrix.Unlock()
	matrix.rows = append(matrix.rows, measurement{row, what, limit, fmt.Sprintf(format, args...)})
}

// noteIsolation records the result of rule R0, in one row for all faults.
func noteIsolation(added time.Duration) {
	matrix.Lock()
	defer matrix.Unlock()
	matrix.faults++
	matrix.added = max(matrix.added, added)
}

// printMatrix prints the table, in the order of its rows.
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
		fmt.Fprintf(os.Stderr, "%3d  %-56s  %-38s  %s\n", m.row, m.what, m.limit, m.is)
	}
}
