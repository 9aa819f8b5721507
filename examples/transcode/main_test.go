package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// With the address of the test in its environment, the test binary is a transcoder.
const asTranscoder = "TRANSCODE_TEST_TRANSCODER"

func TestMain(m *testing.M) {
	if addr := os.Getenv(asTranscoder); addr != "" {
		if err := transcode(addr, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(secretscan.Main(m))
}

// transcode plays in and publishes only the audio to out until it is interrupted, or
// the test ends it. Its connection to the test shows that it is running.
func transcode(test, in, out string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	conn, err := net.Dial("tcp", test)
	if err != nil {
		return err
	}
	player, err := forwardtest.Client{URL: in}.Play(ctx, nil)
	if err != nil {
		return err
	}
	if err := player.Recorder().WaitFrames(ctx, 1); err != nil {
		return err
	}
	pub, err := forwardtest.Client{URL: out}.Publish(ctx)
	if err != nil {
		return err
	}
	go func() {
		conn.Read(make([]byte, 1))
		os.Exit(3)
	}()
	pub.Send(ctx, forwardtest.Media{VideoBitrate: -1}.Messages(-1), 1)
	return pub.Unpublish()
}

// start runs the program and returns its address.
func start(t *testing.T, args ...string) (addr string) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, append([]string{"-listen", "127.0.0.1:0"}, args...), w)
		w.Close()
	}()
	lines := bufio.NewScanner(secretscan.Reader(r))
	require.True(t, lines.Scan())
	_, addr, found := strings.Cut(lines.Text(), "addr=")
	require.True(t, found, lines.Text())
	go io.Copy(t.Output(), secretscan.Reader(r))
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return addr
}

func TestOnlyTheTranscodedStreamIsForwarded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	t.Setenv(asTranscoder, l.Addr().String())
	slave := forwardtest.NewDestination()
	defer slave.Close()
	addr := start(t, "-to", slave.URL(""), "-pause", "10ms", os.Args[0], "{in}", "{out}")

	pub, err := forwardtest.Client{URL: "rtmp://" + addr + "/live/" + secretscan.Canary + "?key=" + secretscan.Canary}.Publish(ctx)
	require.NoError(t, err)
	go pub.Send(ctx, forwardtest.Media{}.Messages(-1), 1)
	transcoder, err := l.Accept()
	require.NoError(t, err)

	forwarded := func(n int) {
		s, err := slave.WaitSession(ctx, n)
		require.NoError(t, err)
		c, err := s.WaitCommand(ctx, "publish")
		require.NoError(t, err)
		require.Equal(t, secretscan.Canary, c.String(1), "neither key nor token goes along")
		require.NoError(t, s.Recorder().WaitFrames(ctx, 10))
		for _, m := range s.Recorder().Messages() {
			require.NotEqual(t, uint8(forwardtest.TypeVideo), m.Type, "not what the encoder has sent")
		}
	}
	forwarded(1)
	require.Len(t, slave.Sessions(), 1)

	_, err = transcoder.Write([]byte{0}) // end
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, transcoder)
	require.NoError(t, err)
	// It may be refused until the server knows that the first publisher has left.
	go func() {
		for transcoder, err := l.Accept(); err == nil; transcoder, err = l.Accept() {
			defer transcoder.Close()
		}
	}()
	forwarded(2)

	require.NoError(t, pub.Unpublish())
	s, err := slave.WaitSession(ctx, 2)
	require.NoError(t, err)
	_, err = s.WaitCommand(ctx, "FCUnpublish")
	require.NoError(t, err)
}

func TestPublishIsRefused(t *testing.T) {
	addr := start(t, "none", "{in}", "{out}")
	for url, code := range map[string]string{
		"/live/livestream?vhost=transcoded":             "NetStream.Publish.Denied",
		"/live/livestream?vhost=transcoded&token=guess": "NetStream.Publish.Denied",
		"/live/a stream": "NetStream.Publish.BadName",
		"/live/$(id)":    "NetStream.Publish.BadName",
		"/a&b/c":         "NetStream.Publish.BadName",
	} {
		_, err := forwardtest.Client{URL: "rtmp://" + addr + url}.Publish(t.Context())
		require.Equal(t, code, forwardtest.RefusalCode(err), url)
	}
}

// A second publish of a name waits for the first one's transcoder to end. A command
// that cannot be run is retried until it is stopped.
func TestOneTranscoderAtATime(t *testing.T) {
	var log bytes.Buffer
	ts := &transcoders{
		command: []string{"./none", "{in}", "{out}"}, stderr: io.Discard,
		log: secretscan.Logger(slog.NewTextHandler(&log, nil)),
		min: time.Millisecond, max: time.Millisecond,
	}
	first := &forward.Request{ClientID: "first", App: "live", Stream: secretscan.Canary}
	second := &forward.Request{ClientID: "second", App: "live", Stream: secretscan.Canary}
	ts.start(first)
	ts.start(second)
	ts.stop(first)
	ts.stop(second)
	require.Empty(t, ts.running)
	require.Empty(t, ts.latest)
	before, after, _ := strings.Cut(log.String(), `msg="transcoder stopped" client=first`)
	require.NotContains(t, before, "client=second")
	require.Contains(t, after, `msg="transcoder stopped" client=second`)
}

func TestWrongUse(t *testing.T) {
	for want, args := range map[string][]string{
		"expected {in} and {out}": {"ffmpeg", "-i", "{in}"},
		"entry 1":                 {"-to", "http://host/"},
		"address":                 {"-listen", "nowhere"},
	} {
		require.ErrorContains(t, run(t.Context(), args, io.Discard), want)
	}
}
