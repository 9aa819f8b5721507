package ingest

import (
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m.Run)) }

// If many bytes arrive before the end of a window, they are read immediately. The later end of
// that window is not a timeout.
func TestEndOfAWindowCutShortIsNoTimeout(t *testing.T) {
	conn, peer := connectTCP(t)

	const window = 50 * time.Millisecond
	sent := make([]byte, 2*drain)
	waiting := make(chan struct{}, 1)
	r := NewReader(conn)
	r.Flush = func() { waiting <- struct{}{} }
	r.SetDeadline(time.Now().Add(time.Hour))
	r.SetWindow(window)
	go func() {
		<-waiting
		peer.Write(sent)
	}()
	_, err := io.ReadFull(r, make([]byte, drain/2))
	require.NoError(t, err)
	<-time.After(2 * window)
	r.Flush = nil
	_, err = io.ReadFull(r, make([]byte, len(sent)-drain/2))
	require.NoError(t, err)
}

// A deadline applies to a peer that never stops sending and to one that sends nothing, with
// and without windows.
func TestDeadline(t *testing.T) {
	for _, window := range []time.Duration{0, 10 * time.Millisecond} {
		for _, flood := range []bool{false, true} {
			t.Run(fmt.Sprintf("window %v, flood %v", window, flood), func(t *testing.T) {
				conn, peer := connectTCP(t)
				if flood {
					go io.Copy(peer, zeros{})
				}
				r := NewReader(conn)
				r.SetDeadline(time.Now().Add(100 * time.Millisecond))
				r.SetWindow(window)
				_, err := io.Copy(io.Discard, r)
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			})
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
