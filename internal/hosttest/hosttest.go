// Package hosttest has what the tests of resolvers and callbacks share: Servers that are
// searched for secrets, requests, and backends in the process. Only tests import it.
package hosttest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

const canary = secretscan.Canary

// Request is that of live/livestream on the seed's page.
func Request() *forward.PublishRequest {
	return &forward.PublishRequest{
		ServerID: "vid-k21d7y2", ClientID: "9o7g1330",
		RemoteAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 50000},
		Vhost:      forward.DefaultVhost, App: "live", Stream: "livestream",
		TcURL: "rtmp://127.0.0.1:1935/live",
	}
}

// NewServer returns a Server that the end of the test closes.
func NewServer(t testing.TB, cfg forward.Config) *forward.Server {
	t.Helper()
	s := forward.NewServer(watched(t, cfg))
	require.NoError(t, cfg.Validate())
	leaktest.Track(t, s)
	t.Cleanup(func() {
		inspect(t, s)
		s.Close()
	})
	return s
}

// watched is cfg such that no secret can be told to a log or to OnForward unseen.
func watched(t testing.TB, cfg forward.Config) forward.Config {
	if cfg.Logger == nil {
		cfg.Logger = secretscan.Quiet
	}
	tell := cfg.Hooks.OnForward
	cfg.Hooks.OnForward = func(f *forward.Forwarder, state forward.State, err error) {
		if err != nil {
			secretscan.Check(t.Name(), f, state, err, f.Stats())
		}
		if tell != nil {
			tell(f, state, err)
		}
	}
	return cfg
}

// inspect looks for secrets in what a Server tells about itself.
func inspect(t testing.TB, s *forward.Server) {
	t.Helper()
	const token = "operator-" + canary
	secretscan.Check(t.Name(), s, s.Stats())
	for _, src := range s.Sources() {
		secretscan.Check(t.Name(), src, src.ID(), src.Request(), src.Stats())
	}
	h, err := control.Handler(s, control.Options{Tokens: []forward.Secret{token}})
	require.NoError(t, err)
	r := httptest.NewRequest("GET", "/sources", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	secretscan.Check(t.Name(), w.Result().Header, w.Body)
}

// DialTo makes connections in memory to a Server. Each is served until it ends.
func DialTo(s *forward.Server) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go s.ServeConn(context.Background(), theirs)
		return ours, nil
	}
}

// Publish publishes a stream that the end of the test closes.
func Publish(t testing.TB, s *forward.Server, app, stream string) *forward.Publisher {
	t.Helper()
	p, err := s.Publish(t.Context(), forward.PublishRequest{App: app, Stream: stream, Param: "?token=" + canary})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// Bubble is a Server at server:1935 of a network in memory, in virtual time.
type Bubble struct {
	*testing.T
	Ctx    context.Context
	Net    *forwardtest.Network
	Server *forward.Server
	Config forward.Config // of the Server
}

// InBubble calls f with a Bubble, and ends its Server.
func InBubble(t *testing.T, cfg forward.Config, f func(b *Bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &Bubble{T: t, Net: new(forwardtest.Network)}
		var cancel context.CancelFunc
		b.Ctx, cancel = context.WithTimeout(t.Context(), 48*time.Hour)
		defer cancel()
		if cfg.Dial == nil {
			cfg.Dial = b.Net.Dial
		}
		b.Config = watched(t, cfg)
		b.Server = forward.NewServer(b.Config)
		leaktest.Track(t, b.Server)
		l, err := b.Net.Listen("server:1935")
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- b.Server.Serve(l) }()
		defer func() {
			inspect(t, b.Server)
			b.Server.Close()
			require.ErrorIs(t, <-served, forward.ErrServerClosed)
		}()
		f(b)
	})
}

// Client is for the stream of that name, such as live/s.
func (b *Bubble) Client(name string) forwardtest.Client {
	return forwardtest.Client{URL: "rtmp://server/" + name + "?token=" + canary, Dial: b.Net.Dial}
}

// Publish begins to publish.
func (b *Bubble) Publish(name string) *forwardtest.Publisher {
	b.Helper()
	p, err := b.Client(name).Publish(b.Ctx)
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

// Play begins to play.
func (b *Bubble) Play(name string) *forwardtest.Player {
	b.Helper()
	p, err := b.Client(name).Play(b.Ctx, nil)
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

// Destination is one of the network.
func (b *Bubble) Destination(address string) *forwardtest.Destination {
	d := b.Net.NewDestination(address)
	b.Cleanup(func() { d.Close() })
	return d
}

// Published waits for the n-th connection to publish.
func (b *Bubble) Published(d *forwardtest.Destination, n int) *forwardtest.Session {
	b.Helper()
	s, err := d.WaitSession(b.Ctx, n)
	require.NoError(b, err)
	_, err = s.WaitCommand(b.Ctx, "publish")
	require.NoError(b, err)
	synctest.Wait()
	return s
}

// RoundTripper answers HTTP requests in the process.
type RoundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f RoundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Reply is a response with status 200.
func Reply(body string) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

// Replying is a client whose backend answers after a while; in a bubble no time
// passes. asked, unless nil, counts.
func Replying(after time.Duration, reply string, asked *atomic.Int64) *http.Client {
	return &http.Client{Transport: RoundTripper(func(r *http.Request) (*http.Response, error) {
		if asked != nil {
			asked.Add(1)
		}
		select {
		case <-time.After(after):
			return Reply(reply), nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	})}
}

// Switched is a backend that fails as told, and answers otherwise.
type Switched struct {
	err   atomic.Pointer[error]
	Reply string
}

// Fail has it fail with err, or answer again.
func (s *Switched) Fail(err error) { s.err.Store(&err) }

// Client is one of the backend's.
func (s *Switched) Client() *http.Client {
	return &http.Client{Transport: RoundTripper(func(*http.Request) (*http.Response, error) {
		if err := s.err.Load(); err != nil && *err != nil {
			return nil, *err
		}
		return Reply(s.Reply), nil
	})}
}

// Body is a backend's answer with status 200.
func Body(s string) http.HandlerFunc { return Status(http.StatusOK, s) }

// Status is a backend's answer.
func Status(code int, s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		io.WriteString(w, s)
	}
}

// URLs are those of destinations.
func URLs(ds []forward.Destination) (urls []string) {
	for _, d := range ds {
		urls = append(urls, d.URL)
	}
	return urls
}
