package webhook

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// maxSilent is the number of calls in a row without an answer after which only one
	// call at a time may ask the backend.
	maxSilent = 5
	// silentWait is how long another call waits for its turn to be that one, and so how
	// long a backend that has recovered has to answer before the call fails.
	silentWait = time.Second
)

// breaker keeps callers from waiting together for a backend that has not answered several
// times in a row. One caller asks. When it has got an answer, all may ask again. Any answer
// counts, even a refusal or a malformed one: a client whose request the backend can't
// handle must not stop the others.
type breaker struct {
	one chan struct{} // full while one caller asks alone

	mu     sync.Mutex
	silent int // calls in a row without an answer
	last   error
}

func newBreaker() *breaker { return &breaker{one: make(chan struct{}, 1)} }

// enter waits until the backend may be asked. If alone is true, no other caller may ask
// until leave is called, which the caller must do.
func (b *breaker) enter(ctx context.Context) (alone bool, err error) {
	if !b.isOpen() {
		return false, nil
	}
	wait := time.NewTimer(silentWait)
	defer wait.Stop()
	select {
	case b.one <- struct{}{}:
		if !b.isOpen() { // the previous caller has got an answer
			b.leave()
			return false, nil
		}
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-wait.C:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.silent < maxSilent {
		return false, nil
	}
	return false, fmt.Errorf("not asked: no answer %d times in a row, the last: %w", b.silent, b.last)
}

func (b *breaker) leave() { <-b.one }

func (b *breaker) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.silent >= maxSilent
}

// answered records an answer of any kind.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.silent, b.last = 0, nil
}

// failed records that a call got no answer.
func (b *breaker) failed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.silent++
	b.last = err
}
