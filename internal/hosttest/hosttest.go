// Package hosttest has what tests of whole Servers share, over the public API: Servers
// that are searched for secrets, a Server in virtual time (Bubble), the healthy stream
// beside each fault (Isolation), clients of all kinds, and backends in the process.
// Only tests import it.
//
// It imports package control, so only external tests of forward and control can
// import it. What users get for their tests is in package forwardtest.
package hosttest

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
)

// Request is that of live/livestream on the seed's page.
func Request() *forward.PublishRequest {
	return &forward.PublishRequest{
		ServerID: "vid-k21d7y2", ClientID: "9o7g1330",
		RemoteAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 50000},
		Vhost:      forward.DefaultVhost, App: "live", Stream: "livestream",
		TcURL: "rtmp://127.0.0.1:1935/live",
	}
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

// ControlHandler is control.Handler with one token.
func ControlHandler(s *forward.Server, token forward.Secret) http.Handler {
	h, err := control.Handler(s, control.Options{Tokens: []forward.Secret{token}})
	if err != nil {
		panic(err)
	}
	return h
}
