//go:build !race

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

const floodEnv = "FORWARD_TEST_FLOOD"

// The child of TestFault37_MemoryOfTheProcess: a server with defaults that serves until
// its standard input ends.
func TestServeFlood(t *testing.T) {
	if os.Getenv(floodEnv) == "" {
		return // only a child runs it
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newServer(t, forward.Config{ReadTimeout: -1, FirstMediaTimeout: -1})
	go s.Serve(l)
	fmt.Printf("listening %s\n", l.Addr())
	io.Copy(io.Discard, os.Stdin)
}

// peakRSS is a process's peak resident memory in bytes.
func peakRSS(t *testing.T, pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(status), "VmHWM:")
	require.True(t, ok)
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return kb << 10
}

// Publishers of messages with the largest overhead per byte, in a process of 256 MiB:
// small messages, and metadata that changes each time.
func TestFault37_MemoryOfTheProcess(t *testing.T) {
	const limit, goLimit = 256 << 20, 224 << 20
	for _, row := range []struct {
		name       string
		publishers int
		rounds     int
		send       func(p *forwardtest.Publisher, n int) error // per round of a publisher
	}{
		{"two-byte messages", 1200, 4, func(p *forwardtest.Publisher, _ int) error {
			one := chunk.Append(nil, chunk.Header{Type: chunk.TypeVideo, StreamID: 1}, []byte{0x27, 1}, 4096)
			_, err := p.Write(bytes.Repeat(one, 400))
			return err
		}},
		{"metadata of 240 KB", 100, 10, func(p *forwardtest.Publisher, n int) error {
			body := binary.BigEndian.AppendUint32([]byte("\x02\x00\x0aonMetaData\x0c"), 240_000)
			body = append(binary.BigEndian.AppendUint32(body, uint32(n)), make([]byte, 240_000-4)...)
			return p.WriteMessage(forwardtest.Message{Type: forward.TagData, Payload: body})
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := startChild(t, "TestServeFlood", floodEnv+"=1", fmt.Sprintf("GOMEMLIMIT=%d", goLimit))
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var all []*forwardtest.Publisher
			for i := range row.publishers {
				p, err := forwardtest.Client{URL: fmt.Sprintf("rtmp://%s/live/%d", c.addr, i)}.Publish(ctx)
				require.NoError(t, err)
				defer p.Close()
				require.NoError(t, p.WriteMessage(forwardtest.Message{Type: forward.TagVideo, Payload: rtmptest.Frame(true, 0)}))
				all = append(all, p)
			}
			for round := range row.rounds {
				for i, p := range all {
					require.NoError(t, row.send(p, round*len(all)+i))
				}
			}
			for _, p := range all {
				select {
				case <-p.Done():
					t.Fatal("a publisher was ended")
				default:
				}
			}
			peak := peakRSS(t, c.Process.Pid)
			require.LessOrEqual(t, peak, limit)
			measured(37, row.name+", GOMEMLIMIT 224", "RSS <= 256 MiB", "%d MiB at most", peak>>20)
		})
	}
}
