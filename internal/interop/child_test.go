//go:build interop

package interop

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/flv"
)

// childEnv turns the test binary into a server whose memory is measured. It holds the
// number of destinations and their address.
const childEnv = "FORWARD_INTEROP_CHILD"

// joyEnv turns the test binary into joy4's server. It holds the URL to listen on and
// the output file.
const joyEnv = "FORWARD_INTEROP_JOY4"

// child runs one of these servers: the first until its standard input ends, joy4's
// until its publisher has left. It returns false if the binary should run tests.
func child() bool {
	if url, path, ok := strings.Cut(os.Getenv(joyEnv), " "); ok {
		exitOn(joyServe(url, path))
		return true
	}
	var n int
	var addr string
	if _, err := fmt.Sscan(os.Getenv(childEnv), &n, &addr); err != nil {
		return false
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	exitOn(pushTo(ctx, n, addr))
	return true
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// pushTo publishes 4 Mbit/s of video and pushes it to an address n times.
func pushTo(ctx context.Context, n int, addr string) error {
	urls := make([]string, n)
	for i := range urls {
		urls[i] = fmt.Sprintf("rtmp://%s/live/%d", addr, i)
	}
	s := forward.NewServer(forward.Config{Resolver: forward.MustStatic(urls...)})
	defer s.Close()
	p, err := s.Publish(ctx, forward.Request{App: "live", Stream: "cam"})
	if err != nil {
		return err
	}
	defer p.Close()
	const (
		rate     = 25
		gop      = 2 * rate
		keySize  = 100_000
		meanSize = 4_000_000 / 8 / rate
		size     = (gop*meanSize - keySize) / (gop - 1)
	)
	header := []byte{0x17, 0, 0, 0, 0, 1, 100, 0, 30, 0xff, 0xe0, 0}
	key := append([]byte{0x17, 1, 0, 0, 0}, make([]byte, keySize)...)
	frame := append([]byte{0x27, 1, 0, 0, 0}, make([]byte, size)...)
	if err := p.WriteTag(flv.TypeVideo, 0, header); err != nil {
		return err
	}
	began := time.Now()
	for i := 0; ; i++ {
		at := time.Duration(i) * time.Second / rate
		if sleepUntil(ctx, began.Add(at)) != nil {
			return nil
		}
		body := frame
		if i%gop == 0 {
			body = key
		}
		if err := p.WriteTag(flv.TypeVideo, uint32(at/time.Millisecond), body); err != nil {
			return err
		}
	}
}
