package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/outage"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// warnings are those of a log above Debug, without their times.
type warnings struct{ bytes.Buffer }

func (l *warnings) logger() *slog.Logger {
	return secretscan.Logger(slog.NewTextHandler(&l.Buffer, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// take returns the lines that hold a text, and forgets all.
func (l *warnings) take(text string) (out []string) {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	l.Reset()
	return out
}

// switched is a client whose backend fails as told, and answers otherwise.
type switched struct {
	err   atomic.Pointer[error]
	reply string
}

func (s *switched) fail(err error) { s.err.Store(&err) }

func (s *switched) client() *http.Client {
	return &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		if err := s.err.Load(); err != nil && *err != nil {
			return nil, *err
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(s.reply))}, nil
	})}
}

// The Server's log says that a backend is down, which and why: once, then every
// ten minutes with the number left out, and that it answers again.
func TestBackendDownIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log warnings
		asked, told := &switched{reply: "0"}, &switched{reply: seedReply}
		const url = "http://jo:" + canary + "@backend/api/v1/streams?token=" + canary
		s := newServer(t, Config{
			Logger:   log.logger(),
			Hooks:    (&HTTPHooks{URLs: HTTPHookURLs{OnPublish: []string{url}}, Client: asked.client()}).Hooks(),
			Resolver: &HTTPResolver{URL: "http://backend/api/v1/forward/" + canary + "?" + canary, Client: told.client()},
		})
		publishes := func(n int) (failed int) {
			for i := range n {
				p, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: fmt.Sprint(canary, i)})
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
		require.Empty(t, log.take("backend"))

		down := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 80}, Err: errors.New("connection refused")}
		asked.fail(down)
		require.Equal(t, 20, publishes(20))
		require.Equal(t, []string{`level=WARN msg="backend failed" url=http://***@backend/api/v1/streams?*** action=on_publish err="dial tcp 10.0.0.9:80: connection refused"`},
			log.take("backend"))
		time.Sleep(outage.Every - time.Second)
		publishes(5)
		require.Empty(t, log.take("backend"))
		time.Sleep(time.Second)
		publishes(1)
		lines := log.take("backend")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "level=WARN")
		require.Contains(t, lines[0], "not_logged=24")

		// Another cause is news.
		asked.fail(errors.New("bad certificate"))
		publishes(3)
		require.Equal(t, []string{`level=WARN msg="backend failed" url=http://***@backend/api/v1/streams?*** action=on_publish err="bad certificate"`}, log.take("backend"))

		asked.fail(nil)
		require.Zero(t, publishes(3))
		require.Equal(t, []string{`level=INFO msg="backend answers again" url=http://***@backend/api/v1/streams?*** after=10m0s not_logged=2`}, log.take("backend"))

		// So with the other, which is another URL.
		told.fail(down)
		require.Equal(t, 2, publishes(2))
		lines = log.take("backend")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "level=WARN")
		require.Contains(t, lines[0], "url=http://backend/api/v1/forward/***?*** action=on_forward")

		// One that comes and goes does not fill the log.
		for range 100 {
			asked.fail(down)
			publishes(1)
			asked.fail(nil)
			told.fail(nil)
			publishes(1)
		}
		require.LessOrEqual(t, len(log.take("backend")), 3)
	})
}

// A refusal is an answer.
func TestBackendThatRefusesIsNotDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log warnings
		h := &HTTPHooks{URLs: HTTPHookURLs{OnPublish: []string{"http://b/"}}, Client: (&switched{reply: `{"code":1}`}).client(), Logger: log.logger()}
		require.ErrorIs(t, h.Hooks().OnPublish(t.Context(), seedRequest()), ErrRefused)
		require.Empty(t, log.take(""))
	})
}

// Of many streams whose refresh fails for one cause one line tells.
func TestRefreshesThatFailAreLogged(t *testing.T) {
	const streams = 20
	for name, tt := range map[string]struct {
		resolver func(*switched) DestinationResolver
		failed   string
		again    string
	}{
		"of a backend": {func(s *switched) DestinationResolver {
			s.reply = `{"code":0,"data":{"urls":[],"ttl":60}}`
			return &HTTPResolver{URL: "http://b/", Client: s.client()}
		}, "backend failed", "backend answers again"},
		"of a host's own": {func(s *switched) DestinationResolver {
			return ttlFunc(func(context.Context, *PublishRequest) ([]Destination, time.Duration, error) {
				if err := s.err.Load(); err != nil {
					return nil, 0, *err
				}
				return nil, time.Minute, nil
			})
		}, "refresh", "refresh works again"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log warnings
				b := &switched{}
				s := newServer(t, Config{Logger: log.logger(), Resolver: tt.resolver(b)})
				for i := range streams {
					p, err := s.Publish(t.Context(), PublishRequest{App: "live", Stream: fmt.Sprint(canary, i)})
					require.NoError(t, err)
					defer p.Close()
				}
				log.Reset()
				b.fail(io.EOF)
				time.Sleep(3 * time.Minute)
				synctest.Wait()
				lines := log.take("level=WARN")
				require.Len(t, lines, 1)
				require.Contains(t, lines[0], tt.failed)
				time.Sleep(outage.Every)
				synctest.Wait()
				lines = log.take("level=WARN")
				require.Len(t, lines, 1)
				require.Contains(t, lines[0], "not_logged=")
				b.fail(nil)
				if name != "of a backend" {
					b.err.Store(nil)
				}
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				lines = log.take("level=")
				require.Len(t, lines, 1)
				require.Contains(t, lines[0], tt.again)
			})
		})
	}
}

// loggedError is one that a host's resolver has logged itself.
type loggedError struct{ error }

func (loggedError) Logged() bool { return true }

// The log has once what a resolver has logged itself.
func TestRefreshErrorThatIsLoggedAlreadyIsNotLoggedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log warnings
		s := newServer(t, Config{Logger: log.logger(), RefreshInterval: time.Minute, Resolver: ResolverFunc(func(ctx context.Context, _ *PublishRequest) ([]Destination, error) {
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
		require.Empty(t, log.take("level=WARN"))
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

func TestRedactBackend(t *testing.T) {
	for in, want := range map[string]string{
		"http://127.0.0.1:8085/api/v1/forward":                  "http://127.0.0.1:8085/api/v1/forward",
		"https://u:p@h/x?y=z":                                   "https://***@h/x?***",
		"https://hooks.example/services/T0001ABCD/B00/x9y8z7w6": "https://hooks.example/services/***/B00/***",
		"http://h":                     "http://h",
		"http://[::1]:80/%2f%2fsecret": "http://[::1]:80/***",
		"://":                          "***",
	} {
		require.Equal(t, want, redactBackend(in), in)
	}
}

// Who is refused for its vhost, and the log, are told which, and the log once.
func TestNoSuchVhostIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log warnings
		dest := newServer(t, Config{Vhosts: map[string]Vhost{"a": {}}, Logger: log.logger()})
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
		lines := log.take("no such vhost")
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
			var log warnings
			tt.cfg.Logger = log.logger()
			inBubble(t, tt.cfg, func(b *bubble) {
				tt.do(b, b.client("live/"+canary))
				time.Sleep(time.Minute)
				synctest.Wait()
				lines := log.take("connection ended")
				require.Len(b, lines, 1)
				require.Contains(b, lines[0], tt.want)
				require.NotContains(b, lines[0], "timeout")
			})
		})
	}
}

// What hooks and backend take does not count in the time of the client's own
// set-up.
func TestSlowBackendsDoNotRefuse(t *testing.T) {
	const each = 25 * time.Second
	url := []string{"http://b/"}
	cfg := Config{
		Hooks: (&HTTPHooks{
			URLs: HTTPHookURLs{OnConnect: url, OnPublish: url, OnPlay: url}, Client: replying(each, "0", nil),
		}).Hooks(),
		Resolver: &HTTPResolver{URL: "http://b/", Client: replying(each, `{"code":0,"data":{"urls":[]}}`, nil)},
	}
	inBubble(t, cfg, func(b *bubble) {
		began := time.Now()
		p := b.publish("live/s")
		require.Equal(b, 3*each, time.Since(began))
		player := b.play("live/s")
		require.Equal(b, 5*each, time.Since(began))
		require.NotNil(b, player)
		p.Close()
	})
}
