//go:build unix && !race

package e2e

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// The heap and the stacks of idle connections, over loopback. The race detector's stack
// frames are larger, and the in-memory network of the tests allocates too much to be
// measured.

// Clients that send nothing.
func TestFault23_MemoryOfHalfOpen(t *testing.T) {
	const limit = 4 << 10
	each := alone(t, func() int {
		s := newServer(t, forward.Config{})
		l, _ := backlog(t)
		before := settled()
		go s.Serve(l)
		await(t, "(*conn).pend")
		return settled() - before
	})
	require.Less(t, each, limit)
	measured(23, "half-open over loopback: heap and stack of each", "<= 4 KiB", "%d B", each)
}

// Players that receive a stream and have sent messages since they joined.
func TestMemoryOfPlayers(t *testing.T) {
	const limit = 6 << 10
	// The client's own memory is measured too.
	small := chunk.Limits{Media: 64 << 10, Command: 64 << 10, Partial: 128 << 10, Streams: 16, TinySize: 64 << 10, Step: 1 << 10}
	each := alone(t, func() int {
		s := newServer(t, forward.Config{})
		pub, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: "s"})
		require.NoError(t, err)
		defer pub.Close()
		l, clients := backlog(t)
		before := settled()
		go s.Serve(l)
		for _, nc := range clients {
			require.NoError(t, rtmp.ClientHandshake(nc, false))
			send := func(p []byte) error {
				_, err := nc.Write(p)
				return err
			}
			c := rtmp.NewClient(rtmp.NewConn(nc, send, 1<<10, 4096, small),
				rtmp.Options{App: "live", TcURL: "rtmp://server/live", Key: "s"})
			require.NoError(t, c.Play())
		}
		ping := chunk.AppendUserControl(nil, 6, 1234)
		pong := chunk.AppendUserControl(nil, 7, 1234)
		for _, nc := range clients {
			_, err := nc.Write(ping)
			require.NoError(t, err)
			got := make([]byte, len(pong))
			_, err = io.ReadFull(nc, got)
			require.NoError(t, err)
			require.Equal(t, pong, got)
		}
		await(t, "(*conn).rest")
		return settled() - before
	})
	t.Logf("%d bytes", each)
	require.Less(t, each, limit)
}

const (
	aloneEnv = "FORWARD_TEST_ALONE"
	waiting  = 400 // number of measured connections
)

// alone runs f in a new process, because the runtime would reuse the goroutines of
// earlier tests. It returns the bytes per connection: the least of three processes, since a
// busy machine only adds to it (a goroutine whose stack has grown).
func alone(t *testing.T, f func() int) (each int) {
	if os.Getenv(aloneEnv) == "" {
		least := math.MaxInt
		for range 3 {
			cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
			cmd.Env = append(os.Environ(), aloneEnv+"=1")
			out, _ := cmd.CombinedOutput() // it fails if its own figure is too large
			_, figure, ok := strings.Cut(string(out), "each: ")
			require.True(t, ok, "%s", out)
			_, err := fmt.Sscan(figure, &each)
			require.NoError(t, err)
			least = min(least, each)
		}
		return least
	}
	// The runtime chooses the size of new stacks from those of existing goroutines.
	// Here most are idle, as in a server with many connections.
	stop := make(chan struct{})
	defer close(stop)
	for range 2 * waiting {
		go func() { <-stop }()
	}
	for range 2 {
		runtime.Gosched()
		runtime.GC()
	}
	each = f() / waiting
	fmt.Printf("each: %d\n", each)
	return each
}

// settled is heap without the memory that pools keep for one more collection.
func settled() int {
	runtime.GC()
	return heap()
}

// backlog returns a listener with the clients waiting in its queue.
func backlog(t *testing.T) (l net.Listener, clients []net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	for range waiting {
		nc, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { nc.Close() })
		clients = append(clients, nc)
	}
	return l, clients
}

// await waits until a goroutine of each connection is blocked in a method.
func await(t *testing.T, method string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	buf := make([]byte, 4<<20)
	for {
		n := 0
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "[IO wait]") && strings.Contains(g, method+"(") {
				n++
			}
		}
		if n == waiting {
			return
		}
		require.NoError(t, ctx.Err(), "%d wait in %s", n, method)
		runtime.Gosched()
	}
}
