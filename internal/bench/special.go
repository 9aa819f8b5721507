//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Scenarios that are a sequence of events instead of a steady load.

// The limits at which players-until-it-breaks ends.
const (
	firstPlayers = 500
	breakLatency = 500 * time.Millisecond
	loadIsLimit  = 92   // % of a core
	keepsUp      = 0.95 // % of the frames sent
)

// untilItBreaks adds players until the server, or the load generator, no longer keeps
// up.
func (b *bench) untilItBreaks(servers []server) error {
	out := table{head: []string{"server", "players", "out MB/s", "CPU % of core", "MB/CPU-s", "p50 ms", "p99 ms", "lost",
		"bad gaps", "KB per player", "load %", "foreign %", "ended by"}}
	once := *b
	once.rounds = 1
	failed, err := once.interleave("players-until-it-breaks", servers, func(s server) error {
		return b.addUntilItBreaks(s, &out)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "### players-until-it-breaks\n\n")
	out.print(b.out)
	printFailures(b.out, failed)
	return nil
}

func (b *bench) addUntilItBreaks(s server, out *table) (err error) {
	f := fan{name: "players", profile: profile2M, streams: 1, events: true}
	r, err := b.newRig(s, f)
	if err != nil {
		return err
	}
	defer r.end(&err)
	if err := r.publish(b.chunkSize); err != nil {
		return err
	}
	if err := r.run(b.logFillTime()); err != nil {
		return err
	}
	base, err := r.rss()
	if err != nil {
		return err
	}
	for n := firstPlayers; ; n += n / 2 {
		n = min(n, b.maxPlayers)
		if err := r.join(n-len(r.players), rolePlayer, r.tally); err != nil {
			if r.ctx.Err() != nil {
				return err
			}
			out.add(s.name, fmt.Sprint(n), "", "", "", "", "", "", "", "", "", "", err.Error())
			return nil
		}
		if err := r.run(b.warmup); err != nil {
			return err
		}
		lost := r.tally.lost
		m, p, err := r.measure(b.duration)
		if err != nil {
			return err
		}
		// What a fan of n players would have sent.
		sent := float64(f.profile.bitrate) / 8 * m.seconds * float64(n)
		if err := r.run(2 * breakLatency); err != nil {
			return err
		}
		m.finish(r.tally, p)
		var why []string
		if p.latency.quantile(0.99) > breakLatency {
			why = append(why, "p99 above 500 ms")
		}
		if m.lost > lost {
			why = append(why, "loss")
		}
		if m.bytes < keepsUp*sent {
			why = append(why, "does not keep up")
		}
		if m.ended > 0 {
			why = append(why, fmt.Sprintf("%d players disconnected (%v)", m.ended, r.firstError()))
		}
		if 100*m.load/m.seconds > loadIsLimit {
			why = append(why, "the load is the limit")
		}
		if n == b.maxPlayers && len(why) == 0 {
			why = append(why, "the most players asked for")
		}
		out.add(s.name, fmt.Sprint(n),
			fmt.Sprintf("%.0f", m.bytes/1e6/m.seconds),
			fmt.Sprintf("%.1f", 100*m.cpu/m.seconds),
			fmt.Sprintf("%.0f", m.perCPU()),
			fmt.Sprintf("%.1f", m.p50),
			fmt.Sprintf("%.1f", m.p99),
			fmt.Sprint(m.lost-lost),
			fmt.Sprint(m.badGaps),
			fmt.Sprintf("%.0f", (m.rssAfter-base)*1e3/float64(n)),
			fmt.Sprintf("%.0f", 100*m.load/m.seconds),
			fmt.Sprintf("%.0f", 100*m.foreign/m.seconds),
			strings.Join(why, ", "))
		if len(why) > 0 {
			return nil
		}
	}
}

const (
	stallTime  = 15 * time.Second
	staleLimit = time.Second
)

// stall makes one of 8 destinations stop reading for a while.
func (b *bench) stall(servers []server) error {
	return b.compare("stall", servers, []string{"server", "others: p99 before, during, after ms", "others: max during ms",
		"publisher late ms", "others: lost, bad gaps",
		"RSS before→peak MB", "the stalled one", "lost", "gaps (in mid-GOP)", "oldest media after s", "older than 1 s for s"}, b.stallOnce)
}

func (b *bench) stallOnce(s server, out *table) (err error) {
	r, err := b.newRig(s, fan{name: "stall", profile: profile20M, streams: 1, receivers: 8, forward: true, events: true})
	if err != nil {
		return err
	}
	defer r.end(&err)
	victim := r.destinations[0]
	victim.tally = new(tally)
	if err := r.begin(b.chunkSize, b.warmup); err != nil {
		return err
	}
	newest := func() *conn { return victim.conns[len(victim.conns)-1] }
	stalled := newest()
	before := r.tally.begin(now())
	if err := r.run(b.duration); err != nil {
		return err
	}
	rss, err := r.rss()
	if err != nil {
		return err
	}
	during := r.tally.begin(now())
	r.publishers[0].late = 0
	if err := stalled.watch(0); err != nil {
		return err
	}
	peak := rss
	for end := now() + int64(stallTime); now() < end; {
		if err := r.run(time.Second); err != nil {
			return err
		}
		u, err := r.rss()
		if err != nil {
			return err
		}
		peak = max(peak, u)
	}
	after := r.tally.begin(now())
	resumed := now()
	late := r.publishers[0].late
	for _, c := range victim.conns {
		c.receiver.maxAge = 0
	}
	if stalled.stage != stageClosed {
		if err := stalled.watch(readEvents); err != nil {
			return err
		}
	}
	var oldest, staleUntil int64
	_, err = r.until(b.duration, func() bool {
		rc := &newest().receiver
		oldest = rc.maxAge
		if rc.lastAt > resumed && rc.lastAt-rc.lastSent > int64(staleLimit) {
			staleUntil = rc.lastAt - resumed
		}
		return false
	})
	if err != nil {
		return err
	}
	r.tally.end(now())
	if err := r.run(time.Second); err != nil {
		return err
	}
	fate := "stayed connected"
	if c := newest(); c != stalled {
		fate = fmt.Sprintf("connection %d, started with %s", len(victim.conns), kind(c.receiver.firstVideo.key))
	} else if c.stage == stageClosed {
		fate = "closed"
	}
	out.add(s.name,
		fmt.Sprintf("%.1f, %.1f, %.1f", ms(before.latency.quantile(0.99)), ms(during.latency.quantile(0.99)), ms(after.latency.quantile(0.99))),
		fmt.Sprintf("%.0f", ms(during.latency.max)),
		fmt.Sprintf("%.0f", ms(late)),
		fmt.Sprintf("%d, %d", r.tally.lost, r.tally.badGaps),
		fmt.Sprintf("%.0f→%.0f", rss, peak),
		fate,
		fmt.Sprint(victim.tally.lost),
		fmt.Sprintf("%d (%d)", victim.tally.gaps, victim.tally.badGaps),
		fmt.Sprintf("%.1f", time.Duration(oldest).Seconds()),
		fmt.Sprintf("%.1f", time.Duration(staleUntil).Seconds()))
	return nil
}

const (
	downTime         = 2 * time.Second
	reconnectTimeout = 30 * time.Second
)

// reconnect resets one of 4 destinations and refuses connections to it for a while.
func (b *bench) reconnect(servers []server) error {
	return b.compare("reconnect", servers, []string{"server", "accept after ms", "first video after ms", "of this, after accept ms", "first video",
		"headers before it", "age of first video ms", "others: p99 ms", "others: lost"}, b.reconnectOnce)
}

func (b *bench) reconnectOnce(s server, out *table) (err error) {
	r, err := b.newRig(s, fan{name: "reconnect", profile: profile4M, streams: 1, receivers: 4, forward: true, events: true})
	if err != nil {
		return err
	}
	defer r.end(&err)
	victim := r.destinations[0]
	victim.tally = new(tally)
	if err := r.begin(b.chunkSize, b.logFillTime()); err != nil {
		return err
	}
	others := r.tally.begin(now())
	victim.close()
	for _, c := range victim.conns {
		c.reset()
	}
	if err := r.run(downTime); err != nil {
		return err
	}
	again, err := r.listen(victim.port, new(tally))
	if err != nil {
		return err
	}
	r.destinations[0] = again
	back := now()
	if _, err := r.until(reconnectTimeout, func() bool { return len(again.conns) > 0 }); err != nil {
		return err
	}
	accepted := now()
	ok, err := r.until(reconnectTimeout, func() bool {
		return slices.ContainsFunc(again.conns, func(c *conn) bool { return c.receiver.started })
	})
	if err != nil {
		return err
	}
	if !ok {
		out.add(s.name, fmt.Sprintf("not within %v", reconnectTimeout), "", "", "", "", "", "", "")
		return nil
	}
	i := slices.IndexFunc(again.conns, func(c *conn) bool { return c.receiver.started })
	first := again.conns[i].receiver.firstVideo
	r.tally.end(now())
	if err := r.run(time.Second); err != nil {
		return err
	}
	out.add(s.name,
		fmt.Sprintf("%.0f", ms(time.Duration(accepted-back))),
		fmt.Sprintf("%.0f", ms(time.Duration(first.at-back))),
		fmt.Sprintf("%.0f", ms(time.Duration(first.at-accepted))),
		kind(first.key),
		yes(first.headers),
		fmt.Sprintf("%.1f", ms(time.Duration(first.at-first.sent))),
		fmt.Sprintf("%.1f", ms(others.latency.quantile(0.99))),
		fmt.Sprint(r.tally.lost))
	return nil
}

const (
	watchers = 100
	joiners  = 1000
	joinTime = time.Second
)

// joins adds many players within a second and watches the players that are already
// there.
func (b *bench) joins(servers []server) error {
	return b.compare("joins", servers, []string{"server", "watchers: p99 before, during ms", "watchers: max during ms", "watchers: lost",
		"joined", "first video p50, p99, max ms", "keyframe first", "headers before it", "joiners: lost", "CPU % during", "load % during"}, b.joinsOnce)
}

func (b *bench) joinsOnce(s server, out *table) (err error) {
	r, err := b.newRig(s, fan{name: "joins", profile: profile2M, streams: 1, receivers: watchers, events: true})
	if err != nil {
		return err
	}
	defer r.end(&err)
	if err := r.begin(b.chunkSize, b.logFillTime()); err != nil {
		return err
	}
	_, before, err := r.measure(b.duration)
	if err != nil {
		return err
	}
	joined := new(tally)
	var firsts []*conn
	var waits histogram
	var joinErr error
	start := now()
	step := func() bool {
		for joinErr == nil && len(firsts) < joiners && now()-start >= int64(len(firsts))*int64(joinTime)/joiners {
			var c *conn
			at := now()
			c, joinErr = r.joinOne(rolePlayer, joined, func() { waits.add(time.Duration(now() - at)) })
			firsts = append(firsts, c)
		}
		return joinErr != nil
	}
	u0, err := r.proc.usage()
	if err != nil {
		return err
	}
	during := r.tally.begin(now())
	for now()-start < int64(joinTime) && joinErr == nil {
		// The loop may wait longer than the time between two joins.
		if _, err := r.until(joinTime/joiners, step); err != nil {
			return err
		}
	}
	if _, err := r.until(2*time.Second, step); err != nil {
		return err
	}
	if joinErr != nil {
		return joinErr
	}
	r.tally.end(now())
	u1, err := r.proc.usage()
	if err != nil {
		return err
	}
	if _, err := r.until(reconnectTimeout, func() bool { return waits.n == joiners || joined.closed > 0 }); err != nil {
		return err
	}
	keys, headers := 0, 0
	for _, c := range firsts {
		if c.receiver.firstVideo.key {
			keys++
		}
		if c.receiver.firstVideo.headers {
			headers++
		}
	}
	seconds := time.Duration(u1.at - u0.at).Seconds()
	out.add(s.name,
		fmt.Sprintf("%.1f, %.1f", ms(before.latency.quantile(0.99)), ms(during.latency.quantile(0.99))),
		fmt.Sprintf("%.0f", ms(during.latency.max)),
		fmt.Sprint(r.tally.lost),
		fmt.Sprintf("%d of %d", waits.n, joiners),
		fmt.Sprintf("%.0f, %.0f, %.0f", ms(waits.quantile(0.5)), ms(waits.quantile(0.99)), ms(waits.max)),
		fmt.Sprint(keys),
		fmt.Sprint(headers),
		fmt.Sprint(joined.lost),
		fmt.Sprintf("%.0f", 100*(u1.server-u0.server).Seconds()/seconds),
		fmt.Sprintf("%.0f", 100*(u1.load-u0.load).Seconds()/seconds))
	return nil
}

func kind(key bool) string {
	if key {
		return "a keyframe"
	}
	return "NO keyframe"
}

func yes(v bool) string {
	if v {
		return "yes"
	}
	return "NO"
}
