package forward

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/gop"
)

// Source is one live stream, from its publish to its unpublish. Its methods
// are safe for concurrent use.
type Source struct {
	srv   *Server
	cfg   *Config // that it began with
	req   *PublishRequest
	name  string
	vhost Vhost // Resolver apart, which a Reload may change
	began time.Time

	log    *gop.Log
	group  *fanout.Group
	memory *gop.Budget     // that counts log
	ctx    context.Context // ends with Close of the Server
	done   chan struct{}
	once   sync.Once // end
	wg     sync.WaitGroup

	publishing context.Context // ends with the publish
	unpublish  context.CancelFunc
	refreshing chan struct{} // full while a refresh is under way
	ttl        time.Duration // of the last answer; belongs to the refresh
	failing    atomic.Bool   // the last refresh of the Server's own has failed
	untried    atomic.Bool   // the resolver is new and has not answered yet

	live   bool // guarded by srv.mu
	hooked bool // OnPublish has accepted

	mu          sync.Mutex
	publisher   interface{ kick(error) }
	forwarders  []*Forwarder
	ending      bool
	closed      bool   // by Close
	stopRefresh func() // the timer of the next one
	resolver    DestinationResolver
	current     *Config // of the last Reload, else cfg; for RefreshInterval

	messages, bytes atomic.Uint64

	// Owned by the publisher's goroutine.
	framer chunk.Framer
	pace   pace
	heard  int64 // when the last message came, or the publish was accepted
}

func newSource(s *Server, cfg *Config, req *PublishRequest) *Source {
	vhost := cfg.vhost(req.Vhost)
	src := &Source{
		srv: s, cfg: cfg, req: req, name: req.Name(), vhost: vhost, began: time.Now(),
		resolver: vhost.Resolver, current: cfg,
		memory:     s.memory.Load(),
		log:        gop.New(cfg.logLimits(vhost)),
		ctx:        s.ctx,
		done:       make(chan struct{}),
		refreshing: make(chan struct{}, 1),
		framer:     chunk.Framer{Size: vhost.ChunkSize, Continuous: !cfg.RawTimestamps},
	}
	src.publishing, src.unpublish = context.WithCancel(s.ctx)
	src.group = fanout.NewGroup(src.log, s.pool)
	src.log.SetBudget(src.memory)
	return src
}

// Name is the stream's name, as PublishRequest.Name gives it.
func (s *Source) Name() string { return s.name }

// ID names the stream where its name may be a secret: 16 hex digits that tell
// nothing about it, the same for the same name as long as the process lives.
func (s *Source) ID() string { return s.req.id() }

// Request is what the publisher asked for. It must not be changed.
func (s *Source) Request() *PublishRequest { return s.req }

// Done is closed when the stream and everything that sent it have ended.
func (s *Source) Done() <-chan struct{} { return s.done }

// Forwarders returns those that push the stream now.
func (s *Source) Forwarders() []*Forwarder {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.forwarders)
}

// Forward pushes the stream to one more destination, from its last keyframe
// on, until the stream ends or the Forwarder is closed. A refresh leaves it
// alone.
func (s *Source) Forward(d Destination) (*Forwarder, error) {
	f, err := newForwarder(s, d)
	if err != nil {
		return nil, err
	}
	if err := s.forward(f); err != nil {
		return nil, err
	}
	return f, nil
}

// forward starts f.
func (s *Source) forward(f *Forwarder) (err error) {
	defer func() {
		if err != nil {
			f.cancel()
		}
	}()
	s.srv.mu.Lock()
	if l := s.srv.cfg.Load().Limits.TotalDestinations; l >= 0 && s.srv.pushes >= l {
		s.srv.mu.Unlock()
		return fmt.Errorf("%w: %d destinations in all", ErrLimit, l)
	}
	s.srv.pushes++
	s.srv.mu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.srv.cfg.Load().Limits.Destinations
	switch {
	case s.ending:
		err = fmt.Errorf("forward %s: %w", s.req.logName(), errEnded)
	case l >= 0 && len(s.forwarders) >= l:
		err = fmt.Errorf("%w: %d destinations of a stream", ErrLimit, l)
	}
	if err != nil {
		s.srv.pushed(-1)
		return err
	}
	s.forwarders = append(s.forwarders, f)
	s.wg.Go(f.run)
	return nil
}

// remove takes out a forwarder that has ended.
func (s *Source) remove(f *Forwarder) {
	s.srv.pushed(-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forwarders = slices.DeleteFunc(s.forwarders, func(o *Forwarder) bool { return o == f })
}

// SourceStats is a snapshot of a Source. Counters only grow.
type SourceStats struct {
	Since      time.Time
	Bytes      uint64 // received, with their framing
	Messages   uint64
	VideoCodec string // empty while none is known
	AudioCodec string
	// LogMessages and LogBytes are what is kept for those who lag and for
	// new players.
	LogMessages int
	LogBytes    int
}

// Stats returns a snapshot.
func (s *Source) Stats() SourceStats {
	st := SourceStats{Since: s.began, Bytes: s.bytes.Load(), Messages: s.messages.Load()}
	info := s.log.Info()
	if info.Video != 0 {
		st.VideoCodec = info.Video.String()
	}
	if info.Audio != 0 {
		st.AudioCodec = info.Audio.String()
	}
	st.LogMessages, st.LogBytes = s.log.Len()
	return st
}

// ErrKicked is what a publisher inside the process gets after Source.Close.
var ErrKicked = errors.New("forward: the stream was closed by the host")

// Close ends the stream: its publisher is told and disconnected, what is in
// the log is sent, the destinations are told. It returns at once; see Done.
func (s *Source) Close() {
	s.mu.Lock()
	s.closed = true
	p := s.publisher
	s.mu.Unlock()
	s.end()
	if p != nil {
		p.kick(ErrKicked)
	}
}

// Format writes the stream's name as in the log, for every verb.
func (s *Source) Format(f fmt.State, _ rune) { io.WriteString(f, s.req.logName()) }

func (s *Source) setPublisher(p interface{ kick(error) }) {
	s.mu.Lock()
	s.publisher = p
	closed := s.closed
	s.mu.Unlock()
	if closed {
		p.kick(ErrKicked)
	}
}

// start makes an accepted stream live.
func (s *Source) start(dests []Destination, ttl time.Duration) error {
	s.forwardAll(dests)
	s.ttl = ttl
	s.refreshAfter(ttl)
	players, err := s.srv.enliven(s)
	if err != nil {
		s.end()
		return err
	}
	s.srv.log.Info("publish", "source", s.req.logName(), "addr", logAddr(s.req.RemoteAddr), "destinations", len(dests))
	for _, p := range players {
		p.attach(s)
	}
	s.adopt()
	return nil
}

var errEnded = errors.New("the stream has ended")

// refreshRetry is how soon the Resolver is asked again at the latest when it
// has failed and its last answer had a time.
const refreshRetry = time.Minute

// resolve asks where the stream goes. The same destination twice counts once.
func (s *Source) resolve(ctx context.Context) (dests []Destination, ttl time.Duration, err error) {
	s.mu.Lock()
	r := s.resolver
	s.mu.Unlock()
	err = s.srv.guard("Resolver", func() (err error) {
		dests, ttl, err = resolveTTL(ctx, r, s.req)
		return err
	})
	return distinct(slices.Clone(dests)), ttl, err
}

// Refresh asks the Resolver again where the stream goes. Destinations that it
// gives as before are not disturbed, new ones begin with the last keyframe,
// those it does not give any more are told that the stream has ended and
// disconnected, for which Refresh does not wait. What Forward has added stays.
// When the Resolver returns an error, so does Refresh, and nothing changes.
//
// The Server calls Refresh by itself every Config.RefreshInterval, or when the
// time of an answer (TTLResolver) has passed, whichever is earlier.
func (s *Source) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.publishing, func() { cancel(errEnded) })()
	select {
	case s.refreshing <- struct{}{}:
		defer func() { <-s.refreshing }()
	case <-ctx.Done():
		return fmt.Errorf("refresh %s: %w", s.req.logName(), context.Cause(ctx))
	}
	dests, ttl, err := s.resolve(asRefresh(ctx))
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		again := min(s.ttl, refreshRetry)
		if s.untried.Load() {
			again = refreshRetry
		}
		s.refreshAfter(again)
		return fmt.Errorf("refresh %s: %w", s.req.logName(), err)
	}
	s.untried.Store(false)
	s.ttl = ttl
	s.refreshAfter(ttl)
	fresh, gone := s.compare(dests)
	for _, f := range gone {
		f.beginClose()
		s.background(func() { f.Close(s.ctx) })
	}
	s.forwardAll(fresh)
	if len(fresh)+len(gone) > 0 {
		s.srv.log.Info("refresh", "source", s.req.logName(), "new", len(fresh), "gone", len(gone))
	}
	return nil
}

// compare returns which destinations have no forwarder yet, and which
// forwarders of the resolver are not wanted any more.
func (s *Source) compare(dests []Destination) (fresh []Destination, gone []*Forwarder) {
	running := make(map[string][]*Forwarder)
	for _, f := range s.Forwarders() {
		if !f.isEnded() {
			running[f.id] = append(running[f.id], f)
		}
	}
	wanted := make(map[*Forwarder]bool)
	for _, d := range dests {
		same := running[d.id()]
		if i := slices.IndexFunc(same, func(f *Forwarder) bool { return f.dst.equal(d.withDefaults()) }); i >= 0 {
			wanted[same[i]] = true
		} else {
			fresh = append(fresh, d)
		}
	}
	for _, same := range running {
		for _, f := range same {
			if f.resolved && !wanted[f] {
				gone = append(gone, f)
			}
		}
	}
	return fresh, gone
}

// forwardAll adds destinations that the resolver has given.
func (s *Source) forwardAll(dests []Destination) {
	for _, d := range dests {
		f, err := newForwarder(s, d)
		if err == nil {
			f.resolved = true
			err = s.forward(f)
		}
		if err != nil {
			s.srv.log.Warn("destination skipped", "source", s.req.logName(), "destination", d, "err", err)
		}
	}
}

// refreshAfter sets the time of the next refresh, if there is one.
func (s *Source) refreshAfter(ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopRefresh != nil {
		s.stopRefresh()
	}
	d := shorterTTL(max(s.current.RefreshInterval, 0), ttl)
	if d <= 0 || s.ending {
		return
	}
	d = max(d, minHookTTL) + rand.N(max(d/10, 1))
	s.stopRefresh = later(d, func() { s.background(s.refreshSelf) })
}

// refreshSelf is a refresh of the Server's own.
func (s *Source) refreshSelf() {
	err := s.Refresh(s.publishing)
	if failing := s.failing.Swap(err != nil); err != nil && !failing && !errors.Is(err, errEnded) {
		s.srv.log.Warn("refresh", "err", err) // once for a row of failures
	}
}

// background runs f unless the stream has ended, whose end waits for it.
func (s *Source) background(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ending {
		s.wg.Go(f)
	}
}

// abandon ends a stream that was not accepted after all.
func (s *Source) abandon() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.unpublish()
	s.once.Do(func() { s.finish() })
}

// end ends the stream. It may be called more than once. The name is free when
// it returns.
func (s *Source) end() {
	s.once.Do(func() {
		s.srv.release(s)
		s.mu.Lock()
		s.ending = true
		forwarders := slices.Clone(s.forwarders)
		if s.stopRefresh != nil {
			s.stopRefresh()
		}
		s.mu.Unlock()
		s.unpublish()
		for _, f := range forwarders {
			f.sourceEnded() // first: a destination that is told may close at once
		}
		s.log.End()
		s.group.End()
		go s.finish()
	})
}

// finish waits for what the stream has started.
func (s *Source) finish() {
	defer s.srv.wg.Done()
	s.wg.Wait()
	s.log.Release()
	if f := s.cfg.Hooks.OnUnpublish; f != nil && s.hooked {
		s.srv.guard("OnUnpublish", func() error { f(context.WithoutCancel(s.ctx), s.req); return nil })
	}
	if s.log.Ended() {
		s.srv.log.Info("unpublish", "source", s.req.logName(),
			"after", time.Since(s.began).Round(time.Millisecond), "bytes", s.bytes.Load())
	}
	close(s.done)
}

// silent returns how long a publisher may send no media, where it has sent none
// for longer.
func (s *Source) silent(now int64) (limit time.Duration, silent bool) {
	limit = s.vhost.ReadTimeout
	if s.messages.Load() == 0 {
		limit = s.vhost.FirstMediaTimeout
	}
	return limit, limit >= 0 && now-s.heard > int64(limit)
}

// message takes a message of the publisher, whose goroutine it is called by.
func (s *Source) message(m chunk.Message, now int64) error {
	switch m.Type {
	case chunk.TypeAudio, chunk.TypeVideo:
		if m.Frame == nil {
			m.Frame = s.framer.Frame(m.Header, m.Payload)
		}
		s.append(m.Frame, m.Frame, now)
	case chunk.TypeData:
		s.data(m.Time, m.Payload, false, now)
	case chunk.TypeDataAMF3:
		s.data(m.Time, m.Payload, true, now)
	case chunk.TypeAggregate:
		return splitAggregate(m, func(h chunk.Header, payload []byte) {
			switch h.Type {
			case chunk.TypeAudio, chunk.TypeVideo:
				f := s.framer.Frame(h, payload)
				s.append(f, f, now)
			case chunk.TypeData:
				s.data(h.Time, payload, false, now)
			}
		})
	}
	return nil
}

// data takes a data message: to players it goes without @setDataFrame, to
// destinations metadata goes with it and all else as it came. An AMF3 data
// message is an AMF0 one behind a format byte.
func (s *Source) data(ms uint32, body []byte, amf3 bool, now int64) {
	t := flv.Data(body, amf3)
	body = body[t.Head:]
	plain := body[t.Payload-t.Head:]
	if len(plain) == 0 {
		return
	}
	h := chunk.Header{Type: chunk.TypeData, Time: ms}
	frame := s.framer.Frame(h, plain)
	push := frame
	switch {
	case t.Set:
		push = s.framer.Frame(h, body)
	case t.OnMetaData && !t.Clear:
		push = s.framer.Frame(h, slices.Concat([]byte(flv.SetDataFrame), plain))
	}
	s.append(frame, push, now)
}

// append takes a message. One without a body is of no use to anybody, and some
// servers can't stand it.
func (s *Source) append(frame, push *chunk.Frame, now int64) {
	if frame.Length == 0 {
		return
	}
	s.log.Append(frame, push, now)
	s.memory.Shed(now)
	s.pace.note(frame.Time, now)
	s.messages.Add(1)
	s.bytes.Add(uint64(frame.Len()))
}

// maxAggregate bounds the messages in an aggregate.
const maxAggregate = 1024

// splitAggregate calls f for each message in an aggregate (RTMP 1.0, 7.1.6).
// Times inside count from that of the first, which is the aggregate's own.
func splitAggregate(m chunk.Message, f func(chunk.Header, []byte)) error {
	var first uint32
	p := m.Payload
	for n := 0; len(p) >= 11; n++ {
		if n == maxAggregate {
			return fmt.Errorf("%w: more than %d messages in an aggregate", chunk.ErrLimit, maxAggregate)
		}
		size := int(p[1])<<16 | int(p[2])<<8 | int(p[3])
		at := uint32(p[4])<<16 | uint32(p[5])<<8 | uint32(p[6]) | uint32(p[7])<<24
		if n == 0 {
			first = at
		}
		if 11+size > len(p) {
			return fmt.Errorf("%w: a message in an aggregate is longer than the aggregate", chunk.ErrProtocol)
		}
		f(chunk.Header{Type: p[0], Time: m.Time + at - first}, p[11:11+size])
		p = p[min(11+size+4, len(p)):] // behind it lies a back pointer
	}
	return nil
}

// cursorOptions are a player's.
func (s *Source) cursorOptions(streamID uint32, chunkSize int) gop.Options {
	return gop.Options{
		Layout: chunk.Layout{StreamID: streamID, Size: chunkSize},
		Size:   s.framer.Size,
		Live:   s.vhost.NoGOPCache,
	}
}

// A publisher that is faster than real time, such as a file sent without
// pacing, is held back while receivers that take something are behind; never
// below real time.
const (
	// paceSlack is how far its media may be ahead of the clock before it
	// counts as faster than real time, unless a receiver is in danger of
	// losing some of it.
	paceSlack = 2 * time.Second
	// paceLate is how far it may be behind the clock and catch up again.
	paceLate = 10 * time.Second
	// paceJump is a step in its times after which counting begins anew.
	paceJump = 2 * time.Second
	// paceBacklog is how many bytes the slowest receiver may be behind, where
	// that is no more than a quarter of what the log keeps.
	paceBacklog = 512 << 10
	// paceWithin is how recently a receiver must have taken something. Where
	// it is written to in turns of 64 KiB, that is noted after each.
	paceWithin = stalledAfter
	// paceNear is how far media may be ahead of the clock, whoever is behind.
	paceNear = 250 * time.Millisecond
)

// pace compares a publisher's times with the clock.
type pace struct {
	started bool
	last    uint32
	media   int64 // milliseconds of media since anchor
	anchor  int64 // on fanout.Clock
}

func (p *pace) note(ms uint32, now int64) {
	step := int64(int32(ms - p.last))
	p.last = ms
	if !p.started || step > paceJump.Milliseconds() || step < -paceJump.Milliseconds() {
		p.started, p.media, p.anchor = true, 0, now
		return
	}
	p.media += step
	// An encoder that was cut off for a while catches up; what is later than
	// that does not earn the right to hurry.
	p.anchor = max(p.anchor, now-p.media*int64(time.Millisecond)-int64(paceLate))
}

// ahead is how far the media is ahead of the clock.
func (p *pace) ahead(now int64) time.Duration {
	return time.Duration(p.media*int64(time.Millisecond) - (now - p.anchor))
}

// holdBack keeps a publisher that is faster than real time from running away
// from its receivers, which go on at a keyframe when they are too far behind.
func (s *Source) holdBack(ctx context.Context) {
	limits := s.cfg.logLimits(s.vhost)
	for {
		ahead := s.pace.ahead(fanout.Clock())
		if ahead <= paceNear {
			return
		}
		messages, bytes, age := s.group.Backlog(paceWithin)
		share := s.log.MaxBytes() / 4
		slow := messages > limits.Messages/4 || bytes > min(paceBacklog, share) || int64(age) > limits.Age/4
		if !slow || ahead <= paceSlack && bytes <= share {
			return
		}
		s.group.Wake()
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// kick tells the publisher that its stream is over and disconnects it.
func (c *conn) kick(cause error) {
	for id := range uint32(2) {
		c.out.Send(c.rt.AppendKick(nil, id, cause.Error()))
	}
	c.out.Shutdown()
	c.closeWithin(lingerTime)
}

// logName names the stream for the log. In many set-ups the stream's name is
// the key that allows publishing, so an id takes its place: 8 hex digits, the
// same for the same name as long as the process lives.
func (r *PublishRequest) logName() string {
	return streamName(r.Vhost, r.App, "#"+hashID(r.Stream)[:8])
}

// logAddr is an address for the log, whatever writes it: to JSON, a
// *net.TCPAddr would be an object. It is empty inside the process.
func logAddr(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// id names the stream where its name must not be shown: 16 hex digits, the
// same for the same name as long as the process lives.
func (r *PublishRequest) id() string { return hashID(r.Name()) }

// hashID is 16 hex digits that tell nothing about s.
func hashID(s string) string {
	h := hmac.New(sha256.New, idKey())
	io.WriteString(h, s)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func stack() string { return string(debug.Stack()) }
