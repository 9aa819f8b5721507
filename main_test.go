package forward

import (
	"context"
	"net"
	"net/http/httptest"
	"os"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// TestMain fails when a test has left anything behind.
func TestMain(m *testing.M) {
	code := secretscan.Main(m)
	if testing.Verbose() {
		printMatrix()
	}
	os.Exit(code)
}

// quiet is a logger for what is not looked at.
var quiet = secretscan.Quiet

// newServer returns a Server that the end of the test closes.
func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	s := NewServer(watched(t, cfg))
	require.NoError(t, cfg.Validate())
	leaktest.Track(t, s)
	t.Cleanup(func() {
		inspect(t, s)
		s.Close()
	})
	return s
}

// watched is cfg such that no secret can be told to a log or to OnForward
// unseen.
func watched(t testing.TB, cfg Config) Config {
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	tell := cfg.Hooks.OnForward
	cfg.Hooks.OnForward = func(f *Forwarder, state State, err error) {
		if err != nil {
			secretscan.Check(t.Name(), f, state, err, f.Stats())
		}
		if tell != nil {
			tell(f, state, err)
		}
	}
	return cfg
}

// inspect looks for secrets in what a Server tells about itself.
func inspect(t testing.TB, s *Server) {
	t.Helper()
	const token = "operator-" + canary
	secretscan.Check(t.Name(), s, s.Stats())
	for _, src := range s.Sources() {
		secretscan.Check(t.Name(), src, src.ID(), src.Request(), src.Stats())
		for _, f := range src.Forwarders() {
			secretscan.Check(t.Name(), f, f.Destination(), f.Stats(), f.Stats().LastErr)
		}
	}
	h := ControlHandler(s, token)
	for _, path := range []string{"/sources", "/sources/" + canary} {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		secretscan.Check(t.Name(), w.Result().Header, w.Body)
	}
}

// dialTo makes connections in memory to a Server. Each is served until it
// ends.
func dialTo(s *Server) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go s.ServeConn(context.Background(), theirs)
		return ours, nil
	}
}

// publish publishes a stream that the end of the test closes.
func publish(t testing.TB, s *Server, app, stream string) *Publisher {
	t.Helper()
	p, err := s.Publish(t.Context(), PublishRequest{App: app, Stream: stream, Param: "?token=" + canary})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// raceDetector reports whether the test has its memory beside it.
func raceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// For the files that still use the short names.
var (
	videoHeader = rtmptest.VideoHeader
	frame       = rtmptest.Frame
)

const (
	handshakeTimeout = 5 * time.Second
	readTimeout      = 10 * time.Second
	maxBytes         = 16 << 20
)
