package forward

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/leak"
)

// TestMain fails when a test has left anything behind.
func TestMain(m *testing.M) {
	code := leak.Run(m)
	if testing.Verbose() {
		printMatrix()
	}
	os.Exit(code)
}

// quiet is a logger for what is not looked at.
var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// newServer returns a Server that the end of the test closes.
func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	def(&cfg.Logger, quiet)
	s := NewServer(cfg)
	require.NoError(t, cfg.Validate())
	leak.Track(t, s)
	t.Cleanup(func() { s.Close() })
	return s
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
	p, err := s.Publish(t.Context(), PublishRequest{App: app, Stream: stream})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// Bodies of H.264 tags, as far as the library looks at them.
var (
	videoHeader = []byte{0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff}
	metadata    = []byte("\x02\x00\x0aonMetaData\x08\x00\x00\x00\x00\x00\x00\x09")
)

// frame is a video frame that holds a number.
func frame(key bool, n int) []byte {
	b := []byte{0x27, 1, 0, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)}
	if key {
		b[0] = 0x17
	}
	return b
}

// countingWarnings is a logger that counts warnings.
func countingWarnings(n *atomic.Int64) *slog.Logger {
	return slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		n.Add(1)
		return len(p), nil
	}), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
