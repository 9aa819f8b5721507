package sys

import (
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// telling is a connection with a method Unsent.
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
	SetLowWater(a, 4096) // has no effect on it

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.Zero(t, Outstanding(c), "nothing is written")
}

// Path agrees with Outstanding while the peer reads nothing, and after it has received
// everything.
func TestPath(t *testing.T) {
	bytes, rtt := Path(telling{nil, 5})
	require.Equal(t, 5, bytes)
	require.Zero(t, rtt)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	peer, err := l.Accept()
	require.NoError(t, err)
	defer peer.Close()
	const size = 64 << 20 // more than the buffers hold
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, size))
		written <- err
	}()
	await := func(done func() bool) {
		for until := time.Now().Add(5 * time.Second); !done(); runtime.Gosched() {
			require.True(t, time.Now().Before(until))
		}
	}
	if runtime.GOOS == "linux" {
		await(func() bool {
			bytes, rtt = Path(c)
			return bytes > 0 && bytes == Outstanding(c)
		})
	}
	if runtime.GOOS == "linux" && !slices.Contains([]string{"386", "s390x"}, runtime.GOARCH) {
		require.Greater(t, rtt, time.Duration(0))
		own, _ := Path(telling{c, 5})
		require.Equal(t, 5, own)
	}
	_, err = io.CopyN(io.Discard, peer, size)
	require.NoError(t, err)
	require.NoError(t, <-written)
	await(func() bool { // the last acknowledgement may not have arrived yet
		bytes, _ = Path(c)
		return bytes == 0
	})
}
