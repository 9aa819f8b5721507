package sys

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// telling is a connection that tells itself what it holds.
type telling struct {
	net.Conn
	n int
}

func (c telling) Unsent() int { return c.n }

func TestOutstanding(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	require.Zero(t, Outstanding(a), "nobody tells")
	require.Equal(t, 5, Outstanding(telling{a, 5}))
	require.Zero(t, Outstanding(telling{a, -5}))
	SetLowWater(a, 4096) // is not for it

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.Zero(t, Outstanding(c), "nothing is written")
}
