package ingest

import (
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The next Read returns the bytes and the error that Await has got.
func TestAwait(t *testing.T) {
	for name, connect := range map[string]func(*testing.T) (here, peer net.Conn){
		"TCP":  connectTCP,
		"pipe": func(*testing.T) (net.Conn, net.Conn) { return net.Pipe() },
	} {
		t.Run(name, func(t *testing.T) {
			conn, peer := connect(t)
			defer conn.Close()
			defer peer.Close()
			r := NewReader(conn)
			flushed := 0
			r.Flush = func() { flushed++ }
			go func() {
				peer.Write([]byte("abc"))
				peer.Write([]byte("d"))
				peer.Close()
			}()
			r.Await()
			r.Await()
			require.Equal(t, 1, flushed)
			n, err := r.Read(nil)
			require.Zero(t, n)
			require.NoError(t, err)
			got := make([]byte, 3)
			_, err = io.ReadFull(r, got)
			require.NoError(t, err)
			r.Await()
			got = append(got, 0)
			_, err = io.ReadFull(r, got[3:])
			require.NoError(t, err)
			require.Equal(t, "abcd", string(got))
			r.Await()
			_, err = r.Read(got)
			require.Equal(t, io.EOF, err)
		})
	}
}

func TestAwaitKeepsErrors(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(conn, peer net.Conn)
		want error
	}{
		// The system reports a reset once, and afterwards an end.
		"reset": {func(_, peer net.Conn) {
			peer.(*net.TCPConn).SetLinger(0)
			peer.Close()
		}, syscall.ECONNRESET},
		"closed": {func(conn, _ net.Conn) { conn.Close() }, net.ErrClosed},
		"late":   {func(conn, _ net.Conn) { conn.SetReadDeadline(time.Now()) }, os.ErrDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			conn, peer := connectTCP(t)
			defer conn.Close()
			defer peer.Close()
			r := NewReader(conn)
			c.end(conn, peer)
			r.Await()
			r.Await()
			_, err := r.Read(make([]byte, 10))
			require.ErrorIs(t, err, c.want)
		})
	}
}

// connectTCP returns a connection over loopback, which is closed when the test ends.
func connectTCP(t *testing.T) (here, peer net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	peer, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { peer.Close() })
	here, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { here.Close() })
	return here, peer
}

// Watch reports the end of a connection that nobody reads, once. Bytes that arrive meanwhile
// are not lost.
func TestWatch(t *testing.T) {
	for name, connect := range map[string]func(*testing.T) (here, peer net.Conn){
		"TCP":  connectTCP,
		"pipe": func(*testing.T) (net.Conn, net.Conn) { return net.Pipe() },
	} {
		t.Run(name, func(t *testing.T) {
			conn, peer := connect(t)
			defer conn.Close()
			defer peer.Close()
			r := NewReader(conn)
			r.SetDeadline(time.Now().Add(-time.Second)) // like a deadline that passes meanwhile
			gone := make(chan error, 2)
			stop := r.Watch(func(err error) { gone <- err })
			_, err := peer.Write([]byte("abc"))
			require.NoError(t, err)
			stop()
			require.Empty(t, gone)
			r.SetDeadline(time.Now().Add(time.Minute))
			got := make([]byte, 8)
			_, err = io.ReadFull(r, got[:1])
			require.NoError(t, err)

			stop = r.Watch(func(err error) { gone <- err })
			_, err = peer.Write([]byte("de"))
			require.NoError(t, err)
			require.NoError(t, peer.Close())
			require.Equal(t, io.EOF, <-gone)
			stop()
			r.Watch(func(err error) { gone <- err })()
			require.Equal(t, io.EOF, <-gone)
			_, err = io.ReadFull(r, got[1:5])
			require.NoError(t, err)
			require.Equal(t, "abcde", string(got[:5]))
			_, err = r.Read(got)
			require.Equal(t, io.EOF, err)
			require.Empty(t, gone)
		})
	}
}

func TestWatchIsBounded(t *testing.T) {
	conn, peer := connectTCP(t)
	defer conn.Close()
	defer peer.Close()
	r := NewReader(conn)
	stop := r.Watch(func(err error) { t.Error(err) })
	sent := make([]byte, 3*watchSize)
	for i := range sent {
		sent[i] = byte(i / 7)
	}
	_, err := peer.Write(sent)
	require.NoError(t, err)
	peer.Close()
	stop()
	require.LessOrEqual(t, len(r.ahead), watchSize)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, sent, got)
}

// If Finish is called meanwhile, Watch does not report an end.
func TestWatchAndFinish(t *testing.T) {
	conn, peer := connectTCP(t)
	defer conn.Close()
	defer peer.Close()
	_, err := peer.Write([]byte("abc"))
	require.NoError(t, err)
	r := NewReader(conn)
	stop := r.Watch(func(err error) { t.Error(err) })
	r.Finish()
	stop()
	got := make([]byte, 3)
	_, err = io.ReadFull(r, got)
	require.NoError(t, err)
	require.Equal(t, "abc", string(got))
	_, err = r.Read(got)
	require.Equal(t, ErrFinished, err)
}
