package forward

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Addresses just below, in and just above each range.
func TestUntrustedAddresses(t *testing.T) {
	prefixes := func(texts ...string) (out []netip.Prefix) {
		for _, p := range texts {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	for _, row := range []struct {
		allow []netip.Prefix
		addrs string
		want  string // empty: allowed
	}{
		{nil, "1.1.1.1 9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 100.63.255.255 100.128.0.0 " +
			"126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0 223.255.255.255 198.17.255.255 198.20.0.0 1.0.0.0 " +
			"2606:4700::1111 2001:1::1 2001:4860::8888 2003::1 ::ffff:1.1.1.1", ""},
		{nil, "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 100.64.0.0 100.127.255.255 " +
			"fc00:: fdff:ffff::1 ::ffff:10.0.0.1 fd00::1%eth0", "a private address"},
		{nil, "127.0.0.0 127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1", "a loopback address"},
		{nil, "169.254.0.0 169.254.169.254 169.254.255.255 fe80::1%eth0 febf::1 ::ffff:169.254.169.254", "a link-local address"},
		{nil, "0.0.0.0 0.255.255.255 :: ::ffff:0.0.0.0", "an unspecified address"},
		{nil, "224.0.0.1 239.255.255.255 ff02::1 ::ffff:224.0.0.1", "a multicast address"},
		{nil, "192.0.0.1 198.18.0.0 198.19.255.255 240.0.0.0 255.255.255.255 ::2 ::127.0.0.1 fec0::1", "a reserved address"},
		{nil, "192.0.2.1 198.51.100.1 203.0.113.255 2001:db8::1 3fff::1", "an address for documentation"},
		{nil, "192.88.99.1 192.0.0.171 100::1 100:0:0:1::1 2001:2::1 2001:10::1 5f00::1 4000::1 1fff::1 fe00::1", "a reserved address"},
		{nil, "64:ff9b::7f00:1 64:ff9b:1::1", "a translated address"},
		{nil, "2001::1 2002:7f00:1::1 2606:4700::5efe:10.0.0.1 2606:4700::200:5efe:8.8.8.8", "a tunnelled address"},
		{nil, "::ffff:0:10.0.0.1", "a translated address"},
		{nil, "100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42 " +
			"::ffff:100.100.100.200", "the address of a metadata service"},

		{PrivateNetworks(), "10.0.0.1 192.168.1.6 172.16.0.1 100.64.0.1 fd00::1 fd00::1%eth0 ::ffff:10.0.0.1 1.1.1.1", ""},
		{PrivateNetworks(), "127.0.0.1 ::1", "a loopback address"},
		{prefixes("10.0.0.0/24"), "10.0.0.1 ::ffff:10.0.0.1", ""},
		{prefixes("::ffff:10.0.0.0/120"), "10.0.0.1 ::ffff:10.0.0.1", ""},
		{prefixes("10.0.0.0/24", "127.0.0.0/8", "::1/128"), "127.0.0.1 ::1", ""},
		{prefixes("10.0.0.0/24"), "10.0.1.0 192.168.0.1", "a private address"},

		// Link-local and metadata addresses need a prefix within their range.
		{append(PrivateNetworks(), prefixes("0.0.0.0/0", "::/0", "169.0.0.0/8")...), "169.254.169.254 169.254.0.1 ::ffff:169.254.169.254 fe80::1%eth0", "a link-local address"},
		{append(PrivateNetworks(), prefixes("0.0.0.0/0", "::/0", "fd00::/8")...), "100.100.100.200 fd00:ec2::254 fd20:ce::254", "the address of a metadata service"},
		{prefixes("169.254.0.0/16", "fe80::/10", "100.100.100.200/32", "fd00:ec2::254/128", "fd20:ce::254/128"),
			"169.254.169.254 fe80::1%eth0 100.100.100.200 fd00:ec2::254 fd20:ce::254 ::ffff:169.254.169.254", ""},
		{prefixes("::ffff:169.254.169.0/120"), "169.254.169.254", ""},

		// Both an address and the address embedded in it must be allowed.
		{prefixes("64:ff9b::/96", "2002::/16", "2001::/32", "fd00::/8"),
			"64:ff9b::8.8.8.8 2002:808:808::1 2001:0:808:808:0:0:f7f7:f7f7 fd00::5efe:8.8.8.8 fd00::1", ""},
		{prefixes("64:ff9b:1::/48"), "64:ff9b:1::8.8.8.8 64:ff9b:1:808:8:800:: 64:ff9b:1::10.0.0.1", ""},
		{prefixes("64:ff9b::/96", "10.0.0.0/8"), "64:ff9b::10.0.0.1", ""},
	} {
		s := newServer(t, Config{AllowNetworks: row.allow})
		for text := range strings.FieldsSeq(row.addrs) {
			err := s.addressRules(fromOutside).check(netip.AddrPortFrom(netip.MustParseAddr(text), 1935))
			if row.want == "" {
				require.NoError(t, err, text)
				continue
			}
			var refused *AddressError
			require.ErrorAs(t, err, &refused, text)
			require.Contains(t, err.Error(), row.want, text)
			ip := netip.MustParseAddr(text).Unmap().WithZone("")
			allow := netip.PrefixFrom(ip, ip.BitLen())
			require.Equal(t, ip, refused.Addr.Addr())
			require.Contains(t, err.Error(), "unless Config.AllowNetworks holds "+allow.String(), text)
			require.Equal(t, allow, refused.Allow, text)
			require.False(t, refused.Addr.Addr().Is4In6(), text)
		}
	}
}

// An allowed address is refused because of the address embedded in it. The error names the
// prefix that would have to be allowed as well.
func TestUntrustedEmbeddedAddresses(t *testing.T) {
	s := newServer(t, Config{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("::/0")}})
	for text, allow := range map[string]string{
		"64:ff9b::10.0.0.1":                   "10.0.0.1/32",
		"64:ff9b::169.254.169.254":            "169.254.169.254/32",
		"64:ff9b:1::169.254.169.254":          "169.254.169.254/32",
		"64:ff9b:1:a9fe:a9:fe00::":            "169.254.169.254/32",
		"2002:7f00:1::1":                      "127.0.0.1/32",
		"2002:a9fe:a9fe::1":                   "169.254.169.254/32",
		"2001:0:808:808:0:0:f5ff:fffe":        "10.0.0.1/32",
		"2001:0:a9fe:a9fe:0:0:f7f7:f7f7":      "169.254.169.254/32",
		"2606:4700::5efe:192.168.0.1":         "192.168.0.1/32",
		"2606:4700::200:5efe:100.64.0.1":      "100.64.0.1/32",
		"::10.0.0.1":                          "10.0.0.1/32",
		"::ffff:0:10.0.0.1":                   "10.0.0.1/32",
		"2606:4700::200:5efe:100.100.100.200": "100.100.100.200/32",
	} {
		ip := netip.MustParseAddr(text)
		var refused *AddressError
		require.ErrorAs(t, s.addressRules(fromOutside).check(netip.AddrPortFrom(ip, 1935)), &refused, text)
		require.Equal(t, allow, refused.Allow.String(), text)
		require.Equal(t, ip, refused.Addr.Addr(), text)
	}
}

// A destination that the operator sets over the network may be at any address except
// link-local and metadata addresses, in any form, and our own listeners.
func TestWhereTheOperatorMayLead(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	own := l.Addr().(*net.TCPAddr).AddrPort().Port()
	check := func(allow ...netip.Prefix) func(from origin, text string, port uint16) error {
		s := newServer(t, Config{AllowNetworks: allow})
		require.NoError(t, s.addListener(&servedListener{Listener: l, addr: l.Addr()})) // as Serve does
		return func(from origin, text string, port uint16) error {
			return s.addressRules(from).check(netip.AddrPortFrom(netip.MustParseAddr(text), port))
		}
	}
	plain := check()
	for text := range strings.FieldsSeq("1.1.1.1 10.0.0.1 127.0.0.1 192.0.2.1 ::1 fd00::1 100.64.0.1 0.0.0.0 240.0.0.1 224.0.0.1 " +
		"64:ff9b::10.0.0.1 2002:7f00:1::1 64:ff9b:1::1 fec0::1") {
		for _, port := range []uint16{22, 80, 443, 1935} {
			require.NoError(t, plain(fromOperator, text, port), text)
		}
	}
	linkLocal := "169.254.169.254 169.254.0.1 fe80::1%eth0 ::ffff:169.254.169.254 100.100.100.200 fd00:ec2::254 fd20:ce::254 168.63.129.16 " +
		"::169.254.169.254 ::ffff:0:169.254.169.254 64:ff9b::169.254.169.254 64:ff9b:1::169.254.169.254 64:ff9b:1:a9fe:a9:fe00:: " +
		"2002:a9fe:a9fe::1 2001:0:808:808:0:0:5601:5601 2606:4700::200:5efe:169.254.169.254 fe80::5efe:10.0.0.1"
	open := check(append(PrivateNetworks(), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))...)
	allowed := check(netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("100.100.100.200/32"),
		netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::254/128"), netip.MustParsePrefix("168.63.129.16/32"))
	for text := range strings.FieldsSeq(linkLocal) {
		for _, c := range []func(origin, string, uint16) error{plain, open} {
			require.ErrorAs(t, c(fromOperator, text, 1935), new(*AddressError), text)
		}
		require.NoError(t, allowed(fromOperator, text, 80), text)
	}
	for _, from := range []origin{fromOperator, fromOutside} {
		for text := range strings.FieldsSeq("127.0.0.1 0.0.0.0 ::ffff:127.0.0.1 64:ff9b::127.0.0.1 2002:7f00:1::1 2606:4700::5efe:127.0.0.1") {
			require.ErrorContains(t, open(from, text, own), "this server listens there itself", text)
		}
	}
}

// Ports below 1024, except 443, must be allowed for untrusted destinations.
func TestUntrustedPorts(t *testing.T) {
	s := newServer(t, Config{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}})
	more := newServer(t, Config{AllowPorts: []uint16{80, 1}})
	for port, ok := range map[uint16]bool{0: false, 1: true, 22: false, 80: true, 81: false, 443: true, 1935: true} {
		err := more.addressRules(fromOutside).check(netip.AddrPortFrom(netip.MustParseAddr("1.1.1.1"), port))
		require.Equal(t, ok, err == nil, "%d %v", port, err)
	}
	require.ErrorContains(t, more.addressRules(fromOutside).check(netip.MustParseAddrPort("10.0.0.1:80")), "a private address", "a port allows no address")
	for port, ok := range map[uint16]bool{
		0: false, 1: false, 22: false, 442: false, 443: true, 444: false, 1023: false, 1024: true, 1935: true, 65535: true,
	} {
		err := s.addressRules(fromOutside).check(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port))
		require.Equal(t, ok, err == nil, "%d %v", port, err)
	}
}

func TestUntrustedNeverOwnListener(t *testing.T) {
	s := newServer(t, Config{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}})
	ports := make(map[string]uint16)
	for _, at := range []string{"127.0.0.1:0", ":0"} {
		l, err := net.Listen("tcp", at)
		require.NoError(t, err)
		require.NoError(t, s.addListener(&servedListener{Listener: l, addr: l.Addr()})) // as Serve does
		defer l.Close()
		ports[at] = l.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	one, anyAddr := ports["127.0.0.1:0"], ports[":0"]
	for _, row := range []struct {
		ip   string
		port uint16
		ok   bool
	}{
		{"127.0.0.1", one, false},
		{"::ffff:127.0.0.1", one, false},
		{"127.0.0.2", one, true},
		{"192.0.2.7", one, true},
		{"127.0.0.1", anyAddr, false},
		{"127.0.0.2", anyAddr, false},
		{"::1", anyAddr, false},
		{"0.0.0.0", anyAddr, false},
		{"192.0.2.7", anyAddr, true},
	} {
		err := s.addressRules(fromOutside).check(netip.AddrPortFrom(netip.MustParseAddr(row.ip), row.port))
		require.Equal(t, row.ok, err == nil, "%v %v", row, err)
		if !row.ok {
			require.ErrorContains(t, err, "this server listens there itself")
		}
	}
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.(*net.IPNet).IP)
		require.True(t, ok)
		require.Error(t, s.addressRules(fromOutside).check(netip.AddrPortFrom(ip, anyAddr)), ip)
	}
}

// Each address is checked after name resolution. The error names the one that was refused.
func TestUntrustedErrors(t *testing.T) {
	s := newServer(t, Config{})
	_, err := s.addressRules(fromOutside).restrict(nil)(t.Context(), "tcp", "localhost:1935")
	var refused *AddressError
	require.ErrorAs(t, err, &refused)
	require.True(t, refused.Addr.Addr().IsLoopback())
	require.NotContains(t, err.Error(), "dial")
}
