package forward

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Static sends every stream to the same servers. Each of urls is one of
//
//	host, host:port, [ipv6], [ipv6]:port, rtmp[s]://[user:password@]host[:port]
//	rtmp[s]://[user:password@]host[:port]/app
//	rtmp[s]://[user:password@]host[:port]/app[/more]/key[?query]
//
// A host alone gets the stream under the name it has here: app, stream and
// param are those of the request, and its vhost, unless it is DefaultVhost, is
// carried as ?vhost= on the app. In terms of the placeholders below it is
// rtmp://host/[app]?vhost=[vhost]/[stream][param], where param goes without
// what may name another vhost in it, such as one that is not served here.
//
// A host with a single path element, or with a path that ends in "/", gets the
// stream under its own name in that app: rtmp://host/app is
// rtmp://host/app/[stream]. Neither param nor vhost goes along; param may hold
// a token that is nobody else's business.
//
// A full URL is taken apart as Destination.URL says. In app, key and query each
// [vhost], [app], [stream] and [param] stands for what the request has; [param]
// comes with its "?" or is empty. Any other word of lower-case letters in
// brackets is an error. Placeholders cannot choose the host.
//
// Whether param and vhost go along is thus up to the URL: [param] after the
// stream or not, ?vhost=[vhost] on the app or not.
//
// What a request brings is put in after the URL was taken apart: whatever a
// stream is called, it changes no more than the part where its placeholder
// stands, and is sent as it is.
//
// The error of a malformed entry tells its place in urls, and masks secrets as
// Destination.String does. A stream whose name cannot make a destination, such
// as an empty one, is refused when it is published.
func Static(urls ...string) (DestinationResolver, error) {
	s := make(static, len(urls))
	for i, u := range urls {
		t, err := parseTemplate(Destination{URL: u}, requestVars, requestVarNames)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		s[i] = t
	}
	return s, nil
}

// MustStatic is Static for URLs that are part of the program: it panics where
// Static returns an error.
func MustStatic(urls ...string) DestinationResolver {
	r, err := Static(urls...)
	if err != nil {
		panic("forward: " + err.Error())
	}
	return r
}

type static []template

func (s static) ResolveDestinations(_ context.Context, req *PublishRequest) ([]Destination, error) {
	out := make([]Destination, len(s))
	for i, t := range s {
		d, err := t.expand(requestVar(req))
		if err != nil {
			return nil, err
		}
		out[i] = d
	}
	return out, nil
}

// equal says whether s and o send every stream to the same servers, in the
// same way and order.
func (s static) equal(o static) bool {
	return slices.EqualFunc(s, o, func(a, b template) bool { return a.of.equal(b.of) })
}

// template makes a Destination of a request.
type template struct {
	of         Destination // as given: its options are those of each
	server     string      // scheme://[userinfo@]host[:port]
	app, key   string      // with placeholders; no key where of has a StreamKey
	carryVhost bool        // as ?vhost= on the app
	vars       *regexp.Regexp
}

// parseTemplate reads a Destination whose URL has one of the forms of Static.
// What vars finds in its app and key must be one of names. A StreamKey is sent
// as it is; with one the path is the app, and a platform's host does without
// both scheme and app.
func parseTemplate(d Destination, vars *regexp.Regexp, names []string) (template, error) {
	full := d.URL
	if !strings.Contains(full, "://") {
		if strings.ContainsAny(full, "/?") {
			return template{}, errors.New("neither a host nor a URL: a path needs rtmp:// or rtmps:// before the host")
		}
		if d.StreamKey != "" {
			full = withScheme(full)
		}
		if !strings.Contains(full, "://") {
			full = "rtmp://" + full
		}
	}
	scheme, rest, _ := strings.Cut(full, "://")
	authority, path, _ := strings.Cut(rest, "/")
	t := template{of: d, server: scheme + "://" + authority, vars: vars}
	bare := strings.Trim(path, "/") == ""
	if !bare || d.StreamKey != "" {
		t.app, t.key = templatePath(d, authority, path)
	}
	if bare && t.app == "" {
		t.app, t.carryVhost = "[app]", true
		if d.StreamKey == "" {
			t.key = "[stream][param]"
		}
	}
	for _, part := range []string{t.app, t.key} {
		for _, m := range vars.FindAllString(part, -1) {
			if !slices.Contains(names, m) {
				return template{}, fmt.Errorf("%s: unknown placeholder: want one of %s",
					redactURL(full, d.StreamKey != ""), strings.Join(names, " "))
			}
		}
	}
	_, err := t.destination(t.app, t.key)
	return t, err
}

// templatePath splits a path into app and key. Without a StreamKey it is not
// empty; a single path element is the app, and a path that ends in a slash is
// one too.
func templatePath(d Destination, authority, path string) (app, key string) {
	var e endpoint
	if d.StreamKey != "" {
		e.app, e.key = joinApp(strings.Cut(path, "?")), string(d.StreamKey)
	} else {
		e.app, e.key = splitPath(path)
	}
	_, hostport, _ := cutLast(authority, "@")
	if host, _, err := splitAuthority(hostport); err == nil {
		p, _ := profileOf(d.Profile, host)
		p.complete(&e)
	}
	switch {
	case d.StreamKey != "":
		return e.app, ""
	case e.key == "":
		return e.app, "[stream]"
	}
	return e.app, e.key
}

var (
	requestVars     = regexp.MustCompile(`\[[a-z]+\]`)
	requestVarNames = []string{"[vhost]", "[app]", "[stream]", "[param]"}
)

// requestVar gives the value of each placeholder.
func requestVar(req *PublishRequest) func(name string) string {
	return func(name string) string {
		switch name {
		case "[vhost]":
			return req.Vhost
		case "[app]":
			return req.App
		case "[stream]":
			return req.Stream
		case "[param]":
			return req.Param
		}
		return name
	}
}

// escapeVhost keeps a vhost from ending where it stands in a query. All else
// stays as it is: neither SRS nor a Server decodes it.
var escapeVhost = strings.NewReplacer("&", "%26", "?", "%3F", "#", "%23")

// expand puts in the values that value gives for the placeholders.
func (t template) expand(value func(name string) string) (Destination, error) {
	app := t.vars.ReplaceAllStringFunc(t.app, value)
	if !t.carryVhost {
		return t.destination(app, t.vars.ReplaceAllStringFunc(t.key, value))
	}
	if vhost := value("[vhost]"); foldVhost(vhost) != "" {
		app += "?vhost=" + escapeVhost.Replace(vhost)
	}
	return t.destination(app, t.vars.ReplaceAllStringFunc(t.key, func(name string) string {
		v := value(name)
		if name == "[param]" {
			v = withoutVhost(v)
		}
		return v
	}))
}

// withoutVhost is a param without what names a vhost in it.
func withoutVhost(param string) string {
	query := strings.TrimPrefix(param, "?")
	switch rest := rtmp.WithoutVhost(query); rest {
	case query:
		return param
	case "":
		return ""
	default:
		return "?" + rest
	}
}

// destination gives the key apart, so that nothing in it is taken for a part
// of the URL.
func (t template) destination(app, key string) (Destination, error) {
	d := t.of
	d.URL = t.server + "/" + app
	def(&d.StreamKey, Secret(key))
	if d.StreamKey == "" {
		return d, fmt.Errorf("destination %s: no stream key", redactURL(d.URL, true))
	}
	return d, d.Validate()
}

func (s static) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "Static of %d", len(s)) }

func (s static) MarshalText() ([]byte, error) { return fmt.Append(nil, s), nil }
