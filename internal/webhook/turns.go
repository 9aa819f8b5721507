package webhook

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rtmp-forward/forward/internal/hostcode"
)

// turns limits the calls in progress, and shares them among the clients' addresses. One
// address has at most half of them, and half of the places to wait, so that it can't keep
// the others out. Waiting calls of several addresses alternate. Calls without an address
// ("") may use all.
type turns struct {
	all, share int

	mu      sync.Mutex
	taken   map[string]int // by address
	inUse   int
	waiting int
	lines   map[string]*line
	order   list.List // of *line: the address at the front is the next one
}

// line is the queue of an address's waiting calls.
type line struct {
	who   string
	calls list.List // of *waiter
	place *list.Element
}

// waiter is a call that waits for its turn.
type waiter struct {
	line  *line
	place *list.Element // nil once it has its turn
	turn  chan struct{} // closed then
}

func newTurns(n int) *turns {
	return &turns{all: n, share: (n + 1) / 2, taken: make(map[string]int), lines: make(map[string]*line)}
}

// take waits for a turn, for atMost at most. release ends the turn. The error wraps
// hostcode.ErrBusy if too many calls wait or if the time has passed.
func (t *turns) take(ctx context.Context, who string, atMost time.Duration) (release func(), err error) {
	t.mu.Lock()
	if t.free(who) {
		t.give(who)
		t.mu.Unlock()
		return func() { t.release(who) }, nil
	}
	l := t.lines[who]
	if t.waiting >= maxWaiting || who != "" && l != nil && l.calls.Len() >= maxWaiting/2 {
		under, waiting := t.inUse, t.waiting
		t.mu.Unlock()
		return nil, fmt.Errorf("%w: %d calls are under way, %d wait for a turn", hostcode.ErrBusy, under, waiting)
	}
	if l == nil {
		l = &line{who: who}
		l.place = t.order.PushBack(l)
		t.lines[who] = l
	}
	w := &waiter{line: l, turn: make(chan struct{})}
	w.place = l.calls.PushBack(w)
	t.waiting++
	t.mu.Unlock()

	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-w.turn:
		return func() { t.release(who) }, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = fmt.Errorf("%w: no turn within %v", hostcode.ErrBusy, atMost)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.place == nil { // w has got its turn meanwhile
		t.inUse--
		t.leave(who)
		t.next()
	} else {
		t.remove(w)
	}
	return nil, err
}

// underWay returns how many turns are taken.
func (t *turns) underWay() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inUse
}

func (t *turns) release(who string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inUse--
	t.leave(who)
	t.next()
}

// The methods below require that mu is held.

func (t *turns) free(who string) bool {
	return t.inUse < t.all && (who == "" || t.taken[who] < t.share)
}

func (t *turns) give(who string) {
	t.inUse++
	t.taken[who]++
}

func (t *turns) leave(who string) {
	if t.taken[who]--; t.taken[who] == 0 {
		delete(t.taken, who)
	}
}

// next gives free turns to waiting calls.
func (t *turns) next() {
	for e := t.order.Front(); e != nil && t.inUse < t.all; {
		l := e.Value.(*line)
		e = e.Next()
		if !t.free(l.who) {
			continue
		}
		w := l.calls.Front().Value.(*waiter)
		t.order.MoveToBack(l.place)
		t.remove(w)
		t.give(l.who)
		close(w.turn)
		if e == nil {
			e = t.order.Front()
		}
	}
}

// remove removes w from its line, and the line from the order if it is empty.
func (t *turns) remove(w *waiter) {
	w.line.calls.Remove(w.place)
	w.place = nil
	t.waiting--
	if w.line.calls.Len() == 0 {
		t.order.Remove(w.line.place)
		delete(t.lines, w.line.who)
	}
}
