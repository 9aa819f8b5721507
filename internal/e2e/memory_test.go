//go:build unix && !race

package e2e

import (
	"context"
	"fmt"
	"io"
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

// The heap and the stacks of connections that wait, over loopback. The frames
// of the race detector are larger, and the tests' own network is not made for
// being measured.

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

// Players that get a stream, and have said something since.
func TestMemoryOfPlayers(t *testing.T) {
	const limit = 6 << 10
	// What a client needs itself is measured, too.
	small := chunk.Limits{Media: 64 << 10, Command: 64 << 10, Partial: 128 << 10, Streams: 16, TinySize: 64 << 10, Step: 1 << 10}
	each := alone(t, func() int {
		s := newServer(t, forward.Config{})
		pub, err := s.Publish(t.Context(), forward.PublishRequest{App: "live", Stream: "s"})
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
	waiting  = 400 // connections that are measured
)

// alone runs f in a process that has not run other tests, whose goroutines the
// runtime would use again, and returns the bytes of each connection.
func alone(t *testing.T, f func() int) (each int) {
	if os.Getenv(aloneEnv) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), aloneEnv+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		_, figure, ok := strings.Cut(string(out), "each: ")
		require.True(t, ok, "%s", out)
		_, err = fmt.Sscan(figure, &each)
		require.NoError(t, err)
		return each
	}
	// How large a new stack is the runtime learns from the goroutines there
	// are: here, as in a server with many connections, most do nothing.
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

// settled is heap without what pools keep for one more collection.
func settled() int {
	runtime.GC()
	return heap()
}

// backlog returns a listener at which the clients wait.
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

// await waits until a goroutine of each connection waits in a method.
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
