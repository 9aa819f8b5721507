package forward

import (
	"context"
	"errors"
	"slices"
	"time"
)

// DestinationResolver decides where a stream goes. It is asked once for each accepted
// publish, before the publisher is answered, and again for each refresh (see
// IsRefresh).
//
// ResolveDestinations is called concurrently for different streams and must not change
// req. ctx ends when the publisher leaves (see Hooks), or when the Server closes. No
// destinations and a nil error mean that the stream is not forwarded; an error refuses
// the publisher.
//
// A resolver that logs its failures itself returns errors with a method Logged() bool
// that returns true: when the Server asks again about a live stream, it does not log
// such an error a second time.
type DestinationResolver interface {
	ResolveDestinations(ctx context.Context, req *Request) ([]Destination, error)
}

// ResolverFunc is a function that is a DestinationResolver.
type ResolverFunc func(ctx context.Context, req *Request) ([]Destination, error)

// ResolveDestinations calls f.
func (f ResolverFunc) ResolveDestinations(ctx context.Context, req *Request) ([]Destination, error) {
	return f(ctx, req)
}

// ErrRefused is wrapped by the error of a resolver that refuses a stream on purpose, as
// opposed to a resolver that has failed. The resolvers of package resolve that fall back
// to another one do not do so after this error.
var ErrRefused = errors.New("forward: stream refused")

// TTLResolver is a DestinationResolver whose answers have a TTL. The resolvers of
// package resolve that combine other resolvers pass the TTL on.
//
// ResolveTTL is ResolveDestinations with the time after which the resolver may be asked
// again while the stream is live; 0 is none.
type TTLResolver interface {
	DestinationResolver
	ResolveTTL(ctx context.Context, req *Request) ([]Destination, time.Duration, error)
}

// ResolveTTL asks r. The TTL is 0 if r is not a TTLResolver. It is for resolvers that ask
// other resolvers.
func ResolveTTL(ctx context.Context, r DestinationResolver, req *Request) ([]Destination, time.Duration, error) {
	if t, ok := r.(TTLResolver); ok {
		return t.ResolveTTL(ctx, req)
	}
	ds, err := r.ResolveDestinations(ctx, req)
	return ds, 0, err
}

// asRefresh marks a context for IsRefresh.
func asRefresh(ctx context.Context) context.Context {
	return context.WithValue(ctx, refreshKey{}, true)
}

// IsRefresh reports whether a resolver is asked again about a live stream. If it cannot
// tell the destinations, it should then return an error, which leaves them unchanged,
// rather than a fallback.
func IsRefresh(ctx context.Context) bool { return ctx.Value(refreshKey{}) != nil }

type refreshKey struct{}

// distinctPlaces drops destinations that have the same place as an earlier one. It keeps
// invalid destinations, which newForwarder refuses.
func distinctPlaces(ds []Destination) []Destination {
	seen := make(map[string]bool, len(ds))
	return slices.DeleteFunc(ds, func(d Destination) bool {
		ep, err := d.endpoint()
		if err != nil {
			return false
		}
		place := ep.Place()
		defer func() { seen[place] = true }()
		return seen[place]
	})
}

// isLogged reports whether the resolver has already logged its error.
func isLogged(err error) bool {
	var l interface{ Logged() bool }
	return errors.As(err, &l) && l.Logged()
}
