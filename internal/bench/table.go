//go:build linux

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// table prints rows of cells as Markdown.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// group puts the rows of each server, named by the first cell, together.
func (t *table) group() {
	slices.SortStableFunc(t.rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
}

func (t *table) print(w io.Writer) {
	line := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	line(t.head)
	line(slices.Repeat([]string{"---"}, len(t.head)))
	for _, row := range t.rows {
		line(row)
	}
	fmt.Fprintln(w)
}

// printFailures lists the servers that could not be measured, with the reason.
func printFailures(w io.Writer, failed map[string]error) {
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		fmt.Fprintf(w, "%s: %v\n\n", name, failed[name])
	}
}

// fanTable collects the measurements of a fan, by server and round.
type fanTable struct {
	load     fan
	crcEvery int
	order    []string
	runs     map[string][]measurement
}

func (t *fanTable) add(server string, m measurement) {
	if t.runs == nil {
		t.runs = map[string][]measurement{}
	}
	if !slices.Contains(t.order, server) {
		t.order = append(t.order, server)
	}
	t.runs[server] = append(t.runs[server], m)
}

func (t *fanTable) print(w io.Writer, failed map[string]error) {
	fmt.Fprintf(w, "### %s\n\n", t.load.name)
	out := table{head: []string{"server", "runs", "out MB/s", "CPU % of core", "MB/CPU-s"}}
	for _, base := range t.load.ratios {
		out.head = append(out.head, "× "+base)
	}
	if t.secure() {
		out.head = append(out.head, "over plain, × AES-GCM")
	}
	out.head = append(out.head, "µs/f/r", "p50 ms", "p99 ms", "max ms", "lost+tail / expected", "bad gaps",
		"reordered, corrupt", "RSS MB", "KB per receiver", "switches/s", "load %", "foreign %", "notes")
	for _, name := range t.order {
		out.add(t.row(name)...)
	}
	out.print(w)
	if t.crcEvery > 1 {
		fmt.Fprintf(w, "Order, loss and latency of every frame checked, the CRC of one frame in %d.\n\n", t.crcEvery)
	}
	printFailures(w, failed)
}

func (t *fanTable) row(name string) []string {
	runs := t.runs[name]
	mid := func(get func(measurement) float64) float64 {
		var v []float64
		for _, m := range runs {
			v = append(v, get(m))
		}
		return median(v)
	}
	var sum measurement
	var perCPU []float64
	for _, m := range runs {
		perCPU = append(perCPU, m.perCPU())
		sum.lost += m.lost
		sum.tail += m.tail
		sum.expected += m.expected
		sum.badGaps += m.badGaps
		sum.reordered += m.reordered
		sum.corrupt += m.corrupt
		sum.ended += m.ended
		sum.late = max(sum.late, m.late)
	}
	cells := []string{
		name,
		fmt.Sprint(len(runs)),
		fmt.Sprintf("%.1f", mid(func(m measurement) float64 { return m.bytes / 1e6 / m.seconds })),
		fmt.Sprintf("%.1f", mid(func(m measurement) float64 { return 100 * m.cpu / m.seconds })),
		fmt.Sprintf("%.0f (%.0f–%.0f)", mid(measurement.perCPU), slices.Min(perCPU), slices.Max(perCPU)),
	}
	for _, base := range t.load.ratios {
		cells = append(cells, t.ratio(runs, t.runs[base]))
	}
	if t.secure() {
		cells = append(cells, known("%.2f", overPlain(runs, t.runs[strings.TrimSuffix(name, "-tls")])))
	}
	cells = append(cells,
		fmt.Sprintf("%.2f", mid(func(m measurement) float64 { return 1e6 * m.cpu / m.frames })),
		fmt.Sprintf("%.1f", mid(func(m measurement) float64 { return m.p50 })),
		fmt.Sprintf("%.1f", mid(func(m measurement) float64 { return m.p99 })),
		fmt.Sprintf("%.0f", mid(func(m measurement) float64 { return m.max })),
		fmt.Sprintf("%d+%d / %d", sum.lost, sum.tail, sum.expected),
		fmt.Sprint(sum.badGaps),
		fmt.Sprintf("%d, %d", sum.reordered, sum.corrupt),
		fmt.Sprintf("%.0f→%.0f", mid(func(m measurement) float64 { return m.rssBefore }), mid(func(m measurement) float64 { return m.rssAfter })),
		known("%.0f", mid(func(m measurement) float64 { return m.perReceiver })),
		fmt.Sprintf("%.0f", mid(func(m measurement) float64 { return m.switches })),
		fmt.Sprintf("%.0f", mid(func(m measurement) float64 { return 100 * m.load / m.seconds })),
		fmt.Sprintf("%.0f", mid(func(m measurement) float64 { return 100 * m.foreign / m.seconds })),
		notes(sum))
	return cells
}

// known formats v, or a dash if there is no value.
func known(format string, v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

// ratio compares each run with the base server's run of the same round.
func (t *fanTable) ratio(runs, base []measurement) string {
	var v []float64
	for i := range min(len(runs), len(base)) {
		v = append(v, runs[i].perCPU()/base[i].perCPU())
	}
	if len(v) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", median(v))
}

// secure reports whether there are runs over TLS.
func (t *fanTable) secure() bool {
	return slices.ContainsFunc(t.order, func(name string) bool { return t.runs[name][0].sealing > 0 })
}

// overPlain is the additional CPU time of runs over TLS compared with plain ones, for
// the same bytes, in multiples of bare AES-GCM.
func overPlain(secure, plain []measurement) float64 {
	var v []float64
	for i := range min(len(secure), len(plain)) {
		if s, p := secure[i], plain[i]; s.sealing > 0 {
			v = append(v, (s.cpu-p.cpu*s.bytes/p.bytes)/s.sealing)
		}
	}
	return median(v)
}

// perCPU is the megabytes received per second of the server's CPU time.
func (m measurement) perCPU() float64 { return m.bytes / 1e6 / m.cpu }

// notes returns remarks that the reader of the row needs.
func notes(sum measurement) string {
	const lateMs = 50
	var n []string
	if sum.ended > 0 {
		n = append(n, fmt.Sprintf("%d connections ended by the server", sum.ended))
	}
	if sum.late > lateMs {
		n = append(n, fmt.Sprintf("a publisher up to %.0f ms late", sum.late))
	}
	return strings.Join(n, "; ")
}
