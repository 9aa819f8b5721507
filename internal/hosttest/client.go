package hosttest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// slowClose is a connection that closes slowly, like TLS with a peer that does not
// read.
type slowClose struct {
	net.Conn
	takes time.Duration
}

func (c slowClose) Close() error {
	time.Sleep(c.takes)
	return c.Conn.Close()
}

// ReadsAt is the Script of a destination or player that reads this many bytes per
// second.
func ReadsAt(rate int) forwardtest.Script {
	return forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Rate: rate}}}
}

// Listener returns a client, and a function that returns what the client was sent.
func Listener(t *testing.T, s *forward.Server, sends string) (heard func() string) {
	nc, err := forwardtest.Direct(s)(t.Context(), "tcp", "h:1935")
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, rtmp.ClientHandshake(nc, false))
	all := new(logtest.Buffer)
	go io.Copy(all, nc)
	_, err = nc.Write([]byte(sends))
	require.NoError(t, err)
	synctest.Wait()
	return all.String
}

// Heard is a player's connection that keeps what it receives.
type Heard struct {
	net.Conn
	mu sync.Mutex
	b  bytes.Buffer
}

func (h *Heard) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b.Write(p[:n])
	return n, err
}

// Bytes is the number of bytes received.
func (h *Heard) Bytes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.Len()
}

// Messages returns the complete messages received after the answer to play.
func (h *Heard) Messages(t testing.TB) (out []chunk.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := chunk.NewReader(bytes.NewReader(h.b.Bytes()[1+2*1536:]), 1<<10, rtmptest.NoLimits)
	for {
		m, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		m.Payload = bytes.Clone(m.Payload)
		out = append(out, m)
	}
	started := func(m chunk.Message) bool { return bytes.Contains(m.Payload, []byte("NetStream.Play.Start")) }
	return out[slices.IndexFunc(out, started)+1:]
}

// WithoutKeyframes drops keyframes and returns every other message.
func WithoutKeyframes(media forwardtest.Media, drop ...uint8) func(func(forwardtest.Message) bool) {
	return func(yield func(forwardtest.Message) bool) {
		for m := range media.Messages(time.Minute) {
			keyframe := m.Type == forward.TagVideo && m.Payload[0] == 0x17 && m.Payload[1] != 0
			for _, typ := range drop {
				keyframe = keyframe || m.Type == typ
			}
			if !keyframe && !yield(m) {
				return
			}
		}
	}
}

// Encoder returns the connection of an encoder that has completed the handshake and
// sent b.
func Encoder(t *testing.T, s *forward.Server, sends string) net.Conn {
	nc, err := forwardtest.Direct(s)(t.Context(), "tcp", "h:1935")
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, rtmp.ClientHandshake(nc, false))
	go io.Copy(io.Discard, nc) // the peer must read, or writes block
	_, err = nc.Write([]byte(sends))
	require.NoError(t, err)
	synctest.Wait()
	return nc
}

// ConnFrom is a connection with a given remote address.
type ConnFrom struct {
	net.Conn
	Addr net.Addr
}

func (a ConnFrom) RemoteAddr() net.Addr { return a.Addr }

// Addr is the text of an address.
type Addr string

func (a Addr) Network() string { return "tcp" }
func (a Addr) String() string  { return string(a) }

// OtherStream is another publisher's stream, with its own timestamps.
var OtherStream = forwardtest.Media{ID: 2, KeyframeInterval: time.Second, AudioBitrate: 32_000, Start: 5000}
