package forward

import (
	"fmt"
	"io"
	"net/url"
)

// What holds secrets in its fields, or in those that it refers to, is printed
// by fmt, slog and encoding/json as a name that holds none: a host that logs
// what it is given does not log stream keys.

// Format writes "Server" and the id, for every verb.
func (s *Server) Format(f fmt.State, _ rune) { io.WriteString(f, "Server "+s.id) }

// Format writes the stream's name as in the log, for every verb.
func (s *Source) Format(f fmt.State, _ rune) { io.WriteString(f, s.req.logName()) }

// Format writes the stream's name as in the log, for every verb.
func (p *Publisher) Format(f fmt.State, v rune) { p.src.Format(f, v) }

// Format writes stream and destination as in the log, for every verb.
func (f *Forwarder) Format(w fmt.State, _ rune) {
	io.WriteString(w, f.src.req.logName()+" to "+f.dst.String())
}

// Format writes the stream's name as in the log, for every verb.
func (r PublishRequest) Format(f fmt.State, _ rune) { io.WriteString(f, r.logName()) }

// MarshalText gives the stream's name as in the log.
func (r PublishRequest) MarshalText() ([]byte, error) { return []byte(r.logName()), nil }

// Format writes the stream's name as in the log, for every verb.
func (r PlayRequest) Format(f fmt.State, v rune) { PublishRequest(r).Format(f, v) }

// MarshalText gives the stream's name as in the log.
func (r PlayRequest) MarshalText() ([]byte, error) { return PublishRequest(r).MarshalText() }

// Format writes "client" and the id, for every verb.
func (r ConnectRequest) Format(f fmt.State, _ rune) { io.WriteString(f, "client "+r.ClientID) }

// MarshalText gives the same as Format.
func (r ConnectRequest) MarshalText() ([]byte, error) { return []byte("client " + r.ClientID), nil }

// Format writes the backend's host, for every verb.
func (h *HTTPResolver) Format(f fmt.State, _ rune) { io.WriteString(f, "HTTPResolver "+hostOf(h.URL)) }

// MarshalText gives the same as Format.
func (h *HTTPResolver) MarshalText() ([]byte, error) {
	return []byte("HTTPResolver " + hostOf(h.URL)), nil
}

// Format writes the number of URLs, for every verb.
func (h *HTTPHooks) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "HTTPHooks of %d URLs", len(h.all())) }

// MarshalText gives the same as Format.
func (h *HTTPHooks) MarshalText() ([]byte, error) { return fmt.Append(nil, h), nil }

// Format writes "HTTPHookURLs", for every verb: a URL may hold a token.
func (HTTPHookURLs) Format(f fmt.State, _ rune) { io.WriteString(f, "HTTPHookURLs") }

// MarshalText gives the same as Format.
func (HTTPHookURLs) MarshalText() ([]byte, error) { return []byte("HTTPHookURLs"), nil }

// Format writes the URL as Destination.String does, for every verb.
func (r *DNSResolver) Format(f fmt.State, _ rune) {
	io.WriteString(f, "DNSResolver "+redactURL(r.URL, false))
}

// MarshalText gives the same as Format.
func (r *DNSResolver) MarshalText() ([]byte, error) { return fmt.Append(nil, r), nil }

// Format writes the patterns, for every verb.
func (r Route) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "Route vhost %q app %q stream %q to %d URLs", r.Vhost, r.App, r.Stream, len(r.To))
}

// MarshalText gives the same as Format.
func (r Route) MarshalText() ([]byte, error) { return fmt.Append(nil, r), nil }

func (s static) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "Static of %d", len(s)) }

func (s static) MarshalText() ([]byte, error) { return fmt.Append(nil, s), nil }

func (t routeTable) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "Routes of %d", len(t.rules)) }

func (f fallback) Format(w fmt.State, _ rune) { io.WriteString(w, "Fallback") }

// hostOf is the host of a backend's URL.
func hostOf(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return masked
	}
	return u.Host
}
