package forward

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ErrRefused is wrapped by the error of a resolver that refuses a stream on
// purpose, as opposed to one that could not find out. No FailurePolicy and no
// FirstOf goes around it.
var ErrRefused = errors.New("stream refused")

// TTLResolver is a DestinationResolver that also says how long its answers
// hold. All resolvers of this package that stand on others pass this on.
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

// ttlFunc makes a function a TTLResolver.
type ttlFunc func(ctx context.Context, req *PublishRequest) ([]Destination, time.Duration, error)

func (f ttlFunc) ResolveTTL(ctx context.Context, req *PublishRequest) ([]Destination, time.Duration, error) {
	return f(ctx, req)
}

func (f ttlFunc) ResolveDestinations(ctx context.Context, req *PublishRequest) ([]Destination, error) {
	ds, _, err := f(ctx, req)
	return ds, err
}

// Union sends a stream to the destinations of all resolvers, which it asks one
// after the other. The same destination twice counts once. An error of any is
// the error of all, and the answer holds as long as the shortest-lived of
// theirs.
func Union(resolvers ...DestinationResolver) DestinationResolver {
	return ttlFunc(func(ctx context.Context, req *PublishRequest) ([]Destination, time.Duration, error) {
		var all []Destination
		var ttl time.Duration
		for _, r := range resolvers {
			ds, t, err := resolveTTL(ctx, r, req)
			if err != nil {
				return nil, 0, err
			}
			all = append(all, ds...)
			ttl = shorterTTL(ttl, t)
		}
		return distinct(all), ttl, nil
	})
}

// FirstOf asks one resolver after the other until one answers without an
// error; that may be with no destinations. If none does, its error joins
// theirs. ErrRefused and the end of ctx stop it. It does so each time it is
// asked: to keep what a live stream has while a backend is down, use Fallback.
func FirstOf(resolvers ...DestinationResolver) DestinationResolver {
	return ttlFunc(func(ctx context.Context, req *PublishRequest) ([]Destination, time.Duration, error) {
		var errs []error
		for _, r := range resolvers {
			ds, ttl, err := resolveTTL(ctx, r, req)
			if err == nil {
				return ds, ttl, nil
			}
			errs = append(errs, err)
			if errors.Is(err, ErrRefused) || ctx.Err() != nil {
				break
			}
		}
		return nil, 0, errors.Join(errs...)
	})
}

// With lets set change the options of each destination that r gives, such as
// the ones that a URL cannot say.
func With(r DestinationResolver, set func(req *PublishRequest, d *Destination)) DestinationResolver {
	return ttlFunc(func(ctx context.Context, req *PublishRequest) ([]Destination, time.Duration, error) {
		ds, ttl, err := resolveTTL(ctx, r, req)
		ds = slices.Clone(ds)
		for i := range ds {
			set(req, &ds[i])
		}
		return ds, ttl, err
	})
}

// distinct drops, in place, what equals an earlier destination.
func distinct(ds []Destination) []Destination {
	out := ds[:0]
	seen := make(map[[2]string][]int, len(ds)) // by URL and key, indexes into out
next:
	for _, d := range ds {
		k := [2]string{d.URL, string(d.StreamKey)}
		for _, i := range seen[k] {
			if out[i].Equal(d) {
				continue next
			}
		}
		seen[k] = append(seen[k], len(out))
		out = append(out, d)
	}
	return out
}

// shorterTTL is the shorter of two times, of which 0 is none.
func shorterTTL(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
