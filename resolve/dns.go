package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/option"
)

// Defaults and limits of DNS.
const (
	defaultDNSTTL     = 30 * time.Second
	defaultDNSTimeout = 5 * time.Second
	maxDNSAddrs       = 256
)

// DNS sends each stream to every address behind a name, so that DNS
// says who belongs to a cluster: a headless service of Kubernetes, Consul, or
// a zone file. Each address is a destination of its own; tcUrl and, with
// rtmps, the certificate carry the name.
//
// A host whose first label begins with "_", as in _rtmp._tcp.media.example,
// is looked up as SRV (RFC 2782): then names and ports come from the records,
// and of several priorities the first, that is the lowest number, of which any
// name has an address. Any other host is looked up as A and AAAA.
//
// A name without addresses is an error. Should that mean no forwarding, use
// FirstOf(dns, Union()).
//
// Only URL is needed. No field may change once the resolver is in use. It may
// be used concurrently.
type DNS struct {
	// URL is one as for forward.Static; its host is looked up.
	URL string

	// Network is "ip4" or "ip6" for only these addresses, by default "ip",
	// which takes a server that has one of each for two.
	Network string

	// TTL is after what time the name is looked up again while a stream is
	// live, default 30 s. The times in the records are not known here.
	TTL time.Duration

	// Timeout of all lookups together, default 5 s.
	Timeout time.Duration

	// Resolver looks names up; nil is net.DefaultResolver.
	Resolver *net.Resolver
}

// Validate says what is wrong with URL or Network, or nil.
func (r *DNS) Validate() error {
	_, err := r.template()
	return err
}

// ResolveDestinations is ResolveTTL without the time.
func (r *DNS) ResolveDestinations(ctx context.Context, req *forward.PublishRequest) ([]forward.Destination, error) {
	ds, _, err := r.ResolveTTL(ctx, req)
	return ds, err
}

// ResolveTTL looks the name up. The destinations are sorted by SRV target and
// address.
func (r *DNS) ResolveTTL(ctx context.Context, req *forward.PublishRequest) ([]forward.Destination, time.Duration, error) {
	t, err := r.template()
	if err != nil {
		return nil, 0, err
	}
	named, err := at(t.Expand(values(req), nil))
	if err != nil {
		return nil, 0, err
	}
	e, err := option.Endpoint(named)
	if err != nil {
		return nil, 0, err
	}
	limit := positive(r.Timeout, defaultDNSTimeout)
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	targets, err := r.lookup(within, e)
	if err != nil {
		if within.Err() != nil && ctx.Err() == nil {
			err = &timeoutError{e.Host, limit, err}
		}
		return nil, 0, err
	}
	ds := make([]forward.Destination, len(targets))
	for i, t := range targets {
		ds[i] = forward.Destination{
			URL:        e.Scheme + "://" + t.addr.String() + "/" + e.App,
			StreamKey:  forward.Secret(e.Key),
			User:       e.User,
			Password:   forward.Secret(e.Password),
			TcURL:      t.tcURL,
			ServerName: t.name,
		}
	}
	return distinct(ds), positive(r.TTL, defaultDNSTTL), nil
}

// timeoutError says how long was waited, and not in the resolver's words.
type timeoutError struct {
	host  string
	limit time.Duration
	err   error
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("look up %s: no answer within %v", e.host, e.limit)
}

func (e *timeoutError) Unwrap() error { return e.err }

// Format writes the URL as forward.Destination.String does, for every verb.
func (r DNS) Format(f fmt.State, _ rune) {
	io.WriteString(f, "resolve.DNS "+endpoint.Redact(r.URL, false))
}

// MarshalText gives the same as Format.
func (r DNS) MarshalText() ([]byte, error) { return fmt.Append(nil, r), nil }

func (r *DNS) template() (endpoint.Template, error) {
	switch r.Network {
	case "", "ip", "ip4", "ip6":
		return parseTemplate(r.URL, &endpoint.Brackets, endpoint.Names...)
	}
	return endpoint.Template{}, errors.New("bad Network: want ip, ip4 or ip6")
}

// dnsTarget is one address, and the name it was found under.
type dnsTarget struct {
	addr  netip.AddrPort
	name  string
	tcURL string
}

func (r *DNS) lookup(ctx context.Context, e endpoint.Endpoint) ([]dnsTarget, error) {
	if !strings.HasPrefix(e.Host, "_") {
		port, err := strconv.ParseUint(e.Port, 10, 16)
		if err != nil {
			return nil, err
		}
		return r.lookupAddrs(ctx, e.Host, uint16(port), e.TcURL)
	}
	_, records, err := r.resolver().LookupSRV(ctx, "", "", e.Host)
	if len(records) == 0 && err != nil { // malformed ones make an error too
		return nil, fmt.Errorf("resolve: %w", err)
	}
	if len(records) > maxDNSAddrs {
		return nil, fmt.Errorf("resolve %s: more than %d records", e.Host, maxDNSAddrs)
	}
	slices.SortFunc(records, func(a, b *net.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Port, b.Port))
	})
	var errs []error
	for len(records) > 0 {
		var targets []dnsTarget
		priority := records[0].Priority
		for len(records) > 0 && records[0].Priority == priority {
			name := strings.TrimSuffix(records[0].Target, ".")
			tcURL := e.Scheme + "://" + net.JoinHostPort(name, strconv.Itoa(int(records[0].Port))) + "/" + e.App
			found, err := r.lookupAddrs(ctx, name, records[0].Port, tcURL)
			errs = append(errs, err)
			targets = append(targets, found...)
			records = records[1:]
		}
		if len(targets) > 0 {
			return targets, nil
		}
	}
	return nil, errors.Join(append(errs, fmt.Errorf("resolve %s: no target has an address", e.Host))...)
}

func (r *DNS) lookupAddrs(ctx context.Context, name string, port uint16, tcURL string) ([]dnsTarget, error) {
	network := r.Network
	if network == "" {
		network = "ip"
	}
	addrs, err := r.resolver().LookupNetIP(ctx, network, name)
	if err != nil {
		return nil, fmt.Errorf("resolve: %w", err)
	}
	if len(addrs) > maxDNSAddrs {
		return nil, fmt.Errorf("resolve %s: more than %d addresses", name, maxDNSAddrs)
	}
	targets := make([]dnsTarget, len(addrs))
	for i, a := range addrs {
		targets[i] = dnsTarget{netip.AddrPortFrom(a.Unmap(), port), name, tcURL}
	}
	slices.SortFunc(targets, func(a, b dnsTarget) int { return a.addr.Compare(b.addr) })
	return targets, nil
}

func (r *DNS) resolver() *net.Resolver {
	if r.Resolver != nil {
		return r.Resolver
	}
	return net.DefaultResolver
}
