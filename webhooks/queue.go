package webhooks

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/webhook"
)

// queue holds the events that wait to be sent.
type queue struct {
	wake chan struct{} // something has changed

	mu     sync.Mutex
	items  []*item
	busy   bool   // the first is being sent
	lost   uint64 // dropped since the last that is queued
	early  bool   // the next pause ends at once
	closed bool
}

// item is an event in the queue.
type item struct {
	ev      forward.Event
	id      string // the webhook-id
	missed  uint64 // dropped immediately before it; constant from the first attempt on
	refused int    // attempts, by the receiver
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) wakeUp() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// push adds an event, and drops the oldest if more than most would wait. One that is being
// sent is not dropped.
func (q *queue) push(ev forward.Event, most int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, &item{ev: ev, id: webhook.NewID(), missed: q.lost})
	q.lost = 0
	for len(q.items) > most {
		oldest := 0
		if q.busy {
			oldest = 1
		}
		q.dropLocked(oldest)
	}
	q.wakeUp()
}

// dropLocked drops an event that was not sent. The next one tells of it. mu is held.
func (q *queue) dropLocked(at int) {
	lost := q.items[at].missed + 1
	q.items = slices.Delete(q.items, at, at+1)
	if at < len(q.items) {
		q.items[at].missed += lost
	} else {
		q.lost += lost
	}
}

// missed counts events that the reader of the Server's events has missed.
func (q *queue) missed(n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost += n
}

// next waits for the first event, which is then being sent. It is nil if there will be
// none, or ctx has ended.
func (q *queue) next(ctx context.Context) *item {
	for ctx.Err() == nil {
		q.mu.Lock()
		switch {
		case len(q.items) > 0:
			defer q.mu.Unlock()
			q.busy = true
			return q.items[0]
		case q.closed:
			q.mu.Unlock()
			return nil
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
	}
	return nil
}

// sent ends an attempt to send it. done removes the event, which was taken or not.
func (q *queue) sent(it *item, done, taken bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = false
	switch {
	case !done:
	case taken:
		q.items = slices.Delete(q.items, 0, 1)
	default:
		q.dropLocked(0)
	}
}

// pause waits before the next attempt, until again at most.
func (q *queue) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for !q.isEarly() {
		select {
		case <-t.C:
			return
		case <-ctx.Done():
			return
		case <-q.wake:
		}
	}
}

func (q *queue) isEarly() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	early := q.early
	q.early = false
	return early
}

// again ends a pause.
func (q *queue) again() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.early = true
	q.wakeUp()
}

// close says that nothing is pushed any more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wakeUp()
}
