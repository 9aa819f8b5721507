//go:build linux

package main

import (
	"fmt"
	"time"
)

// The scenarios of a server at rest.

const (
	waitingPlayers = 10_000
	refusing       = 1000
	// backoffSettles is the time after which the delay between two attempts no longer grows.
	backoffSettles = time.Minute
)

// idle measures the cost of peers that get no media, beside a stream of one frame a second.
func (b *bench) idle(servers []server) error {
	return b.compare("idle", servers, []string{"server", "beside a small stream", "CPU % of core", "switches/s", "RSS MB", "KB each"},
		func(s server, out *table) error {
			alone := fan{name: "idle", profile: profileIdle, streams: 1, receivers: 1, forward: true, events: true}
			base, err := b.idleOnce(s, alone, 0, "nothing", 0, out)
			if err != nil {
				return err
			}
			if _, err := b.idleOnce(s, alone, waitingPlayers, fmt.Sprintf("%d waiting players", waitingPlayers), base, out); err != nil {
				return err
			}
			alone.refusing = refusing
			_, err = b.idleOnce(s, alone, 0, fmt.Sprintf("%d destinations in backoff", refusing), base, out)
			return err
		})
}

func (b *bench) idleOnce(s server, f fan, players int, what string, base float64, out *table) (rss float64, err error) {
	r, err := b.newRig(s, f)
	if err != nil {
		return 0, err
	}
	defer r.end(&err)
	if err := r.begin(b.chunkSize, b.warmup); err != nil {
		return 0, err
	}
	if f.refusing > 0 {
		if err := r.run(backoffSettles); err != nil {
			return 0, err
		}
	}
	if err := r.wait(players); err != nil {
		return 0, err
	}
	if err := r.run(b.warmup); err != nil {
		return 0, err
	}
	m, _, err := r.measure(b.duration)
	if err != nil {
		return 0, err
	}
	each := 0.0
	if n := players + f.refusing; n > 0 {
		each = (m.rssAfter - base) * 1e3 / float64(n)
	}
	out.add(s.name, what, fmt.Sprintf("%.2f", 100*m.cpu/m.seconds), fmt.Sprintf("%.0f", m.switches),
		fmt.Sprintf("%.0f", m.rssAfter), known("%.1f", each))
	return m.rssAfter, nil
}

// wait adds n players of streams without a publisher.
func (r *rig) wait(n int) error {
	const streams = 100
	var waiting []*conn
	live, t := 0, new(tally)
	var err error
	ok, lerr := r.until(startTimeout+time.Duration(n)*5*time.Millisecond, func() bool {
		for err == nil && len(waiting) < n && len(waiting)-live < maxJoining {
			var c *conn
			if c, err = r.dial(r.proc.port, rolePlayer, fmt.Sprintf("nobody%d", len(waiting)%streams)); err == nil {
				c.receiver.tally = t
				c.live = func() { live++ }
				waiting = append(waiting, c)
			}
		}
		return err != nil || live == n || t.closed > 0
	})
	if err == nil {
		err = lerr
	}
	if err == nil && !ok || t.closed > 0 {
		err = fmt.Errorf("%d of %d players wait, the server disconnected %d", live, n, t.closed)
	}
	return err
}

// collector compares the heap of a server with the size of its logs, and the pauses of
// its garbage collector with its latency.
func (b *bench) collector(servers []server) error {
	return b.compare("collector", servers, []string{"server", "heap MB: connections only", "with media", "logs MB: frames", "with overhead", "heap for media over logs",
		"p50, p99, max ms", "pauses a second", "longest ms", "collector's CPU % of core", "CPU % of core", "lost"}, b.collectorOnce)
}

func (b *bench) collectorOnce(s server, out *table) (err error) {
	if s.kind != "forward" {
		return fmt.Errorf("%s is not this library", s.name)
	}
	f := manyStreams
	f.silent = true
	r, err := b.newRig(s, f)
	if err != nil {
		return err
	}
	defer r.end(&err)
	if err := r.publish(b.chunkSize); err != nil {
		return err
	}
	const settle = 2 * time.Second
	if err := r.run(settle); err != nil {
		return err
	}
	alone, err := r.proc.ask(true)
	if err != nil {
		return err
	}
	for i, p := range r.publishers {
		// Also at a place in its GOP of its own: a log is largest at the end of one.
		p.silent, p.stream.start = false, now()+gopFrames*stagger(i, f.streams)
	}
	if err := r.attach(); err != nil {
		return err
	}
	if err := r.run(b.logFillTime()); err != nil {
		return err
	}
	before, err := r.proc.ask(false)
	if err != nil {
		return err
	}
	m, p, err := r.measure(b.duration)
	if err != nil {
		return err
	}
	after, err := r.proc.ask(false)
	if err != nil {
		return err
	}
	for _, p := range r.publishers {
		p.silent = true
	}
	if err := r.run(settle); err != nil {
		return err
	}
	rest, err := r.proc.ask(true)
	if err != nil {
		return err
	}
	m.finish(r.tally, p)
	n, longest := after.since(before)
	mb := func(n uint64) string { return fmt.Sprintf("%.1f", float64(n)/1e6) }
	out.add(s.name, mb(alone.Heap), mb(rest.Heap), mb(rest.Frames), mb(rest.Logs),
		fmt.Sprintf("%.2f", (float64(rest.Heap)-float64(alone.Heap))/float64(rest.Logs)),
		fmt.Sprintf("%.1f, %.1f, %.0f", m.p50, m.p99, m.max),
		fmt.Sprintf("%.1f", float64(n)/m.seconds), fmt.Sprintf("%.2f", longest),
		fmt.Sprintf("%.1f", 100*(after.GC-before.GC)/m.seconds), fmt.Sprintf("%.1f", 100*m.cpu/m.seconds),
		fmt.Sprint(m.lost))
	return nil
}

// since returns the number of pauses after before, and the longest of them in ms.
func (h held) since(before held) (n uint64, longest float64) {
	earlier := map[float64]uint64{}
	for _, p := range before.Pauses {
		earlier[p.UpTo] = p.Number
	}
	for _, p := range h.Pauses {
		if more := p.Number - earlier[p.UpTo]; more > 0 {
			n, longest = n+more, p.UpTo
		}
	}
	return n, longest
}
