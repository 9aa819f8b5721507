package e2e

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// Log entries are searchable: an address is a single word.
func TestAddressesAreLoggedAsText(t *testing.T) {
	for want, addr := range map[string]net.Addr{
		"192.0.2.1:50000": &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 50000},
		"":                nil,
	} {
		var out bytes.Buffer
		s := newServer(t, forward.Config{Logger: secretscan.Logger(slog.NewJSONHandler(&out, nil))})
		_, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: "x", RemoteAddr: addr})
		require.NoError(t, err)
		line, _, _ := bytes.Cut(out.Bytes(), []byte("\n"))
		var entry map[string]any
		require.NoError(t, json.Unmarshal(line, &entry))
		require.Equal(t, "publish", entry["msg"])
		require.Equal(t, want, entry["addr"])
	}
}

// A player that closes its connection, which the next write notices, has left normally.
func TestLeavingPlayerIsNotLogged(t *testing.T) {
	log := new(logtest.Buffer)
	lo := onLoopback(t, forward.Config{MergeWindow: -1, Logger: secretscan.Logger(slog.NewTextHandler(log, nil))})
	pub := lo.publish("live/s")
	for range 20 {
		play, err := lo.client("live/s").Play(lo.ctx, nil)
		require.NoError(t, err)
		require.NoError(t, pub.Send(lo.ctx, steady.Messages(200*time.Millisecond), 0))
		require.NoError(t, play.Recorder().WaitFrames(lo.ctx, 1))
		play.Close()
		require.NoError(t, pub.Send(lo.ctx, steady.Messages(200*time.Millisecond), 0))
	}
	require.Eventually(t, func() bool { return lo.srv.Stats().Connections == 1 }, 10*time.Second, time.Millisecond)
	require.NotContains(t, log.String(), "connection ended")
}
