package upstream

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// edges has each row's own first and last address, and what stands just below
// and just above it. "" is no row.
var edges = []struct {
	prefix        string
	below, above  AddrKind
	first, last   AddrKind // where a longer row has them; else that of the row
	firstA, lastA string
}{
	{prefix: "0.0.0.0/8", firstA: "0.0.0.0", lastA: "0.255.255.255"},
	{prefix: "0.0.0.0/32", firstA: "0.0.0.0", lastA: "0.0.0.0", above: unspecified},
	{prefix: "10.0.0.0/8", firstA: "10.0.0.0", lastA: "10.255.255.255"},
	{prefix: "100.64.0.0/10", firstA: "100.64.0.0", lastA: "100.127.255.255"},
	{prefix: "127.0.0.0/8", firstA: "127.0.0.0", lastA: "127.255.255.255"},
	{prefix: "169.254.0.0/16", firstA: "169.254.0.0", lastA: "169.254.255.255"},
	{prefix: "172.16.0.0/12", firstA: "172.16.0.0", lastA: "172.31.255.255"},
	{prefix: "192.0.0.0/24", firstA: "192.0.0.0", lastA: "192.0.0.255"},
	{prefix: "192.0.0.0/29", firstA: "192.0.0.0", lastA: "192.0.0.7", above: reserved},
	{prefix: "192.0.0.8/32", firstA: "192.0.0.8", lastA: "192.0.0.8", below: reserved, above: public},
	{prefix: "192.0.0.9/32", firstA: "192.0.0.9", lastA: "192.0.0.9", below: reserved, above: public},
	{prefix: "192.0.0.10/32", firstA: "192.0.0.10", lastA: "192.0.0.10", below: public, above: reserved},
	{prefix: "192.0.0.170/32", firstA: "192.0.0.170", lastA: "192.0.0.170", below: reserved, above: reserved},
	{prefix: "192.0.0.171/32", firstA: "192.0.0.171", lastA: "192.0.0.171", below: reserved, above: reserved},
	{prefix: "192.0.2.0/24", firstA: "192.0.2.0", lastA: "192.0.2.255"},
	{prefix: "192.31.196.0/24", firstA: "192.31.196.0", lastA: "192.31.196.255"},
	{prefix: "192.52.193.0/24", firstA: "192.52.193.0", lastA: "192.52.193.255"},
	{prefix: "192.88.99.0/24", firstA: "192.88.99.0", lastA: "192.88.99.255"},
	{prefix: "192.88.99.2/32", firstA: "192.88.99.2", lastA: "192.88.99.2", below: reserved, above: reserved},
	{prefix: "192.168.0.0/16", firstA: "192.168.0.0", lastA: "192.168.255.255"},
	{prefix: "192.175.48.0/24", firstA: "192.175.48.0", lastA: "192.175.48.255"},
	{prefix: "198.18.0.0/15", firstA: "198.18.0.0", lastA: "198.19.255.255"},
	{prefix: "198.51.100.0/24", firstA: "198.51.100.0", lastA: "198.51.100.255"},
	{prefix: "203.0.113.0/24", firstA: "203.0.113.0", lastA: "203.0.113.255"},
	{prefix: "240.0.0.0/4", firstA: "240.0.0.0", lastA: "255.255.255.255", below: multicast},
	{prefix: "255.255.255.255/32", firstA: "255.255.255.255", lastA: "255.255.255.255", below: reserved},

	{prefix: "::1/128", firstA: "::1", lastA: "::1", below: unspecified, above: reserved},
	{prefix: "::/128", firstA: "::", lastA: "::", above: loopback},
	{prefix: "64:ff9b::/96", firstA: "64:ff9b::", lastA: "64:ff9b::ffff:ffff", below: reserved, above: reserved},
	{prefix: "64:ff9b:1::/48", firstA: "64:ff9b:1::", lastA: "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", below: reserved, above: reserved},
	{prefix: "100::/64", firstA: "100::", lastA: "100::ffff:ffff:ffff:ffff", below: reserved, above: reserved},
	{prefix: "100:0:0:1::/64", firstA: "100:0:0:1::", lastA: "100:0:0:1:ffff:ffff:ffff:ffff", below: reserved, above: reserved},
	{prefix: "2001::/23", firstA: "2001::", lastA: "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", first: tunnelled},
	{prefix: "2001::/32", firstA: "2001::", lastA: "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", above: reserved},
	{prefix: "2001:1::1/128", firstA: "2001:1::1", lastA: "2001:1::1", below: reserved, above: public},
	{prefix: "2001:1::2/128", firstA: "2001:1::2", lastA: "2001:1::2", below: public, above: public},
	{prefix: "2001:1::3/128", firstA: "2001:1::3", lastA: "2001:1::3", below: public, above: reserved},
	{prefix: "2001:2::/48", firstA: "2001:2::", lastA: "2001:2:0:ffff:ffff:ffff:ffff:ffff", below: reserved, above: reserved},
	{prefix: "2001:3::/32", firstA: "2001:3::", lastA: "2001:3:ffff:ffff:ffff:ffff:ffff:ffff", below: reserved, above: reserved},
	{prefix: "2001:4:112::/48", firstA: "2001:4:112::", lastA: "2001:4:112:ffff:ffff:ffff:ffff:ffff", below: reserved, above: reserved},
	{prefix: "2001:10::/28", firstA: "2001:10::", lastA: "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff", below: reserved, above: public},
	{prefix: "2001:20::/28", firstA: "2001:20::", lastA: "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff", below: reserved, above: public},
	{prefix: "2001:30::/28", firstA: "2001:30::", lastA: "2001:3f:ffff:ffff:ffff:ffff:ffff:ffff", below: public, above: reserved},
	{prefix: "2001:db8::/32", firstA: "2001:db8::", lastA: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"},
	{prefix: "2002::/16", firstA: "2002::", lastA: "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{prefix: "2620:4f:8000::/48", firstA: "2620:4f:8000::", lastA: "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"},
	{prefix: "3fff::/20", firstA: "3fff::", lastA: "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{prefix: "5f00::/16", firstA: "5f00::", lastA: "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", below: reserved, above: reserved},
	{prefix: "fc00::/7", firstA: "fc00::", lastA: "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", below: reserved, above: reserved},
	{prefix: "fe80::/10", firstA: "fe80::", lastA: "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", below: reserved, above: reserved},

	{prefix: "224.0.0.0/4", firstA: "224.0.0.0", lastA: "239.255.255.255", above: reserved},
	{prefix: "ff00::/8", firstA: "ff00::", lastA: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", below: reserved},
	{prefix: "::/96", firstA: "::", lastA: "::255.255.255.255", first: unspecified, above: reserved},
	{prefix: "::ffff:0:0:0/96", firstA: "::ffff:0:0:0", lastA: "::ffff:0:ffff:ffff", below: reserved, above: reserved},
	{prefix: "fec0::/10", firstA: "fec0::", lastA: "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", below: linkLocal, above: multicast},
	{prefix: "::/3", firstA: "::", lastA: "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", first: unspecified},
	{prefix: "4000::/2", firstA: "4000::", lastA: "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", above: reserved},
	{prefix: "8000::/1", firstA: "8000::", lastA: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", last: multicast, below: reserved},

	{prefix: "100.100.100.200/32", firstA: "100.100.100.200", lastA: "100.100.100.200", below: private, above: private},
	{prefix: "168.63.129.16/32", firstA: "168.63.129.16", lastA: "168.63.129.16"},
	{prefix: "192.0.0.192/32", firstA: "192.0.0.192", lastA: "192.0.0.192", below: reserved, above: reserved},
	{prefix: "fd00:ec2::/32", firstA: "fd00:ec2::", lastA: "fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff", below: private, above: private},
	{prefix: "fd20:ce::254/128", firstA: "fd20:ce::254", lastA: "fd20:ce::254", below: private, above: private},
	{prefix: "fd00:c1::a9fe:a9fe/128", firstA: "fd00:c1::a9fe:a9fe", lastA: "fd00:c1::a9fe:a9fe", below: private, above: private},
	{prefix: "fd00:42::42/128", firstA: "fd00:42::42", lastA: "fd00:42::42", below: private, above: private},
}

func kindOf(ip netip.Addr) AddrKind {
	r, _ := rangeOf(ip)
	return r.Kind
}

func TestSpecialRange_EdgesOfEachRow(t *testing.T) {
	require.Len(t, edges, len(addrRanges))
	for i, r := range addrRanges {
		e := edges[i]
		require.Equal(t, e.prefix, r.Prefix.String())
		require.NotEmpty(t, r.RFC)
		first, last := netip.MustParseAddr(e.firstA), netip.MustParseAddr(e.lastA)
		require.Equal(t, r.Prefix.Addr(), first, "the row's first address")
		require.Equal(t, r.Prefix.Masked(), r.Prefix, "a row has no host bits")
		require.True(t, r.Prefix.Contains(last) && !r.Prefix.Contains(last.Next()), "%v: its last address", r.Prefix)
		want := func(other AddrKind) AddrKind {
			if other != "" {
				return other
			}
			return r.Kind
		}
		require.Equal(t, want(e.first), kindOf(first), "%v: first", r.Prefix)
		require.Equal(t, want(e.last), kindOf(last), "%v: last", r.Prefix)
		if below := first.Prev(); below.IsValid() {
			require.Equal(t, e.below, kindOf(below), "%v: below", r.Prefix)
		}
		if above := last.Next(); above.IsValid() {
			require.Equal(t, e.above, kindOf(above), "%v: above", r.Prefix)
		}
	}
}

func TestPublicAddressesHaveNoRow(t *testing.T) {
	for _, s := range []string{"1.1.1.1", "8.8.8.8", "223.255.255.255", "2606:4700::1111", "2001:4860::8888", "2003::1", "2a00::1", "::ffff:1.1.1.1"} {
		_, found := rangeOf(netip.MustParseAddr(s))
		require.False(t, found, s)
		_, special := SpecialRange(netip.MustParseAddr(s))
		require.False(t, special, s)
	}
	for _, r := range addrRanges {
		_, special := SpecialRange(r.Prefix.Addr())
		require.Equal(t, kindOf(r.Prefix.Addr()) != public, special, r.Prefix)
	}
}

// A mapped address is an IPv4 one.
func TestSpecialRange_Mapped(t *testing.T) {
	for s, want := range map[string]AddrKind{
		"::ffff:10.0.0.1": private, "::ffff:169.254.169.254": linkLocal, "::ffff:127.0.0.1": loopback, "::ffff:100.100.100.200": metadata,
		"::ffff:0.0.0.0": unspecified, "::ffff:255.255.255.255": reserved, // first and last of them
		"::fffe:ffff:ffff": reserved, "::1:0:0:0": reserved, // and just outside
	} {
		require.Equal(t, want, kindOf(netip.MustParseAddr(s)), s)
	}
}

// Whatever the prefix and the bits u and g.
func TestSpecialRange_ISATAP(t *testing.T) {
	for s, want := range map[string]AddrKind{
		"2606:4700::5efe:10.0.0.1":       tunnelled,
		"2606:4700::200:5efe:10.0.0.1":   tunnelled,
		"2606:4700::100:5efe:10.0.0.1":   tunnelled,
		"2606:4700::300:5efe:10.0.0.1":   tunnelled,
		"2606:4700:1:2:200:5efe:8.8.8.8": tunnelled,
		"2001:30::200:5efe:10.0.0.1":     tunnelled,
		"fd00::5efe:10.0.0.1":            tunnelled,
		"fe80::5efe:10.0.0.1":            linkLocal,
		"fe80::200:5efe:169.254.169.254": linkLocal,
		"fd00:ec2::5efe:10.0.0.1":        metadata,
		"2606:4700::400:5efe:10.0.0.1":   "",
		"2606:4700::201:5efe:10.0.0.1":   "",
		"2606:4700::200:5eff:10.0.0.1":   "",
		"2606:4700::200:5dfe:10.0.0.1":   "",
		"2606:4700::8000:5efe:10.0.0.1":  "",
		"2606:4700:0:5efe:a00:1:0:0":     "",
	} {
		require.Equal(t, want, kindOf(netip.MustParseAddr(s)), s)
	}
}

func TestEmbeddedIPv4(t *testing.T) {
	for _, row := range []struct {
		ip, want string
		unsure   bool
	}{
		{"10.0.0.1", "", false},
		{"::", "", false},
		{"::1", "", false},
		{"::ffff:10.0.0.1", "", false},
		{"2606:4700::1111", "", false},
		{"::169.254.169.254", "169.254.169.254", false},
		{"::ffff:0:169.254.169.254", "169.254.169.254", false},
		{"64:ff9b::169.254.169.254", "169.254.169.254", false},
		{"2002:a9fe:a9fe::1", "169.254.169.254", false},
		{"2001:0:a9fe:a9fe:0:0:f5ff:fffe", "169.254.169.254 10.0.0.1", false},
		{"2606:4700::5efe:169.254.169.254", "169.254.169.254", false},
		{"fe80::200:5efe:10.0.0.1", "10.0.0.1", false},
		{"64:ff9b:1:a9fe:a9:fe00::", "169.254.169.254 254.169.254.0 169.254.0.0 0.0.0.0", true},
		{"64:ff9b:1:12a9:fe:a9fe::", "18.169.254.169 169.254.169.254 254.169.254.0 0.0.0.0", true},
		{"64:ff9b:1:1234:a9:fea9:fe00:0", "18.52.169.254 52.169.254.169 169.254.169.254 254.0.0.0", true},
		{"64:ff9b:1::169.254.169.254", "0.0.0.0 0.0.0.0 0.0.0.169 169.254.169.254", true},
	} {
		v4, sure := EmbeddedIPv4(netip.MustParseAddr(row.ip))
		text := ""
		for i, a := range v4 {
			if i > 0 {
				text += " "
			}
			text += a.String()
		}
		require.Equal(t, row.want, text, row.ip)
		require.Equal(t, !row.unsure, sure, row.ip)
	}
}

// Link-local and metadata alone need to be allowed to everybody.
func TestAddrRange_Explicit(t *testing.T) {
	for _, r := range addrRanges {
		require.Equal(t, r.Kind == linkLocal || r.Kind == metadata, r.Explicit(), r.Prefix)
	}
}
