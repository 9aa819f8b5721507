package fanout

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/gop"
)

// halfClosed can be closed for writing. A Sender sets its deadline each time it has nothing to
// send. If that happens too often, the Sender spins.
type halfClosed struct {
	net.Conn
	deadlines int
	often     func()
}

func (c *halfClosed) CloseWrite() error { return nil }

func (c *halfClosed) SetWriteDeadline(time.Time) error {
	if c.deadlines++; c.deadlines == 1000 {
		c.often()
	}
	return nil
}

// A log that is attached during the shutdown of the connection is not sent, and the Sender
// does not wait for it. It once found the log, sent nothing, and looked again, without end.
func TestAttachBehindAShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		c := &halfClosed{Conn: here}
		s := NewSender(c, time.Minute)
		defer s.Close()
		c.often = s.Close
		l := gop.New(gop.Limits{})
		l.Append(chunk.NewFrame(chunk.Header{Type: chunk.TypeVideo, Length: 6}, []byte{0x17, 1, 0, 0, 0, 1}, 4096), false, Clock())
		require.NoError(t, s.Send(make([]byte, 100)))
		synctest.Wait() // the message is being written
		s.Shutdown()
		s.Attach(l, gop.Options{Layout: chunk.Layout{StreamID: 1, Size: 4096}, Size: 4096}, func() ([]byte, bool) { return nil, false })
		go io.Copy(io.Discard, there)
		synctest.Wait()
		require.NoError(t, s.Err())
		require.Less(t, c.deadlines, 10)
	})
}
