package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/rtmp-forward/forward/internal/upstream"
)

// AddressError says that a destination has an address or port that is not allowed: the
// Server's own listener; for a URL from a backend or the control handler, a link-local
// address or that of a metadata service; for a URL from a publisher, any address that is
// not public. See Config.AllowNetworks and Config.AllowPorts. URLs from the host's own
// code and configuration are not checked.
type AddressError struct {
	// Addr is the address. It is not valid if only the port is known.
	Addr netip.AddrPort
	// Allow is the prefix that allows the address when it is added to
	// Config.AllowNetworks. It is not valid if no prefix does. If Addr is an IPv6
	// address that embeds an IPv4 one, Allow may be a prefix of the IPv4 address.
	Allow  netip.Prefix
	reason string
}

func (e *AddressError) Error() string {
	switch {
	case !e.Addr.IsValid():
		return e.reason
	case e.Allow.IsValid():
		return fmt.Sprintf("%v: %s, refused unless Config.AllowNetworks holds %v", e.Addr, e.reason, e.Allow)
	}
	return fmt.Sprintf("%v: %s", e.Addr, e.reason)
}

// PrivateNetworks returns the private networks: those of RFC 1918, the shared address
// space of carriers (RFC 6598) and the unique local addresses of IPv6 (RFC 4193). In
// Config.AllowNetworks they let publishers name the servers of a cluster. They do not
// allow the addresses of metadata services in these ranges.
func PrivateNetworks() []netip.Prefix { return upstream.PrivateNetworks() }

// origin is where a destination comes from. It decides which addresses are allowed.
type origin int

const (
	fromHost     origin = iota // from code or configuration: any address
	fromOperator               // over the network: no link-local and metadata addresses
	fromOutside                // only public addresses and ports, and those of AllowNetworks and AllowPorts
)

// addressRules say which addresses destinations of an origin may have.
type addressRules struct {
	from origin
	cfg  *atomic.Pointer[Config]
	own  func(ip netip.Addr, port uint16) bool // whether the Server listens there
}

// check returns why a destination must not have an address, or nil. It also checks an
// IPv4 address embedded in an IPv6 one. The order matters: no setting allows our own
// listeners.
func (r addressRules) check(addr netip.AddrPort) error {
	ip := addr.Addr().Unmap().WithZone("")
	refused := &AddressError{Addr: netip.AddrPortFrom(ip, addr.Port())}
	embedded, sure := upstream.EmbeddedIPv4(ip)
	for i, a := range append([]netip.Addr{ip}, embedded...) {
		if r.own(a, addr.Port()) && (i == 0 || !a.IsUnspecified()) {
			refused.reason = "this server listens there itself"
			return refused
		}
	}
	if r.from == fromOutside && !r.cfg.Load().allowsPort(addr.Port()) {
		refused.reason = fmt.Sprintf("port %d%s", addr.Port(), badPort)
		return refused
	}
	for i, a := range append([]netip.Addr{ip}, embedded...) {
		special, ok := upstream.SpecialRange(a)
		switch {
		case !ok:
		case !special.Explicit() && (r.from != fromOutside || i > 0 && !sure):
		case !r.allows(a, special):
			refused.reason, refused.Allow = string(special.Kind), netip.PrefixFrom(a, a.BitLen())
			return refused
		}
	}
	return nil
}

// allows reports whether AllowNetworks allows an address of a special range.
func (r addressRules) allows(ip netip.Addr, in upstream.AddrRange) bool {
	return slices.ContainsFunc(r.cfg.Load().AllowNetworks, func(p netip.Prefix) bool {
		p = unmapped(p)
		return p.Contains(ip) && (!in.Explicit() || p.Bits() >= in.Prefix.Bits())
	})
}

const badPort = " is not for destinations from outside: expected 443, 1024 and above, or one of Config.AllowPorts"

// unmapped turns a prefix of IPv4-mapped addresses into one of IPv4.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// restrict restricts dial, or an upstream.Dialer if it is nil, to addresses that check
// allows. An upstream.Dialer checks each address that it tries, after name resolution,
// except those that the host itself names. Another dialer hides its addresses: an
// address in the URL is checked before the call, and the address that it has connected
// to before anything is sent.
func (r addressRules) restrict(dial dialFunc) dialFunc {
	switch {
	case r.from == fromHost && dial == nil:
		return upstream.NewDialer(nil).DialContext
	case r.from == fromHost:
		return dial
	case dial == nil:
		return withoutOp(upstream.NewDialer(func(_, address string, _ syscall.RawConn) error {
			addr, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return r.check(addr)
		}).DialContext)
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, _ := net.SplitHostPort(address)
		if addr, err := netip.ParseAddrPort(address); err == nil {
			if err := r.check(addr); err != nil {
				return nil, err
			}
		} else if p, err := strconv.ParseUint(port, 10, 16); r.from == fromOutside && (err != nil || !r.cfg.Load().allowsPort(uint16(p))) {
			return nil, &AddressError{reason: "port " + port + badPort}
		}
		nc, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if t, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
			if err := r.check(t.AddrPort()); err != nil {
				nc.Close()
				return nil, err
			}
		}
		return nc, nil
	}
}

// withoutOp unwraps an *AddressError from its *net.OpError, which would repeat the
// address.
func withoutOp(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		var refused *AddressError
		if errors.As(err, &refused) {
			return nil, refused
		}
		return nc, err
	}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)
