package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

// screen is the output of run; seen is called with all of it at each write.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	seen func(text string)
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.text.Write(p)
	s.seen(s.text.String())
	return n, err
}

const healthy = "Every slave receives media that can be decoded."

func TestSlavesReceiveTheClip(t *testing.T) {
	for name, terminal := range map[string]bool{"lines": false, "terminal": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := &screen{seen: func(text string) {
				if strings.Contains(text, healthy) {
					cancel()
				}
			}}
			require.NoError(t, run(ctx, nil, out, terminal))
			text := out.text.String()
			secretscan.Check(t.Name(), text)
			require.Regexp(t, `\n  page     http://127\.0\.0\.1:\d+/  token [A-Z2-7]{26}\n`, text)
			require.Len(t, regexp.MustCompile(`rtmp://127\.0\.0\.1:\d+/live/livestream\n`).FindAllString(text, -1), 1+slaves)
			require.Regexp(t, `slave 2  publishing +\d+ +\d+ +0 +\d+  H264 AAC \d+\.\d s`, text)
			require.Equal(t, terminal, strings.Contains(text, "\x1b["))
		})
	}
}

func TestWithoutMediaItFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, run(ctx, nil, io.Discard, false))

	r := &receiver{}
	require.EqualError(t, check([]*receiver{r}), "slave 1: no stream received")
	r.codecs = []string{"AAC"}
	require.EqualError(t, check([]*receiver{r}), "slave 1: received AAC, expected video and audio")
	r.codecs = []string{"H264", "AAC"}
	require.EqualError(t, check([]*receiver{r}), "slave 1: no keyframe received")
	r.keyframes, r.last = 1, enough-1
	require.ErrorContains(t, check([]*receiver{r}), "of media received, expected 500ms at least")
	r.last = enough
	require.NoError(t, check([]*receiver{r}))
	r.err = net.ErrClosed
	require.ErrorIs(t, check([]*receiver{r}), net.ErrClosed)
}

func TestArguments(t *testing.T) {
	require.Error(t, run(t.Context(), []string{"-for", "ever"}, io.Discard, false))
	require.Error(t, run(t.Context(), []string{"-for", "1ns"}, io.Discard, false))
}
