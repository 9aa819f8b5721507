package hosttest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
)

// Resolver is a resolver whose answer the test sets. It counts its calls.
type Resolver struct {
	mu     sync.Mutex
	Dests  []forward.Destination
	TTL    time.Duration
	Err    error
	Hang   bool
	asked  int
	Marked int // as a refresh
}

// ResolveDestinations returns the current answer.
func (r *Resolver) ResolveDestinations(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
	ds, _, err := r.ResolveTTL(ctx, req)
	return ds, err
}

// ResolveTTL returns the current answer.
func (r *Resolver) ResolveTTL(ctx context.Context, _ *forward.Request) ([]forward.Destination, time.Duration, error) {
	r.mu.Lock()
	r.asked++
	if forward.IsRefresh(ctx) {
		r.Marked++
	}
	ds, ttl, err, hang := slices.Clone(r.Dests), r.TTL, r.Err, r.Hang
	r.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, 0, ctx.Err()
	}
	return ds, ttl, err
}

// Set changes the answer.
func (r *Resolver) Set(f func(r *Resolver)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

// Count returns the number of calls.
func (r *Resolver) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}
