package forward

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// serveAt runs one more Server in the bubble's network and notes who publishes
// to it.
func (b *bubble) serveAt(address string, cfg Config) (*Server, *[]*PublishRequest) {
	b.Helper()
	var asked []*PublishRequest
	cfg.Dial, cfg.FirstMediaTimeout = b.net.Dial, -1
	cfg.Hooks.OnPublish = func(_ context.Context, req *PublishRequest) error {
		asked = append(asked, req)
		return nil
	}
	s := NewServer(watched(b.T, cfg))
	l, err := b.net.Listen(address)
	require.NoError(b, err)
	go s.Serve(l)
	b.Cleanup(func() {
		inspect(b.T, s)
		s.Close()
	})
	return s, &asked
}

func TestLoops(t *testing.T) {
	for _, row := range []struct {
		name, a, b string // where they send to
	}{
		{"A to A", "a.example", ""},
		{"A to A, renamed", "rtmp://a.example/other/[stream]-again", ""},
		{"A to B to A", "b.example", "a.example"},
		{"A to B to A, renamed", "rtmp://b.example/there/[stream]", "rtmp://a.example/back/[stream]-1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, Config{}, func(b *bubble) {
				a, askedA := b.serveAt("a.example:1935", Config{Resolver: MustStatic(row.a)})
				last, askedB := a, new([]*PublishRequest)
				if row.b != "" {
					last, askedB = b.serveAt("b.example:1935", Config{Resolver: MustStatic(row.b)})
				}
				publish(b.T, a, "live", "cam7")
				synctest.Wait()

				f := last.Sources()[0].Forwarders()[0]
				require.Equal(b, StateWaiting, f.Stats().State)
				var de *DestinationError
				require.ErrorAs(b, f.Stats().LastErr, &de)
				require.Equal(b, OpConnect, de.Op, "refused within one round trip")
				require.Equal(b, "NetConnection.Connect.Rejected", de.Code)
				require.ErrorContains(b, de, "The stream has already passed through this server.")
				require.False(b, de.Temporary())

				// Nobody is asked about it, also when it is tried again.
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

// A chain may have four servers before the last.
func TestHops(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		var servers []*Server
		var asked []*[]*PublishRequest
		names := []string{"s1", "s2", "s3", "s4", "s5", "s6"}
		for i, name := range names {
			cfg := Config{}
			if i+1 < len(names) {
				cfg.Resolver = MustStatic(names[i+1])
			}
			s, a := b.serveAt(name+":1935", cfg)
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

// A publisher inside the process passes on where its stream comes from.
func TestHopsOfPublisher(t *testing.T) {
	s := newServer(t, Config{})
	for want, hops := range map[error][]string{
		nil:     {"1", "2", "3", "4"},
		ErrLoop: {"1", s.id},
	} {
		p, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: canary, Hops: hops})
		require.ErrorIs(t, err, want)
		if want == nil {
			require.Equal(t, "1,2,3,4,"+s.id, p.Source().req.onward())
			p.Close()
			<-p.Source().Done()
		}
	}
	_, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: canary, Hops: []string{"1", "2", "3", "4", "5"}})
	require.ErrorIs(t, err, ErrLoop)
}

// What is no list of ours, or too long for one.
func TestHopsOfConnect(t *testing.T) {
	s := newServer(t, Config{})
	for _, row := range []struct {
		value any // nil: absent
		want  int // hops
		loop  bool
	}{
		{nil, 0, false},
		{"", 0, false},
		{12.0, 0, false},
		{amf.StrictArray{s.id}, 0, false},
		{"a", 1, false},
		{"a,b,c,d", 4, false},
		{"a,b,c,d,e", 5, true},
		{"a," + s.id, 2, true},
		{strings.Repeat("a", maxHopsLen), 1, false},
		{strings.Repeat("a", maxHopsLen+1), 5, true},
		{strings.Repeat(",", maxHopsLen), 6, true},
	} {
		m := &rtmp.Connect{}
		if row.value != nil {
			m.Properties = amf.Object{{Key: hopsProperty, Value: row.value}}
		}
		got := hops(m)
		require.Len(t, got, row.want, "%v", row.value)
		require.Equal(t, row.loop, errors.Is(s.checkHops(got), ErrLoop), "%v", row.value)
	}
}
