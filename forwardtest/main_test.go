package forwardtest_test

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

// logger writes to the test's log.
func logger(t testing.TB) *slog.Logger {
	return secretscan.Logger(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// world is a Server in a network in memory, in a bubble.
type world struct {
	*testing.T
	ctx context.Context
	net *forwardtest.Network
	srv *forward.Server
}

// bubble runs f in a bubble, with a Server at server:1935 that pushes to the
// destinations.
func bubble(t *testing.T, cfg forward.Config, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, net: new(forwardtest.Network)}
		var cancel context.CancelFunc
		w.ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		cfg.Logger = logger(t)
		if cfg.Dial == nil {
			cfg.Dial = w.net.Dial
		}
		w.srv = forward.NewServer(cfg)
		leaktest.Track(t, w.srv)
		l, err := w.net.Listen("server:1935")
		require.NoError(t, err)
		go w.srv.Serve(l)
		defer w.srv.Close()
		defer w.inspect()
		f(w)
	})
}

// inspect looks for secrets in what the Server tells about itself.
func (w *world) inspect() {
	secretscan.Check(w.Name(), w.srv, w.srv.Stats())
	for _, src := range w.srv.Sources() {
		secretscan.Check(w.Name(), src, src.Request(), src.Stats())
		for _, f := range src.Forwarders() {
			secretscan.Check(w.Name(), f, f.Destination(), f.Stats(), f.Stats().LastErr)
		}
	}
}

// name is that of the stream.
const name = "live/" + secretscan.Canary

// destination is at a:1935, where pushing sends streams.
func (w *world) destination(scripts ...forwardtest.Script) *forwardtest.Destination {
	d := w.net.NewDestination("a:1935", scripts...)
	w.Cleanup(func() { d.Close() })
	return d
}

// pushing sends each stream to rtmp://a/live/KEY.
var pushing = forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + secretscan.Canary)}

func (w *world) client() forwardtest.Client {
	return forwardtest.Client{URL: "rtmp://server/" + name, Dial: w.net.Dial}
}

func (w *world) publish() *forwardtest.Publisher {
	w.Helper()
	p, err := w.client().Publish(w.ctx)
	require.NoError(w, err)
	w.Cleanup(func() { p.Close() })
	return p
}

func (w *world) session(d *forwardtest.Destination, n int) *forwardtest.Session {
	w.Helper()
	s, err := d.WaitSession(w.ctx, n)
	require.NoError(w, err)
	return s
}

// published waits for the n-th connection to publish.
func (w *world) published(d *forwardtest.Destination, n int) *forwardtest.Session {
	w.Helper()
	s := w.session(d, n)
	_, err := s.WaitCommand(w.ctx, "publish")
	require.NoError(w, err)
	synctest.Wait()
	return s
}

// forwarder is the only one of the only stream.
func (w *world) forwarder() *forward.Forwarder {
	w.Helper()
	synctest.Wait()
	require.Len(w, w.srv.Sources(), 1)
	require.Len(w, w.srv.Sources()[0].Forwarders(), 1)
	return w.srv.Sources()[0].Forwarders()[0]
}

func names(s interface{ Commands() []forwardtest.Command }) []string {
	var out []string
	for _, c := range s.Commands() {
		out = append(out, c.Name)
	}
	return out
}

var media = forwardtest.Media{KeyframeInterval: time.Second}

func collect(m forwardtest.Media, d time.Duration) []forwardtest.Message {
	return slices.Collect(m.Messages(d))
}
