package forwardtest_test

import (
	"log/slog"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

// logger writes to the test's log.
func logger(t testing.TB) *slog.Logger {
	return secretscan.Logger(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// world is a Server in a network in memory, in a bubble.
type world struct{ *hosttest.Bubble }

// bubble runs f in a bubble, with a Server at server:1935 that pushes to the
// destinations.
func bubble(t *testing.T, cfg forward.Config, f func(w *world)) {
	cfg.Logger = logger(t)
	hosttest.InBubble(t, cfg, func(b *hosttest.Bubble) { f(&world{b}) })
}

// name is that of the stream.
const name = "live/" + secretscan.Canary

// destination is at a:1935, where pushing sends streams.
func (w *world) destination(scripts ...forwardtest.Script) *forwardtest.Destination {
	return w.Destination("a:1935", scripts...)
}

// pushing sends each stream to rtmp://a/live/KEY.
var pushing = forward.Config{Resolver: forward.MustStatic("rtmp://a/live/" + secretscan.Canary)}

func (w *world) client() forwardtest.Client {
	return forwardtest.Client{URL: "rtmp://server/" + name, Dial: w.Net.Dial}
}

func (w *world) publish() *forwardtest.Publisher {
	w.Helper()
	p, err := w.client().Publish(w.Ctx)
	require.NoError(w, err)
	w.Cleanup(func() { p.Close() })
	return p
}

// forwarder is the only one of the only stream.
func (w *world) forwarder() *forward.Forwarder {
	w.Helper()
	synctest.Wait()
	require.Len(w, w.Server.Sources(), 1)
	require.Len(w, w.Server.Sources()[0].Forwarders(), 1)
	return w.Server.Sources()[0].Forwarders()[0]
}

var names = hosttest.CommandNames

var media = forwardtest.Media{KeyframeInterval: time.Second}

func collect(m forwardtest.Media, d time.Duration) []forwardtest.Message {
	return slices.Collect(m.Messages(d))
}
