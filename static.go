package forward

import (
	"context"
	"fmt"
	"slices"

	"github.com/rtmp-forward/forward/internal/endpoint"
)

// Static sends every stream to the same servers. Each of urls is one of
//
//	host, host:port, [ipv6], [ipv6]:port, rtmp[s]://[user:password@]host[:port]
//	rtmp[s]://[user:password@]host[:port]/app
//	rtmp[s]://[user:password@]host[:port]/app[/more]/key[?query]
//
// A host alone gets the stream under the name that it has here: app, stream and param
// are those of the request, and its vhost, unless it is DefaultVhost, is added to the
// app as ?vhost=. With the placeholders below that is
// rtmp://host/[app]?vhost=[vhost]/[stream][param]. Parameters that could name another
// vhost are removed from param.
//
// A host with a single path element, or with a path that ends in "/", gets the stream
// under its own name in that app: rtmp://host/app is rtmp://host/app/[stream]. param
// and vhost are not sent; param may hold a token that is meant for this server only.
//
// A full URL is parsed as Destination.URL says. In app, key and query, [vhost], [app],
// [stream] and [param] stand for the values of the request; [param] includes its "?" or
// is empty. Any other word of lower-case letters in brackets is an error. Placeholders
// cannot choose the host.
//
// So a full URL sends param and vhost only if it contains their placeholders: [param]
// after the stream, and ?vhost=[vhost] on the app.
//
// Values are inserted after the URL has been parsed: the name of a stream is sent
// unchanged and can change only the part that contains its placeholder.
//
// The error of a malformed entry contains its position in urls, and masks secrets as
// Destination.String does. A stream whose name makes no valid destination, such as an
// empty name, is refused when it is published.
func Static(urls ...string) (DestinationResolver, error) {
	ds := make([]Destination, len(urls))
	for i, u := range urls {
		ds[i].URL = u
	}
	return StaticDestinations(ds...)
}

// StaticDestinations is Static for destinations with options. Each URL has one of the
// forms of Static. The other fields apply to every stream unchanged, without
// placeholders. With a StreamKey the whole path of the URL is the app; if the URL has no
// path, the app is that of the stream, with its vhost, or that of the platform.
func StaticDestinations(ds ...Destination) (DestinationResolver, error) {
	s := make(static, len(ds))
	for i, d := range ds {
		t, err := parseTemplate(d)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		s[i] = t
	}
	return s, nil
}

// MustStatic is Static for URLs that are part of the program: it panics if Static
// returns an error.
func MustStatic(urls ...string) DestinationResolver {
	r, err := Static(urls...)
	if err != nil {
		panic("forward: " + err.Error())
	}
	return r
}

type static []template

func (s static) ResolveDestinations(_ context.Context, req *Request) ([]Destination, error) {
	out := make([]Destination, len(s))
	for i, t := range s {
		d, err := t.expand(req.placeholders())
		if err != nil {
			return nil, err
		}
		out[i] = d
	}
	return out, nil
}

// equal reports whether s and o send every stream to the same servers, in the same order
// and with the same options.
func (s static) equal(o static) bool {
	return slices.EqualFunc(s, o, func(a, b template) bool { return a.of.Equal(b.of) })
}

// template makes a Destination for a request.
type template struct {
	of Destination // as given, for the options
	endpoint.Template
}

// parseTemplate parses a Destination whose URL has one of the forms of Static.
func parseTemplate(d Destination) (template, error) {
	t, err := endpoint.ParseTemplate(d.spec(), &endpoint.Brackets, endpoint.Names...)
	if err != nil {
		return template{}, err
	}
	_, err = template{d, t}.expand(placeholders)
	return template{d, t}, err
}

// placeholders returns the values of the placeholders for r.
func (r *Request) placeholders() endpoint.Request {
	return endpoint.Request{Vhost: r.Vhost, App: r.App, Stream: r.Stream, Param: r.Param}
}

// placeholders is a request whose values are their own placeholders.
var placeholders = endpoint.Request{Vhost: "[vhost]", App: "[app]", Stream: "[stream]", Param: "[param]"}

func (t template) expand(r endpoint.Request) (Destination, error) {
	return t.of.at(t.Expand(r, nil))
}

func (s static) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "Static of %d", len(s)) }

func (s static) MarshalText() ([]byte, error) { return fmt.Append(nil, s), nil }
