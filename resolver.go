package forward

import (
	"context"
	"errors"
	"time"
)

// DestinationResolver says where a stream goes. It is asked once for each
// accepted publish, before the publisher is answered.
//
// ResolveDestinations is called concurrently for different streams and must
// not change req. ctx ends when the publisher leaves, as that of OnPublish, or the
// Server closes. No destinations and a nil error mean that the stream is not
// forwarded; an error refuses the publisher.
//
// A resolver that logs its failures itself returns them as errors with a method
// Logged() bool that is true: where the Server asks again about a live stream, it
// does not log such an error a second time.
type DestinationResolver interface {
	ResolveDestinations(ctx context.Context, req *PublishRequest) ([]Destination, error)
}

// ResolverFunc makes a function a DestinationResolver.
type ResolverFunc func(ctx context.Context, req *PublishRequest) ([]Destination, error)

// ResolveDestinations calls f.
func (f ResolverFunc) ResolveDestinations(ctx context.Context, req *PublishRequest) ([]Destination, error) {
	return f(ctx, req)
}

// ErrRefused is wrapped by the error of a resolver that refuses a stream on
// purpose, as opposed to one that could not find out. Those of package resolve that ask
// another one instead do not go around it.
var ErrRefused = errors.New("forward: stream refused")

// TTLResolver is a DestinationResolver that also says how long its answers
// hold. All resolvers of package resolve that stand on others pass this on.
//
// ResolveTTL is ResolveDestinations with that time, after which the resolver
// may be asked again while the stream is live; 0 says nothing about it.
type TTLResolver interface {
	DestinationResolver
	ResolveTTL(ctx context.Context, req *PublishRequest) ([]Destination, time.Duration, error)
}

// resolveTTL asks any resolver.
func resolveTTL(ctx context.Context, r DestinationResolver, req *PublishRequest) ([]Destination, time.Duration, error) {
	if t, ok := r.(TTLResolver); ok {
		return t.ResolveTTL(ctx, req)
	}
	ds, err := r.ResolveDestinations(ctx, req)
	return ds, 0, err
}

// asRefresh marks a question that is asked again while the stream is live.
// Then an error leaves things as they are, and is better than an answer that
// stands in for the right one.
func asRefresh(ctx context.Context) context.Context {
	return context.WithValue(ctx, refreshKey{}, true)
}

// IsRefresh reports whether a resolver is asked again about a stream that is live:
// an error then leaves its destinations as they are.
func IsRefresh(ctx context.Context) bool { return ctx.Value(refreshKey{}) != nil }

type refreshKey struct{}

// shorterTTL is the shorter of two times, of which 0 is none.
func shorterTTL(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
