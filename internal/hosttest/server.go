package hosttest

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// ServeLoopback serves over loopback and returns the address.
func ServeLoopback(t *testing.T, s *forward.Server) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return l.Addr().String()
}

// NewServer returns a Server that is closed when the test ends.
func NewServer(t testing.TB, cfg forward.Config) *forward.Server {
	t.Helper()
	s := forward.NewServer(Watched(t, cfg))
	require.NoError(t, cfg.Validate())
	leaktest.Track(t, s)
	t.Cleanup(func() {
		Inspect(t, s)
		s.Close()
	})
	return s
}

// Watched returns cfg with a logger and an OnForward that search for secrets.
func Watched(t testing.TB, cfg forward.Config) forward.Config {
	if cfg.Logger == nil {
		cfg.Logger = secretscan.Quiet
	}
	tell := cfg.Hooks.OnForward
	cfg.Hooks.OnForward = func(f *forward.Forwarder, state forward.State, err error) {
		if err != nil {
			secretscan.Check(t.Name(), f, state, err, f.Stats())
		}
		if tell != nil {
			tell(f, state, err)
		}
	}
	return cfg
}

// Inspect searches everything that a Server reports about itself for secrets.
func Inspect(t testing.TB, s *forward.Server) {
	t.Helper()
	const token = "operator-" + secretscan.Canary
	secretscan.Check(t.Name(), s, s.Stats())
	for _, src := range s.Sources() {
		secretscan.Check(t.Name(), src, src.ID(), src.Request(), src.Stats())
		for _, f := range src.Forwarders() {
			secretscan.Check(t.Name(), f, f.Destination(), f.Stats(), f.Stats().LastErr)
		}
	}
	h := ControlHandler(s, token)
	for _, path := range []string{"/sources", "/sources/" + secretscan.Canary} {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		secretscan.Check(t.Name(), w.Result().Header, w.Body)
	}
}

// DialTo returns a dialer of in-memory connections to a Server. Each is served until it
// ends.
func DialTo(s *forward.Server) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go s.ServeConn(context.Background(), theirs)
		return ours, nil
	}
}

// Publish publishes a stream that is closed when the test ends.
func Publish(t testing.TB, s *forward.Server, app, stream string) *forward.Publisher {
	t.Helper()
	p, err := s.Publish(t.Context(), forward.Request{App: app, Stream: stream, Param: "?token=" + secretscan.Canary})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// RaceDetector reports whether the race detector is on.
func RaceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// NeverDials is a Dial that never succeeds.
func NeverDials(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("connection refused")
}
