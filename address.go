package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"github.com/rtmp-forward/forward/internal/dialer"
)

// AddressError says that a destination leads to an address, or a port, that
// Config.AllowNetworks does not let it have. It applies to destinations from
// an HTTPResolver, FromParam or the control handler; what the host's own code
// and configuration name is trusted.
type AddressError struct {
	// Addr is where it leads, not valid where only the port is known.
	Addr netip.AddrPort
	// Allow is what Config.AllowNetworks would have to hold to let it have
	// that address; not valid where nothing does.
	Allow  netip.Prefix
	reason string
}

func (e *AddressError) Error() string {
	switch {
	case !e.Addr.IsValid():
		return e.reason
	case e.Allow.IsValid():
		return fmt.Sprintf("%v: %s, not for destinations from outside unless Config.AllowNetworks holds %v", e.Addr, e.reason, e.Allow)
	}
	return fmt.Sprintf("%v: %s", e.Addr, e.reason)
}

// PrivateNetworks are the addresses of private networks: those of RFC 1918,
// the shared ones of carriers (RFC 6598) and the unique local ones of IPv6
// (RFC 4193). A cluster whose backend answers with such addresses has them in
// Config.AllowNetworks.
func PrivateNetworks() []netip.Prefix {
	var out []netip.Prefix
	for _, r := range specialRanges {
		if r.kind == private {
			out = append(out, r.prefix)
		}
	}
	return out
}

const private = "a private address"

// specialRanges are the addresses that do not lead to a public server: from
// the special-purpose address registries of RFC 6890, and multicast. Ranges
// that hold an IPv4 address inside an IPv6 one are refused as a whole; whoever
// has a translator allows its prefix.
var specialRanges = []struct {
	prefix netip.Prefix
	kind   string
}{
	{netip.MustParsePrefix("10.0.0.0/8"), private},
	{netip.MustParsePrefix("172.16.0.0/12"), private},
	{netip.MustParsePrefix("192.168.0.0/16"), private},
	{netip.MustParsePrefix("100.64.0.0/10"), private},
	{netip.MustParsePrefix("fc00::/7"), private},

	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified address"},
	{netip.MustParsePrefix("::/128"), "an unspecified address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},

	{netip.MustParsePrefix("192.0.0.0/24"), "a reserved address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "a reserved address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"},
	{netip.MustParsePrefix("::/96"), "a reserved address"},
	{netip.MustParsePrefix("64:ff9b::/96"), "a translated address"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a translated address"},
	{netip.MustParsePrefix("2001::/32"), "a tunnelled address"},
	{netip.MustParsePrefix("2002::/16"), "a tunnelled address"},
	{netip.MustParsePrefix("fec0::/10"), "a reserved address"},
}

// checkAddr says why an untrusted destination must not be reached at an
// address, or nil. Order matters: nothing allows our own listeners.
func (s *Server) checkAddr(addr netip.AddrPort) error {
	ip := addr.Addr().Unmap().WithZone("")
	refused := &AddressError{Addr: netip.AddrPortFrom(ip, addr.Port())}
	if s.listensAt(ip, addr.Port()) {
		refused.reason = "this is the server itself"
		return refused
	}
	if !allowedPort(addr.Port()) {
		refused.reason = fmt.Sprintf("port %d%s", addr.Port(), badPort)
		return refused
	}
	if slices.ContainsFunc(s.cfg.Load().AllowNetworks, func(p netip.Prefix) bool { return contains(p, ip) }) {
		return nil
	}
	for _, r := range specialRanges {
		if r.prefix.Contains(ip) {
			refused.reason, refused.Allow = r.kind, netip.PrefixFrom(ip, ip.BitLen())
			return refused
		}
	}
	return nil
}

const badPort = " is not for destinations from outside: expected 443, or 1024 and above"

func allowedPort(p uint16) bool { return p == 443 || p >= 1024 }

// contains takes prefixes of IPv4 addresses in their IPv6 form, too.
func contains(p netip.Prefix, ip netip.Addr) bool {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Contains(ip)
}

// listensAt reports whether one of the Server's listeners takes connections to
// that address.
func (s *Server) listensAt(ip netip.Addr, port uint16) bool {
	var anywhere bool
	s.mu.Lock()
	for l := range s.listeners {
		t, ok := l.Addr().(*net.TCPAddr)
		if !ok || t.AddrPort().Port() != port {
			continue
		}
		at := t.AddrPort().Addr().Unmap().WithZone("")
		if at == ip {
			s.mu.Unlock()
			return true
		}
		anywhere = anywhere || at.IsUnspecified()
	}
	s.mu.Unlock()
	return anywhere && isOurs(ip)
}

// isOurs reports whether an address leads to this machine.
func isOurs(ip netip.Addr) bool {
	if ip.IsLoopback() || ip.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		at, ok := netip.AddrFromSlice(n.IP)
		return ok && at.Unmap() == ip
	})
}

// dialUntrusted makes dial, or a dialer.Dialer where it is nil, go only where
// checkAddr lets it. That is checked behind the name resolution, at
// each address it tries. What another dialer does cannot be seen: an address
// in the URL is checked before, and the one it has connected to after, before
// anything is sent.
func (s *Server) dialUntrusted(dial dialFunc) dialFunc {
	if dial == nil {
		return withoutOp(dialer.New(func(_, address string, _ syscall.RawConn) error {
			addr, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return s.checkAddr(addr)
		}).DialContext)
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, _ := net.SplitHostPort(address)
		if addr, err := netip.ParseAddrPort(address); err == nil {
			if err := s.checkAddr(addr); err != nil {
				return nil, err
			}
		} else if p, err := strconv.ParseUint(port, 10, 16); err != nil || !allowedPort(uint16(p)) {
			return nil, &AddressError{reason: "port " + port + badPort}
		}
		nc, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if t, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
			if err := s.checkAddr(t.AddrPort()); err != nil {
				nc.Close()
				return nil, err
			}
		}
		return nc, nil
	}
}

// withoutOp takes off the *net.OpError around an *AddressError, which says
// where it was to lead again.
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
