package ingest

import (
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Bytes that arrive while those of the last window are forwarded belong to the next window,
// and do not end it.
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

// An end is noticed no later than the end of its window.
func TestEndInAWindow(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(conn, peer net.Conn)
		want error
	}{
		"shut down": {func(_, peer net.Conn) { peer.(*net.TCPConn).CloseWrite() }, nil},
		"reset": {func(_, peer net.Conn) {
			peer.(*net.TCPConn).SetLinger(0)
			peer.Close()
		}, syscall.ECONNRESET},
		"closed": {func(conn, _ net.Conn) { conn.Close() }, net.ErrClosed},
	} {
		for _, bytes := range []int{0, 10} {
			t.Run(fmt.Sprintf("%s behind %d bytes", name, bytes), func(t *testing.T) {
				conn, peer := connectTCP(t)
				r := NewReader(conn)
				r.SetWindow(20 * time.Millisecond)
				r.Flush = func() { // about to wait
					r.Flush = nil
					go func() {
						peer.Write(make([]byte, bytes))
						c.end(conn, peer)
					}()
				}
				_, err := io.Copy(io.Discard, r)
				require.ErrorIs(t, err, c.want)
			})
		}
	}
}
