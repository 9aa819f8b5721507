package e2e

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
)

func TestLoops(t *testing.T) {
	for _, row := range []struct {
		name, a, b string // where each server pushes to
	}{
		{"A to A", "a.example", ""},
		{"A to A, renamed", "rtmp://a.example/other/[stream]-again", ""},
		{"A to B to A", "b.example", "a.example"},
		{"A to B to A, renamed", "rtmp://b.example/there/[stream]", "rtmp://a.example/back/[stream]-1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, forward.Config{}, func(b *bubble) {
				a, askedA := b.ServeAt("a.example:1935", forward.Config{Resolver: forward.MustStatic(row.a)})
				last, askedB := a, new([]*forward.Request)
				if row.b != "" {
					last, askedB = b.ServeAt("b.example:1935", forward.Config{Resolver: forward.MustStatic(row.b)})
				}
				publish(b.T, a, "live", "cam7")
				synctest.Wait()

				f := last.Sources()[0].Forwarders()[0]
				require.Equal(b, forward.StateWaiting, f.Stats().State)
				var de *forward.DestinationError
				require.ErrorAs(b, f.Stats().LastErr, &de)
				require.Equal(b, forward.OpConnect, de.Op, "refused within one round trip")
				require.Equal(b, "NetConnection.Connect.Rejected", de.Code)
				require.ErrorContains(b, de, "The stream has already passed through this server.")
				require.False(b, de.Temporary())

				// No hook is called for it, also when it is retried.
				time.Sleep(time.Hour)
				require.Len(b, *askedA, 1)
				require.Greater(b, f.Stats().Connects, uint64(10))
				require.Less(b, f.Stats().Connects, uint64(60))
				require.Len(b, a.Sources(), 1)
				if row.b != "" {
					require.Len(b, *askedB, 1)
					require.Equal(b, []string{(*askedA)[0].ServerID}, (*askedB)[0].Hops)
				}
			})
		})
	}
}

// A stream may pass four servers before the last one.
func TestHops(t *testing.T) {
	inBubble(t, forward.Config{}, func(b *bubble) {
		var servers []*forward.Server
		var asked []*[]*forward.Request
		names := []string{"s1", "s2", "s3", "s4", "s5", "s6"}
		for i, name := range names {
			cfg := forward.Config{}
			if i+1 < len(names) {
				cfg.Resolver = forward.MustStatic(names[i+1])
			}
			s, a := b.ServeAt(name+":1935", cfg)
			servers, asked = append(servers, s), append(asked, a)
		}
		publish(b.T, servers[0], "live", canary)
		synctest.Wait()
		var passed []string
		for i, s := range servers[:5] {
			require.Equal(b, passed, (*asked[i])[0].Hops)
			require.Len(b, s.Sources(), 1)
			passed = append(passed, (*asked[i])[0].ServerID)
		}
		require.Empty(b, servers[5].Sources())
		require.Empty(b, *asked[5])
	})
}
