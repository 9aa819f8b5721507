package browser

import (
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/flv"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/live"
	"github.com/rtmp-forward/forward/status"
)

const token = "t0ken-" + secretscan.Canary

// house is a server with the page, and its slaves.
type house struct {
	t      *testing.T
	srv    *forward.Server
	ops    *control.Server
	rtmp   string // addresses
	web    string
	slaves []*slave
}

// at listens at an address of this machine.
func at(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

const anyPort = "127.0.0.1:0"

// newHouse returns a server that forwards to some slaves.
func newHouse(t *testing.T, slaves int) *house {
	h := &house{t: t}
	var to []string
	for range slaves {
		s := &slave{t: t}
		s.begin(anyPort)
		h.slaves = append(h.slaves, s)
		to = append(to, s.addr)
	}
	h.begin(anyPort, anyPort, forward.Config{Resolver: forward.MustStatic(to...)})
	return h
}

// begin serves, also again after an end.
func (h *house) begin(rtmp, web string, cfg forward.Config) {
	h.t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	h.srv = forward.NewServer(cfg)
	h.t.Cleanup(func() { h.srv.Close() })
	var err error
	h.ops, err = control.NewServer(h.srv, control.ServerOptions{Options: control.Options{Tokens: []forward.Secret{token}}})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { h.ops.Close() })
	page := status.Handler(h.srv, status.Options{IsOperator: h.ops.IsOperator, Pictures: true})
	h.ops.Handle("GET /{$}", control.HandlerDecides, page)
	h.ops.Handle("GET /page/", control.HandlerDecides, page)
	h.ops.Handle("/sources/", control.HandlerDecides, live.New(h.srv, live.Options{Operator: h.ops.IsOperator}).Operators())
	l, w := at(h.t, rtmp), at(h.t, web)
	h.rtmp, h.web = l.Addr().String(), w.Addr().String()
	go h.srv.Serve(l)
	go h.ops.Serve(w)
}

// end ends everything but the slaves.
func (h *house) end() {
	h.ops.Close()
	h.srv.Close()
}

func (h *house) url() string { return "http://" + h.web + "/" }

// encode publishes a clip in a loop, in real time.
func (h *house) encode(clip string) {
	h.t.Helper()
	path, err := filepath.Abs("../../testdata/" + clip)
	require.NoError(h.t, err)
	var out strings.Builder
	cmd := exec.Command("ffmpeg", "-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", path, "-c", "copy", "-f", "flv",
		"rtmp://"+h.rtmp+"/live/"+secretscan.Canary)
	cmd.Stderr = &out
	require.NoError(h.t, cmd.Start())
	h.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if h.t.Failed() {
			h.t.Log(strings.ReplaceAll(out.String(), secretscan.Canary, "***"))
		}
	})
	require.Eventually(h.t, func() bool {
		for _, src := range h.srv.Sources() {
			if src.Stats().Keyframes > 0 {
				return true
			}
		}
		return false
	}, slack*2*time.Second, 10*time.Millisecond)
}

// publish publishes a clip of any codec once, without ffmpeg. The stream stays.
func (h *house) publish(clip string) {
	h.t.Helper()
	file, err := os.Open("../../testdata/" + clip)
	require.NoError(h.t, err)
	defer file.Close()
	p, err := h.srv.Publish(h.t.Context(), forward.Request{App: "live", Stream: secretscan.Canary})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { p.Close() })
	for r := flv.NewReader(file); ; {
		m, err := r.Next()
		if err == io.EOF {
			return
		}
		require.NoError(h.t, err)
		require.NoError(h.t, p.WriteTag(m.Type, m.Timestamp, m.Payload))
	}
}

// slave is a destination.
type slave struct {
	t    *testing.T
	srv  *forward.Server
	addr string
}

func (s *slave) begin(addr string) {
	s.t.Helper()
	s.srv = forward.NewServer(forward.Config{Logger: slog.New(slog.DiscardHandler)})
	s.t.Cleanup(func() { s.srv.Close() })
	l := at(s.t, addr)
	s.addr = l.Addr().String()
	go s.srv.Serve(l)
}

// kill ends the slave, as a machine without power does.
func (s *slave) kill() { s.srv.Close() }
