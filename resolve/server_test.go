package resolve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// Whatever the backend answers, the publisher is accepted or refused as the
// policy says, the stream's name is free again, and nothing is left behind.
func TestBackendRepliesOnTheWholeServer(t *testing.T) {
	policies := map[string]struct {
		policy FailurePolicy
		urls   []string // after a failure; nil is a refusal
	}{
		"FailClosed": {FailClosed, nil},
		"FailOpen":   {FailOpen, []string{}},
		"LastGood":   {LastGood, []string{"rtmp://127.0.0.1:19350/test/teststream"}},
		"Fallback":   {Fallback(forward.MustStatic("10.0.0.9")), []string{"rtmp://10.0.0.9/live"}},
	}
	none := hookReplies[0]
	none.name, none.urls, none.failed = "none", nil, "no answer within 30s"
	none.reply = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	stranger := none
	stranger.name, stranger.failed, stranger.reply = "a certificate of nobody known", "certificate", nil
	for _, tt := range append(slices.Clone(hookReplies), none, stranger) {
		for name, p := range policies {
			t.Run(tt.name+"/"+name, virtually(func(t *testing.T) {
				var network forwardtest.Network
				b := newBackend(t)
				b.Listener.Close()
				var err error
				b.Listener, err = network.Listen("backend:80")
				require.NoError(t, err)
				scheme := "http"
				var trusted atomic.Bool
				if tt.reply == nil {
					scheme = "https"
					b.StartTLS()
				} else {
					b.Start()
				}
				dialTLS := func(ctx context.Context, _, addr string) (net.Conn, error) {
					nc, err := network.Dial(ctx, "tcp", addr)
					if err != nil {
						return nil, err
					}
					roots := x509.NewCertPool()
					if trusted.Load() {
						roots.AddCert(b.Certificate())
					}
					tc := tls.Client(nc, &tls.Config{ServerName: "example.com", RootCAs: roots})
					if err := tc.HandshakeContext(ctx); err != nil {
						nc.Close()
						return nil, err
					}
					return tc, nil
				}
				log := new(logtest.Buffer)
				logger := secretscan.Logger(slog.NewTextHandler(log, nil))
				s := newServer(t, forward.Config{
					Logger: logger,
					Resolver: &HTTP{URL: scheme + "://backend:80/api/v1/forward?token=" + canary, OnFailure: p.policy, Logger: logger,
						Client: &http.Client{Transport: &http.Transport{
							DialContext: network.Dial, DialTLSContext: dialTLS, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
						}},
					},
					Dial: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed },
				})
				publish := func(reply http.HandlerFunc) (urls []string, err error) {
					trusted.Store(reply != nil)
					if reply != nil {
						b.reply.Store(reply)
					}
					client := forwardtest.Client{URL: "rtmp://localhost/live/livestream?token=" + canary, Dial: forwardtest.Direct(s)}
					pub, err := client.Publish(t.Context())
					if err != nil {
						require.Empty(t, s.Sources())
						return nil, err
					}
					src := s.Source("live/livestream")
					require.NotNil(t, src)
					urls = []string{}
					for _, f := range src.Forwarders() {
						urls = append(urls, f.Destination().URL)
					}
					pub.Close()
					<-src.Done()
					return urls, nil
				}
				good := []string{"rtmp://127.0.0.1:19350/test/teststream"}
				urls, err := publish(body(seedReply))
				require.NoError(t, err)
				require.Equal(t, good, urls)

				urls, err = publish(tt.reply)
				switch {
				case tt.failed == "":
					require.NoError(t, err)
					require.ElementsMatch(t, tt.urls, urls)
				case tt.refused || p.urls == nil:
					require.Equal(t, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
					require.NotContains(t, err.Error(), canary)
				default:
					require.NoError(t, err)
					require.Equal(t, p.urls, urls)
				}

				urls, err = publish(body(seedReply))
				require.NoError(t, err, "the name is free at once")
				require.Equal(t, good, urls)
				require.NoError(t, s.Close())
				require.NotContains(t, log.String(), canary)
				require.NotContains(t, log.String(), "panic")
			}))
		}
	}
}

// virtually has a test run in virtual time.
func virtually(f func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

// 1,000 concurrent publishes are forwarded within 3 s with a backend that takes 1 s to
// answer. With Cached, identical questions in flight are asked once.
func TestThousandConcurrentPublishes(t *testing.T) {
	for _, tt := range []struct {
		name             string
		servers, streams int
		cached           bool
		asked            int64
	}{
		{"one server", 1, 1000, false, 1000},
		{"ten servers", 10, 100, false, 1000},
		{"ten servers that ask the same", 10, 100, true, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked, forwarding atomic.Int64
				all := make(chan struct{})
				var r forward.DestinationResolver = &HTTP{URL: "http://backend/", Client: &http.Client{
					Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
						asked.Add(1)
						var q struct{ Stream string }
						if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
							return nil, err
						}
						time.Sleep(time.Second)
						reply := `{"code":0,"data":{"urls":["rtmp://dest/live/` + q.Stream + `"]}}`
						return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(reply))}, nil
					}),
				}}
				if tt.cached {
					r = Cached(r, 0)
				}
				began := time.Now()
				for range tt.servers {
					dest := newServer(t, forward.Config{})
					s := newServer(t, forward.Config{Resolver: r, Dial: dialTo(dest), Hooks: forward.Hooks{
						OnForward: func(_ *forward.Forwarder, state forward.State, _ error) {
							if state == forward.StatePublishing && forwarding.Add(1) == 1000 {
								close(all)
							}
						},
					}})
					for i := range tt.streams {
						go func() {
							if _, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: fmt.Sprint("s", i)}); err != nil {
								t.Error(err)
							}
						}()
					}
				}
				<-all
				require.LessOrEqual(t, time.Since(began), 3*time.Second)
				require.Equal(t, tt.asked, asked.Load())
			})
		})
	}
}

// Of many streams whose backend is down when they are refreshed one line tells, and
// the Server adds none.
func TestRefreshesOfABackendThatIsDownAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Warnings
		b := &hosttest.Switched{Reply: `{"code":0,"data":{"urls":[],"ttl":60}}`}
		s := newServer(t, forward.Config{Logger: log.Logger(), Resolver: &HTTP{URL: "http://b/", Client: b.Client()}})
		for i := range 20 {
			p, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: fmt.Sprint(canary, i)})
			require.NoError(t, err)
			defer p.Close()
		}
		log.Reset()
		b.Fail(io.EOF)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		lines := log.Take("level=WARN")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "backend failed")
		time.Sleep(hostcode.OutageEvery)
		synctest.Wait()
		lines = log.Take("level=WARN")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "not_logged=")
		b.Fail(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		lines = log.Take("level=")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "backend answers again")
	})
}
