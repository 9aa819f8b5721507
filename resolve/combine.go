package resolve

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rtmp-forward/forward"
)

// ttlFunc turns a function into a forward.TTLResolver.
type ttlFunc func(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error)

func (f ttlFunc) ResolveTTL(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
	return f(ctx, req)
}

func (f ttlFunc) ResolveDestinations(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
	ds, _, err := f(ctx, req)
	return ds, err
}

// Union sends a stream to the destinations of all resolvers, which it asks one after
// the other. A destination that several resolvers return counts once. If one returns an
// error, so does Union. The TTL is the shortest of theirs.
func Union(resolvers ...forward.DestinationResolver) forward.DestinationResolver {
	return ttlFunc(func(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
		var all []forward.Destination
		var ttl time.Duration
		for _, r := range resolvers {
			ds, t, err := forward.ResolveTTL(ctx, r, req)
			if err != nil {
				return nil, 0, err
			}
			all = append(all, ds...)
			ttl = shorterTTL(ttl, t)
		}
		return distinct(all), ttl, nil
	})
}

// FirstOf asks one resolver after the other until one returns no error, even if it
// returns no destinations. If all fail, the error joins theirs. An error that wraps
// forward.ErrRefused, or the end of ctx, stops the search. The search starts again with
// the first resolver each time: to keep the destinations of a live stream while a
// backend is down, use Fallback.
func FirstOf(resolvers ...forward.DestinationResolver) forward.DestinationResolver {
	return ttlFunc(func(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
		var errs []error
		for _, r := range resolvers {
			ds, ttl, err := forward.ResolveTTL(ctx, r, req)
			if err == nil {
				return ds, ttl, nil
			}
			errs = append(errs, err)
			if errors.Is(err, forward.ErrRefused) || ctx.Err() != nil {
				break
			}
		}
		return nil, 0, errors.Join(errs...)
	})
}

// With lets set change each destination of r, for options that a URL cannot carry.
func With(r forward.DestinationResolver, set func(req *forward.Request, d *forward.Destination)) forward.DestinationResolver {
	return ttlFunc(func(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
		ds, ttl, err := forward.ResolveTTL(ctx, r, req)
		ds = slices.Clone(ds)
		for i := range ds {
			set(req, &ds[i])
		}
		return ds, ttl, err
	})
}

// distinct drops, in place, each destination that equals an earlier one.
func distinct(ds []forward.Destination) []forward.Destination {
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

// shorterTTL returns the shorter of two TTLs; 0 means none.
func shorterTTL(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
