package forward

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/outage"
)

// Of many streams whose refresh fails for one cause one line tells.
func TestRefreshesThatFailAreLogged(t *testing.T) {
	const streams = 20
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Warnings
		r := &fakeResolver{ttl: time.Minute}
		s := newServer(t, Config{Logger: log.Logger(), Resolver: r})
		for i := range streams {
			p, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: fmt.Sprint(canary, i)})
			require.NoError(t, err)
			defer p.Close()
		}
		log.Reset()
		r.set(func(r *fakeResolver) { r.err = io.EOF })
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		lines := log.Take("level=WARN")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "refresh")
		time.Sleep(outage.Every)
		synctest.Wait()
		lines = log.Take("level=WARN")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "not_logged=")
		r.set(func(r *fakeResolver) { r.err = nil })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		lines = log.Take("level=")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "refresh works again")
	})
}

// loggedError is one that a host's resolver has logged itself.
type loggedError struct{ error }

func (loggedError) Logged() bool { return true }

// The log has once what a resolver has logged itself.
func TestRefreshErrorThatIsLoggedAlreadyIsNotLoggedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Warnings
		s := newServer(t, Config{Logger: log.Logger(), RefreshInterval: time.Minute, Resolver: ResolverFunc(func(ctx context.Context, _ *PublishRequest) ([]Destination, error) {
			if IsRefresh(ctx) {
				return nil, fmt.Errorf("my backend: %w", loggedError{io.EOF})
			}
			return nil, nil
		})})
		p, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: canary})
		require.NoError(t, err)
		defer p.Close()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		require.Empty(t, log.Take("level=WARN"))
	})
}

// A publisher whose resolver or hook has too much to do is told so.
func TestPublisherIsToldThatTheHostIsBusy(t *testing.T) {
	busy := fmt.Errorf("my backend: %w", ErrBusy)
	for name, cfg := range map[string]Config{
		"resolver": {Resolver: ResolverFunc(func(context.Context, *PublishRequest) ([]Destination, error) { return nil, busy })},
		"hook":     {Hooks: Hooks{OnPublish: func(context.Context, *PublishRequest) error { return busy }}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, cfg, func(b *bubble) {
				_, err := b.client("live/s").Publish(b.ctx)
				require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
				require.ErrorContains(b, err, "The server is busy, try again later.")
			})
		})
	}
}

// Who is refused for its vhost, and the log, are told which, and the log once.
func TestNoSuchVhostIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Warnings
		dest := newServer(t, Config{Vhosts: map[string]Vhost{"a": {}}, Logger: log.Logger()})
		lost := make(chan error, 10)
		src := newServer(t, Config{Dial: dialTo(dest), Hooks: Hooks{OnForward: func(_ *Forwarder, s State, err error) {
			if s == StateWaiting {
				lost <- err
			}
		}}})
		p := publish(t, src, "live", canary)
		_, err := p.Source().Forward(Destination{URL: "rtmp://nobody.example/live/" + canary})
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

// What has run out of time is said with the time, and not in the system's words.
func TestTimesThatHaveRunOut(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  Config
		do   func(b *bubble, c forwardtest.Client)
		want string
	}{
		"handshake": {Config{}, func(b *bubble, c forwardtest.Client) {
			nc, err := c.Dial(b.ctx, "tcp", "server:1935")
			require.NoError(b, err)
			b.Cleanup(func() { nc.Close() })
		}, "no handshake within 5s"},
		"media": {Config{FirstMediaTimeout: 3 * time.Second}, func(b *bubble, c forwardtest.Client) {
			_, err := c.Publish(b.ctx)
			require.NoError(b, err)
		}, "no media within 3s"},
	} {
		t.Run(name, func(t *testing.T) {
			var log logtest.Warnings
			tt.cfg.Logger = log.Logger()
			inBubble(t, tt.cfg, func(b *bubble) {
				tt.do(b, b.client("live/"+canary))
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
