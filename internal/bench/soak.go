//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/rtmp-forward/forward/internal/soak"
)

// soakPhases is how many times all peers leave and the server is checked for leaks.
const soakPhases = 6

// runSoak soaks a server in this process, over loopback. It prints a row each minute
// and whenever all peers have left. Ctrl-C ends it early with the results so far.
func (b *bench) runSoak() error {
	if err := raiseFileLimit(1 << 16); err != nil {
		return err
	}
	s, err := soak.New(soak.Options{
		Seed: b.seed, Network: new(soak.Loopback), Faults: 0.05,
		Publishers: 10, Players: 20, Destinations: 8, FPS: 25, VideoBitrate: 500_000, Pause: 20 * time.Second,
	})
	if err != nil {
		return err
	}
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	p := soakTable{bench: b, soak: s, began: time.Now(), minute: minute.C}
	fmt.Fprintf(b.out, "Soak of %v with 5 %% faults, seed %d; MiB; lag in messages.\n\n", b.soak, b.seed)
	p.line("time", "heap", "goroutines", "sockets", "RSS", "lag", "stalled", "streams", "publishes", "plays", "pushes", "frames", "missed", "faults", "")
	p.line(strings.Split(strings.Repeat("---,", 14)+"---", ",")...)
	phase := b.soak / soakPhases
	idle := p.row("idle")
	last, heaps := idle, []int(nil)
	for range soakPhases {
		p.phase(phase)
		last = p.idle(idle)
		heaps = append(heaps, last.heap)
		if b.ctx.Err() != nil || len(s.Report().Wrong) > 0 {
			break
		}
	}
	wrong := s.Report().Wrong
	if last.goroutines > idle.goroutines || last.sockets > idle.sockets {
		wrong = append(wrong, fmt.Sprintf("left: %d goroutines, %d sockets", last.goroutines-idle.goroutines, last.sockets-idle.sockets))
	}
	if err := s.Close(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if len(heaps) > 1 {
		g := soak.GrowthOf(heaps, phase)
		fmt.Fprintf(b.out, "\nHeap after all peers left: %+.2f MiB from the first half to the second, %+.2f MiB/h.\n", g.Bytes/(1<<20), g.PerHour/(1<<20))
		if g.Leak() {
			wrong = append(wrong, "the heap grows")
		}
	}
	if len(wrong) > 0 {
		return errors.New("soak: " + strings.Join(wrong, "\n\t"))
	}
	fmt.Fprintln(b.out, "No errors, no leaks.")
	return nil
}

// soakTable prints its rows as they come.
type soakTable struct {
	*bench
	soak  *soak.Soak
	began time.Time

	minute <-chan time.Time
}

// phase runs the peers for d.
func (p *soakTable) phase(d time.Duration) {
	ctx, cancel := context.WithTimeout(p.ctx, d)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.soak.Run(ctx)
	}()
	for {
		select {
		case <-p.minute:
			p.row("")
		case <-ended:
			return
		}
	}
}

// idle waits until no more goroutines and sockets are left than before the soak. It
// allows a few seconds, because closing takes a moment.
func (p *soakTable) idle(before soakRow) soakRow {
	for range 50 {
		if runtime.NumGoroutine() <= before.goroutines && sockets() <= before.sockets {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return p.row("all peers left")
}

type soakRow struct{ heap, goroutines, sockets int }

// row prints a row of the table.
func (p *soakTable) row(note string) soakRow {
	r := soakRow{soak.LiveHeap(), runtime.NumGoroutine(), sockets()}
	status, _ := os.ReadFile("/proc/self/status")
	lag, stalled := p.soak.Lag()
	rep := p.soak.Report()
	cells := []string{time.Since(p.began).Round(time.Second).String(), fmt.Sprintf("%.2f", float64(r.heap)/(1<<20))}
	for _, n := range []int{
		r.goroutines, r.sockets, int(field(status, "VmRSS:") >> 10), int(lag), stalled, p.soak.Server().Stats().Streams,
		rep.Publishes, rep.Plays, rep.Sessions, rep.Frames, rep.Missing, rep.Faults,
	} {
		cells = append(cells, fmt.Sprint(n))
	}
	if len(rep.Wrong) > 0 {
		note = "WRONG"
	}
	p.line(append(cells, note)...)
	return r
}

func (p *soakTable) line(cells ...string) { fmt.Fprintf(p.out, "| %s |\n", strings.Join(cells, " | ")) }

// sockets counts the open sockets of this process.
func sockets() (n int) {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}
