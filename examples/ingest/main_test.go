package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nareix/joy4/av"
	"github.com/nareix/joy4/av/avutil"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/testdata"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

// clips are the clip in all formats.
func clips(t *testing.T) []string {
	dir := t.TempDir()
	paths := []string{filepath.Join(dir, "clip.flv"), filepath.Join(dir, "clip.mp4"), filepath.Join(dir, "clip.ts")}
	require.NoError(t, os.WriteFile(paths[0], testdata.H264AAC, 0o600))
	for _, path := range paths[1:] {
		src, err := formats.Open(paths[0])
		require.NoError(t, err)
		dst, err := formats.Create(path)
		require.NoError(t, err)
		require.NoError(t, avutil.CopyFile(dst, src))
		require.NoError(t, dst.Close())
		require.NoError(t, src.Close())
	}
	return paths
}

func TestFileIsPublished(t *testing.T) {
	for _, path := range clips(t) {
		t.Run(filepath.Ext(path), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			slave := forward.NewServer(forward.Config{Logger: secretscan.Quiet})
			defer slave.Close()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			go slave.Serve(l)

			r, w := io.Pipe()
			done := make(chan error, 1)
			go func() {
				done <- run(ctx, []string{"-listen", "127.0.0.1:0", "-to", l.Addr().String(), "-stream", "show/one", path}, w)
			}()
			line, err := bufio.NewReader(r).ReadString('\n')
			require.NoError(t, err)
			require.Regexp(t, `^play rtmp://127\.0\.0\.1:\d+/show/one\n$`, line)

			var src *forward.Source
			require.Eventually(t, func() bool {
				src = slave.Source("show/one")
				return src != nil
			}, time.Minute, time.Millisecond)
			media := src.Demuxer(t.Context())
			defer media.Close()
			streams, err := media.Streams()
			require.NoError(t, err)
			require.Len(t, streams, 2)
			require.Equal(t, av.H264, streams[0].Type())
			var received [2]int
			for received[0] < 2 || received[1] < 2 {
				pkt, err := media.ReadPacket()
				require.NoError(t, err)
				require.True(t, received != [2]int{} || pkt.IsKeyFrame, "it begins with a keyframe")
				received[pkt.Idx]++
			}

			cancel()
			require.NoError(t, <-done)
			<-src.Done()
		})
	}
}

func TestWrongUse(t *testing.T) {
	clip := clips(t)[0]
	used, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer used.Close()
	for want, args := range map[string][]string{
		"expected one file":                {},
		"-stream one: expected app/stream": {"-stream", "one", clip},
		"-to: entry 1":                     {"-to", "http://a", clip},
		used.Addr().String():               {"-listen", used.Addr().String(), clip},
		"none.flv":                         {"-listen", "", filepath.Join(t.TempDir(), "none.flv")},
	} {
		require.ErrorContains(t, run(t.Context(), args, io.Discard), want)
	}
}
