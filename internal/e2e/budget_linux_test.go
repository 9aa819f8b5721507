//go:build !race

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

const shortOfMemoryEnv = "FORWARD_TEST_DESTINATIONS"

// The child of TestFault25_MemoryOfTheProcess: a server that pushes to the destinations
// in its environment, with defaults except those that would end a stalled destination.
// It prints its address and serves until its standard input ends.
func TestServeWithLittleMemory(t *testing.T) {
	to := os.Getenv(shortOfMemoryEnv)
	if to == "" {
		return // only a child runs it
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newServer(t, forward.Config{
		Resolver: forward.MustStatic(strings.Fields(to)...), WriteTimeout: -1, MaxLatency: time.Hour, ReadTimeout: -1,
	})
	go s.Serve(l)
	fmt.Printf("listening %s\n", l.Addr())
	io.Copy(io.Discard, os.Stdin)
	fmt.Printf("buffered %d\n", s.Stats().Buffered)
}

// The same with 128 MiB for the whole process, over loopback. GOMEMLIMIT leaves room
// for memory outside the Go runtime and some leeway for the runtime, as its
// documentation advises. The race detector needs memory of its own, so this test runs
// without it.
func TestFault25_MemoryOfTheProcess(t *testing.T) {
	const (
		limit   = 128 << 20
		goLimit = limit / 8 * 7
		streams = 200
		frames  = 400 // of 1600 bytes in each stream
	)
	healthy := forwardtest.NewDestination(forwardtest.Script{Recorder: func() *forwardtest.Recorder {
		return &forwardtest.Recorder{Discard: true}
	}})
	defer healthy.Close()
	stalled := forwardtest.NewDestination(forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 4000}}})
	defer stalled.Close()

	cmd := exec.Command(os.Args[0], "-test.run=^TestServeWithLittleMemory$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOMEMLIMIT=%d", goLimit),
		shortOfMemoryEnv+"="+healthy.URL("live/[stream]")+" "+stalled.URL("live/[stream]"))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	defer stdin.Close()
	out := bufio.NewReader(stdout)
	said := func(what string) string {
		line, err := out.ReadString('\n')
		require.NoError(t, err)
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), what+" ")
		require.True(t, ok, line)
		return rest
	}
	addr := said("listening")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := func(name string) forwardtest.Client {
		return forwardtest.Client{URL: "rtmp://" + addr + "/live/" + name}
	}
	type stream struct {
		*forwardtest.Publisher
		next func() (forwardtest.Message, bool)
	}
	var all []stream
	for i := range streams {
		p, err := client(strconv.Itoa(i)).Publish(ctx)
		require.NoError(t, err)
		defer p.Close()
		media := forwardtest.Media{ID: uint32(i), FPS: 10, KeyframeInterval: time.Second, VideoBitrate: 128_000, AudioBitrate: -1}
		next, stop := iter.Pull(media.Messages(frames * time.Second / 10))
		defer stop()
		all = append(all, stream{p, next})
	}
	// Round robin, as fast as the server accepts: it holds back publishers that outrun
	// the healthy destination.
	for more := true; more; {
		for _, s := range all {
			var m forwardtest.Message
			if m, more = s.next(); more {
				require.NoError(t, s.WriteMessage(m))
			}
		}
	}
	for n := range streams {
		s, err := healthy.WaitSession(ctx, n+1)
		require.NoError(t, err)
		require.NoError(t, s.Recorder().WaitFrames(ctx, frames))
		require.NoError(t, s.Recorder().Err())
		require.EqualValues(t, 1, s.Recorder().Report().First)
	}
	require.Len(t, healthy.Sessions(), streams)
	_, err = client("one-more").Publish(ctx)
	require.ErrorContains(t, err, "The server is short of memory, try again later.")

	peak := peakRSS(t, cmd.Process.Pid)
	require.LessOrEqual(t, peak, limit)
	stdin.Close()
	measured(25, "128 MiB, GOMEMLIMIT 112, 200 streams, 200 of 400 stalled", "RSS <= limit, no OOM kill",
		"%d MiB RSS at most; %s bytes held; %d frames, 0 lost", peak>>20, said("buffered"), streams*frames)
}
