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
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	Tune(a) // is not for it
}
