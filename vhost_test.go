package forward_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/auth"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

const secretMedia = rtmptest.H264Key + "only for studio"

// A stream can't be reached without the hooks of its vhost. Either they are asked about that
// vhost and name, or another stream is played, published, named and signed.
func TestVhostsAreSeparate(t *testing.T) {
	listed := map[string]forward.Vhost{forward.DefaultVhost: {Takeover: true}, "Studio.example": {Takeover: true}, "other.example": {}}
	for name, vhosts := range map[string]map[string]forward.Vhost{"listed": listed, "none listed": nil} {
		for _, way := range forward.WaysToStudio {
			t.Run(fmt.Sprintf("%s/%+v", name, way), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { lockedStudio(t, vhosts, way) })
			})
		}
	}
}

// lockedStudio tries to reach the stream of a vhost that refuses everybody.
func lockedStudio(t *testing.T, vhosts map[string]forward.Vhost, way forward.Asked) {
	const name = "//studio.example/live/cam"
	var mu sync.Mutex
	let := make(map[string]bool) // names that hooks have accepted
	decide := func(r *forward.Request) error {
		if r.ClientID == "host" {
			return nil
		}
		if strings.EqualFold(r.Vhost, "studio.example") {
			return errors.New("nobody")
		}
		mu.Lock()
		defer mu.Unlock()
		let[r.Name()] = true
		return nil
	}
	s := hosttest.NewServer(t, forward.Config{MergeWindow: -1, Takeover: vhosts == nil, Vhosts: vhosts, Hooks: forward.Hooks{
		OnPublish: func(_ context.Context, r *forward.Request) error { return decide(r) },
		OnPlay:    func(_ context.Context, r *forward.Request) error { return decide((*forward.Request)(r)) },
	}})
	defer s.Close()
	connecting := rtmptest.ConnectWith("app", way.App, "tcUrl", way.TcURL) + rtmptest.CreateStream

	// The client does not block the name.
	before := hosttest.Encoder(t, s, connecting+rtmptest.Call(1, "publish", 5, nil, way.Name, "live")+rtmptest.Message(4, 0, 9, 1, rtmptest.H264Key))
	waits := hosttest.Listener(t, s, connecting+rtmptest.Call(1, "play", 5, nil, way.Name))
	require.Nil(t, s.Source(name))
	p, err := s.Publish(t.Context(), forward.Request{Vhost: "studio.EXAMPLE", App: "live", Stream: "cam", ClientID: "host"})
	require.NoError(t, err)
	defer p.Close()
	require.NoError(t, p.WriteTag(forward.TagVideo, 0, []byte(secretMedia)))
	before.Close()
	synctest.Wait()

	// The stream is not published, taken over or played either.
	hosttest.Encoder(t, s, connecting+rtmptest.Call(1, "publish", 5, nil, way.Name, "live")+rtmptest.Message(4, 0, 9, 1, rtmptest.H264Key))
	heard := hosttest.Listener(t, s, connecting+rtmptest.Call(1, "play", 5, nil, way.Name))
	require.NoError(t, p.WriteTag(forward.TagVideo, 40, []byte(secretMedia)))
	synctest.Wait()
	require.NotContains(t, heard(), "only for studio")
	require.NotContains(t, waits(), "only for studio")
	src := s.Source(name)
	require.Same(t, p.Source(), src)
	require.EqualValues(t, 2, src.Stats().Messages)
	require.Equal(t, "host", src.Request().ClientID)
	for _, other := range s.Sources() {
		require.True(t, other == src || other.Name() != name && other.ID() != src.ID())
	}

	// No name that a hook has accepted, and no token for it, is that of the stream.
	require.False(t, let[name])
	token := auth.Token{Secrets: []forward.Secret{"k"}}
	for n := range let {
		query, err := token.Sign(n, time.Now().Add(time.Hour))
		require.NoError(t, err)
		require.ErrorIs(t, token.Verify(&forward.Request{Vhost: "Studio.example", App: "live", Stream: "cam", Param: "?" + query}), auth.ErrToken)
	}
}
