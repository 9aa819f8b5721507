package ingest

import (
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Coalescer polls many connections together if each has little to read but all together
// have much. As with interrupt coalescing of a network card, one poll every 2.5 ms costs
// less than a wake-up for each message. Below coalesceFrom it does nothing, and each
// connection is read as data arrives. Its methods are safe for concurrent use.
//
// A connection that can be parked (sys.Conn, on Linux) is, while it is read this way: it
// leaves Go's poller, and one call tells which of the parked ones have data. All
// others are tried each time. A parked one returns to Go's poller when its Reader waits by
// itself or leaves, and when a writer must wait for its socket.
type Coalescer struct {
	// WakeAll, if not nil, calls Wake of all Wakers of a look (see Later). It must be
	// set before the first Reader is coalesced, and must not block.
	WakeAll func([]Waker)

	mu     sync.Mutex
	shards []*shard
	closed bool
	wg     sync.WaitGroup

	enough func(reads int, in time.Duration, members int) bool // enough, except in tests
}

const (
	// coalesceEvery is the interval between two polls, and so the longest delay of
	// a read.
	coalesceEvery = 2500 * time.Microsecond
	// Polling begins when a shard reads coalesceFrom times a second and, on
	// average, coalesceFromEach times for each connection: from there on a poll
	// costs less than the wake-ups. It ends below half of these rates. With fewer
	// connections than coalesceMembers it is not worth the delay.
	coalesceFrom     = 2000
	coalesceFromEach = 40
	coalesceMembers  = 8
	// coalesceMuch is how many bytes a connection reads from one wait to the next
	// if it sends as fast as it can. Such a connection is not polled.
	coalesceMuch = drain
	// The rate is measured every rateEvery reads, and every rateEveryLooks polls.
	rateEvery      = 256
	rateEveryLooks = 50
	// limitEvery is how many looks there are for each look at the deadlines of
	// parked connections.
	limitEvery = 10
	// shardSize is how many connections one goroutine polls.
	shardSize = 256
)

// shard is a set of connections that are polled together.
type shard struct {
	c       *Coalescer
	members atomic.Int32
	reads   atomic.Uint32 // in total
	on      atomic.Bool
	stop    chan struct{}

	mu        sync.Mutex
	waiting   []*seat // to be tried
	parked    poller  // the others
	gathering bool    // a look goes on: see Later
	wakes     []Waker
	counted   time.Time // when reads was last a multiple of rateEvery
}

// seat is the place of a Reader in a shard.
type seat struct {
	r    *Reader
	turn chan struct{}

	// While turn is waited for these are the shard's.
	p   []byte
	n   int
	err error

	// Guarded by the shard's mu.
	fd    int  // for the poller; -1: none
	waits bool // for the poller
	again bool // there may be something that the poller has told of already
	ended bool // there is, from now on
}

// Waker passes on what has been read. Wake must not block.
type Waker interface{ Wake() }

// NewCoalescer returns a Coalescer. Close ends it.
func NewCoalescer() *Coalescer { return &Coalescer{enough: enough} }

// Close ends the Coalescer's goroutines and returns when they have ended. After it,
// connections are read as data arrives.
func (c *Coalescer) Close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		for _, s := range c.shards {
			close(s.stop)
		}
	}
	shards := c.shards
	c.mu.Unlock()
	c.wg.Wait()
	for _, s := range shards {
		s.mu.Lock()
		s.parked.close()
		s.mu.Unlock()
	}
}

// Coalesce lets c poll for r while r has no window. nil ends that.
func (r *Reader) Coalesce(c *Coalescer) {
	if r.raw == nil || r.coalescer == c {
		return
	}
	r.leave()
	r.coalescer = c
}

// join adds r to a shard of its Coalescer, if it has one.
func (r *Reader) join() {
	c := r.coalescer
	if c == nil || r.shard != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.shards, func(s *shard) bool { return s.members.Load() < shardSize })
	if i < 0 {
		i = len(c.shards)
		c.shards = append(c.shards, &shard{c: c, stop: make(chan struct{})})
	}
	r.shard = c.shards[i]
	r.shard.members.Add(1)
	if r.seat == nil {
		r.seat = &seat{r: r, turn: make(chan struct{}, 1), fd: -1}
	}
}

func (r *Reader) leave() {
	if r.shard == nil {
		return
	}
	unpark(r.conn)
	r.shard.members.Add(-1)
	r.shard = nil
	if r.window <= 0 {
		r.setLow(1)
	}
}

// together waits until the shard's goroutine has read data of r into p. ok is false if r
// has to wait by itself.
func (s *shard) together(r *Reader, p []byte) (n int, err error, ok bool) {
	if r.since >= coalesceMuch {
		return 0, nil, false
	}
	if n := s.reads.Add(1); n%rateEvery == 0 && !s.on.Load() {
		s.rate()
	}
	if !s.on.Load() {
		return 0, nil, false
	}
	if !r.park() {
		r.setLow(windowDrain) // arriving data wakes no goroutine
	}
	st := r.seat
	s.mu.Lock()
	if !s.on.Load() {
		s.mu.Unlock()
		return 0, nil, false
	}
	st.p = p
	s.waitLocked(st)
	s.mu.Unlock()
	<-st.turn
	return st.n, st.err, st.err != syscall.EAGAIN
}

// waitLocked has st looked at when it has something, where the poller tells, or else
// the next time.
func (s *shard) waitLocked(st *seat) {
	// One that Finish is called for from now on is told to Look.
	if st.fd >= 0 && !st.again && !st.r.finish.Load() {
		st.waits = true
		return
	}
	st.again = st.ended
	s.waiting = append(s.waiting, st)
}

// tryLocked has st looked at the next time, if it waits for the poller.
func (s *shard) tryLocked(st *seat) {
	if st.waits {
		st.waits = false
		s.waiting = append(s.waiting, st)
	}
}

// Parked implements sys.Watcher.
func (st *seat) Parked(fd int) bool {
	s := st.r.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.on.Load() || !s.parked.add(fd, st) {
		return false
	}
	st.fd, st.again, st.ended = fd, false, false
	return true
}

// Unparked implements sys.Watcher.
func (st *seat) Unparked(fd int) {
	s := st.r.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parked.remove(fd)
	st.fd = -1
	s.tryLocked(st)
}

// Look implements sys.Watcher.
func (st *seat) Look() {
	s := st.r.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tryLocked(st)
}

// rate begins polling if there have been enough reads.
func (s *shard) rate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	took := now.Sub(s.counted)
	s.counted = now
	if !s.c.enough(rateEvery, took, int(s.members.Load())) {
		return
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if !s.c.closed && s.on.CompareAndSwap(false, true) {
		s.c.wg.Go(s.run)
	}
}

// enough reports whether a number of reads within a time is enough to poll the members of
// a shard.
func enough(reads int, in time.Duration, members int) bool {
	need := max(coalesceFrom, coalesceFromEach*members)
	return members >= coalesceMembers && time.Duration(reads)*time.Second/time.Duration(need) >= in
}

// run polls the waiting connections until there are too few reads.
func (s *shard) run() {
	tick := time.NewTicker(coalesceEvery)
	defer tick.Stop()
	var all, read []*seat
	var wakes []Waker
	for reads, looks, since := s.reads.Load(), 1, time.Now(); ; looks++ {
		var now time.Time
		select {
		case <-s.stop:
		case now = <-tick.C:
		}
		s.mu.Lock()
		all = append(all, s.waiting...)
		clear(s.waiting)
		s.waiting = s.waiting[:0]
		over := now.IsZero()
		if !over && looks%rateEveryLooks == 0 {
			n := s.reads.Load()
			over = !s.c.enough(2*int(n-reads), now.Sub(since), int(s.members.Load()))
			reads, since = n, now
		}
		if over {
			s.on.Store(false)
		}
		read = s.parked.read(read[:0])
		if over || looks%limitEvery == 0 {
			all = s.parked.due(all, now, over)
		}
		s.gathering = !over
		s.mu.Unlock()
		for _, st := range read {
			st.turn <- struct{}{}
		}
		left := all[:0]
		for _, st := range all {
			if !st.look(now, over) {
				left = append(left, st)
			}
		}
		if over {
			return // all of them have been told
		}
		runtime.Gosched() // the Readers are first
		s.mu.Lock()
		for _, st := range left {
			s.waitLocked(st)
		}
		wakes = append(wakes, s.wakes...)
		clear(s.wakes)
		s.wakes, s.gathering = s.wakes[:0], false
		s.mu.Unlock()
		if all := s.c.WakeAll; all != nil && len(wakes) > 0 {
			all(wakes)
		} else {
			for _, w := range wakes {
				w.Wake()
			}
		}
		clear(all)
		clear(read)
		clear(wakes)
		all, wakes = all[:0], wakes[:0]
	}
}

// Later calls Wake at the end of the look that r is read by, or at once. Many small
// writes in a row cost less than each after its read: code and data of one kind stay in
// the caches. It is not for what takes long, as the others of the look wait.
func (r *Reader) Later(w Waker) {
	if s := r.shard; s != nil && s.later(w) {
		return
	}
	w.Wake()
}

func (s *shard) later(w Waker) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gathering {
		s.wakes = append(s.wakes, w)
	}
	return s.gathering
}

// look reads what has arrived for a Reader that waits, and has it go on: with that, with
// an error, or because looking is over. It is false where there is nothing.
func (st *seat) look(now time.Time, over bool) bool {
	r := st.r
	n, err := r.try.now(r.raw, st.p)
	if err == syscall.EAGAIN && !over && !r.finish.Load() {
		if !r.past(now) {
			return false
		}
		err = os.ErrDeadlineExceeded
	}
	st.p, st.n, st.err = nil, n, err
	st.turn <- struct{}{}
	return true
}

// past reports whether the owner's deadline is over at a time.
func (r *Reader) past(now time.Time) bool { return !r.limit.IsZero() && !now.Before(r.limit) }
