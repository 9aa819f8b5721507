package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nareix/joy4/av"
	"github.com/nareix/joy4/format/flv"
	"github.com/nareix/joy4/format/mp4"
	"github.com/nareix/joy4/format/ts"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/testdata"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

func clip() av.Demuxer { return flv.NewDemuxer(bytes.NewReader(testdata.H264AAC)) }

// packets reads all of each stream.
func packets(t *testing.T, src av.Demuxer) (all [2][]av.Packet) {
	streams, err := src.Streams()
	require.NoError(t, err)
	require.Len(t, streams, 2)
	for {
		pkt, err := src.ReadPacket()
		if err == io.EOF {
			return all
		}
		require.NoError(t, err)
		n := 0
		if streams[pkt.Idx].Type() == av.AAC {
			n = 1
		}
		all[n] = append(all[n], pkt)
	}
}

func open(t *testing.T, path string) av.Demuxer {
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	switch filepath.Ext(path) {
	case ".mp4":
		return mp4.NewDemuxer(f)
	case ".ts":
		return ts.NewDemuxer(f)
	}
	return flv.NewDemuxer(f)
}

// start runs the program and returns the URL to publish to.
func start(t *testing.T, ctx context.Context, args ...string) (url string, lines *bufio.Scanner, done chan error) {
	r, w := io.Pipe()
	done = make(chan error, 1)
	go func() {
		err := run(ctx, append([]string{"-listen", "127.0.0.1:0"}, args...), w)
		w.Close()
		done <- err
	}()
	lines = bufio.NewScanner(secretscan.Reader(r))
	require.True(t, lines.Scan())
	url, ok := strings.CutPrefix(lines.Text(), "publish to ")
	require.True(t, ok, lines.Text())
	return url, lines, done
}

func TestStreamIsRecordedToItsEnd(t *testing.T) {
	want := packets(t, clip())
	for _, ext := range []string{".flv", ".mp4", ".ts"} {
		t.Run(ext, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "take"+ext)
			url, lines, done := start(t, t.Context(), path)

			pushing := make(chan struct{})
			encoder := forward.NewServer(forward.Config{
				Logger:   secretscan.Quiet,
				Resolver: forward.MustStatic(url),
				Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, s forward.State, _ error) {
					if s == forward.StatePublishing {
						close(pushing)
					}
				}},
			})
			defer encoder.Close()
			pub, err := encoder.Publish(t.Context(), forward.Request{App: "live", Stream: secretscan.Canary})
			require.NoError(t, err)
			require.True(t, lines.Scan())
			require.Equal(t, "recording", lines.Text())
			<-pushing
			src := clip()
			streams, err := src.Streams()
			require.NoError(t, err)
			require.NoError(t, pub.WriteHeader(streams))
			for pkt, err := src.ReadPacket(); err == nil; pkt, err = src.ReadPacket() {
				require.NoError(t, pub.WritePacket(pkt))
			}
			require.NoError(t, pub.Close())
			require.True(t, lines.Scan())
			require.Equal(t, "recorded 6.1 s to "+path, lines.Text())
			require.NoError(t, <-done)

			got := packets(t, open(t, path))
			for i := range want {
				n := len(want[i])
				if ext == ".mp4" {
					// joy4's demuxer ends when the first of the tracks ends.
					n = min(n, max(len(got[i]), n-5))
				}
				require.Equal(t, n, len(got[i]))
				for j, got := range got[i] {
					checkPacket(t, ext, want[i][j], got)
				}
			}
			require.True(t, got[0][0].IsKeyFrame)
			if ext == ".flv" {
				require.Zero(t, got[0][0].Time)
			}
		})
	}
}

// checkPacket compares a recorded packet with the published one.
func checkPacket(t *testing.T, ext string, want, got av.Packet) {
	require.InDelta(t, want.CompositionTime, got.CompositionTime, float64(time.Millisecond))
	if ext != ".ts" {
		require.Equal(t, want.IsKeyFrame, got.IsKeyFrame)
		require.Equal(t, want.Data, got.Data)
		return
	}
	// joy4's demuxer for it marks all audio as keyframes, and drops NAL units other
	// than slices, such as SEI.
	require.True(t, got.IsKeyFrame || !want.IsKeyFrame)
	require.True(t, bytes.HasSuffix(want.Data, got.Data))
}

func TestRecordingEndsAtItsLimit(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "take.flv"))
	require.NoError(t, err)
	length, err := record(flv.NewMuxer(f), clip(), 2*time.Second)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.InDelta(t, 2*time.Second, length, float64(50*time.Millisecond))
	got := packets(t, open(t, f.Name()))
	require.Len(t, got[0], 50)
}

func TestInterruptIsAnEnd(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "take.flv"))
	require.NoError(t, err)
	_, err = record(flv.NewMuxer(f), interrupted{clip()}, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	packets(t, open(t, f.Name()))

	ctx, cancel := context.WithCancel(t.Context())
	_, _, done := start(t, ctx, filepath.Join(t.TempDir(), "take.flv"))
	cancel()
	require.EqualError(t, <-done, "live/livestream was not published")
}

// interrupted is a stream whose context ends.
type interrupted struct{ av.Demuxer }

func (interrupted) ReadPacket() (av.Packet, error) { return av.Packet{}, context.Canceled }

func TestWrongUse(t *testing.T) {
	used, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer used.Close()
	for want, args := range map[string][]string{
		"expected one file":  {},
		"take.mkv: expected": {"take.mkv"},
		used.Addr().String(): {"-listen", used.Addr().String(), filepath.Join(t.TempDir(), "take.ts")},
	} {
		require.ErrorContains(t, run(t.Context(), args, io.Discard), want)
	}
}
