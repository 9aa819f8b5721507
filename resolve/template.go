package resolve

import (
	"cmp"
	"fmt"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/endpoint"
)

// at returns a destination with a URL and a stream key.
func at(url, key string) (forward.Destination, error) {
	d := forward.Destination{URL: url, StreamKey: forward.Secret(key)}
	if key == "" {
		return d, fmt.Errorf("destination %s: no stream key", endpoint.Redact(url, true))
	}
	return d, d.Validate()
}

// values returns the values of the placeholders for r.
func values(r *forward.Request) endpoint.Request {
	return endpoint.Request{Vhost: r.Vhost, App: r.App, Stream: r.Stream, Param: r.Param}
}

// placeholders is a request whose values are their own placeholders.
var placeholders = endpoint.Request{Vhost: "[vhost]", App: "[app]", Stream: "[stream]", Param: "[param]"}

// parseTemplate parses a URL whose app and key may contain the placeholders names.
func parseTemplate(url string, replace *endpoint.Replace, names ...string) (endpoint.Template, error) {
	t, err := endpoint.ParseTemplate(endpoint.Spec{URL: url}, replace, names...)
	if err == nil {
		_, err = at(t.Expand(placeholders, nil))
	}
	return t, err
}

// positive returns v, or def if v is not above 0.
func positive[T cmp.Ordered](v, def T) T {
	var zero T
	if v > zero {
		return v
	}
	return def
}
