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

// DNS sends each stream to every address of a DNS name, so that DNS decides which
// servers belong to a cluster: a headless service of Kubernetes, Consul, or a zone
// file. Each address is a separate destination; tcUrl contains the name and, with rtmps,
// the certificate must match it.
//
// A host whose first label begins with "_", such as _rtmp._tcp.media.example, is looked
// up as SRV (RFC 2782). Names and ports then come from the records with the lowest
// priority number for which a name has an address. Any other host is looked up as A and
// AAAA.
//
// A name without addresses is an error. To accept the stream without forwarding it, use
// FirstOf(dns, Union()).
//
// Only URL is required. No field may change once the resolver is in use. Its methods
// are safe for concurrent use.
type DNS struct {
	// URL has one of the forms of forward.Static. Its host is looked up.
	URL string

	// Network is "ip4" or "ip6" for addresses of one family. With the default, "ip", a
	// server with an address of each family counts as two.
	Network string

	// TTL is the time after which the name is looked up again while a stream is live,
	// default 30 s. The net package does not report the TTLs of the records.
	TTL time.Duration

	// Timeout limits all lookups together, default 5 s.
	Timeout time.Duration

	// Resolver looks up names. Default: net.DefaultResolver.
	Resolver *net.Resolver
}

// Validate returns an error if URL or Network is invalid.
func (r *DNS) Validate() error {
	_, err := r.template()
	return err
}

// ResolveDestinations is ResolveTTL without the TTL.
func (r *DNS) ResolveDestinations(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
	ds, _, err := r.ResolveTTL(ctx, req)
	return ds, err
}

// ResolveTTL looks the name up. The destinations are sorted by SRV target and
// address.
func (r *DNS) ResolveTTL(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
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

// timeoutError replaces the text of a timeout of net.Resolver with the time limit.
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

// MarshalText returns the text that Format writes.
func (r DNS) MarshalText() ([]byte, error) { return fmt.Append(nil, r), nil }

func (r *DNS) template() (endpoint.Template, error) {
	switch r.Network {
	case "", "ip", "ip4", "ip6":
		return parseTemplate(r.URL, &endpoint.Brackets, endpoint.Names...)
	}
	return endpoint.Template{}, errors.New("bad Network: expected ip, ip4 or ip6")
}

// dnsTarget is an address and the name for which it was found.
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
	if len(records) == 0 && err != nil { // malformed records cause an error beside the good ones
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
