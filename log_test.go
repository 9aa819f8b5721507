package forward

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/secretscan"
)

// Each entry of the log is for people who search it: an address is one word.
func TestAddressesAreLoggedAsText(t *testing.T) {
	for want, addr := range map[string]net.Addr{
		"192.0.2.1:50000": &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 50000},
		"":                nil,
	} {
		var out bytes.Buffer
		s := newServer(t, Config{Logger: secretscan.Logger(slog.NewJSONHandler(&out, nil))})
		_, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: "x", RemoteAddr: addr})
		require.NoError(t, err)
		line, _, _ := bytes.Cut(out.Bytes(), []byte("\n"))
		var entry map[string]any
		require.NoError(t, json.Unmarshal(line, &entry))
		require.Equal(t, "publish", entry["msg"])
		require.Equal(t, want, entry["addr"])
	}
}
