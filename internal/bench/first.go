//go:build linux

package main

import (
	"crypto/tls"
	"fmt"
	"slices"
	"time"
)

// The scenarios of connecting: the time to the first picture, and the cost of TLS.

const (
	beside      = 1000 // players that get the stream meanwhile
	firstTimes  = 200  // measurements
	comingBack  = 100  // destinations that are reset
	secureTimes = 50   // destinations over TLS
	// betweenTimes separates measurements. It is no multiple of the frames' interval, so
	// that they begin at all phases of it.
	betweenTimes = 13 * time.Millisecond
	backTimeout  = 20 * time.Second
)

// firsts sums up first pictures.
type firsts struct {
	all, last              histogram // since the start, and since the last request
	keys, headers, resumed int
}

// add adds the first picture of c, which was waited for since a time.
func (f *firsts) add(c *conn, began int64) {
	first := &c.receiver.firstVideo
	f.all.add(time.Duration(first.at - began))
	f.last.add(time.Duration(first.at - c.asked))
	if first.key {
		f.keys++
	}
	if first.headers {
		f.headers++
	}
	if c.tls != nil && c.tls.ConnectionState().DidResume {
		f.resumed++
	}
}

// firstsHead is the head of what cells returns.
var firstsHead = []string{"times", "p50, p99, max ms", "since play, or the answer to the destination's publish, ms", "keyframe", "headers before it"}

func (f *firsts) cells() []string {
	quantiles := func(h *histogram) string {
		return fmt.Sprintf("%.1f, %.1f, %.1f", ms(h.quantile(0.5)), ms(h.quantile(0.99)), ms(h.max))
	}
	return []string{fmt.Sprint(f.all.n), quantiles(&f.all), quantiles(&f.last), fmt.Sprint(f.keys), fmt.Sprint(f.headers)}
}

// pictured waits for the first video of the connection that get returns, nil as long as
// there is none.
func (r *rig) pictured(get func() *conn) (*conn, error) {
	var c *conn
	ok, err := r.until(backTimeout, func() bool {
		c = get()
		return c != nil && (c.receiver.started || c.stage == stageClosed)
	})
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, fmt.Errorf("no video within %v", backTimeout)
	case !c.receiver.started:
		return nil, reason(c.err)
	}
	return c, nil
}

// joinEach adds players by dial, one after another. Each leaves when it has its first
// picture.
func (r *rig) joinEach(dial func(stream string) (*conn, error)) (f firsts, err error) {
	for range firstTimes {
		c, err := dial(streamName(0))
		if err != nil {
			return f, err
		}
		c.receiver.tally = new(tally)
		if c, err = r.pictured(func() *conn { return c }); err != nil {
			return f, err
		}
		f.add(c, c.at)
		c.reset()
		if err := r.run(betweenTimes); err != nil {
			return f, err
		}
	}
	return f, nil
}

// cut resets the connections of all destinations, one after another, and waits until
// each has a first picture on a new connection.
func (r *rig) cut() (f firsts, err error) {
	var dests []*[]*conn
	for _, d := range r.destinations {
		dests = append(dests, &d.conns)
	}
	for _, d := range r.secure {
		dests = append(dests, &d.conns)
	}
	for _, d := range dests {
		(*d)[len(*d)-1].reset()
		*d = nil
		if err := r.run(betweenTimes); err != nil {
			return f, err
		}
	}
	for _, d := range dests {
		c, err := r.pictured(func() *conn {
			if len(*d) == 0 {
				return nil
			}
			return (*d)[0]
		})
		if err != nil {
			return f, err
		}
		f.add(c, c.at)
	}
	return f, nil
}

// firstPicture measures the time to the first picture while many players are served.
func (b *bench) firstPicture(servers []server) error {
	return b.compare("first-picture", servers, slices.Concat([]string{"server", "first video"}, firstsHead,
		[]string{"players: p99 ms", "players: lost", "CPU % of core", "load %"}), func(s server, out *table) error {
		for _, part := range []struct {
			what         string
			destinations int
			do           func(*bench, *rig) (firsts, error)
		}{
			{"of a destination, since its publisher was answered", 1, (*bench).publishEach},
			{"of a player, since its connect", 0, func(_ *bench, r *rig) (firsts, error) {
				return r.joinEach(func(stream string) (*conn, error) { return r.dial(r.proc.port, rolePlayer, stream) })
			}},
			{"of a destination that was reset, since it accepted again", comingBack, func(_ *bench, r *rig) (firsts, error) { return r.cut() }},
		} {
			if err := b.firstPictureOnce(s, part.what, part.destinations, part.do, out); err != nil {
				return fmt.Errorf("first video %s: %w", part.what, err)
			}
		}
		return nil
	})
}

func (b *bench) firstPictureOnce(s server, what string, destinations int, do func(*bench, *rig) (firsts, error), out *table) (err error) {
	f := fan{name: "first-picture", profile: profile200k, streams: 1, receivers: destinations, forward: destinations > 0, events: true}
	r, err := b.newRig(s, f)
	if err != nil {
		return err
	}
	defer r.end(&err)
	if err := r.publish(b.chunkSize); err != nil {
		return err
	}
	if destinations > 0 {
		if err := r.attach(); err != nil {
			return err
		}
	}
	players := new(tally)
	if err := r.join(beside, rolePlayer, players); err != nil {
		return err
	}
	if err := r.run(b.logFillTime()); err != nil {
		return err
	}
	u0, err := r.proc.usage()
	if err != nil {
		return err
	}
	during := players.begin(now())
	seen, err := do(b, r)
	if err != nil {
		return err
	}
	players.end(now())
	u1, err := r.proc.usage()
	if err != nil {
		return err
	}
	seconds := time.Duration(u1.at - u0.at).Seconds()
	row := append([]string{s.name, what}, seen.cells()...)
	out.add(append(row,
		fmt.Sprintf("%.1f", ms(during.latency.quantile(0.99))),
		fmt.Sprint(players.lost),
		fmt.Sprintf("%.0f", 100*(u1.server-u0.server).Seconds()/seconds),
		fmt.Sprintf("%.0f", 100*(u1.load-u0.load).Seconds()/seconds))...)
	return nil
}

// publishEach publishes streams one after another, each to the same destination.
func (b *bench) publishEach(r *rig) (f firsts, err error) {
	d := r.destinations[0]
	d.tally = new(tally)
	for i := range firstTimes {
		before := len(d.conns)
		s := stream{profile: r.load.profile, id: uint32(1 + i), chunkSize: b.chunkSize}
		p, err := r.loop.publish(r.proc.port, rolePublisher, fmt.Sprintf("new%d", i), s, false, 0)
		if err != nil {
			return f, err
		}
		var answered int64
		start := p.live
		p.live = func() { answered = now(); start() }
		c, err := r.pictured(func() *conn {
			if len(d.conns) == before {
				return nil
			}
			return d.conns[before]
		})
		if err != nil {
			return f, err
		}
		f.add(c, answered)
		p.reset()
		if err := r.run(betweenTimes); err != nil {
			return f, err
		}
	}
	return f, nil
}

// tlsAgain measures the cost of connecting over TLS, with and without resumption.
func (b *bench) tlsAgain(servers []server) error {
	return b.compare("tls-again", servers, slices.Concat([]string{"server", "first video, since connect or accept"}, firstsHead,
		[]string{"TLS resumed", "server's CPU ms each"}), b.tlsAgainOnce)
}

func (b *bench) tlsAgainOnce(s server, out *table) (err error) {
	if !s.tls {
		return fmt.Errorf("%s is not over TLS", s.name)
	}
	r, err := b.newRig(s, fan{name: "tls-again", profile: profile200k, streams: 1, receivers: secureTimes, forward: true, events: true})
	if err != nil {
		return err
	}
	defer r.end(&err)
	if err := r.begin(b.chunkSize, b.logFillTime()); err != nil {
		return err
	}
	var first firsts
	for c := range r.receivers {
		first.add(c, c.at)
	}
	report := func(what string, f firsts, cpu string) {
		row := append([]string{s.name, what}, f.cells()...)
		out.add(append(row, fmt.Sprint(f.resumed), cpu)...)
	}
	report("destinations of a new stream", first, "")
	again, err := r.cut()
	if err != nil {
		return err
	}
	report("destinations that were reset", again, "")
	// The stream and its destinations cost this much CPU time meanwhile.
	m, _, err := r.measure(b.duration)
	if err != nil {
		return err
	}
	plain := func(stream string) (*conn, error) { return r.dial(r.proc.port, rolePlayer, stream) }
	secure := func(cache tls.ClientSessionCache) func(string) (*conn, error) {
		return func(stream string) (*conn, error) {
			return r.dialTLS(r.proc.securePort, rolePlayer, stream, b.cert.client(cache))
		}
	}
	for _, part := range []struct {
		what string
		dial func(string) (*conn, error)
	}{
		{"players without TLS", plain},
		{"players over TLS", secure(nil)},
		{"players over TLS that resume", secure(tls.NewLRUClientSessionCache(1))},
	} {
		u0, err := r.proc.usage()
		if err != nil {
			return err
		}
		f, err := r.joinEach(part.dial)
		if err != nil {
			return fmt.Errorf("%s: %w", part.what, err)
		}
		u1, err := r.proc.usage()
		if err != nil {
			return err
		}
		cpu := (u1.server - u0.server).Seconds() - m.cpu/m.seconds*time.Duration(u1.at-u0.at).Seconds()
		report(part.what, f, fmt.Sprintf("%.2f", 1e3*cpu/firstTimes))
	}
	return nil
}
