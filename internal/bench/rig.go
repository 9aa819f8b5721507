//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// Time limits of a run's steps.
const (
	startTimeout = 20 * time.Second // until all receivers have media
	drainTimeout = 3 * time.Second
	maxJoining   = 32 // most players joining at the same time
)

// rig is a server under test with its publishers, destinations and players.
type rig struct {
	*loop
	server server
	cert   certificate
	load   fan
	proc   *process
	cancel context.CancelCauseFunc
	tally  *tally // of destinations and players

	publishers   []*publisher
	destinations []*listener
	secure       []*secureListener
	players      []*conn
	refused      int // a socket that does not listen, if not 0
}

// newRig starts server s for the streams and receivers of f.
func (b *bench) newRig(s server, f fan) (_ *rig, err error) {
	if f.events && s.kind == "limit" {
		return nil, errors.New("the limit supports steady loads only")
	}
	ctx, cancel := context.WithCancelCause(b.ctx)
	l, err := newLoop(ctx, b.crcEvery(f))
	if err != nil {
		cancel(err)
		return nil, err
	}
	r := &rig{loop: l, server: s, cert: b.cert, load: f, cancel: cancel, tally: new(tally)}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	need := launch{streams: f.streams, receivers: f.receivers, flat: f.flat}
	if f.forward && s.kind != "limit" {
		for range f.receivers {
			port, err := r.addDestination(b)
			if err != nil {
				return nil, err
			}
			need.destinations = append(need.destinations, port)
		}
	}
	if f.refusing > 0 {
		if r.refused, need.refusingPort, err = boundSocket(0); err != nil {
			return nil, err
		}
		need.refusing = f.refusing
	}
	if s.tls {
		need.cert = b.cert.file
	}
	r.proc, err = s.start(ctx, b.cpus, need, cancel)
	return r, err
}

func (r *rig) addDestination(b *bench) (port int, err error) {
	if r.server.tls {
		d, err := r.listenTLS(b.cert, r.tally)
		if err != nil {
			return 0, err
		}
		r.secure = append(r.secure, d)
		return d.port, nil
	}
	d, err := r.listen(0, r.tally)
	if err != nil {
		return 0, err
	}
	r.destinations = append(r.destinations, d)
	if r.load.link > 0 {
		err = shrinkReceiveBuffer(d.fd)
	}
	return d.port, err
}

// close stops everything the rig started.
func (r *rig) close() {
	if r.proc != nil {
		r.proc.stop()
	}
	if r.refused != 0 {
		syscall.Close(r.refused)
	}
	for _, d := range r.secure {
		d.close()
	}
	for _, c := range r.players {
		c.reset()
	}
	r.mu.Unlock()
	r.clients.Wait()
	r.mu.Lock()
	r.loop.close()
	r.cancel(nil)
}

// end closes the rig and adds the last line of the server's output to err.
func (r *rig) end(err *error) {
	r.close()
	if *err == nil || r.proc == nil {
		return
	}
	if words := lastLine(r.proc.stderr.String()); words != "" && !strings.Contains((*err).Error(), words) {
		*err = fmt.Errorf("%w; the server: %s", *err, words)
	}
}

// streamName is the stream name of publisher i.
func streamName(i int) string { return fmt.Sprintf("stream%d", i) }

// stagger is the delay of stream i of n after the first.
func stagger(i, n int) int64 {
	return int64(i) * int64(time.Second) / videoRate / int64(n)
}

// publish starts the publishers and returns when the server has accepted them. The
// limit starts to read them once all receivers are connected.
func (r *rig) publish(chunkSize int) error {
	as := rolePublisher
	if r.server.kind == "limit" {
		as, chunkSize = roleRawPublisher, limitChunkSize
	}
	live := 0
	var err error
	ok, lerr := r.until(startTimeout+time.Duration(r.load.streams)*5*time.Millisecond, func() bool {
		for err == nil && len(r.publishers) < r.load.streams && len(r.publishers)-live < maxJoining {
			i := len(r.publishers)
			s := stream{profile: r.load.profile, id: uint32(i), chunkSize: chunkSize, clock: r.load.clock}
			var p *publisher
			p, err = r.loop.publish(r.proc.port, as, streamName(i), s, r.load.flat, time.Duration(stagger(i, r.load.streams)))
			if err != nil {
				break
			}
			p.silent = r.load.silent
			start := p.live
			p.live = func() { live++; start() }
			r.publishers = append(r.publishers, p)
		}
		err = errors.Join(err, r.publishing())
		return err != nil || live == r.load.streams
	})
	switch {
	case err != nil || lerr != nil:
		return errors.Join(err, lerr)
	case !ok:
		return fmt.Errorf("publish: %d of %d are answered", live, r.load.streams)
	}
	return nil
}

// begin publishes, attaches the receivers and runs for the warm-up.
func (r *rig) begin(chunkSize int, d time.Duration) error {
	if err := r.publish(chunkSize); err != nil {
		return err
	}
	if err := r.attach(); err != nil {
		return err
	}
	return r.run(d)
}

// attach connects the receivers and returns when each has video. Destinations are
// connected by the server; players join.
func (r *rig) attach() error {
	switch {
	case r.server.kind == "limit":
		return r.join(r.load.streams*r.load.receivers, roleRawReceiver, r.tally)
	case !r.load.forward:
		return r.join(r.load.streams*r.load.receivers, rolePlayer, r.tally)
	}
	want := r.load.streams * r.load.receivers
	ok, err := r.until(startTimeout, func() bool { return r.tally.frames >= uint64(want) && r.ready() >= want })
	if err == nil && !ok {
		err = fmt.Errorf("%d of %d destinations have video", r.ready(), want)
	}
	if err != nil || r.load.link == 0 {
		return err
	}
	for c := range r.receivers {
		if err := r.throttle(c, int(r.load.link*float64(r.load.profile.bitrate)/8)); err != nil {
			return err
		}
	}
	return nil
}

// ready counts the receivers that have video.
func (r *rig) ready() int {
	n := 0
	for c := range r.receivers {
		if c.receiver.started {
			n++
		}
	}
	return n
}

// join adds n players, a few at a time, and returns when each has video.
func (r *rig) join(n int, as role, t *tally) error {
	begun, live, got := 0, 0, 0
	var err error
	ok, lerr := r.until(startTimeout+time.Duration(n)*5*time.Millisecond, func() bool {
		for err == nil && begun < n && begun-live < maxJoining {
			var c *conn
			if c, err = r.joinOne(as, t, func() { got++ }); err == nil {
				c.live = func() { live++ }
				begun++
			}
		}
		return err != nil || got == n || t.closed > 0
	})
	switch {
	case err != nil || lerr != nil:
		return errors.Join(err, lerr)
	case t.closed > 0:
		return fmt.Errorf("join: %w", reason(r.firstError()))
	case !ok:
		return fmt.Errorf("join: %d of %d players have video", got, n)
	}
	return nil
}

// joinOne adds a player and calls onVideo with its first video frame.
func (r *rig) joinOne(as role, t *tally, onVideo func()) (*conn, error) {
	dial := func(name string) (*conn, error) { return r.dial(r.proc.port, as, name) }
	if r.server.flv {
		dial = func(name string) (*conn, error) { return r.dial(r.proc.securePort, roleFLVPlayer, name) }
	}
	if r.server.tls {
		dial = func(name string) (*conn, error) {
			return r.dialTLS(r.proc.securePort, as, name, r.cert.client(nil))
		}
	}
	return r.joinBy(dial, t, onVideo)
}

// joinBy adds a player by dial.
func (r *rig) joinBy(dial func(stream string) (*conn, error), t *tally, onVideo func()) (*conn, error) {
	c, err := dial(streamName(len(r.players) % r.load.streams))
	if err != nil {
		return nil, err
	}
	c.receiver.tally = t
	c.receiver.onVideo = onVideo
	r.players = append(r.players, c)
	return c, nil
}

// receivers ranges over all players and destination connections.
func (r *rig) receivers(yield func(*conn) bool) {
	for _, c := range r.players {
		if !yield(c) {
			return
		}
	}
	for _, d := range r.destinations {
		for _, c := range d.conns {
			if !yield(c) {
				return
			}
		}
	}
	for _, d := range r.secure {
		for _, c := range d.conns {
			if !yield(c) {
				return
			}
		}
	}
}

func (r *rig) firstError() error {
	for c := range r.receivers {
		if c.err != nil {
			return c.err
		}
	}
	return nil
}

// reason returns err, or an explanation if it is nil.
func reason(err error) error {
	if err == nil {
		return errors.New("no answer in time")
	}
	return err
}

// drain stops the publishers and waits until the receivers have everything that was
// sent. It returns the number of missing frames and of expected frames, summed over all
// receivers.
func (r *rig) drain() (tail, expected uint64, err error) {
	sent := map[uint32]uint64{}
	for i, p := range r.publishers {
		p.stopped = true
		if _, err := r.until(drainTimeout, func() bool { return !p.waiting() }); err != nil {
			return 0, 0, err
		}
		sent[uint32(i)] = p.stream.number
	}
	_, err = r.until(drainTimeout, func() bool { tail, expected = r.missing(sent); return tail == 0 })
	return tail, expected, err
}

// missing compares the frames received with the frames sent on each stream.
func (r *rig) missing(sent map[uint32]uint64) (tail, expected uint64) {
	for c := range r.receivers {
		rc := &c.receiver
		if !rc.started || c.stage == stageClosed {
			continue
		}
		end := max(rc.next, sent[rc.stream])
		tail += end - rc.next
		expected += end - rc.first
	}
	return tail, expected
}

// measurement holds the results of one server in one run.
type measurement struct {
	receivers                          int
	seconds                            float64
	cpu, load, foreign                 float64 // CPU seconds
	bytes, frames                      float64
	p50, p99, max                      float64 // ms
	lost, tail, expected               uint64
	badGaps, reordered, corrupt, ended uint64
	rssBefore, rssAfter, rssPeak       float64 // MB
	perReceiver                        float64 // KB
	switches                           float64 // per second
	late                               float64 // ms, of the publishers
	sealing                            float64 // CPU seconds of bare AES-GCM of the same bytes, if over TLS
}

// measure runs the rig for d and reads the accounts.
func (r *rig) measure(d time.Duration) (m measurement, p *phase, err error) {
	for _, p := range r.publishers {
		p.late = 0
	}
	before, err := r.proc.usage()
	if err != nil {
		return m, nil, err
	}
	bytes, frames := r.tally.bytes, r.tally.frames
	p = r.tally.begin(now())
	if err := r.run(d); err != nil {
		return m, nil, err
	}
	r.tally.end(now())
	after, err := r.proc.usage()
	if err != nil {
		return m, nil, err
	}
	if err := r.publishing(); err != nil {
		return m, nil, err
	}
	if r.tally.frames == frames {
		return m, nil, errors.New("no frame arrived")
	}
	m.receivers = r.load.streams * r.load.receivers
	m.seconds = time.Duration(after.at - before.at).Seconds()
	m.cpu = (after.server - before.server).Seconds()
	m.load = (after.load - before.load).Seconds()
	m.foreign = (after.all - before.all).Seconds() - m.cpu - m.load
	m.bytes, m.frames = float64(r.tally.bytes-bytes), float64(r.tally.frames-frames)
	m.switches = float64(after.switches-before.switches) / m.seconds
	m.rssAfter, m.rssPeak = float64(after.rss)/1e6, float64(after.peak)/1e6
	for _, p := range r.publishers {
		m.late = max(m.late, ms(p.late))
	}
	return m, p, nil
}

// publishing returns an error if the server has closed a publisher's connection.
func (r *rig) publishing() error {
	for i, p := range r.publishers {
		if p.stage == stageClosed {
			return fmt.Errorf("publisher %d: %w", i, reason(p.err))
		}
	}
	return nil
}

// finish collects latencies and losses, once everything sent has had time to arrive.
func (m *measurement) finish(t *tally, p *phase) {
	m.p50, m.p99, m.max = ms(p.latency.quantile(0.5)), ms(p.latency.quantile(0.99)), ms(p.latency.max)
	m.lost, m.badGaps, m.reordered, m.corrupt, m.ended = t.lost, t.badGaps, t.reordered, t.corrupt, t.closed
}

func (r *rig) rss() (float64, error) {
	u, err := r.proc.usage()
	return float64(u.rss) / 1e6, err
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
