package fanout

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// slowClose is a connection whose Close blocks, as that of TLS may.
type slowClose struct {
	net.Conn
	takes  time.Duration
	closed chan struct{}
}

func (c slowClose) Close() error {
	time.Sleep(c.takes)
	defer close(c.closed)
	return c.Conn.Close()
}

// The goroutine that ends a connection does not wait for Close, because it may be the one
// that serves all receivers.
func TestEndingDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, end := range map[string]func(s *Sender){
			"Close":  (*Sender).Close,
			"memory": func(s *Sender) { s.fail(ErrMemory) },
			"too many answers": func(s *Sender) {
				s.Send(make([]byte, maxControl))
				synctest.Wait() // some of it is being written now, and no longer counts
				s.Send(make([]byte, maxControl))
				s.Send([]byte{1})
			},
		} {
			here, there := net.Pipe()
			c := slowClose{here, 5 * time.Second, make(chan struct{})}
			s := NewSender(c, time.Minute)
			began := time.Now()
			end(s)
			require.Zero(t, time.Since(began), name)
			require.Error(t, s.Err(), name)
			s.Close()
			s.Wait()
			require.Equal(t, c.takes, time.Since(began), name)
			<-c.closed
			there.Close()
		}
	})
}
