package e2e

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/logtest"
)

// Many streams whose refresh fails for the same reason cause one log line.
func TestRefreshesThatFailAreLogged(t *testing.T) {
	const streams = 20
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Warnings
		r := &fakeResolver{TTL: time.Minute}
		s := newServer(t, forward.Config{Logger: log.Logger(), Resolver: r})
		for i := range streams {
			p, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: fmt.Sprint(canary, i)})
			require.NoError(t, err)
			defer p.Close()
		}
		log.Reset()
		r.Set(func(r *fakeResolver) { r.Err = io.EOF })
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		lines := log.Take("level=WARN")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "refresh")
		time.Sleep(hostcode.OutageEvery)
		synctest.Wait()
		lines = log.Take("level=WARN")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "not_logged=")
		r.Set(func(r *fakeResolver) { r.Err = nil })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		lines = log.Take("level=")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "refresh works again")
	})
}

// loggedError is an error that the host's resolver has already logged.
type loggedError struct{ error }

func (loggedError) Logged() bool { return true }

// An error that a resolver has logged itself is not logged twice.
func TestRefreshErrorThatIsLoggedAlreadyIsNotLoggedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Warnings
		s := newServer(t, forward.Config{Logger: log.Logger(), RefreshInterval: time.Minute, Resolver: forward.ResolverFunc(func(ctx context.Context, _ *forward.Request) ([]forward.Destination, error) {
			if forward.IsRefresh(ctx) {
				return nil, fmt.Errorf("my backend: %w", loggedError{io.EOF})
			}
			return nil, nil
		})})
		p, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: canary})
		require.NoError(t, err)
		defer p.Close()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		require.Empty(t, log.Take("level=WARN"))
	})
}

// A publisher is told if its resolver or hook is overloaded.
func TestPublisherIsToldThatTheHostIsBusy(t *testing.T) {
	busy := fmt.Errorf("my backend: %w", forward.ErrBusy)
	for name, cfg := range map[string]forward.Config{
		"resolver": {Resolver: forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) { return nil, busy })},
		"hook":     {Hooks: forward.Hooks{OnPublish: func(context.Context, *forward.Request) error { return busy }}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, cfg, func(b *bubble) {
				_, err := b.Client("live/s").Publish(b.Ctx)
				require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
				require.ErrorContains(b, err, "The server is busy, try again later.")
			})
		})
	}
}

// A client refused for its vhost is told the vhost. The log names it once.
func TestNoSuchVhostIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Warnings
		dest := newServer(t, forward.Config{Vhosts: map[string]forward.Vhost{"a": {}}, Logger: log.Logger()})
		lost := make(chan error, 10)
		src := newServer(t, forward.Config{Dial: dialTo(dest), Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, s forward.State, err error) {
			if s == forward.StateWaiting {
				lost <- err
			}
		}}})
		p := publish(t, src, "live", canary)
		_, err := p.Source().Forward(forward.Destination{URL: "rtmp://nobody.example/live/" + canary})
		require.NoError(t, err)
		require.ErrorContains(t, <-lost, `no such vhost: "nobody.example"`)
		p.Close()
		<-p.Source().Done()
		synctest.Wait()
		lines := log.Take("no such vhost")
		require.Len(t, lines, 1)
		require.Equal(t, 1, strings.Count(lines[0], "no such vhost"), lines[0])
		require.Contains(t, lines[0], "nobody.example")
	})
}

// An error about a timeout names the time instead of the system's words.
func TestErrorsNameTheTimeout(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  forward.Config
		do   func(b *bubble, c forwardtest.Client)
		want string
	}{
		"handshake": {forward.Config{}, func(b *bubble, c forwardtest.Client) {
			nc, err := c.Dial(b.Ctx, "tcp", "server:1935")
			require.NoError(b, err)
			b.Cleanup(func() { nc.Close() })
		}, "no handshake within 5s"},
		"media": {forward.Config{FirstMediaTimeout: 3 * time.Second}, func(b *bubble, c forwardtest.Client) {
			_, err := c.Publish(b.Ctx)
			require.NoError(b, err)
		}, "no media within 3s"},
	} {
		t.Run(name, func(t *testing.T) {
			var log logtest.Warnings
			tt.cfg.Logger = log.Logger()
			inBubble(t, tt.cfg, func(b *bubble) {
				tt.do(b, b.Client("live/"+canary))
				time.Sleep(time.Minute)
				synctest.Wait()
				lines := log.Take("connection ended")
				require.Len(b, lines, 1)
				require.Contains(b, lines[0], tt.want)
				require.NotContains(b, lines[0], "timeout")
			})
		})
	}
}
