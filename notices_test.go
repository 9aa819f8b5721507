package forward

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// Connections that fail for one cause are logged 4 times and then once every 30 s, with
// the number of those left out. The last line comes even if no further connection does.
func TestFailedConnectionsDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logtest.Buffer)
		s := NewServer(Config{Logger: secretscan.Logger(slog.NewJSONHandler(log, nil))})
		fail := func(first ...byte) {
			ours, theirs := net.Pipe()
			go func() {
				theirs.Write(first)
				theirs.Close()
			}()
			s.ServeConn(t.Context(), ours)
		}
		lines := func() []map[string]any { return log.Entries(t, "connection ended") }
		for range 1000 {
			fail('G') // HTTP, or a scanner
		}
		require.Len(t, lines(), 4)
		fail(3, 0) // another cause
		require.Len(t, lines(), 5)
		require.Contains(t, lines()[4]["err"], "C1")

		last := time.Now()
		time.Sleep(lineEvery - time.Nanosecond)
		synctest.Wait()
		require.Len(t, lines(), 5)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Len(t, lines(), 6, "the last of them, though nothing has followed")
		require.EqualValues(t, 995, lines()[5]["not_logged"])
		require.Equal(t, last.Format(time.RFC3339Nano), lines()[5]["at"])
		require.Contains(t, lines()[5]["err"], "version")
		require.Contains(t, lines()[5], "client")

		// They fail for an hour.
		for range 3600 {
			fail('G')
			time.Sleep(time.Second)
		}
		require.InDelta(t, 6+120, len(lines()), 2)

		// All lines are permitted again, and no cause is kept.
		time.Sleep(time.Duration(lineBurst+1) * lineEvery)
		synctest.Wait()
		s.notices.mu.Lock()
		require.Empty(t, s.notices.causes)
		s.notices.mu.Unlock()
		n := len(lines())
		for range 10 {
			fail('G')
		}
		require.Len(t, lines(), n+4)
		s.Close()
		require.Len(t, lines(), n+5, "what is left out is said at the end")
		require.EqualValues(t, 5, lines()[n+4]["not_logged"])
		logged := 0
		for _, e := range lines() {
			logged++
			if n, ok := e["not_logged"].(float64); ok {
				logged += int(n)
			}
		}
		require.Equal(t, 1000+1+3600+10, logged, "each has been counted")
	})
}

// Memory and log lines are limited, however many causes there are.
func TestNoticesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logtest.Buffer)
		l := newNotices(secretscan.Logger(slog.NewJSONHandler(log, nil)))
		for i := range 10_000 {
			l.write(slog.LevelInfo, "m", fmt.Sprint("cause ", i), "i", i)
		}
		l.mu.Lock()
		require.LessOrEqual(t, len(l.causes), maxCauses+1)
		l.mu.Unlock()
		require.Len(t, log.Entries(t, "m"), maxCauses+lineBurst)
		time.Sleep(lineEvery)
		synctest.Wait()
		got := log.Entries(t, "m")
		require.Len(t, got, maxCauses+lineBurst+1)
		require.EqualValues(t, 10_000-maxCauses-lineBurst-1, got[len(got)-1]["not_logged"])
		l.close()
		l.write(slog.LevelInfo, "m", "after the end")
		require.Len(t, log.Entries(t, "m"), maxCauses+lineBurst+1)
	})
}

// Lines that clients cause through the host's code and configuration do not fill the log
// either. Each line that is left out is counted.
func TestClientsDoNotFillTheLogThroughTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logtest.Buffer)
		s := NewServer(Config{
			Logger: secretscan.Logger(slog.NewJSONHandler(log, nil)),
			Hooks:  Hooks{OnUnpublish: func(context.Context, *Request) { panic("at the disco") }},
			Resolver: ResolverFunc(func(context.Context, *Request) ([]Destination, error) {
				return []Destination{{URL: "gopher://a"}}, nil
			}),
		})
		const publishes = 1000
		for range publishes {
			p, err := s.Publish(t.Context(), Request{App: "live", Stream: "s"})
			require.NoError(t, err)
			p.Close()
			<-p.Source().Done()
		}
		s.Close()
		for _, msg := range []string{"panic in host code", "destination skipped"} {
			lines := log.Entries(t, msg)
			require.Len(t, lines, lineBurst+1, msg)
			require.EqualValues(t, publishes-lineBurst-1, lines[lineBurst]["not_logged"], msg)
		}
	})
}
