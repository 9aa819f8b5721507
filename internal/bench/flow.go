//go:build linux

package main

import (
	"fmt"
	"time"
)

// Scenarios whose publisher is faster than its receivers.

const (
	cutOff      = 8 * time.Second
	catchUpRate = 7_500_000 // bytes per second: three times profile20M
	catchUpTime = 20 * time.Second
	// live is the age of media at which a receiver counts as caught up.
	live = time.Second
)

// catchUp cuts a publisher off for a while; it then sends everything it has buffered.
func (b *bench) catchUp(servers []server) error {
	return b.compare("catch-up", servers, []string{"server", "slower one: lost, gaps", "live again after s", "others: lost, gaps", "live again after s",
		"others: longest gap ms", "publisher"}, b.catchUpOnce)
}

func (b *bench) catchUpOnce(s server, out *table) (err error) {
	r, err := b.newRig(s, fan{name: "catch-up", profile: profile20M, streams: 1, receivers: 4, forward: true, events: true})
	if err != nil {
		return err
	}
	defer r.end(&err)
	slower := r.destinations[0]
	slower.tally = new(tally)
	if err := shrinkReceiveBuffer(slower.fd); err != nil {
		return err
	}
	if err := r.publish(b.chunkSize); err != nil {
		return err
	}
	if err := r.attach(); err != nil {
		return err
	}
	if err := r.throttle(slower.conns[0], catchUpRate); err != nil {
		return err
	}
	if err := r.run(b.logFillTime()); err != nil {
		return err
	}
	*slower.tally = tally{}
	p := r.publishers[0]
	p.silent = true
	if err := r.run(cutOff); err != nil {
		return err
	}
	p.silent = false
	back := now()
	for c := range r.receivers {
		c.receiver.maxGap, c.receiver.lastAt = 0, 0
	}
	var slowerLive, othersLive int64
	_, err = r.until(catchUpTime, func() bool {
		var oldest int64
		for c := range r.receivers {
			rc := &c.receiver
			due := p.stream.start + int64(rc.next)*int64(time.Second)/(videoRate+audioRate/audioSamples)
			if c == slower.conns[0] && now()-due > int64(live) {
				slowerLive = now() - back
			} else {
				oldest = max(oldest, now()-due)
			}
		}
		if oldest > int64(live) {
			othersLive = now() - back
		}
		return false
	})
	if err != nil {
		return err
	}
	var gap int64
	for c := range r.receivers {
		if c != slower.conns[0] {
			gap = max(gap, c.receiver.maxGap)
		}
	}
	out.add(s.name,
		fmt.Sprintf("%d, %d", slower.tally.lost, slower.tally.gaps),
		fmt.Sprintf("%.1f", time.Duration(slowerLive).Seconds()),
		fmt.Sprintf("%d, %d", r.tally.lost, r.tally.gaps),
		fmt.Sprintf("%.1f", time.Duration(othersLive).Seconds()),
		fmt.Sprintf("%.0f", ms(time.Duration(gap))),
		fate(p.conn))
	return nil
}

func fate(c *conn) string {
	if c.stage == stageClosed {
		return fmt.Sprintf("ended (%v)", c.err)
	}
	return "goes on"
}

const slowPlayerRate = 200_000 // bytes per second

// slowPlayer adds a player that cannot keep up to a stream published without pacing.
func (b *bench) slowPlayer(servers []server) error {
	return b.compare("slow-player", servers, []string{"server", "others: out MB/s before, with it", "others: longest gap ms", "others: lost", "slow player: lost", "publisher"}, b.slowPlayerOnce)
}

func (b *bench) slowPlayerOnce(s server, out *table) (err error) {
	r, err := b.newRig(s, fan{name: "slow-player", profile: profile8M, streams: 1, receivers: 4, forward: true, flat: true, events: true})
	if err != nil {
		return err
	}
	defer r.end(&err)
	if err := r.begin(b.chunkSize, b.warmup); err != nil {
		return err
	}
	rate := func() (float64, error) {
		bytes, began := r.tally.bytes, now()
		err := r.run(b.duration)
		return float64(r.tally.bytes-bytes) / 1e6 / time.Duration(now()-began).Seconds(), err
	}
	before, err := rate()
	if err != nil {
		return err
	}
	slow, err := r.dial(r.proc.port, rolePlayer, streamName(0))
	if err != nil {
		return err
	}
	slow.receiver.tally = new(tally)
	if _, err := r.until(startTimeout, func() bool { return slow.stage >= stageLive }); err != nil {
		return err
	}
	if err := r.throttle(slow, slowPlayerRate); err != nil {
		return err
	}
	for c := range r.receivers {
		c.receiver.maxGap, c.receiver.lastAt = 0, 0
	}
	with, err := rate()
	if err != nil {
		return err
	}
	var gap int64
	for c := range r.receivers {
		gap = max(gap, c.receiver.maxGap)
	}
	out.add(s.name,
		fmt.Sprintf("%.0f, %.0f", before, with),
		fmt.Sprintf("%.0f", ms(time.Duration(gap))),
		fmt.Sprint(r.tally.lost),
		fmt.Sprint(slow.receiver.tally.lost),
		fate(r.publishers[0].conn))
	return nil
}
