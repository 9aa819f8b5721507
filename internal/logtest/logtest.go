// Package logtest provides loggers whose output tests can read. The output is also
// searched for secrets. Only tests import it.
package logtest

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/secretscan"
)

// Buffer collects what several goroutines write. The zero value is empty.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p, which must consist of whole lines.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns everything written.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Lines returns the lines that contain word.
func (b *Buffer) Lines(word string) (lines []string) {
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, word) {
			lines = append(lines, line)
		}
	}
	return lines
}

// Entries returns the entries of a JSON log with this message.
func (b *Buffer) Entries(t testing.TB, msg string) (out []map[string]any) {
	t.Helper()
	for line := range strings.Lines(b.String()) {
		var e map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		if e["msg"] == msg {
			out = append(out, e)
		}
	}
	return out
}

// Warnings is a log for one goroutine, without debug lines and times.
type Warnings struct{ bytes.Buffer }

// Logger returns a logger that writes to l.
func (l *Warnings) Logger() *slog.Logger {
	return secretscan.Logger(slog.NewTextHandler(&l.Buffer, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// Take returns the lines that contain a text, and empties the log.
func (l *Warnings) Take(text string) (out []string) {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	l.Reset()
	return out
}

// Count returns a logger that counts the lines from level up that contain a word.
func Count(n *atomic.Int64, level slog.Level, word string) *slog.Logger {
	return secretscan.Logger(slog.NewTextHandler(counter{n, word}, &slog.HandlerOptions{Level: level}))
}

type counter struct {
	n    *atomic.Int64
	word string
}

func (c counter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(c.word)) {
		c.n.Add(1)
	}
	return len(p), nil
}
