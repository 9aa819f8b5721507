package resolve

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/option"
)

// maxParamURLs is how many destinations a publisher may name.
const maxParamURLs = 8

// FromParam lets the publisher name the destinations of its stream. With the name
// "forward" it reads this parameter:
//
//	rtmp://server/live/stream?forward=rtmp://other:1936/live/stream
//
// The value has the form of forward.Destination.URL, with "&", "%" and "+"
// percent-encoded. The parameter may come up to 8 times; without it the stream is not
// forwarded.
//
// Anyone who may publish can make this server connect to a host of their choice. So
// only hosts in allow are accepted, and none if allow is empty. An entry is a name or
// an address, in which "*" stands for any characters except dots (at the beginning,
// dots too), or a range of addresses such as 10.0.0.0/24. A port may follow, or ":*"
// for all ports; without one it is the port of the scheme. So "*.example.com" accepts
// all names below example.com at 1935, or at 443 with rtmps. A stream that names any
// other host is refused. Each Destination is also Untrusted: addresses that are not
// public must be in forward.Config.AllowNetworks too, and ports below 1024 except 443
// in forward.Config.AllowPorts.
func FromParam(name string, allow ...string) forward.DestinationResolver {
	allowed := make([]hostPattern, len(allow))
	for i, a := range allow {
		allowed[i] = newHostPattern(a)
	}
	return forward.ResolverFunc(func(_ context.Context, req *forward.Request) ([]forward.Destination, error) {
		values, err := endpoint.QueryValues(req.Param, name)
		if err != nil {
			return nil, err
		}
		if len(values) > maxParamURLs {
			return nil, fmt.Errorf("parameter %s given %d times, expected at most %d", name, len(values), maxParamURLs)
		}
		ds := make([]forward.Destination, len(values))
		for i, v := range values {
			ds[i] = forward.Destination{URL: v, Untrusted: true}
			if err := checkAllowed(ds[i], allowed); err != nil {
				return nil, fmt.Errorf("parameter %s: %w", name, err)
			}
		}
		return distinct(ds), nil
	})
}

func checkAllowed(d forward.Destination, allowed []hostPattern) error {
	e, err := option.Endpoint(d)
	if err != nil {
		return err
	}
	for _, a := range allowed {
		if a.match(e) {
			return nil
		}
	}
	return fmt.Errorf("%w: destination %s is not allowed", forward.ErrRefused, d)
}

// hostPattern is an entry of an allow-list.
type hostPattern struct {
	prefix netip.Prefix   // if valid, instead of name
	name   *regexp.Regexp // of the host in lower case
	port   string         // "*" is any, "" the scheme's
}

func newHostPattern(s string) (p hostPattern) {
	// The colon before the port comes after "]" or "/", if there is one.
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexAny(s, "]/") {
		s, p.port = s[:i], s[i+1:]
	}
	if prefix, err := netip.ParsePrefix(s); err == nil {
		p.prefix = prefix.Masked()
		return p
	}
	name := regexp.QuoteMeta(strings.ToLower(strings.Trim(s, "[]")))
	if rest, ok := strings.CutPrefix(name, `\*`); ok {
		name = ".*" + rest
	}
	p.name = regexp.MustCompile(`\A` + strings.ReplaceAll(name, `\*`, `[^.]*`) + `\z`)
	return p
}

func (p hostPattern) match(e endpoint.Endpoint) bool {
	switch p.port {
	case "*", e.Port:
	case "":
		if e.Port != endpoint.DefaultPort(e.Scheme) {
			return false
		}
	default:
		return false
	}
	if p.name != nil {
		return p.name.MatchString(strings.ToLower(strings.TrimSuffix(e.Host, ".")))
	}
	addr, err := netip.ParseAddr(e.Host)
	return err == nil && p.prefix.Contains(addr.Unmap())
}
