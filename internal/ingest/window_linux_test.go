package ingest

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What arrives while the last window's bytes are passed on belongs to the next
// window, and does not end it.
func TestWindowWithSomethingInIt(t *testing.T) {
	conn, peer := connectTCP(t)

	const window = 50 * time.Millisecond
	r := NewReader(conn)
	r.SetWindow(window)
	for range 5 {
		r.empty = true                 // as after the last window
		peer.Write(make([]byte, 1000)) // over loopback it has arrived now
		now := time.Now()
		end := now.Add(window - now.Sub(epoch)%window)
		_, err := io.ReadFull(r, make([]byte, 1000))
		require.NoError(t, err)
		require.False(t, time.Now().Before(end))
	}
	peer.Write(make([]byte, windowDrain))
	_, err := io.ReadFull(r, make([]byte, windowDrain))
	require.NoError(t, err)
	peer.Close()
	_, err = r.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}
