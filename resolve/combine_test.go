package resolve

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/stretchr/testify/require"
)

// answering is a resolver with one answer.
func answering(ttl time.Duration, err error, urls ...string) forward.DestinationResolver {
	return ttlFunc(func(context.Context, *forward.Request) ([]forward.Destination, time.Duration, error) {
		ds := make([]forward.Destination, len(urls), len(urls)+1)
		for i, u := range urls {
			ds[i].URL = u
		}
		return ds, ttl, err
	})
}

func TestUnion(t *testing.T) {
	down := errors.New("down")
	a, b, c := "rtmp://h/app/a", "rtmp://h/app/b", "rtmp://h/app/c"
	for _, tt := range []struct {
		name string
		r    forward.DestinationResolver
		urls []string
		ttl  time.Duration
		err  error
	}{
		{"none", Union(), nil, 0, nil},
		{"in order, each once", Union(answering(0, nil, a, b), answering(0, nil, b, c)), []string{a, b, c}, 0, nil},
		{"shortest time", Union(answering(0, nil, a), answering(9, nil, b), answering(5, nil), answering(7, nil)), []string{a, b}, 5, nil},
		{"any error", Union(answering(0, nil, a), answering(0, down)), nil, 0, down},
	} {
		ds, ttl, err := forward.ResolveTTL(t.Context(), tt.r, seedRequest())
		require.ErrorIs(t, err, tt.err, tt.name)
		require.Equal(t, tt.urls, destinationURLs(ds), tt.name)
		require.Equal(t, tt.ttl, ttl, tt.name)
	}
}

func TestUnionKeepsDestinationsThatDifferInOptions(t *testing.T) {
	chunked := forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
		return []forward.Destination{{URL: "rtmp://h/app/a", ChunkSize: 4096}, {URL: "rtmp://h/app/a"}}, nil
	})
	ds, err := Union(answering(0, nil, "rtmp://h/app/a"), chunked).ResolveDestinations(t.Context(), seedRequest())
	require.NoError(t, err)
	require.Len(t, ds, 2)
}

func TestFirstOf(t *testing.T) {
	down, refused := errors.New("down"), errors.Join(forward.ErrRefused)
	a, b := "rtmp://h/app/a", "rtmp://h/app/b"
	for _, tt := range []struct {
		name string
		r    forward.DestinationResolver
		urls []string
		ttl  time.Duration
		err  error
	}{
		{"none", FirstOf(), nil, 0, nil},
		{"the first", FirstOf(answering(9, nil, a), answering(5, nil, b)), []string{a}, 9, nil},
		{"the first without error", FirstOf(answering(9, down, a), answering(5, nil, b)), []string{b}, 5, nil},
		{"no destinations is an answer", FirstOf(answering(0, nil), answering(0, nil, b)), nil, 0, nil},
		{"all down", FirstOf(answering(0, down), answering(0, down)), nil, 0, down},
		{"a refusal stands", FirstOf(answering(0, refused), answering(0, nil, b)), nil, 0, forward.ErrRefused},
	} {
		ds, ttl, err := forward.ResolveTTL(t.Context(), tt.r, seedRequest())
		require.ErrorIs(t, err, tt.err, tt.name)
		require.Equal(t, tt.urls, destinationURLs(ds), tt.name)
		require.Equal(t, tt.ttl, ttl, tt.name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := FirstOf(answering(0, down), answering(0, nil, b)).ResolveDestinations(ctx, seedRequest())
	require.ErrorIs(t, err, down, "nobody waits any more")
}

func TestWith(t *testing.T) {
	shared := []forward.Destination{{URL: "rtmp://h/app/a"}}
	r := forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) { return shared, nil })
	ds, err := With(r, func(req *forward.Request, d *forward.Destination) { d.FlashVer = req.Stream }).ResolveDestinations(t.Context(), seedRequest())
	require.NoError(t, err)
	require.Equal(t, []forward.Destination{{URL: "rtmp://h/app/a", FlashVer: "livestream"}}, ds)
	require.Empty(t, shared[0].FlashVer, "the resolver's own slice is not touched")

	ds, ttl, err := forward.ResolveTTL(t.Context(), With(answering(5, nil), nil), seedRequest())
	require.NoError(t, err)
	require.Empty(t, ds)
	require.EqualValues(t, 5, ttl)
}
