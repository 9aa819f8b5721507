// Package soak runs publishers, players and destinations that come and go around a
// Server, some of them with faults, and checks what each of them receives. A test of a
// day in virtual time and a program of an hour in real time use it.
package soak

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// Network connects the peers: a forwardtest.Network, or a Loopback.
type Network interface {
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	Listen(address string) (net.Listener, error)
}

// Options sets the number of peers and faults.
type Options struct {
	// Seed repeats the same random choices, as far as the scheduling of goroutines
	// allows.
	Seed    uint64
	Network Network
	// Faults is the fraction of connections, dials and calls of the host's code that
	// are faulty.
	Faults float64
	// Publishers is how many publish at the same time, each its own stream; Players how
	// many play at the same time, any stream; Destinations how many there are.
	Publishers, Players, Destinations int
	// FPS and VideoBitrate, in bits per second, apply to most publishes.
	FPS, VideoBitrate int
	// Pause is the longest pause between two publishes, or two plays, of the same
	// client. A publish or play itself lasts 5 s to 5 min.
	Pause time.Duration
}

// Report counts what has happened.
type Report struct {
	Publishes, Plays, Sessions int // accepted; Sessions those of destinations
	Frames                     int // received by all
	Missing                    int // frames skipped by receivers that were too slow
	Faults                     int // faults made
	// Wrong lists what was received wrongly and what the Server has leaked, in one
	// sentence each, at most 20.
	Wrong []string
}

// Soak is a Server and its peers.
type Soak struct {
	opt    Options
	srv    *forward.Server
	served chan error
	ids    atomic.Uint32

	mu     sync.Mutex
	rng    *rand.Rand // for calls by the Server
	report Report
}

const serverAddr = "server.example:1935"

// New starts the Server. Close ends it.
func New(o Options) (*Soak, error) {
	s := &Soak{opt: o, served: make(chan error, 1), rng: rand.New(rand.NewPCG(o.Seed, 0))}
	s.srv = forward.NewServer(forward.Config{
		Logger:          slog.New(slog.DiscardHandler),
		Resolver:        forward.ResolverFunc(s.resolve),
		RefreshInterval: 2 * time.Minute,
		Dial:            s.dial,
		WriteTimeout:    30 * time.Second, // longer than MaxLatency, so that slow receivers skip, too
		MemoryBudget:    256 << 20,
		Hooks: forward.Hooks{
			OnConnect: func(ctx context.Context, _ *forward.Request) error { return s.hook(ctx) },
			OnPublish: func(ctx context.Context, _ *forward.Request) error { return s.hook(ctx) },
			OnPlay:    func(ctx context.Context, _ *forward.Request) error { return s.hook(ctx) },
		},
	})
	l, err := o.Network.Listen(serverAddr)
	if err != nil {
		return nil, err
	}
	go func() { s.served <- s.srv.Serve(l) }()
	return s, nil
}

// Server returns the Server under test.
func (s *Soak) Server() *forward.Server { return s.srv }

// Lag returns the largest lag of the destinations that make progress, in messages, and
// the number of stalled ones.
func (s *Soak) Lag() (most uint64, stalled int) {
	for _, src := range s.srv.Sources() {
		for _, f := range src.Forwarders() {
			switch st := f.Stats(); st.State {
			case forward.StatePublishing:
				most = max(most, st.Lag)
			case forward.StateStalled:
				stalled++
			}
		}
	}
	return most, stalled
}

// Report returns what has happened so far. A connection counts once it has ended.
func (s *Soak) Report() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.report
	r.Wrong = slices.Clone(r.Wrong)
	return r
}

// Run runs the peers until ctx ends. Then all leave, and anything that the Server still
// holds a minute later counts as wrong. Run may be called again.
func (s *Soak) Run(ctx context.Context) {
	var wg sync.WaitGroup
	seed := s.ids.Add(1) // a different one for each Run
	n := uint64(seed) << 32
	start := func(count int, f func(context.Context, *rand.Rand, int)) {
		for i := range count {
			n++
			r := rand.New(rand.NewPCG(s.opt.Seed, n))
			wg.Go(func() { f(ctx, r, i) })
		}
	}
	start(s.opt.Destinations, s.destination)
	start(s.opt.Publishers, s.publisher)
	start(s.opt.Players, s.player)
	start(1, s.operator)
	wg.Wait()
	for range 60 {
		if s.left() == "" {
			return
		}
		pause(context.Background(), time.Second)
	}
	s.wrong("after a minute the server still has %s", s.left())
}

// Close ends the Server.
func (s *Soak) Close() error {
	s.srv.Close()
	if err := <-s.served; !errors.Is(err, forward.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Soak) left() string {
	st := s.srv.Stats()
	if st.Connections+st.Streams+st.Destinations+st.Buffered == 0 {
		return ""
	}
	return fmt.Sprintf("%d connections, %d streams, %d destinations, %d bytes", st.Connections, st.Streams, st.Destinations, st.Buffered)
}

func streamName(i int) string  { return fmt.Sprintf("live/s%d", i) }
func destination(i int) string { return fmt.Sprintf("d%d.example:1935", i) }

// destination listens for some time, is away for some time, and so on.
func (s *Soak) destination(ctx context.Context, r *rand.Rand, i int) {
	for ctx.Err() == nil {
		l, err := s.opt.Network.Listen(destination(i))
		if err != nil {
			s.wrong("%v", err)
			return
		}
		scripts := make([]forwardtest.Script, 64)
		for i := range scripts {
			scripts[i] = s.script(r)
		}
		d := forwardtest.NewDestinationAt(l, scripts...)
		pause(ctx, between(r, 2*time.Minute, 20*time.Minute))
		d.Close()
		for _, session := range d.Sessions() {
			s.add(&s.report.Sessions, 1)
			s.check(destination(i), session.Recorder())
		}
		pause(ctx, between(r, 0, 30*time.Second))
	}
}

// script is the behaviour of a destination's next connection.
func (s *Soak) script(r *rand.Rand) (script forwardtest.Script) {
	gaps := false
	script.Recorder = func() *forwardtest.Recorder { return &forwardtest.Recorder{Discard: true, Gaps: gaps} }
	if r.Float64() >= s.opt.Faults {
		return script
	}
	steps := []string{"handshake", "connect", "createStream", "publish"}
	step := func(name string, st forwardtest.Step) {
		script.Steps = map[string]forwardtest.Step{name: st}
	}
	at := func(do func(*forwardtest.Session)) {
		script.At = map[int]func(*forwardtest.Session){1 + r.IntN(200): do}
	}
	fault := []func(){
		func() { step("publish", forwardtest.Step{Refuse: "NetStream.Publish.BadName"}) },
		func() { step("connect", forwardtest.Step{Refuse: "NetConnection.Connect.Rejected"}) },
		func() { step(steps[r.IntN(len(steps))], forwardtest.Step{Silent: true}) },
		func() {
			step(steps[r.IntN(len(steps))], forwardtest.Step{Delay: between(r, 0, 15*time.Second)})
		},
		func() { gaps = true; at((*forwardtest.Session).Stall) },
		func() { at((*forwardtest.Session).Reset) },
		func() { at(func(session *forwardtest.Session) { session.Close() }) },
		func() {
			at(func(session *forwardtest.Session) {
				session.Status("NetStream.Publish.Failed", "Enough.")
				session.Close()
			})
		},
		func() { gaps = true; script.Faults.Read.Rate = s.rate(r) },
		func() { script.Faults.Read.Max = 1 + r.IntN(100) },
	}[r.IntN(10)]
	fault()
	// The fault counts only when such a connection is made.
	record := script.Recorder
	script.Recorder = func() *forwardtest.Recorder {
		s.add(&s.report.Faults, 1)
		return record()
	}
	return script
}

// rate is too slow for the stream, in bytes per second.
func (s *Soak) rate(r *rand.Rand) int {
	return max(int(float64(s.opt.VideoBitrate)/8*r.Float64()), 50)
}

// faulty decides whether the next connection has a fault, and counts it.
func (s *Soak) faulty(r *rand.Rand) bool {
	if r.Float64() >= s.opt.Faults {
		return false
	}
	s.add(&s.report.Faults, 1)
	return true
}

func (s *Soak) client(name string) forwardtest.Client {
	return forwardtest.Client{URL: "rtmp://" + strings.TrimSuffix(serverAddr, ":1935") + "/" + name, Dial: s.opt.Network.Dial}
}

// publisher publishes its stream again and again.
func (s *Soak) publisher(ctx context.Context, r *rand.Rand, i int) {
	for ctx.Err() == nil {
		s.publish(ctx, r, streamName(i))
		pause(ctx, between(r, 0, s.opt.Pause))
	}
}

func (s *Soak) publish(ctx context.Context, r *rand.Rand, name string) {
	c := s.client(name)
	end := 0
	if s.faulty(r) {
		if end = 1 + r.IntN(4); end == 4 {
			c.Dial = forwardtest.FaultDial(c.Dial, forwardtest.Faults{Write: forwardtest.Fault{Max: 1 + r.IntN(100)}})
		}
	}
	p, err := c.Publish(ctx)
	if err != nil {
		return // refused by a hook
	}
	defer p.Close()
	s.add(&s.report.Publishes, 1)
	media := forwardtest.Media{
		ID: s.ids.Add(1), FPS: s.opt.FPS, VideoBitrate: s.opt.VideoBitrate, AudioBitrate: -1,
		KeyframeInterval: between(r, time.Second, 6*time.Second).Truncate(time.Second),
	}
	length := between(r, 5*time.Second, 5*time.Minute)
	if r.IntN(20) == 0 { // a whole stream, for a short time
		media = forwardtest.Media{ID: media.ID}
		length = min(length, 10*time.Second)
	}
	if p.Send(ctx, media.Messages(length), 1) != nil {
		return // the run ends, or an operator has ended the stream
	}
	switch end {
	case 1:
		p.Vanish()
		pause(ctx, 20*time.Second)
	case 2:
		p.Reset()
	case 3:
		p.WritePart(forwardtest.Message{Type: forwardtest.TypeVideo, Payload: make([]byte, 40<<10)}, 1+r.IntN(40<<10))
	default:
		p.Unpublish()
	}
}

// player plays one stream after the other.
func (s *Soak) player(ctx context.Context, r *rand.Rand, _ int) {
	for ctx.Err() == nil {
		s.play(ctx, r, streamName(r.IntN(s.opt.Publishers)))
		pause(ctx, between(r, 0, s.opt.Pause))
	}
}

func (s *Soak) play(ctx context.Context, r *rand.Rand, name string) {
	c, rec := s.client(name), &forwardtest.Recorder{Discard: true}
	faulty := s.faulty(r)
	if faulty {
		rec.Gaps = true
		fault := []forwardtest.Fault{{Stall: int64(r.IntN(100 << 10))}, {Rate: s.rate(r)}, {Reset: 1 + int64(r.IntN(100<<10))}}
		c.Dial = forwardtest.FaultDial(c.Dial, forwardtest.Faults{Read: fault[r.IntN(len(fault))]})
	}
	setup, cancel := context.WithTimeout(ctx, time.Minute) // the client's own fault may prevent its play
	defer cancel()
	p, err := c.Play(setup, rec)
	if err != nil {
		return
	}
	s.add(&s.report.Plays, 1)
	pause(ctx, between(r, 5*time.Second, 5*time.Minute))
	if faulty && r.IntN(2) == 0 {
		p.Reset()
	}
	p.Close()
	s.check("player of "+name, rec)
}

// operator makes the changes that a host may make to live streams.
func (s *Soak) operator(ctx context.Context, r *rand.Rand, _ int) {
	for {
		pause(ctx, between(r, time.Second, 2*time.Minute))
		if ctx.Err() != nil {
			return
		}
		src := s.srv.Source(streamName(r.IntN(s.opt.Publishers)))
		if src == nil {
			continue
		}
		to := forward.Destination{URL: "rtmp://" + destination(r.IntN(s.opt.Destinations)) + "/extra/" + fmt.Sprint(r.IntN(4))}
		switch r.IntN(5) {
		case 0:
			if r.IntN(2) == 0 {
				src.Close()
			} else {
				src.Shutdown(ctx)
			}
		case 1:
			src.Refresh(ctx)
		case 2:
			src.Forward(to)
		case 3:
			if all := src.Forwarders(); len(all) > 0 {
				all[r.IntN(len(all))].Shutdown(ctx)
			}
		case 4:
			if all := src.Forwarders(); len(all) > 0 {
				update, cancel := context.WithTimeout(ctx, 20*time.Second)
				all[r.IntN(len(all))].Update(update, to)
				cancel()
			}
		}
	}
}

var errFault = errors.New("no answer today")

// draw is a random number below n, or 0 without a fault.
func (s *Soak) draw(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rng.Float64() >= s.opt.Faults {
		return 0
	}
	s.report.Faults++
	return 1 + s.rng.IntN(n)
}

// hook is each of the Server's hooks.
func (s *Soak) hook(ctx context.Context) error {
	switch s.draw(3) {
	case 1:
		return errFault
	case 2:
		panic(errFault)
	case 3:
		pause(ctx, 5*time.Second)
	}
	return nil
}

// resolve returns two of the destinations, different ones each time.
func (s *Soak) resolve(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
	switch s.draw(2) {
	case 1:
		return nil, errFault
	case 2:
		pause(ctx, 5*time.Second)
	}
	s.mu.Lock()
	first, second := s.rng.IntN(s.opt.Destinations), s.rng.IntN(s.opt.Destinations)
	s.mu.Unlock()
	var to []forward.Destination
	for _, i := range []int{first, second} {
		to = append(to, forward.Destination{URL: "rtmp://" + destination(i) + "/" + req.App + "/" + req.Stream})
	}
	return to, nil
}

// dial dials a destination. A fault makes the lookup fail, or drops what is sent.
func (s *Soak) dial(ctx context.Context, network, address string) (net.Conn, error) {
	switch s.draw(2) {
	case 1:
		return nil, &net.DNSError{Err: "no such host", Name: address, IsNotFound: true}
	case 2:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.opt.Network.Dial(ctx, network, address)
}

// check adds the result of a connection to the report.
func (s *Soak) check(who string, rec *forwardtest.Recorder) {
	r := rec.Report()
	s.add(&s.report.Frames, r.Frames)
	s.add(&s.report.Missing, r.Missing)
	for _, w := range r.Wrong {
		s.wrong("%s: %s", who, w)
	}
}

func (s *Soak) add(to *int, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*to += n
}

func (s *Soak) wrong(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.report.Wrong) < 20 {
		s.report.Wrong = append(s.report.Wrong, fmt.Sprintf(format, args...))
	}
}

// between is a random duration.
func between(r *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(r.Int64N(int64(to-from)))
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
