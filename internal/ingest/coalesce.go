package ingest

import (
	"os"
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
type Coalescer struct {
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

	mu      sync.Mutex
	waiting []*Reader
	counted time.Time // when reads was last a multiple of rateEvery
}

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
	c.mu.Unlock()
	c.wg.Wait()
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
	if r.turn == nil {
		r.turn = make(chan struct{}, 1)
	}
}

func (r *Reader) leave() {
	if r.shard == nil {
		return
	}
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
	r.setLow(windowDrain) // arriving data wakes no goroutine
	s.mu.Lock()
	if !s.on.Load() {
		s.mu.Unlock()
		return 0, nil, false
	}
	r.p = p
	s.waiting = append(s.waiting, r)
	s.mu.Unlock()
	<-r.turn
	return r.n, r.readErr, r.readErr != syscall.EAGAIN
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
	var all []*Reader
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
		s.mu.Unlock()
		left := all[:0]
		for _, r := range all {
			if !r.look(now, over) {
				left = append(left, r)
			}
		}
		clear(all[len(left):])
		if all = left; over {
			return
		}
	}
}

// look reads the data that has arrived for r, which waits, and wakes r with the data, with
// an error, or because polling is over. It returns false if r has to wait on.
func (r *Reader) look(now time.Time, over bool) bool {
	n, err := r.try.now(r.raw, r.p)
	if err == syscall.EAGAIN && !over && !r.finish.Load() {
		if r.limit.IsZero() || now.Before(r.limit) {
			return false
		}
		err = os.ErrDeadlineExceeded
	}
	r.p, r.n, r.readErr = nil, n, err
	r.turn <- struct{}{}
	return true
}
