// Package hosttest provides helpers for tests of whole Servers through the public API:
// Servers whose output is searched for secrets, a Server in virtual time (Bubble), a
// healthy stream beside each fault (Isolation), clients of all kinds, and backends
// inside the process. Only tests import it.
//
// It imports package control, so only external tests of forward and control can import
// it. Package forwardtest has the helpers for users.
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

// Request is a publish of live/livestream, as in SRS's documentation.
func Request() *forward.Request {
	return &forward.Request{
		ServerID: "vid-k21d7y2", ClientID: "9o7g1330",
		RemoteAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 50000},
		Vhost:      forward.DefaultVhost, App: "live", Stream: "livestream",
		TcURL: "rtmp://127.0.0.1:1935/live",
	}
}

// RoundTripper answers HTTP requests inside the process.
type RoundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls f.
func (f RoundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Reply is a response with status 200.
func Reply(body string) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

// Replying is an HTTP client whose backend answers after a delay; in a bubble that
// takes no time. It counts requests in asked, unless nil.
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

// Switched is a backend that can be made to fail.
type Switched struct {
	err   atomic.Pointer[error]
	Reply string
}

// Fail makes the backend fail with err, or answer again if err is nil.
func (s *Switched) Fail(err error) { s.err.Store(&err) }

// Client is an HTTP client of the backend.
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

// Status is a backend's answer with a status.
func Status(code int, s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		io.WriteString(w, s)
	}
}

// URLs are the URLs of destinations.
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
