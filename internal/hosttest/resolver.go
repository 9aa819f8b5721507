package hosttest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
)

// Resolver is a resolver that answers what the test says, and counts.
type Resolver struct {
	mu     sync.Mutex
	Dests  []forward.Destination
	TTL    time.Duration
	Err    error
	Hang   bool
	asked  int
	Marked int // as a refresh
}

// ResolveDestinations answers as told.
func (r *Resolver) ResolveDestinations(ctx context.Context, req *forward.PublishRequest) ([]forward.Destination, error) {
	ds, _, err := r.ResolveTTL(ctx, req)
	return ds, err
}

// ResolveTTL answers as told.
func (r *Resolver) ResolveTTL(ctx context.Context, _ *forward.PublishRequest) ([]forward.Destination, time.Duration, error) {
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

// Count is how many questions there were.
func (r *Resolver) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}
