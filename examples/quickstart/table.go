package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/rtmp-forward/forward"
)

// table shows the state of the destinations: redrawn in place on a terminal, otherwise
// line by line.
type table struct {
	out        io.Writer
	terminal   bool
	forwarders []*forward.Forwarder
	receivers  []*receiver

	drawn bool
	ok    bool // this was already printed
	at    time.Time
	bytes []uint64 // at that time
}

func newTable(out io.Writer, terminal bool, forwarders []*forward.Forwarder, receivers []*receiver) *table {
	return &table{
		out: out, terminal: terminal, forwarders: forwarders, receivers: receivers,
		at: time.Now(), bytes: make([]uint64, len(forwarders)),
	}
}

// draw draws the table with the current state.
func (t *table) draw() {
	var b strings.Builder
	if !t.drawn || t.terminal {
		fmt.Fprintf(&b, "%-9s%-13s%8s%10s%7s%5s  %s\n", "", "STATE", "KBIT/S", "MESSAGES", "DROPS", "LAG", "RECEIVED")
	}
	now := time.Now()
	for i, f := range t.forwarders {
		st := f.Stats()
		rate := float64(st.Bytes-t.bytes[i]) * 8 / 1000 / now.Sub(t.at).Seconds()
		t.bytes[i] = st.Bytes
		received, err := t.receivers[i].received()
		if err != nil {
			received = "-"
		}
		fmt.Fprintf(&b, "%-9s%-13s%8.0f%10d%7d%5d  %s\n", fmt.Sprint("slave ", i+1),
			st.State, rate, st.Messages, st.DroppedLate+st.DroppedNoKeyframe, st.Lag, received)
	}
	t.at = now
	status := ""
	if check(t.receivers) == nil {
		status = "Every slave receives media that can be decoded."
	}
	if t.terminal || status != "" && !t.ok {
		fmt.Fprintln(&b, status)
	}
	t.ok = t.ok || status != ""

	text := b.String()
	if t.terminal {
		text = strings.ReplaceAll(text, "\n", "\x1b[K\n") // clear to the end of the line
		if t.drawn {
			text = fmt.Sprintf("\x1b[%dA", strings.Count(text, "\n")) + text
		}
	}
	t.drawn = true
	io.WriteString(t.out, text)
}

// isTerminal reports whether f is a terminal that supports cursor movement.
func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 &&
		os.Getenv("TERM") != "dumb" && (runtime.GOOS != "windows" || os.Getenv("WT_SESSION") != "")
}
