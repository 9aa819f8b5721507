package forward_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestReloadOfWrongConfigChangesNothing(t *testing.T) {
	r := &hosttest.Resolver{}
	s := hosttest.NewServer(t, forward.Config{Resolver: r})
	before := s.Settings()
	require.ErrorContains(t, s.Reload(forward.Config{ChunkSize: 1}), "ChunkSize is 1")
	require.Same(t, before, s.Settings())

	s.Close()
	require.ErrorIs(t, s.Reload(forward.Config{}), forward.ErrServerClosed)
	require.Same(t, before, s.Settings())

	wrong := forward.NewServer(forward.Config{ChunkSize: 1})
	defer wrong.Close()
	require.ErrorContains(t, wrong.Reload(forward.Config{}), "ChunkSize is 1")
}

func TestReloadNamesSettingsThatNeedARestart(t *testing.T) {
	var log strings.Builder
	cfg := forward.Config{Logger: secretscan.Logger(slog.NewTextHandler(&log, nil))}
	s := hosttest.NewServer(t, cfg)
	require.NoError(t, s.Reload(cfg))
	require.Empty(t, log.String())
	require.NoError(t, s.Reload(forward.Config{Addr: ":1936", Logger: secretscan.Quiet}))
	require.Contains(t, log.String(), `fields="[Addr Logger]"`)
	require.Equal(t, ":1935", s.Settings().Addr)
}

// An unchanged resolver is not asked, whatever else has changed.
func TestReloadAsksOnlyOtherResolvers(t *testing.T) {
	one := &hosttest.Resolver{}
	ofFunc := forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) { return nil, nil })
	for _, tt := range []struct {
		name string
		a, b forward.DestinationResolver
		same bool
	}{
		{"the same pointer", one, one, true},
		{"another pointer", &hosttest.Resolver{}, &hosttest.Resolver{}, false},
		{"the same entries", forward.MustStatic("a", "rtmp://b/c"), forward.MustStatic("a", "rtmp://b/c"), true},
		{"another order", forward.MustStatic("a", "b"), forward.MustStatic("b", "a"), false},
		{"functions", ofFunc, ofFunc, false},
		{"other types", forward.MustStatic("a"), ofFunc, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.same, forward.SameResolver(tt.a, tt.b))
			require.Equal(t, tt.same, forward.SameResolver(tt.b, tt.a))
		})
	}

	synctest.Test(t, func(t *testing.T) {
		r := &hosttest.Resolver{}
		s := hosttest.NewServer(t, forward.Config{Resolver: r})
		p := hosttest.Publish(t, s, "live", secretscan.Canary)
		require.NoError(t, s.Reload(forward.Config{Resolver: r, Logger: secretscan.Quiet, ReadTimeout: time.Minute}))
		synctest.Wait()
		require.Equal(t, 1, r.Count())
		require.NoError(t, s.Reload(forward.Config{Resolver: r, Logger: secretscan.Quiet, RefreshInterval: time.Minute}))
		synctest.Wait()
		require.Equal(t, 2, r.Count())
		time.Sleep(70 * time.Second)
		require.Equal(t, 3, r.Count())
		require.NoError(t, s.Reload(forward.Config{Resolver: r, Logger: secretscan.Quiet}))
		synctest.Wait()
		time.Sleep(time.Hour)
		require.Equal(t, 4, r.Count(), "asked at the reload, and no more")
		p.Close()
	})
}
