package forwardtest_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

func TestPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := forwardtest.Pipe()
		sent := bytes.Repeat([]byte("0123456789"), 20000)
		written := make(chan error)
		go func() {
			n, err := a.Write(sent)
			if n != len(sent) {
				t.Error(n)
			}
			written <- err
		}()
		// The buffer takes a part, then writing waits.
		synctest.Wait()
		select {
		case <-written:
			t.Fatal("200 kB were taken")
		default:
		}
		got := make([]byte, len(sent))
		_, err := io.ReadFull(b, got)
		require.NoError(t, err)
		require.NoError(t, <-written)
		require.Equal(t, sent, got)

		// Deadlines, which may be moved while others wait.
		began := time.Now()
		require.NoError(t, b.SetReadDeadline(began.Add(time.Second)))
		time.AfterFunc(500*time.Millisecond, func() { b.SetReadDeadline(began.Add(3 * time.Second)) })
		_, err = b.Read(got)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(began))
		require.NoError(t, b.SetDeadline(time.Time{}))
		require.NoError(t, a.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := a.Write(sent)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 64<<10, n)
		require.NoError(t, a.SetDeadline(time.Time{}))
		_, err = io.ReadFull(b, got[:n])
		require.NoError(t, err)

		// One direction after the other.
		_, err = a.Write([]byte("last"))
		require.NoError(t, err)
		require.NoError(t, a.(interface{ CloseWrite() error }).CloseWrite())
		_, err = a.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
		got, err = io.ReadAll(b)
		require.NoError(t, err)
		require.Equal(t, "last", string(got))
		_, err = b.Write([]byte("back"))
		require.NoError(t, err)
		require.NoError(t, b.Close())
		got, err = io.ReadAll(a)
		require.NoError(t, err)
		require.Equal(t, "back", string(got))
		_, err = b.Read(got)
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = b.Write(got)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestPipeReset(t *testing.T) {
	a, b := forwardtest.Pipe()
	_, err := a.Write([]byte("lost"))
	require.NoError(t, err)
	require.NoError(t, a.(interface{ Reset() error }).Reset())
	_, err = b.Read(make([]byte, 4))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = b.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = a.Read(make([]byte, 4))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestNetwork(t *testing.T) {
	var n forwardtest.Network
	_, err := n.Dial(t.Context(), "tcp", "a:1")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	l, err := n.Listen("a:1")
	require.NoError(t, err)
	_, err = n.Listen("a:1")
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	near, err := n.Dial(t.Context(), "tcp", "a:1")
	require.NoError(t, err)
	far, err := l.Accept()
	require.NoError(t, err)
	require.Equal(t, near.LocalAddr(), far.RemoteAddr())
	require.Equal(t, "a:1", near.RemoteAddr().String())
	waiting, err := n.Dial(t.Context(), "tcp", "a:1")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	_, err = waiting.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = n.Dial(t.Context(), "tcp", "a:1")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = n.Dial(ctx, "tcp", "a:1")
	require.ErrorIs(t, err, context.Canceled)
	l, err = n.Listen("a:1")
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// Each row sends 1000 bytes through a connection with faults: on the way out,
// then on the way in.
func TestFaults(t *testing.T) {
	tests := []struct {
		name   string
		fault  forwardtest.Fault
		passed int
		err    error // of the end with the faults
		after  time.Duration
	}{
		{"none", forwardtest.Fault{}, 1000, nil, 0},
		{"cut", forwardtest.Fault{Cut: 300}, 300, forwardtest.ErrFault, 0},
		{"cut at once", forwardtest.Fault{Cut: -1}, 0, forwardtest.ErrFault, 0},
		{"reset", forwardtest.Fault{Reset: 300}, -1, forwardtest.ErrFault, 0},
		{"stall", forwardtest.Fault{Stall: 300}, 300, os.ErrDeadlineExceeded, time.Minute},
		{"stall at once", forwardtest.Fault{Stall: -1}, 0, os.ErrDeadlineExceeded, time.Minute},
		{"delay", forwardtest.Fault{Delay: time.Second}, 1000, nil, time.Second},
		{"delayed pieces", forwardtest.Fault{Delay: time.Second, Max: 100}, 1000, nil, 10 * time.Second},
		{"rate", forwardtest.Fault{Rate: 100}, 1000, nil, 9950 * time.Millisecond},
		{"small pieces", forwardtest.Fault{Max: 1}, 1000, nil, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			sent := bytes.Repeat([]byte("0123456789"), 100)
			synctest.Test(t, func(t *testing.T) {
				a, b := forwardtest.Pipe()
				c := forwardtest.NewFaultConn(a, forwardtest.Faults{Write: test.fault})
				began := time.Now()
				require.NoError(t, c.SetWriteDeadline(began.Add(time.Minute)))
				n, err := c.Write(sent)
				require.ErrorIs(t, err, test.err)
				require.Equal(t, test.after, time.Since(began))
				require.NoError(t, c.CloseWrite())
				got, err := io.ReadAll(b)
				if test.passed < 0 {
					require.ErrorIs(t, err, syscall.ECONNRESET)
					require.Equal(t, 300, n)
				} else {
					require.Equal(t, test.passed, n)
					require.Equal(t, string(sent[:n]), string(got))
				}
				c.Close()
			})
			synctest.Test(t, func(t *testing.T) {
				a, b := forwardtest.Pipe()
				_, err := b.Write(sent)
				require.NoError(t, err)
				c := forwardtest.NewFaultConn(a, forwardtest.Faults{Read: test.fault})
				began := time.Now()
				require.NoError(t, c.SetReadDeadline(began.Add(time.Minute)))
				got := make([]byte, len(sent))
				n, err := io.ReadFull(c, got)
				if test.err != nil {
					require.ErrorIs(t, err, test.err)
				}
				require.Equal(t, test.after, time.Since(began))
				require.Equal(t, string(sent[:n]), string(got[:n]))
				if test.passed >= 0 {
					require.Equal(t, test.passed, n)
				} else {
					_, err = b.Read(got)
					require.ErrorIs(t, err, syscall.ECONNRESET)
				}
				c.Close()
			})
		})
	}
}

// What is stalled ends with Close.
func TestFaultConnClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stall := forwardtest.Fault{Stall: -1}
		a, _ := forwardtest.Pipe()
		c := forwardtest.NewFaultConn(a, forwardtest.Faults{Read: stall, Write: stall})
		ended := make(chan error, 3)
		go func() { _, err := c.Read(make([]byte, 1)); ended <- err }()
		go func() { _, err := c.Write(make([]byte, 1)); ended <- err }()
		go func() { _, err := c.Write(make([]byte, 1)); ended <- err }()
		synctest.Wait()
		require.Empty(t, ended)
		c.Close()
		for range 3 {
			require.ErrorIs(t, <-ended, net.ErrClosed)
		}
	})
}

func TestFaultDialOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	dial := forwardtest.FaultDial(new(net.Dialer).DialContext,
		forwardtest.Faults{Write: forwardtest.Fault{Reset: 10}}, forwardtest.Faults{Write: forwardtest.Fault{Cut: 10}})
	for _, want := range []error{syscall.ECONNRESET, nil, nil} {
		c, err := dial(t.Context(), "tcp", l.Addr().String())
		require.NoError(t, err)
		far, err := l.Accept()
		require.NoError(t, err)
		c.Write([]byte("0123456789"))
		if _, faulty := c.(*forwardtest.FaultConn); !faulty {
			c.Close()
		}
		_, err = io.ReadAll(far)
		if want != nil {
			require.ErrorIs(t, err, want)
		} else {
			require.NoError(t, err)
		}
		far.Close()
	}
}
