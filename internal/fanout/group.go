package fanout

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/flow"
	"github.com/rtmp-forward/forward/internal/gop"
)

// shardSize is how many senders one goroutine serves while others may serve the next
// shard. It is also how many pointers are copied when a sender joins.
const shardSize = 128

// Group is the receivers of one log.
type Group struct {
	log  *gop.Log
	pool *Pool

	mu     sync.Mutex
	last   bool // see Release
	shards atomic.Pointer[[]*shard]
	early  atomic.Pointer[[]*Sender] // senders that do not wait for the merge window
	taps   atomic.Pointer[[]*Tap]
	armed  atomic.Bool
	timer  *time.Timer // guarded by mu

	bytes, messages atomic.Uint64 // sent to all receivers, including those that have left
	players         atomic.Int64

	metering sync.Mutex
	meter    flow.Meter // guarded by metering
	presses  *Sender    // the sender for which the publisher last waited; guarded by metering
}

type shard struct {
	group   *Group
	senders atomic.Pointer[[]*Sender]
	queued  atomic.Bool
}

// NewGroup returns a Group of l without receivers. The pool helps to serve large groups.
func NewGroup(l *gop.Log, pool *Pool) *Group {
	g := &Group{log: l, pool: pool}
	g.shards.Store(new([]*shard))
	g.early.Store(new([]*Sender))
	g.taps.Store(new([]*Tap))
	l.Slowest, l.Lagging = g.slowest, g.lagging
	return g
}

// Add adds a sender and begins to send it the log. See Sender.Attach.
func (g *Group) Add(s *Sender, o gop.Options, end func() (control []byte, shutdown bool)) {
	g.Prepare(s, o, end)
	s.Kick()
}

// Prepare is Add for a caller that holds locks which end takes. The caller calls Kick
// after it has released them.
func (g *Group) Prepare(s *Sender, o gop.Options, end func() (control []byte, shutdown bool)) {
	g.add(s)
	s.prepare(g.log, o, end)
}

func (g *Group) add(s *Sender) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.group.Store(g)
	if s.player {
		g.players.Add(1)
	}
	if s.early {
		early := append(slices.Clone(*g.early.Load()), s)
		g.early.Store(&early)
		return
	}
	shards := *g.shards.Load()
	i := slices.IndexFunc(shards, func(sh *shard) bool { return len(*sh.senders.Load()) < shardSize })
	if i < 0 {
		sh := &shard{group: g}
		sh.senders.Store(new([]*Sender))
		shards = append(slices.Clone(shards), sh)
		g.shards.Store(&shards)
		i = len(shards) - 1
	}
	senders := append(slices.Clone(*shards[i].senders.Load()), s)
	shards[i].senders.Store(&senders)
}

// Remove removes a sender from the group. It does not end sending: see Sender.Detach.
func (g *Group) Remove(s *Sender) {
	g.remove(s)
	g.metering.Lock()
	if g.presses == s {
		g.presses = nil
	}
	g.metering.Unlock()
	g.settle()
}

// Release releases the log, which has ended, as soon as its last sender has been removed
// and its taps have read all of it. No receiver of the log may be added after it.
func (g *Group) Release() {
	g.mu.Lock()
	g.last = true
	g.mu.Unlock()
	g.settle()
}

// settle releases the log if Release was called and no receiver needs it.
func (g *Group) settle() {
	g.mu.Lock()
	due := g.last && len(*g.early.Load()) == 0 && !slices.ContainsFunc(*g.taps.Load(), (*Tap).lags)
	for _, sh := range *g.shards.Load() {
		due = due && len(*sh.senders.Load()) == 0
	}
	if due {
		g.last = false
	}
	g.mu.Unlock()
	if due {
		g.log.Release()
	}
}

func (g *Group) remove(s *Sender) {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := s.early && without(&g.early, s)
	for _, sh := range *g.shards.Load() {
		found = found || without(&sh.senders, s)
	}
	if found && s.player {
		g.players.Add(-1)
	}
}

// Wrote counts n bytes that were sent to a receiver of a Tap.
func (g *Group) Wrote(n int) { g.bytes.Add(uint64(n)) }

// Sent returns what was sent to all receivers, including those that have left.
func (g *Group) Sent() (bytes, messages uint64) { return g.bytes.Load(), g.messages.Load() }

// Players returns the number of receivers that are players.
func (g *Group) Players() int { return int(g.players.Load()) }

// without removes s from a list that other goroutines read. It reports whether s was in
// the list.
func without(list *atomic.Pointer[[]*Sender], s *Sender) bool {
	old := *list.Load()
	i := slices.Index(old, s)
	if i < 0 {
		return false
	}
	senders := slices.Delete(slices.Clone(old), i, i+1)
	list.Store(&senders)
	return true
}

// Wake sends the appended messages. The caller's goroutine serves the senders, with the
// pool's help if there are many.
func (g *Group) Wake() {
	w := newWalk()
	g.wake(w)
	w.put()
}

// WakeAll calls Wake of all. The receivers of Groups are sent to in the same rounds.
func WakeAll[W interface{ Wake() }](all []W) {
	w := newWalk()
	for _, each := range all {
		if g, ok := any(each).(*Group); ok {
			g.wake(w)
		} else {
			each.Wake()
		}
	}
	w.put()
}

// wake is Wake, up to the last round of w.
func (g *Group) wake(w *walk) {
	g.armed.Store(false)
	for _, t := range *g.taps.Load() {
		t.notify()
	}
	w.walk(*g.early.Load())
	shards := *g.shards.Load()
	if len(shards) == 0 {
		return
	}
	help := len(shards) > 1 && runtime.GOMAXPROCS(0) > 1
	if help {
		for _, sh := range shards[1:] {
			if sh.queued.CompareAndSwap(false, true) {
				g.pool.offer(sh)
			}
		}
	}
	shards[0].walk(w)
	for _, sh := range shards[1:] {
		if !help || sh.queued.CompareAndSwap(true, false) || !g.pool.running() {
			sh.walk(w)
		}
	}
}

// few is how many senders a walk may have that others wait for.
const few = 4

// Few reports whether Wake takes little time.
func (g *Group) Few() bool {
	n := len(*g.early.Load())
	for _, sh := range *g.shards.Load() {
		n += len(*sh.senders.Load())
	}
	return n <= few
}

// Early reports whether a receiver has a shorter merge window than the group. The caller
// must then call WakeWithin as soon as a message has come.
func (g *Group) Early() bool { return len(*g.early.Load()) > 0 }

func (g *Group) wakeEarly() {
	early := *g.early.Load()
	if len(early) == 0 {
		return
	}
	w := newWalk()
	w.walk(early)
	w.put()
}

// WakeWithin calls Wake after the merge window, once for all messages that
// arrive in it.
func (g *Group) WakeWithin(window time.Duration) {
	if window <= 0 {
		g.Wake()
		return
	}
	g.wakeEarly()
	if g.armed.CompareAndSwap(false, true) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.timer == nil {
			g.timer = time.AfterFunc(window, g.Wake)
		} else {
			g.timer.Reset(window)
		}
	}
}

// End sends the rest after the log has ended.
func (g *Group) End() {
	g.mu.Lock()
	if g.timer != nil {
		g.timer.Stop()
	}
	g.mu.Unlock()
	g.Wake()
}

func (sh *shard) walk(w *walk) { w.walk(*sh.senders.Load()) }

// each calls f with each sender of the group.
func (g *Group) each(f func(*Sender)) {
	for _, s := range *g.early.Load() {
		f(s)
	}
	for _, sh := range *g.shards.Load() {
		for _, s := range *sh.senders.Load() {
			f(s)
		}
	}
}

// slowest returns the first message that any receiver still needs.
func (g *Group) slowest() uint64 {
	least := g.log.Head()
	g.each(func(s *Sender) {
		if seq, ok := s.needs(g.log); ok {
			least = min(least, seq)
		}
	})
	for _, t := range *g.taps.Load() {
		least = min(least, t.cursor.Next())
	}
	return least
}

// lateAfter is how long a message may wait for a receiver, beyond the receiver's merge
// window, before the receiver counts as lagging.
const lateAfter = time.Second

// late reports whether a receiver that needs the log from message seq on lags by more
// than a batch, or by lateAfter beyond its merge window. bytes is how far it lags.
func (g *Group) late(seq uint64, window time.Duration, now int64) (bytes int, late bool) {
	bytes, age := g.log.Behind(seq, now)
	return bytes, bytes > turn || age > int64(lateAfter+window)
}

// lagging finds the receiver that lags most, if it is late. It returns how many bytes of
// the log that receiver keeps, and a function that ends its connection with ErrMemory. A
// log that has ended is kept until its last receiver has left, so there it returns all
// receivers together. In a live log taps do not count, because they keep nothing and
// skip what they miss.
func (g *Group) lagging(now int64) (bytes int, cut func()) {
	if g.log.Ended() {
		return g.keeping(now)
	}
	var slowest *Sender
	least := g.log.Head()
	g.each(func(s *Sender) {
		if seq, ok := s.needs(g.log); ok && seq < least {
			if n, late := g.late(seq, s.window, now); late {
				slowest, least, bytes = s, seq, n
			}
		}
	})
	if slowest == nil {
		return 0, nil
	}
	return bytes, func() { slowest.fail(ErrMemory) }
}

// keeping is lagging for a log that has ended.
func (g *Group) keeping(now int64) (bytes int, cut func()) {
	late := false
	g.each(func(s *Sender) {
		if seq, ok := s.needs(g.log); ok && !late {
			_, late = g.late(seq, s.window, now)
		}
	})
	for _, t := range *g.taps.Load() {
		if t.lags() && !late {
			_, late = g.late(t.cursor.Next(), 0, now)
		}
	}
	if !late {
		return 0, nil
	}
	return g.log.Held(), func() {
		g.each(func(s *Sender) {
			if _, ok := s.needs(g.log); ok {
				s.fail(ErrMemory)
			}
		})
		for _, t := range *g.taps.Load() {
			if t.lags() {
				t.fail(ErrMemory)
			}
		}
	}
}

// Pool holds the goroutines that help to serve large groups: one fewer than there are
// CPUs. They are started when they are first needed.
type Pool struct {
	// Latency is the time from the arrival of a message until a receiver's
	// connection has accepted it. FirstPicture is Stats.FirstPicture of the Senders
	// with Measure.
	Latency, FirstPicture Histogram

	mu      sync.Mutex
	work    chan *shard
	started atomic.Bool
	closed  bool
	wg      sync.WaitGroup
}

// NewPool returns a Pool. Close ends it.
func NewPool() *Pool { return &Pool{work: make(chan *shard, 256)} }

func (p *Pool) running() bool { return p.started.Load() }

// offer offers a shard to the pool's goroutines, unless their queue is full: the caller
// must check whether one of them has taken the shard.
func (p *Pool) offer(sh *shard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if !p.started.Load() {
		p.started.Store(true)
		for range runtime.GOMAXPROCS(0) - 1 {
			p.wg.Go(p.run)
		}
	}
	select {
	case p.work <- sh:
	default:
	}
}

func (p *Pool) run() {
	for sh := range p.work {
		if sh.queued.CompareAndSwap(true, false) {
			w := newWalk()
			sh.walk(w)
			w.put()
		}
	}
}

// Close ends the pool's goroutines and returns when they have ended. After it, groups
// work without help.
func (p *Pool) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		p.started.Store(false)
		close(p.work)
	}
	p.mu.Unlock()
	p.wg.Wait()
}
