//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

// bench holds what all scenarios share.
type bench struct {
	ctx  context.Context
	out  io.Writer // the report
	log  io.Writer // progress
	cpus placement
	cert certificate

	servers    []string // in place of a scenario's own, if set
	sizes      []int    // likewise, of the growth scenarios
	rounds     int
	duration   time.Duration
	warmup     time.Duration
	chunkSize  int // of the publishers
	crc        int // 0: the scenario's own
	maxPlayers int
	soak       time.Duration // 0: measure
	seed       uint64
}

// scenario is one line of the -scenario flag.
type scenario struct {
	name    string
	about   string
	servers []string
	run     func(*bench, []server) error
}

// fan is a load for which the server's costs are measured.
type fan struct {
	name      string
	profile   profile
	streams   int
	receivers int      // of each stream
	forward   bool     // receivers are destinations, not players
	flat      bool     // the publisher is not paced
	clock     bool     // its timestamps still follow the clock
	events    bool     // receivers come and go; the limit does not support that
	silent    bool     // publishers send only headers at first
	refusing  int      // number of further destinations, which refuse connections
	link      float64  // rate at which destinations read, in stream bitrates; 0: no limit
	ratios    []string // the servers that the others are compared with
}

// flatCRC: one in so many frames has its CRC checked if the publisher is not paced.
// Checking each would make the load the bottleneck.
const flatCRC = 8

var (
	play500     = fan{name: "play-500", profile: profile2M, streams: 1, receivers: 500, ratios: nginxRows}
	forward50   = fan{name: "forward-50", profile: profile4M, streams: 1, receivers: 50, forward: true, ratios: nginxRows}
	forwardMax  = fan{name: "forward-max", profile: profile8M, streams: 1, receivers: 8, forward: true, flat: true, ratios: nginxRows}
	fastClock   = fan{name: "fast-clock", profile: profile3M, streams: 1, receivers: 8, forward: true, flat: true, clock: true, ratios: nginxRows}
	manyStreams = fan{name: "many-streams", profile: profile500k, streams: 100, receivers: 2, forward: true, ratios: nginxRows[:1]}
	rtmps       = fan{name: "rtmps", profile: profile4M, streams: 1, receivers: 50, forward: true, ratios: []string{"forward-w0", "forward"}}
	rtmpsPlay   = fan{name: "rtmps-play", profile: profile2M, streams: 1, receivers: 100, ratios: []string{"forward-w0", "forward", "forward-w350"}}
	httpFLV     = fan{name: "http-flv", profile: profile2M, streams: 1, receivers: 500, ratios: []string{"forward-w0", "forward"}}
	nginxRows   = []string{"nginx-rtmp", "nginx-rtmp-64k"}
)

// scenarios lists all scenarios in the order in which "all" runs them.
func scenarios() []scenario {
	return []scenario{
		fanScenario(play500, "500 players of one 2 Mbit/s stream",
			"nginx-rtmp", "nginx-rtmp-64k", "forward-w0", "forward", "forward-w350", "limit", "limit-w350"),
		fanScenario(forward50, "one 4 Mbit/s stream to 50 destinations",
			"nginx-rtmp", "nginx-rtmp-64k", "forward-w0", "forward", "limit"),
		fanScenario(forwardMax, "one publisher without pacing, to 8 destinations",
			"nginx-rtmp", "nginx-rtmp-64k", "forward", "limit"),
		fanScenario(fastClock, "forward-max with timestamps that follow the clock, as in a live stream",
			"nginx-rtmp", "nginx-rtmp-64k", "forward"),
		fanScenario(manyStreams, "100 publishers of 0.5 Mbit/s to 2 destinations each",
			"nginx-rtmp", "forward-w0", "forward", "limit"),
		fanScenario(rtmps, "one 4 Mbit/s stream to 50 destinations, without and with TLS",
			"forward-w0", "forward-w0-tls", "forward", "forward-tls"),
		fanScenario(rtmpsPlay, "100 players of one 2 Mbit/s stream, without and with TLS",
			"forward-w0", "forward-w0-tls", "forward", "forward-tls", "forward-w350", "forward-w350-tls"),
		fanScenario(httpFLV, "500 players of one 2 Mbit/s stream, by RTMP and by HTTP-FLV",
			"forward-w0", "forward-w0-flv", "forward", "forward-flv"),
		{"tls-again", "destinations over TLS that reconnect, and players that connect with and without session resumption",
			[]string{"forward-w0-tls"}, (*bench).tlsAgain},
		{"players-until-it-breaks", "players of a 2 Mbit/s stream: 500, then half as many more at each step until p99 exceeds 500 ms",
			[]string{"nginx-rtmp", "forward"}, (*bench).untilItBreaks},
		{"stall", "one of 8 destinations of a 20 Mbit/s stream stops reading for 15 s",
			[]string{"nginx-rtmp", "forward"}, (*bench).stall},
		{"catch-up", "a publisher of 20 Mbit/s is cut off for 8 s, then sends its backlog in one burst; one of 4 destinations takes 7.5 MB/s",
			[]string{"nginx-rtmp", "forward"}, (*bench).catchUp},
		{"slow-player", "one publisher without pacing, 4 destinations, and a player that takes 200 KB/s",
			[]string{"nginx-rtmp", "forward"}, (*bench).slowPlayer},
		{"reconnect", "one of 4 destinations resets its connection and listens again after 2 s",
			[]string{"nginx-rtmp", "forward"}, (*bench).reconnect},
		{"joins", "1000 players join a stream of 100 within one second",
			[]string{"nginx-rtmp", "forward"}, (*bench).joins},
		growthScenario("growth-players", "1 to 10,000 players of a 200 kbit/s stream",
			fan{profile: profile200k, streams: 1}, []int{1, 10, 100, 1000, 3000, 10000}, byReceivers, "forward", "forward-w350"),
		growthScenario("growth-streams", "1 to 2000 publishers of 50 kbit/s and 7 messages a second, to 2 destinations each",
			fan{profile: profile50k, receivers: 2, forward: true}, []int{1, 10, 100, 300, 1000, 2000}, byStreams, "forward"),
		growthScenario("growth-slow", "1 to 64 destinations that read a 4 Mbit/s stream at 5 Mbit/s",
			fan{profile: profile4M, streams: 1, forward: true, link: 1.25}, []int{1, 4, 16, 64}, byReceivers, "forward-w0", "forward"),
		growthScenario("growth-destinations", "10 to 1000 destinations of a 200 kbit/s stream, without and with TLS",
			fan{profile: profile200k, streams: 1, forward: true}, []int{10, 100, 1000}, byReceivers, "forward", "forward-tls"),
		{"idle", "10,000 waiting players, and 1000 destinations in backoff",
			[]string{"forward"}, (*bench).idle},
		{"first-picture", "time to the first video of a new stream's destination, of a player and of a reconnected destination, beside 1000 players",
			[]string{"forward-w0"}, (*bench).firstPicture},
		{"collector", "100 publishers of 0.5 Mbit/s to 2 destinations each: heap and garbage collector pauses",
			[]string{"forward-w0"}, (*bench).collector},
		{"limit", "the reads and writes of play-500, forward-50 and forward-max, without a protocol",
			[]string{"limit", "limit-w20", "limit-w50", "limit-w350"}, (*bench).limit},
	}
}

func fanScenario(f fan, about string, servers ...string) scenario {
	return scenario{f.name, about, servers, func(b *bench, servers []server) error { return b.fan(f, servers) }}
}

func (b *bench) limit(servers []server) error {
	for _, f := range []fan{play500, forward50, forwardMax} {
		f.name, f.ratios = "limit of "+f.name, nil
		if f.flat { // without pacing, a window means nothing
			servers = servers[:1]
		}
		if err := b.fan(f, servers); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) crcEvery(f fan) int {
	switch {
	case b.crc > 0:
		return b.crc
	case f.flat:
		return flatCRC
	}
	return 1
}

// fan measures all servers in turn, rounds times, and prints their table.
func (b *bench) fan(f fan, servers []server) error {
	t := fanTable{load: f, crcEvery: b.crcEvery(f)}
	base := map[string]float64{}
	failed, err := b.interleave(f.name, servers, func(s server) error {
		return b.addFan(&t, s.name, s, f, base)
	})
	if err != nil {
		return err
	}
	t.print(b.out, failed)
	return nil
}

// addFan adds a measurement of s to a row. base has the memory of each server with one
// destination.
func (b *bench) addFan(t *fanTable, row string, s server, f fan, base map[string]float64) error {
	if _, ok := base[s.name]; !ok && f.forward && f.streams == 1 && !f.flat && s.kind != "limit" {
		rss, err := b.memoryOfOne(s, f)
		if err != nil {
			return err
		}
		base[s.name] = rss
	}
	m, err := b.measureFan(s, f, base[s.name])
	if err == nil {
		t.add(row, m)
	}
	return err
}

// interleave calls run for each server in turn, for the given number of rounds. It
// drops a server that fails and returns its error by name. The second result is an
// error of the bench itself.
func (b *bench) interleave(name string, servers []server, run func(server) error) (map[string]error, error) {
	failed := map[string]error{}
	for round := range b.rounds {
		for _, s := range servers {
			if failed[s.name] != nil {
				continue
			}
			fmt.Fprintf(b.log, "%s, round %d of %d: %s\n", name, round+1, b.rounds, s.name)
			err := run(s)
			if b.ctx.Err() != nil {
				return nil, context.Cause(b.ctx)
			}
			if err != nil {
				failed[s.name] = err
			}
		}
	}
	return failed, nil
}

// compare calls run for each server in turn, for the given number of rounds, and prints
// the rows that it adds to the table.
func (b *bench) compare(name string, servers []server, head []string, once func(s server, out *table) error) error {
	out := table{head: head}
	failed, err := b.interleave(name, servers, func(s server) error { return once(s, &out) })
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "### %s\n\n", name)
	out.group()
	out.print(b.out)
	printFailures(b.out, failed)
	return nil
}

// memoryOfOne returns the memory of a server with a single destination, the base for
// the memory per destination.
func (b *bench) memoryOfOne(s server, f fan) (rss float64, err error) {
	f.receivers = 1
	r, err := b.newRig(s, f)
	if err != nil {
		return 0, err
	}
	defer r.end(&err)
	if err := r.publish(b.chunkSize); err != nil {
		return 0, err
	}
	if err := r.attach(); err != nil {
		return 0, err
	}
	if err := r.run(b.logFillTime()); err != nil {
		return 0, err
	}
	return r.rss()
}

// logFillTime is the time after which a server's log of the stream has its full size:
// slightly more than two GOPs.
func (b *bench) logFillTime() time.Duration { return 5 * time.Second }

// measureFan measures one server once. baseRSS is its memory with one receiver, 0 if
// unknown.
func (b *bench) measureFan(s server, f fan, baseRSS float64) (m measurement, err error) {
	sealing, err := s.sealing(b.cpus)
	if err != nil {
		return m, err
	}
	r, err := b.newRig(s, f)
	if err != nil {
		return m, err
	}
	defer r.end(&err)
	before, err := r.rss()
	if err != nil {
		return m, err
	}
	if err := r.publish(b.chunkSize); err != nil {
		return m, err
	}
	first := 0 // receivers counted in baseRSS
	if !f.forward && s.kind != "limit" {
		if err := r.run(b.logFillTime()); err != nil {
			return m, err
		}
		if before, err = r.rss(); err != nil {
			return m, err
		}
		baseRSS = before
	} else if baseRSS > 0 {
		first = 1
	} else {
		baseRSS = before
	}
	if err := r.attach(); err != nil {
		return m, err
	}
	if err := r.run(b.warmup); err != nil {
		return m, err
	}
	m, p, err := r.measure(b.duration)
	if err != nil {
		return m, err
	}
	m.tail, m.expected, err = r.drain()
	m.finish(r.tally, p)
	m.rssBefore, m.sealing = before, sealing*m.bytes
	if n := m.receivers - first; n > 0 && s.kind != "limit" {
		m.perReceiver = (m.rssAfter - baseRSS) * 1e3 / float64(n)
	}
	return m, err
}

// serversFor returns the servers to run sc with.
func (b *bench) serversFor(sc scenario) ([]server, error) {
	names := sc.servers
	if len(b.servers) > 0 {
		names = b.servers
	}
	var list []server
	for _, name := range slices.Compact(slices.Clone(names)) {
		s, err := parseServer(name)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}
