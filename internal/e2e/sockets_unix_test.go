//go:build unix

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
)

// child is a test of this binary in a process of its own. It first prints its address,
// and ends when its standard input does.
type child struct {
	*exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	addr  string
}

func startChild(t *testing.T, test string, env ...string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0], "-test.run=^"+test+"$")}
	c.Env = append(os.Environ(), env...)
	c.Stderr = os.Stderr
	var err error
	c.stdin, err = c.StdinPipe()
	require.NoError(t, err)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() { c.stdin.Close(); c.Wait() })
	c.out = bufio.NewReader(out)
	_, err = fmt.Fscanf(c.out, "listening %s\n", &c.addr)
	require.NoError(t, err)
	return c
}

const fewFilesEnv = "FORWARD_TEST_FEW_FILES"

// The child of TestFault24_NoFilesLeft: a server that may open 48 files. It prints its
// address and serves until its standard input ends.
func TestServeWithFewFiles(t *testing.T) {
	if os.Getenv(fewFilesEnv) == "" {
		return // only a child runs it
	}
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 48, Max: 48}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newServer(t, forward.Config{Limits: forward.Limits{Connections: -1, PendingHandshakes: -1}})
	go s.Serve(l)
	fmt.Printf("listening %s\n", l.Addr())
	io.Copy(io.Discard, os.Stdin)
}

// bound reserves a port of 127.0.0.1 that refuses connections until listen is called.
type bound struct {
	fd   int
	addr string
}

func newBound(t *testing.T) *bound {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	sa, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	return &bound{fd, fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)}
}

func (b *bound) listen(t *testing.T) net.Listener {
	require.NoError(t, syscall.Listen(b.fd, 128))
	f := os.NewFile(uintptr(b.fd), "")
	defer f.Close()
	l, err := net.FileListener(f)
	require.NoError(t, err)
	return l
}

// Each destination is down for a different time below 5 s, evenly distributed.
func TestFault01_Refused_Sockets(t *testing.T) {
	t.Parallel()
	const n, longest = 48, 5 * time.Second
	healthy := destinationOf(t, discarding)
	urls := []string{healthy.URL("live/key")}
	var ports []*bound
	for range n {
		ports = append(ports, newBound(t))
		urls = append(urls, "rtmp://"+ports[len(ports)-1].addr+"/live/key")
	}
	st := &states{began: time.Now()}
	lo := onLoopback(t, forward.Config{Resolver: forward.MustStatic(urls...), Hooks: forward.Hooks{OnForward: st.note}})
	u := lo.undisturbed(lo.publish("live/ok"), steady, lo.published(healthy, 1))
	var refused []*forward.Forwarder
	for _, url := range urls[1:] {
		refused = append(refused, lo.forwarder("live/ok", url))
	}
	lo.await("an attempt of each", func() bool {
		return !slices.ContainsFunc(refused, func(f *forward.Forwarder) bool { _, at := st.losses(f); return len(at) == 0 })
	})
	back := make([]time.Duration, n)
	each := time.NewTicker(longest / n)
	defer each.Stop()
	for i, port := range ports {
		<-each.C
		back[i] = time.Since(st.began)
		d := forwardtest.NewDestinationAt(port.listen(t), discarding)
		defer d.Close()
	}
	var seen, took []time.Duration
	for i, f := range refused {
		lo.await("publishing", func() bool { return len(st.of(f, forward.StatePublishing)) > 0 })
		errs, lost := st.losses(f)
		for _, err := range errs {
			require.Equal(t, forward.OpDial, err.Op)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.True(t, err.Temporary())
		}
		seen = append(seen, lost[0]-st.of(f, forward.StateConnecting)[0])
		took = append(took, st.of(f, forward.StatePublishing)[0]-back[i])
	}
	require.LessOrEqual(t, slices.Max(took), 30*time.Second)
	measured(1, "sockets: refused: seen", "<= 50 ms", "at most %v", slices.Max(seen).Round(time.Microsecond))
	measured(1, "sockets: refused for 0 to 5 s: back after", "median <= 2 s, max <= 30 s", "median %v, max %v",
		median(took).Round(10*time.Millisecond), slices.Max(took).Round(10*time.Millisecond))
	u.check(1)
}

const shutdownEnv = "FORWARD_TEST_SHUTDOWN"

// The child of TestFault21_Terminated_Sockets: a program as a host writes it. It
// forwards to the destinations in its environment and ends with SIGTERM.
func TestServeUntilTerminated(t *testing.T) {
	if os.Getenv(shutdownEnv) == "" {
		return // only a child runs it
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var warnings atomic.Int64
	s := newServer(t, forward.Config{Resolver: forward.MustStatic(strings.Fields(os.Getenv(shutdownEnv))...), Logger: logtest.Count(&warnings, slog.LevelWarn, "")})
	served := make(chan time.Time, 1)
	go func() {
		s.Serve(l)
		served <- time.Now()
	}()
	fmt.Printf("listening %s\n", l.Addr())
	<-ctx.Done()
	began := time.Now()
	grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	require.NoError(t, s.Shutdown(grace))
	took := time.Since(began)
	fmt.Printf("listener %d shutdown %d warnings %d\n", (<-served).Sub(began), took, warnings.Load())
}

func TestFault21_Terminated_Sockets(t *testing.T) {
	t.Parallel()
	const streams = 100
	var dests []*forwardtest.Destination
	var urls []string
	for range 4 {
		d := destinationOf(t, forwardtest.Script{Recorder: func() *forwardtest.Recorder {
			return &forwardtest.Recorder{Discard: true, Gaps: true} // some machines cannot handle 500 of them
		}})
		dests, urls = append(dests, d), append(urls, d.URL("live/[stream]"))
	}
	c := startChild(t, "TestServeUntilTerminated", shutdownEnv+"="+strings.Join(urls, " "))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	media := bitrate(20_000)
	media.FPS = 5
	var pubs []chan error
	for i := range streams {
		p, err := forwardtest.Client{URL: fmt.Sprintf("rtmp://%s/live/%d", c.addr, i)}.Publish(ctx)
		require.NoError(t, err)
		defer p.Close()
		sent := make(chan error, 1)
		go func() { sent <- p.Send(ctx, media.Messages(-1), 1) }()
		pubs = append(pubs, sent)
	}
	for _, d := range dests {
		for i := range streams {
			s, err := d.WaitSession(ctx, i+1)
			require.NoError(t, err)
			require.NoError(t, s.Recorder().WaitFrames(ctx, 2))
		}
	}
	require.NoError(t, c.Process.Signal(syscall.SIGTERM))
	var closed, took time.Duration
	var warnings int
	_, err := fmt.Fscanf(c.out, "listener %d shutdown %d warnings %d\n", &closed, &took, &warnings)
	require.NoError(t, err)
	require.Zero(t, warnings, "no destination is lost: those that close have been told")
	require.LessOrEqual(t, took, 5*time.Second)
	io.Copy(io.Discard, c.out)
	require.NoError(t, c.Wait(), "exit 0, which TestMain sees to when goroutines or sockets are left")
	for _, sent := range pubs {
		require.Error(t, <-sent)
	}
	for _, d := range dests {
		require.Len(t, d.Sessions(), streams)
		for _, s := range d.Sessions() {
			<-s.Done()
			require.ErrorIs(t, s.Err(), io.EOF, "no reset")
			require.Equal(t, []string{"FCUnpublish", "deleteStream"}, names(s)[len(names(s))-2:])
			require.NoError(t, s.Recorder().Err())
		}
	}
	measured(21, "sockets: SIGTERM, 100 streams x 4", "listener closed in 10 ms, <= 5 s, each told",
		"listener closed in %v, all in %v, 400 told, no reset, exit 0", closed.Round(time.Microsecond), took.Round(time.Millisecond))
}

func TestFault24_NoFilesLeft(t *testing.T) {
	addr := startChild(t, "TestServeWithFewFiles", fewFilesEnv+"=1").addr

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

	// More than there is room for: the rest is turned away instead of left waiting.
	var held []net.Conn
	for range 150 {
		nc, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer nc.Close()
		held = append(held, nc)
	}
	last := held[len(held)-1]
	last.SetReadDeadline(time.Now().Add(4 * time.Second)) // less than the handshake timeout
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
