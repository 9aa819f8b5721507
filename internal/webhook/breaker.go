package webhook

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// maxSilent is how many calls in a row may have had no answer until a
	// backend is asked by one call at a time.
	maxSilent = 5
	// silentWait is how long the others wait to be the one: as long as a
	// backend that has come back may take to be noticed.
	silentWait = time.Second
)

// breaker keeps callers from waiting together for a backend that has not answered several
// times in a row: one caller asks, and all may ask again when it has got an answer. Any
// answer counts, even a refusal or a malformed one: a client whose request the backend
// cannot handle must not stop the others.
type breaker struct {
	one chan struct{} // full while the one asks

	mu     sync.Mutex
	silent int // calls in a row without an answer
	last   error
}

func newBreaker() *breaker { return &breaker{one: make(chan struct{}, 1)} }

// enter waits until the backend may be asked. alone says that there is no other request
// meanwhile; then leave must be called.
func (b *breaker) enter(ctx context.Context) (alone bool, err error) {
	if !b.isOpen() {
		return false, nil
	}
	wait := time.NewTimer(silentWait)
	defer wait.Stop()
	select {
	case b.one <- struct{}{}:
		if !b.isOpen() { // the one before has had an answer
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

// answered notes an answer, whatever it was.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.silent, b.last = 0, nil
}

// failed notes that there was none.
func (b *breaker) failed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.silent++
	b.last = err
}
