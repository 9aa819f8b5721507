package upstream

import "net/netip"

// AddrKind says what an address is for, as text for an error.
type AddrKind string

// The kinds of addresses.
const (
	public        AddrKind = "a public address"
	private       AddrKind = "a private address"
	loopback      AddrKind = "a loopback address"
	linkLocal     AddrKind = "a link-local address"
	metadata      AddrKind = "the address of a metadata service"
	unspecified   AddrKind = "an unspecified address"
	multicast     AddrKind = "a multicast address"
	documentation AddrKind = "an address for documentation"
	reserved      AddrKind = "a reserved address"
	translated    AddrKind = "a translated address"
	tunnelled     AddrKind = "a tunnelled address"
)

// AddrRange is an entry of a registry.
type AddrRange struct {
	Prefix netip.Prefix
	Kind   AddrKind
	RFC    string // or the owner of the range
}

// Explicit reports whether only a prefix within the range can allow an address of it.
// Services at link-local addresses, and metadata services, give this machine's credentials
// to any client on the machine.
func (r AddrRange) Explicit() bool { return r.Kind == linkLocal || r.Kind == metadata }

// addrRanges are the addresses that do not lead to a public server: the
// special-purpose address registries of IANA for both families (RFC 6890, RFC 8190;
// as of 2025-10-09), other reserved ranges, and the well-known addresses of metadata
// services. If several ranges contain an address, the longest prefix counts.
var addrRanges = []AddrRange{
	// IANA IPv4 Special-Purpose Address Registry.
	row("0.0.0.0/8", unspecified, "RFC 791"),
	row("0.0.0.0/32", unspecified, "RFC 1122"),
	row("10.0.0.0/8", private, "RFC 1918"),
	row("100.64.0.0/10", private, "RFC 6598"), // carriers' shared addresses
	row("127.0.0.0/8", loopback, "RFC 1122"),
	row("169.254.0.0/16", linkLocal, "RFC 3927"),
	row("172.16.0.0/12", private, "RFC 1918"),
	row("192.0.0.0/24", reserved, "RFC 6890"),
	row("192.0.0.0/29", reserved, "RFC 7335"),   // IPv4 service continuity
	row("192.0.0.8/32", reserved, "RFC 7600"),   // dummy address
	row("192.0.0.9/32", public, "RFC 7723"),     // PCP anycast
	row("192.0.0.10/32", public, "RFC 8155"),    // TURN anycast
	row("192.0.0.170/32", reserved, "RFC 8880"), // discovery of NAT64
	row("192.0.0.171/32", reserved, "RFC 8880"),
	row("192.0.2.0/24", documentation, "RFC 5737"),
	row("192.31.196.0/24", public, "RFC 7535"), // AS112
	row("192.52.193.0/24", public, "RFC 7450"), // AMT
	row("192.88.99.0/24", reserved, "RFC 7526"),
	row("192.88.99.2/32", reserved, "RFC 6751"), // 6a44 relays
	row("192.168.0.0/16", private, "RFC 1918"),
	row("192.175.48.0/24", public, "RFC 7534"), // AS112
	row("198.18.0.0/15", reserved, "RFC 2544"), // benchmarks
	row("198.51.100.0/24", documentation, "RFC 5737"),
	row("203.0.113.0/24", documentation, "RFC 5737"),
	row("240.0.0.0/4", reserved, "RFC 1112"),
	row("255.255.255.255/32", reserved, "RFC 919"), // broadcast

	// IANA IPv6 Special-Purpose Address Registry. Addresses that lead to an IPv4
	// address through a translator do not count as public, although the registry
	// calls them reachable. ::ffff:0:0/96 (RFC 4291) is looked up as IPv4.
	row("::1/128", loopback, "RFC 4291"),
	row("::/128", unspecified, "RFC 4291"),
	row("64:ff9b::/96", translated, "RFC 6052"),
	row("64:ff9b:1::/48", translated, "RFC 8215"),
	row("100::/64", reserved, "RFC 6666"),       // discarded
	row("100:0:0:1::/64", reserved, "RFC 9780"), // dummy prefix
	row("2001::/23", reserved, "RFC 2928"),
	row("2001::/32", tunnelled, "RFC 4380"),    // Teredo
	row("2001:1::1/128", public, "RFC 7723"),   // PCP anycast
	row("2001:1::2/128", public, "RFC 8155"),   // TURN anycast
	row("2001:1::3/128", public, "RFC 9665"),   // DNS-SD SRP anycast
	row("2001:2::/48", reserved, "RFC 5180"),   // benchmarks
	row("2001:3::/32", public, "RFC 7450"),     // AMT
	row("2001:4:112::/48", public, "RFC 7535"), // AS112
	row("2001:10::/28", reserved, "RFC 4843"),  // ORCHID
	row("2001:20::/28", public, "RFC 7343"),    // ORCHIDv2
	row("2001:30::/28", public, "RFC 9374"),    // drone remote id
	row("2001:db8::/32", documentation, "RFC 3849"),
	row("2002::/16", tunnelled, "RFC 3056"),      // 6to4
	row("2620:4f:8000::/48", public, "RFC 7534"), // AS112
	row("3fff::/20", documentation, "RFC 9637"),
	row("5f00::/16", reserved, "RFC 9602"), // SRv6 segments
	row("fc00::/7", private, "RFC 4193"),
	row("fe80::/10", linkLocal, "RFC 4291"),

	// Not in those registries.
	row("224.0.0.0/4", multicast, "RFC 5771"),
	row("ff00::/8", multicast, "RFC 4291"),
	row("::/96", reserved, "RFC 4291"),             // IPv4-compatible
	row("::ffff:0:0:0/96", translated, "RFC 2765"), // SIIT
	row("fec0::/10", reserved, "RFC 3879"),         // site-local
	// IANA IPv6 Address Space: all but 2000::/3.
	row("::/3", reserved, "RFC 4291"),
	row("4000::/2", reserved, "RFC 4291"),
	row("8000::/1", reserved, "RFC 4291"),

	// Metadata services that are not at a link-local address.
	row("100.100.100.200/32", metadata, "Alibaba Cloud"),
	row("168.63.129.16/32", metadata, "Azure"),
	row("192.0.0.192/32", metadata, "Oracle Cloud Classic"),
	row("fd00:ec2::/32", metadata, "AWS"), // ::254, ::23 and other services
	row("fd20:ce::254/128", metadata, "Google Cloud"),
	row("fd00:c1::a9fe:a9fe/128", metadata, "Oracle Cloud"),
	row("fd00:42::42/128", metadata, "Scaleway"),
}

func row(prefix string, kind AddrKind, rfc string) AddrRange {
	return AddrRange{netip.MustParsePrefix(prefix), kind, rfc}
}

// PrivateNetworks returns the ranges of private addresses.
func PrivateNetworks() []netip.Prefix {
	var out []netip.Prefix
	for _, r := range addrRanges {
		if r.Kind == private {
			out = append(out, r.Prefix)
		}
	}
	return out
}

// SpecialRange returns the range of an address that does not lead to a public server, and
// false for a public address. The address must have no zone. An IPv4-mapped address is
// looked up as IPv4.
func SpecialRange(ip netip.Addr) (AddrRange, bool) {
	r, found := rangeOf(ip)
	return r, found && r.Kind != public
}

// rangeOf returns the range of an address, and false if it is in none.
func rangeOf(ip netip.Addr) (AddrRange, bool) {
	ip = ip.Unmap()
	best, found := AddrRange{}, false
	for _, r := range addrRanges {
		if r.Prefix.Contains(ip) && (!found || r.Prefix.Bits() > best.Prefix.Bits()) {
			best, found = r, true
		}
	}
	if isISATAP(ip) && (!found || best.Kind == public || best.Kind == private) {
		return AddrRange{netip.PrefixFrom(ip, ip.BitLen()), tunnelled, "RFC 5214"}, true
	}
	return best, found
}

// isISATAP reports whether an address with any prefix contains an IPv4 address in the form
// of ISATAP (RFC 5214, 6.1): the interface identifier begins with 00-00-5e-fe, with any
// values of its bits u and g.
func isISATAP(ip netip.Addr) bool {
	if !ip.Is6() {
		return false
	}
	b := ip.As16()
	return b[8]&^3 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

var (
	teredo     = netip.MustParsePrefix("2001::/32")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	last32     = []netip.Prefix{
		netip.MustParsePrefix("::/96"),
		netip.MustParsePrefix("::ffff:0:0:0/96"),
		netip.MustParsePrefix("64:ff9b::/96"),
	}
)

// EmbeddedIPv4 returns the IPv4 addresses that are embedded in an IPv6 address and to
// which a translator or tunnel may send: IPv4-compatible addresses, and those of SIIT,
// NAT64, 6to4, Teredo (server and client) and ISATAP. sure is false if the position of the
// address is not known, as in the local-use prefix of NAT64, which has four possible ones:
// then only one of the results is the real address. Mapped addresses do not count: they
// are IPv4 addresses themselves.
func EmbeddedIPv4(ip netip.Addr) (v4 []netip.Addr, sure bool) {
	if !ip.Is6() || ip.Is4In6() || ip.IsLoopback() || ip.IsUnspecified() {
		return nil, true
	}
	b := ip.As16()
	at := func(i, j, k, l int) { v4 = append(v4, netip.AddrFrom4([4]byte{b[i], b[j], b[k], b[l]})) }
	switch {
	case sixToFour.Contains(ip):
		at(2, 3, 4, 5)
	case teredo.Contains(ip):
		at(4, 5, 6, 7)
		v4 = append(v4, netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	case localNAT64.Contains(ip): // RFC 6052, 2.2: without octet 8
		at(6, 7, 9, 10)
		at(7, 9, 10, 11)
		at(9, 10, 11, 12)
		at(12, 13, 14, 15)
		return v4, false
	case isISATAP(ip):
		at(12, 13, 14, 15)
	default:
		for _, p := range last32 {
			if p.Contains(ip) {
				at(12, 13, 14, 15)
			}
		}
	}
	return v4, true
}
