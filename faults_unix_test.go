//go:build unix

package forward

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

const fewFilesEnv = "FORWARD_TEST_FEW_FILES"

// A server in a process of its own that may open 48 files: it says where it
// listens, and serves until its standard input ends.
func TestServeWithFewFiles(t *testing.T) {
	if os.Getenv(fewFilesEnv) == "" {
		return // it is for TestFault24_NoFilesLeft
	}
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 48, Max: 48}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newServer(t, Config{Limits: Limits{Connections: -1, PendingHandshakes: -1}})
	go s.Serve(l)
	fmt.Printf("listening %s\n", l.Addr())
	io.Copy(io.Discard, os.Stdin)
}

func TestFault24_NoFilesLeft(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestServeWithFewFiles$")
	cmd.Env = append(os.Environ(), fewFilesEnv+"=1")
	cmd.Stderr = os.Stderr
	stop, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	defer stop.Close()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening ")
	require.True(t, ok, line)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	c := forwardtest.Client{URL: "rtmp://" + addr + "/live/ok"}
	pub, err := c.Publish(ctx)
	require.NoError(t, err)
	defer pub.Close()
	play, err := c.Play(ctx, nil)
	require.NoError(t, err)
	defer play.Close()
	sending, stopSending := context.WithCancel(ctx)
	sent := make(chan error, 1)
	go func() { sent <- pub.Send(sending, steady.Messages(-1), 1) }()

	// More than there is room for: the rest is turned away, not left waiting.
	var held []net.Conn
	for range 150 {
		nc, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer nc.Close()
		held = append(held, nc)
	}
	last := held[len(held)-1]
	last.SetReadDeadline(time.Now().Add(4 * time.Second)) // less than the handshake's
	_, err = last.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it is told that there is no room")

	for _, nc := range held {
		nc.Close()
	}
	began := time.Now()
	for {
		p, err := c.Play(ctx, nil)
		if err == nil {
			p.Close()
			break
		}
		require.NoError(t, ctx.Err())
	}
	measured(24, "no file descriptor left: back after", "<= 1 s", "%v", time.Since(began).Round(time.Millisecond))
	require.NoError(t, play.Recorder().WaitFrames(ctx, 50))
	stopSending()
	require.ErrorIs(t, <-sent, context.Canceled)
	require.NoError(t, play.Recorder().Err())
}
