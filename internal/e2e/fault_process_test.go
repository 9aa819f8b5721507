package e2e

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
)

func TestFault21_ShutdownInFullFlight(t *testing.T) {
	const streams = 100
	cfg := forward.Config{Resolver: forward.MustStatic("rtmp://a/live/[stream]", "rtmp://b/live/[stream]", "rtmp://c/live/[stream]", "rtmp://d/live/[stream]")}
	inBubble(t, cfg, func(b *bubble) {
		var dests []*forwardtest.Destination
		for _, name := range []string{"a", "b", "c", "d"} {
			dests = append(dests, b.Destination(name+":1935"))
		}
		for i := range streams {
			p := b.Publish(fmt.Sprintf("live/%d", i))
			go p.Send(b.Ctx, bitrate(10_000).Messages(-1), 1)
		}
		time.Sleep(5 * time.Second)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- b.Server.Shutdown(b.Ctx) }()
		synctest.Wait()
		_, err := b.Net.Dial(b.Ctx, "", "server:1935")
		require.ErrorIs(b, err, syscall.ECONNREFUSED, "the listener is closed immediately")
		require.NoError(b, <-done)
		took := time.Since(began)
		require.LessOrEqual(b, took, 5*time.Second)
		for _, d := range dests {
			require.Len(b, d.Sessions(), streams)
			for _, s := range d.Sessions() {
				<-s.Done()
				require.ErrorIs(b, s.Err(), io.EOF, "no reset")
				require.Contains(b, names(s), "FCUnpublish")
				require.Contains(b, names(s), "deleteStream")
				require.NoError(b, s.Recorder().Err())
			}
		}
		measured(21, "Shutdown of 100 streams x 4", "<= 5 s, each told, no reset", "%v, 400 told", took)
	})
}

// A stream that comes back is refused at connect, under any name.
func TestFault27_Loops(t *testing.T) {
	for _, row := range []struct{ name, to, back string }{
		{"A to A", "rtmp://server/live/[stream]", ""},
		{"A to A, renamed", "rtmp://server/live/[stream]-again", ""},
		{"A to B to A", "rtmp://b/live/[stream]", "rtmp://server/live/[stream]"},
		{"A to B to A, renamed", "rtmp://b/live/[stream]-b", "rtmp://server/live/[stream]-again"},
	} {
		var got calls
		cfg := forward.Config{Hooks: got.Hooks(), Resolver: forward.MustStatic(row.to)}
		inBubble(t, cfg, func(b *bubble) {
			last := b.Server
			if row.back != "" {
				last = forward.NewServer(forward.Config{Logger: quiet, Dial: b.Net.Dial, Resolver: forward.MustStatic(row.back)})
				defer last.Close()
				l, err := b.Net.Listen("b:1935")
				require.NoError(b, err)
				go last.Serve(l)
			}
			b.Publish("live/" + canary)
			synctest.Wait()
			require.Len(b, last.Sources(), 1)
			st := last.Sources()[0].Forwarders()[0].Stats()
			var de *forward.DestinationError
			require.ErrorAs(b, st.LastErr, &de)
			require.Equal(b, "NetConnection.Connect.Rejected", de.Code)
			require.False(b, de.Temporary())
			require.Equal(b, 1, got.Get()["publish"])
			require.Equal(b, 1, got.Get()["connect"])
			measured(27, "loop "+row.name, "refused in 1 round trip, 0 hooks", "refused at connect, 0 hooks")
		})
	}
}

// failing is a listener whose Accept fails a number of times, each time with the error
// that next returns.
type failing struct {
	net.Listener
	next func() error

	mu sync.Mutex
	at []time.Time
}

func (l *failing) Accept() (net.Conn, error) {
	if err := l.next(); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.at = append(l.at, time.Now())
		return nil, &net.OpError{Op: "accept", Err: err}
	}
	return l.Listener.Accept()
}

func TestFault24_AcceptFails(t *testing.T) {
	for _, cause := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, errors.New("some other")} {
		var lines atomic.Int64
		inBubble(t, forward.Config{Logger: logtest.Count(&lines, slog.LevelWarn, "accept")}, func(b *bubble) {
			others := b.Steady()
			began := time.Now()
			lasts := 20 * time.Second
			inner, err := b.Net.Listen("failing:1935")
			require.NoError(b, err)
			l := &failing{Listener: inner, next: func() error {
				if time.Since(began) < lasts {
					return cause
				}
				return nil
			}}
			served := make(chan error, 1)
			go func() { served <- b.Server.Serve(l) }()
			c := b.Client("live/ok")
			c.URL = "rtmp://failing/live/ok"
			p, err := c.Play(b.Ctx, nil)
			require.NoError(b, err)
			recovered := time.Since(began) - lasts
			require.LessOrEqual(b, recovered, time.Second)
			for i := range l.at[1:] {
				require.Equal(b, min(acceptMin<<i, acceptMax), l.at[i+1].Sub(l.at[i]))
			}
			require.LessOrEqual(b, lines.Load(), int64(lasts/time.Second)+1)
			p.Close()
			noteIsolation(others.Check())
			b.Server.Close()
			require.ErrorIs(b, <-served, forward.ErrServerClosed)
			if cause == syscall.EMFILE {
				measured(24, "accept fails for 20 s: back after", "<= 1 s, back-off 5 ms to 1 s", "%v, %d attempts", recovered, len(l.at))
				measured(24, "accept fails for 20 s: log lines", "1 a second", "%d", lines.Load())
			}
		})
	}
	// Alternating failures and successes are logged once a second, too.
	var lines atomic.Int64
	inBubble(t, forward.Config{Logger: logtest.Count(&lines, slog.LevelWarn, "accept")}, func(b *bubble) {
		inner, err := b.Net.Listen("failing:1935")
		require.NoError(b, err)
		n := 0
		go b.Server.Serve(&failing{Listener: inner, next: func() error {
			if n++; n%2 == 0 {
				return syscall.ECONNABORTED
			}
			return nil
		}})
		for range 100 {
			nc, err := b.Net.Dial(b.Ctx, "", "failing:1935")
			require.NoError(b, err)
			nc.Close()
			time.Sleep(20 * time.Millisecond)
		}
		require.LessOrEqual(b, lines.Load(), int64(3))
	})
	// If other code closes the listener, Serve returns.
	inBubble(t, forward.Config{}, func(b *bubble) {
		l, err := b.Net.Listen("closed:1935")
		require.NoError(b, err)
		served := make(chan error, 1)
		go func() { served <- b.Server.Serve(l) }()
		synctest.Wait()
		l.Close()
		require.ErrorIs(b, <-served, net.ErrClosed)
	})
}
