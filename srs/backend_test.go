package srs

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/resolve"
)

// The forward.Server's log says that a backend is down, which and why: once, then every
// ten minutes with the number left out, and that it answers again.
func TestBackendDownIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Warnings
		asked, told := &hosttest.Switched{Reply: "0"}, &hosttest.Switched{Reply: `{"code":0,"data":{"urls":["rtmp://127.0.0.1:19350/test/teststream"]}}`}
		const url = "http://jo:" + canary + "@backend/api/v1/streams?token=" + canary
		s := newServer(t, forward.Config{
			Logger:   log.Logger(),
			Hooks:    (&Hooks{URLs: HookURLs{OnPublish: []string{url}}, Client: asked.Client()}).Hooks(),
			Resolver: &resolve.HTTP{URL: "http://backend/api/v1/forward/" + canary + "?" + canary, Client: told.Client()},
		})
		publishes := func(n int) (failed int) {
			for i := range n {
				p, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: fmt.Sprint(canary, i)})
				if err != nil {
					failed++
					continue
				}
				p.Close()
				<-p.Source().Done()
			}
			return failed
		}
		require.Zero(t, publishes(3))
		require.Empty(t, log.Take("backend"))

		down := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 80}, Err: errors.New("connection refused")}
		asked.Fail(down)
		require.Equal(t, 20, publishes(20))
		require.Equal(t, []string{`level=WARN msg="backend failed" url=http://***@backend/api/v1/streams?*** action=on_publish err="dial tcp 10.0.0.9:80: connection refused"`},
			log.Take("backend"))
		time.Sleep(hostcode.OutageEvery - time.Second)
		publishes(5)
		require.Empty(t, log.Take("backend"))
		time.Sleep(time.Second)
		publishes(1)
		lines := log.Take("backend")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "level=WARN")
		require.Contains(t, lines[0], "not_logged=24")

		// Another cause is news.
		asked.Fail(errors.New("bad certificate"))
		publishes(3)
		require.Equal(t, []string{`level=WARN msg="backend failed" url=http://***@backend/api/v1/streams?*** action=on_publish err="bad certificate"`}, log.Take("backend"))

		asked.Fail(nil)
		require.Zero(t, publishes(3))
		require.Equal(t, []string{`level=INFO msg="backend answers again" url=http://***@backend/api/v1/streams?*** after=10m0s not_logged=2`}, log.Take("backend"))

		// So with the other, which is another URL.
		told.Fail(down)
		require.Equal(t, 2, publishes(2))
		lines = log.Take("backend")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "level=WARN")
		require.Contains(t, lines[0], "url=http://backend/api/v1/forward/***?*** action=on_forward")

		// One that comes and goes does not fill the log.
		for range 100 {
			asked.Fail(down)
			publishes(1)
			asked.Fail(nil)
			told.Fail(nil)
			publishes(1)
		}
		require.LessOrEqual(t, len(log.Take("backend")), 3)
	})
}

// A refusal is an answer.
func TestBackendThatRefusesIsNotDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Warnings
		h := &Hooks{URLs: HookURLs{OnPublish: []string{"http://b/"}}, Client: (&hosttest.Switched{Reply: `{"code":1}`}).Client(), Logger: log.Logger()}
		require.ErrorIs(t, h.Hooks().OnPublish(t.Context(), seedRequest()), forward.ErrRefused)
		require.Empty(t, log.Take(""))
	})
}

// What hooks and backend take does not count in the time of the client's own
// set-up.
func TestSlowBackendsDoNotRefuse(t *testing.T) {
	const each = 25 * time.Second
	url := []string{"http://b/"}
	cfg := forward.Config{
		Hooks: (&Hooks{
			URLs: HookURLs{OnConnect: url, OnPublish: url, OnPlay: url}, Client: replying(each, "0", nil),
		}).Hooks(),
		Resolver: &resolve.HTTP{URL: "http://b/", Client: replying(each, `{"code":0,"data":{"urls":[]}}`, nil)},
	}
	hosttest.InBubble(t, cfg, func(b *hosttest.Bubble) {
		began := time.Now()
		p := b.Publish("live/s")
		require.Equal(b, 3*each, time.Since(began))
		player := b.Play("live/s")
		require.Equal(b, 5*each, time.Since(began))
		require.NotNil(b, player)
		p.Close()
	})
}
