package sys

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTune(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for _, wrap := range []func(net.Conn) net.Conn{
		func(c net.Conn) net.Conn { return c },
		func(c net.Conn) net.Conn { return tls.Client(c, &tls.Config{InsecureSkipVerify: true}) },
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		Tune(wrap(c))
		raw, err := c.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			for option, want := range map[int]int{tcpUserTimeout: 15_000, tcpNotSentLowAt: 128 << 10} {
				is, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option)
				require.NoError(t, err)
				require.Equal(t, want, is, option)
			}
		}))
		SetLowWater(wrap(c), 8<<10)
		require.NoError(t, raw.Control(func(fd uintptr) {
			is, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowAt)
			require.NoError(t, err)
			require.Equal(t, 8<<10, is)
		}))
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	Tune(a) // has no effect on it
}

// The peer does not read. The bytes that its system does not accept are outstanding.
func TestOutstanding_NobodyReads(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	for _, wrap := range []func(net.Conn) net.Conn{
		func(c net.Conn) net.Conn { return c },
		func(c net.Conn) net.Conn { return tls.Client(c, &tls.Config{InsecureSkipVerify: true}) },
	} {
		raw, err := c.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		full := make([]byte, 1<<20)
		require.NoError(t, raw.Control(func(fd uintptr) {
			for err := error(nil); err == nil; {
				_, err = syscall.Write(int(fd), full)
			}
		}))
		require.Positive(t, Outstanding(wrap(c)))
	}
}
