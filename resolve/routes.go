package resolve

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/pattern"
)

// Route sends matching streams to the URLs of To and to the destinations of Resolver.
type Route struct {
	// Vhost, App and Stream must all match those of the request. Each is a glob, in
	// which "*" stands for any characters, "/" included, and "?" for one; or, after
	// "~", a regular expression of package regexp that must match the whole value. An
	// empty pattern matches everything. Vhosts match in any case. Encoders split paths
	// of several levels differently between App and Stream; see
	// forward.Request.Name.
	Vhost, App, Stream string

	// To are URLs in the forms of forward.Static. In app and key, $1, $2 … (or ${1} …) and
	// ${name} stand for the parts captured by the patterns: each "*" and "?" of a glob
	// and each group of a regular expression, counted from Vhost over App to Stream.
	// Any other "$" stands for itself.
	To []string

	// Resolver, if not nil, is also asked.
	Resolver forward.DestinationResolver
}

// Format writes the patterns of vhost and app, for every verb. The pattern of the
// stream may be a stream key.
func (r Route) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "Route vhost %q app %q stream %v to %d URLs", r.Vhost, r.App, forward.Secret(r.Stream), len(r.To))
}

// MarshalText returns the text that Format writes.
func (r Route) MarshalText() ([]byte, error) { return fmt.Append(nil, r), nil }

// RouteMode selects which of several matching routes apply.
type RouteMode int

const (
	FirstMatch RouteMode = iota // only the first
	AllMatches                  // all; the same destination twice counts once
)

// Routes is a table of rules. A stream that matches none is not forwarded. The error of
// a malformed route names its position, counted from 1, and masks secrets as
// forward.Destination.String does.
func Routes(mode RouteMode, routes ...Route) (forward.DestinationResolver, error) {
	t := routeTable{mode: mode, rules: make([]rule, len(routes))}
	for i, r := range routes {
		compiled, err := compileRoute(r)
		if err != nil {
			return nil, fmt.Errorf("route %d: %w", i+1, err)
		}
		t.rules[i] = compiled
	}
	return t, nil
}

type routeTable struct {
	mode  RouteMode
	rules []rule
}

func (t routeTable) ResolveDestinations(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
	ds, _, err := t.ResolveTTL(ctx, req)
	return ds, err
}

func (t routeTable) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "Routes of %d", len(t.rules)) }

func (t routeTable) ResolveTTL(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
	var all []forward.Destination
	var ttl time.Duration
	for _, r := range t.rules {
		captures, ok := r.match(req)
		if !ok {
			continue
		}
		ds, d, err := r.resolve(ctx, req, captures)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, ds...)
		ttl = shorterTTL(ttl, d)
		if t.mode == FirstMatch {
			break
		}
	}
	return distinct(all), ttl, nil
}

// rule is a compiled Route.
type rule struct {
	vhost, app, stream *regexp.Regexp
	to                 []endpoint.Template
	resolver           forward.DestinationResolver
}

func compileRoute(r Route) (c rule, err error) {
	c.resolver = r.Resolver
	names := slices.Clone(endpoint.Names)
	captures := 0
	for _, p := range []struct {
		name, pattern, flags string
		re                   **regexp.Regexp
	}{{"Vhost", r.Vhost, "i", &c.vhost}, {"App", r.App, "", &c.app}, {"Stream", r.Stream, "", &c.stream}} {
		if *p.re, err = pattern.Compile(p.pattern, p.flags); err != nil {
			return rule{}, fmt.Errorf("%s: %w", p.name, err)
		}
		for _, name := range (*p.re).SubexpNames()[1:] {
			captures++
			n := strconv.Itoa(captures)
			names = append(names, "$"+n, "${"+n+"}")
			if name != "" {
				names = append(names, "${"+name+"}")
			}
		}
	}
	for i, u := range r.To {
		t, err := parseTemplate(u, &replaceRouteVars, names...)
		if err != nil {
			return rule{}, fmt.Errorf("entry %d of To: %w", i+1, err)
		}
		c.to = append(c.to, t)
	}
	return c, nil
}

var routeVars = regexp.MustCompile(`\[[a-z]+\]|\$[0-9]+|\$\{\w*\}`)

var replaceRouteVars endpoint.Replace = routeVars.ReplaceAllStringFunc

// match returns the parts that the patterns of r capture, by placeholder.
func (r rule) match(req *forward.Request) (captures map[string]string, ok bool) {
	captures = make(map[string]string)
	n := 0
	for _, p := range []struct {
		re    *regexp.Regexp
		value string
	}{{r.vhost, req.Vhost}, {r.app, req.App}, {r.stream, req.Stream}} {
		groups := p.re.FindStringSubmatch(p.value)
		if groups == nil {
			return nil, false
		}
		for i, name := range p.re.SubexpNames()[1:] {
			n++
			captures["$"+strconv.Itoa(n)] = groups[i+1]
			captures["${"+strconv.Itoa(n)+"}"] = groups[i+1]
			if name != "" {
				captures["${"+name+"}"] = groups[i+1]
			}
		}
	}
	return captures, true
}

func (r rule) resolve(ctx context.Context, req *forward.Request, captures map[string]string) (ds []forward.Destination, ttl time.Duration, err error) {
	if r.resolver != nil {
		if ds, ttl, err = forward.ResolveTTL(ctx, r.resolver, req); err != nil {
			return nil, 0, err
		}
		ds = slices.Clip(ds) // the slice belongs to the resolver
	}
	for _, t := range r.to {
		d, err := at(t.Expand(values(req), captures))
		if err != nil {
			return nil, 0, err
		}
		ds = append(ds, d)
	}
	return ds, ttl, nil
}
