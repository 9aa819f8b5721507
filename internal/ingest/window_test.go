package ingest

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What arrives before a window's end is read at once when it is much. The end
// of that window, when it comes, is no timeout.
func TestEndOfAWindowCutShortIsNoTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer peer.Close()
	conn, err := l.Accept()
	require.NoError(t, err)
	defer conn.Close()

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
	_, err = io.ReadFull(r, make([]byte, drain/2))
	require.NoError(t, err)
	<-time.After(2 * window)
	r.Flush = nil
	_, err = io.ReadFull(r, make([]byte, len(sent)-drain/2))
	require.NoError(t, err)
}
