package forward

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// TestMain fails if a test leaks anything.
func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

// quiet is a logger for lines that no test checks.
var quiet = secretscan.Quiet

// newServer returns a Server that is closed when the test ends. Tests outside the package use
// hosttest.NewServer.
func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	s := NewServer(cfg)
	require.NoError(t, cfg.Validate())
	leaktest.Track(t, s)
	t.Cleanup(func() {
		secretscan.Check(t.Name(), s, s.Stats(), s.Sources())
		s.Close()
	})
	return s
}

// publish publishes a stream that is closed when the test ends.
func publish(t testing.TB, s *Server, app, stream string) *Publisher {
	t.Helper()
	p, err := s.Publish(t.Context(), Request{App: app, Stream: stream, Param: "?token=" + canary})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}
