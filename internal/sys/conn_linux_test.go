package sys

import (
	"bytes"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lot is a Watcher that counts its calls.
type lot struct {
	refuses bool
	fd      atomic.Int64 // -1 after Unparked
	looks   atomic.Int64
}

func (l *lot) Parked(fd int) bool {
	l.fd.Store(int64(fd))
	return !l.refuses
}

func (l *lot) Unparked(fd int) {
	if l.fd.Swap(-1) != int64(fd) {
		panic("another descriptor")
	}
}

func (l *lot) Look() { l.looks.Add(1) }

// owned returns the two ends of a connection over loopback. Our end is a Conn.
func owned(t *testing.T) (c *Conn, peer *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	here, err := l.Accept()
	require.NoError(t, err)
	c = Own(here.(*net.TCPConn)).(*Conn)
	t.Cleanup(func() { c.Close() })
	return c, nc.(*net.TCPConn)
}

// descriptors returns how many descriptors this process has open.
func descriptors(t *testing.T) int {
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(names)
}

// write writes b to the socket as a sender does, and returns how many bytes it accepted.
func write(c *Conn, b []byte, wait bool) (n int, err error) {
	raw := RawConn(c)
	send := func(fd uintptr) bool {
		n, err = syscall.Write(int(fd), b)
		return err != syscall.EAGAIN
	}
	var closed error
	if wait {
		closed = raw.Write(send)
	} else {
		closed = raw.Control(func(fd uintptr) { send(fd) })
	}
	if closed != nil {
		return 0, closed
	}
	return n, err
}

func TestConn_WritesWhileParked(t *testing.T) {
	c, peer := owned(t)
	require.True(t, Plain(c))
	local, remote := c.LocalAddr(), c.RemoteAddr()
	before := descriptors(t)
	l := new(lot)
	require.True(t, c.Park(l))
	require.True(t, c.Park(l), "it is already")
	require.Equal(t, before, descriptors(t))
	for _, wait := range []bool{false, true} {
		n, err := write(c, []byte("abc"), wait)
		require.NoError(t, err)
		require.Equal(t, 3, n)
	}
	got := make([]byte, 6)
	_, err := io.ReadFull(peer, got)
	require.NoError(t, err)
	require.Equal(t, "abcabc", string(got))
	require.True(t, c.Parked())
	require.Equal(t, local, c.LocalAddr())
	require.Equal(t, remote, c.RemoteAddr())
	Tune(c)
	require.Zero(t, Outstanding(c))
	require.NoError(t, c.CloseWrite())
	_, err = peer.Read(got)
	require.Equal(t, io.EOF, err)
	require.True(t, c.Parked())

	c.Unpark()
	require.EqualValues(t, -1, l.fd.Load())
	require.Equal(t, local, c.LocalAddr())
	require.Equal(t, remote, c.RemoteAddr())
	require.Equal(t, before, descriptors(t))
}

// A writer that must wait returns the connection to Go's poller. The connection stays there
// until the writer no longer waits.
func TestConn_FullSocket(t *testing.T) {
	for name, write := range map[string]func(*Conn, []byte) (int, error){
		"raw": func(c *Conn, b []byte) (int, error) { return write(c, b, true) },
		"net": (*Conn).Write,
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := owned(t)
			l := new(lot)
			require.True(t, c.Park(l))
			sent := 0
			for err := error(nil); err == nil; {
				var n int
				require.NoError(t, RawConn(c).Control(func(fd uintptr) { n, err = syscall.Write(int(fd), make([]byte, 1<<20)) }))
				sent += max(n, 0)
			}
			require.True(t, c.Parked())
			done := make(chan error, 1)
			go func() {
				n, err := write(c, []byte("x"))
				sent += n
				done <- err
			}()
			for c.writers.Load() == 0 {
				runtime.Gosched()
			}
			require.False(t, c.Parked())
			require.False(t, c.Park(l), "somebody waits")
			go func() {
				require.NoError(t, <-done)
				c.Close()
			}()
			n, err := io.Copy(io.Discard, peer)
			require.NoError(t, err)
			require.EqualValues(t, sent, n)
		})
	}
}

func TestConn_Read(t *testing.T) {
	c, peer := owned(t)
	for range 3 { // from the socket that was accepted, and from one that has returned
		l := new(lot)
		require.True(t, c.Park(l))
		_, err := peer.Write([]byte("abc"))
		require.NoError(t, err)
		got := make([]byte, 3)
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, "abc", string(got))
		require.False(t, c.Parked())
		require.EqualValues(t, -1, l.fd.Load())
	}
}

func TestConn_Deadlines(t *testing.T) {
	c, _ := owned(t)
	l := new(lot)
	require.True(t, c.Park(l))
	require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
	require.EqualValues(t, 1, l.looks.Load())
	require.True(t, c.Parked())
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = c.Write(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetDeadline(time.Time{}))
	_, err = c.Write(make([]byte, 1))
	require.NoError(t, err)
}

func TestConn_Refused(t *testing.T) {
	c, peer := owned(t)
	before := descriptors(t)
	require.False(t, c.Park(&lot{refuses: true}))
	require.False(t, c.Parked())
	require.Equal(t, before, descriptors(t))
	go peer.Write([]byte{1})
	_, err := c.Read(make([]byte, 1))
	require.NoError(t, err)
}

// A connection may be closed in any state. Its descriptor is then closed, and all methods
// return net.ErrClosed.
func TestConn_Close(t *testing.T) {
	for name, bring := range map[string]func(*Conn){
		"accepted": func(*Conn) {},
		"parked":   func(c *Conn) { c.Park(new(lot)) },
		"returned": func(c *Conn) { c.Park(new(lot)); c.Unpark() },
	} {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			c, peer := owned(t)
			bring(c)
			require.NoError(t, c.Close())
			_, err := peer.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			require.NoError(t, peer.Close())
			require.Equal(t, before, descriptors(t))
			for name, use := range map[string]func() error{
				"Read":             func() error { _, err := c.Read(make([]byte, 1)); return err },
				"Write":            func() error { _, err := c.Write(make([]byte, 1)); return err },
				"raw Read":         func() error { return RawConn(c).Read(func(uintptr) bool { return true }) },
				"raw Write":        func() error { return RawConn(c).Write(func(uintptr) bool { return true }) },
				"Control":          func() error { return RawConn(c).Control(func(uintptr) {}) },
				"SetReadDeadline":  func() error { return c.SetReadDeadline(time.Now()) },
				"SetWriteDeadline": func() error { return c.SetWriteDeadline(time.Now()) },
				"SetDeadline":      func() error { return c.SetDeadline(time.Now()) },
				"CloseWrite":       c.CloseWrite,
				"Close":            c.Close,
			} {
				require.ErrorIs(t, use(), net.ErrClosed, name)
			}
			require.False(t, c.Park(new(lot)))
			c.Unpark()
			c.LocalAddr()
			c.RemoteAddr()
		})
	}
}

// Close ends the calls that wait.
func TestConn_CloseEndsWaits(t *testing.T) {
	for name, bring := range map[string]func(*Conn){
		"accepted": func(*Conn) {},
		"returned": func(c *Conn) { c.Park(new(lot)); c.Unpark() },
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := owned(t)
			bring(c)
			began := make(chan bool, 1)
			go func() {
				<-began
				c.Close()
			}()
			require.ErrorIs(t, RawConn(c).Read(func(uintptr) bool {
				began <- true
				return false
			}), net.ErrClosed)
		})
	}
}

// All methods are called concurrently while the connection is parked and unparked.
func TestConn_Concurrently(t *testing.T) {
	before := descriptors(t)
	c, peer := owned(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	var all, moving sync.WaitGroup
	var stop atomic.Bool
	l := new(lot)
	moving.Go(func() {
		for !stop.Load() {
			c.Park(l)
			runtime.Gosched()
			c.Unpark()
		}
	})
	moving.Go(func() {
		for !stop.Load() {
			c.SetWriteDeadline(time.Now().Add(time.Hour))
			RawConn(c).Control(func(uintptr) {})
			c.RemoteAddr()
		}
	})
	all.Go(func() {
		for left := sent; len(left) > 0; {
			n, err := write(c, left[:min(len(left), 3000)], true)
			if err != nil {
				t.Error(err)
				break
			}
			left = left[n:]
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	all.Go(func() {
		got, err := io.ReadAll(peer)
		if err != nil || !bytes.Equal(sent, got) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		peer.Write(sent)
		peer.CloseWrite()
	})
	all.Go(func() {
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(sent, got) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	all.Wait()
	c.Close() // while the others continue
	stop.Store(true)
	moving.Wait()
	peer.Close()
	require.Equal(t, before, descriptors(t))
}

// A held descriptor stays the connection's: Close, Park and Unpark wait. After Park and
// Unpark, Hold returns the descriptor of the new owner.
func TestConn_Hold(t *testing.T) {
	c, peer := owned(t)
	writes := func(d *Descriptor) {
		t.Helper()
		require.NotNil(t, d)
		n, err := syscall.Write(int(d.FD()), []byte("abc"))
		require.NoError(t, err)
		require.Equal(t, 3, n)
		got := make([]byte, 3)
		_, err = io.ReadFull(peer, got)
		require.NoError(t, err)
	}
	for _, next := range []func(){
		func() { c.Park(new(lot)) },
		c.Unpark,
		func() { c.Close() },
	} {
		d, again := c.Hold(), c.Hold()
		require.Same(t, d, again)
		again.Release()
		done := make(chan bool)
		go func() {
			next()
			close(done)
		}()
		for d.lock.TryRLock() { // until it waits
			d.lock.RUnlock()
			runtime.Gosched()
		}
		writes(d)
		require.Empty(t, done)
		d.Release()
		<-done
	}
	require.Nil(t, c.Hold())
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	require.Nil(t, c.Hold())
}

func TestConn_HoldWhileParked(t *testing.T) {
	c, peer := owned(t)
	require.True(t, c.Park(new(lot)))
	d := c.Hold()
	require.NotNil(t, d)
	d.Release()
	require.NoError(t, c.Close())
	require.Nil(t, c.Hold())
	_, err := peer.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
}
