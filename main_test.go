package forward

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain fails when goroutines or, where the system tells, sockets are left
// after all tests.
func TestMain(m *testing.M) {
	before := sockets()
	code := m.Run()
	if testing.Verbose() {
		printMatrix()
	}
	if code == 0 {
		if left := leftGoroutines(5 * time.Second); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "%d goroutines are left:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
		http.DefaultClient.CloseIdleConnections()
		if n := sockets(); n > before {
			fmt.Fprintf(os.Stderr, "%d sockets are left\n", n-before)
			code = 1
		}
	}
	os.Exit(code)
}

// sockets is how many the process has open, 0 where the system does not tell.
func sockets() (n int) {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// leftGoroutines returns the stacks of the goroutines that are neither the
// caller's nor the testing package's. Those that are about to end may take
// that long.
func leftGoroutines(wait time.Duration) (left []string) {
	for end := time.Now().Add(wait); ; {
		buf := make([]byte, 1<<20)
		all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
		left = left[:0]
		for _, g := range all[1:] { // behind the caller's
			if !strings.Contains(g, "testing.runFuzzing") && !strings.Contains(g, "os/signal.loop") {
				left = append(left, g)
			}
		}
		if len(left) == 0 || time.Now().After(end) {
			return left
		}
		tick := time.NewTimer(time.Millisecond)
		<-tick.C
	}
}

// quiet is a logger for what is not looked at.
var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// newServer returns a Server that the end of the test closes.
func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	def(&cfg.Logger, quiet)
	s := NewServer(cfg)
	require.NoError(t, cfg.Validate())
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
