package forward

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

// Just below, in and just above each range.
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
		{nil, "64:ff9b::7f00:1 64:ff9b:1::1", "a translated address"},
		{nil, "2001::1 2002:7f00:1::1", "a tunnelled address"},

		{PrivateNetworks(), "10.0.0.1 192.168.1.6 172.16.0.1 100.64.0.1 fd00::1 fd00::1%eth0 ::ffff:10.0.0.1 1.1.1.1", ""},
		{PrivateNetworks(), "127.0.0.1 ::1", "a loopback address"},
		{prefixes("10.0.0.0/24"), "10.0.0.1 ::ffff:10.0.0.1", ""},
		{prefixes("::ffff:10.0.0.0/120"), "10.0.0.1 ::ffff:10.0.0.1", ""},
		{prefixes("10.0.0.0/24", "127.0.0.0/8", "::1/128"), "127.0.0.1 ::1", ""},
		{prefixes("10.0.0.0/24"), "10.0.1.0 192.168.0.1", "a private address"},
	} {
		s := newServer(t, Config{AllowNetworks: row.allow})
		for text := range strings.FieldsSeq(row.addrs) {
			err := s.checkAddr(netip.AddrPortFrom(netip.MustParseAddr(text), 1935))
			if row.want == "" {
				require.NoError(t, err, text)
				continue
			}
			var refused *AddressError
			require.ErrorAs(t, err, &refused, text)
			require.Contains(t, err.Error(), row.want, text)
			ip := netip.MustParseAddr(text).Unmap().WithZone("")
			allow := netip.PrefixFrom(ip, ip.BitLen())
			require.Contains(t, err.Error(), "unless Config.AllowNetworks holds "+allow.String(), text)
			require.Equal(t, allow, refused.Allow, text)
			require.False(t, refused.Addr.Addr().Is4In6(), text)
		}
	}
}

// Nothing allows these.
func TestUntrustedPorts(t *testing.T) {
	s := newServer(t, Config{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}})
	for port, ok := range map[uint16]bool{
		0: false, 1: false, 22: false, 442: false, 443: true, 444: false, 1023: false, 1024: true, 1935: true, 65535: true,
	} {
		err := s.checkAddr(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port))
		require.Equal(t, ok, err == nil, "%d %v", port, err)
	}
}

func TestUntrustedNeverOwnListener(t *testing.T) {
	s := newServer(t, Config{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}})
	ports := make(map[string]uint16)
	for _, at := range []string{"127.0.0.1:0", ":0"} {
		l, err := net.Listen("tcp", at)
		require.NoError(t, err)
		s.listeners[l] = struct{}{} // as Serve does
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
		err := s.checkAddr(netip.AddrPortFrom(netip.MustParseAddr(row.ip), row.port))
		require.Equal(t, row.ok, err == nil, "%v %v", row, err)
		if !row.ok {
			require.ErrorContains(t, err, "the server itself")
		}
	}
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.(*net.IPNet).IP)
		require.True(t, ok)
		require.Error(t, s.checkAddr(netip.AddrPortFrom(ip, anyAddr)), ip)
	}
}

// The backend's answer is what SRS's own example gives: a server on the same
// machine. The check comes behind the name resolution.
func TestUntrustedIsCheckedAtTheDial(t *testing.T) {
	d := forwardtest.NewDestination()
	defer d.Close()
	_, port, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(d.URL(""), "rtmp://"), "/"), ":")
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	dialled := make(chan string, 1)
	custom := func(ctx context.Context, network, _ string) (net.Conn, error) {
		dialled <- network
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
	}
	for _, row := range []struct {
		name, host string
		trusted    bool
		allow      []netip.Prefix
		dial       dialFunc
		want       string // empty: publishing
	}{
		{"address", "127.0.0.1", false, nil, nil, "a loopback address"},
		{"name", "localhost", false, nil, nil, "a loopback address"},
		{"allowed", "127.0.0.1", false, loopback, nil, ""},
		{"allowed name", "localhost", false, loopback, nil, ""},
		{"trusted", "localhost", true, nil, nil, ""},
		{"own dialer, address", "10.0.0.1", false, nil, custom, "10.0.0.1:" + port + ": a private address"},
		{"own dialer, name", "public.example", false, nil, custom, "a loopback address"},
		{"own dialer, allowed", "public.example", false, loopback, custom, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			states := make(chan error, 16)
			s := newServer(t, Config{AllowNetworks: row.allow, Dial: row.dial, Hooks: Hooks{
				OnForward: func(f *Forwarder, state State, err error) {
					if state == StatePublishing || state == StateWaiting {
						states <- err
					}
				},
			}})
			src := publish(t, s, "live", canary).Source()
			_, err := src.Forward(Destination{URL: "rtmp://" + row.host + ":" + port + "/live/s", untrusted: !row.trusted})
			require.NoError(t, err)
			err = <-states
			if row.dial != nil && row.host != "10.0.0.1" {
				<-dialled
			}
			require.Empty(t, dialled, "a forbidden address was dialled")
			if row.want == "" {
				require.NoError(t, err)
				return
			}
			var de *DestinationError
			require.ErrorAs(t, err, &de)
			require.Equal(t, "dial", de.Op)
			require.False(t, de.Temporary())
			var refused *AddressError
			require.ErrorAs(t, err, &refused)
			require.ErrorContains(t, err, row.want)
			require.Equal(t, 1, strings.Count(err.Error(), port+": "), err)
		})
	}
}

// Each way by which a destination comes from outside is marked; what the host
// names is not.
func TestWhatIsUntrusted(t *testing.T) {
	const url = "rtmp://10.0.0.1/live/s"
	backend := &HTTPResolver{URL: "http://backend/", Client: &http.Client{Transport: replyWith(`{"code":0,"data":{"urls":["` + url + `"]}}`)}}
	changed := With(backend, func(_ *PublishRequest, d *Destination) { d.ChunkSize = 4096 })
	for _, row := range []struct {
		r    DestinationResolver
		want bool
	}{
		{MustStatic(url), false},
		{backend, true},
		{changed, true},
		{Cached(Union(FirstOf(backend)), 0), true},
		{FromParam("to", "10.0.0.0/8"), true},
	} {
		ds, err := row.r.ResolveDestinations(t.Context(), &PublishRequest{App: "live", Stream: canary, Param: "?to=" + url})
		require.NoError(t, err)
		require.Len(t, ds, 1)
		require.Equal(t, row.want, ds[0].untrusted)
	}
}

type replyWith string

func (b replyWith) RoundTrip(*http.Request) (*http.Response, error) {
	w := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
	w.Body = readCloser{strings.NewReader(string(b))}
	return w, nil
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// Where a dialer of the host's has its own addresses, ports count all the
// same.
func TestUntrustedPortOfAName(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		b.destination("a.example:25")
		src := publish(b.T, b.srv, "live", canary).Source()
		f, err := src.Forward(Destination{URL: "rtmp://a.example:25/live/s", untrusted: true})
		require.NoError(b, err)
		synctest.Wait()
		var refused *AddressError
		require.True(b, errors.As(f.Stats().LastErr, &refused))
		require.ErrorContains(b, refused, "port 25 is not for destinations from outside")
	})
}

// Each address is checked behind the name resolution, and an error says which
// one was refused.
func TestUntrustedErrors(t *testing.T) {
	s := newServer(t, Config{})
	_, err := s.dialUntrusted(nil)(t.Context(), "tcp", "localhost:1935")
	var refused *AddressError
	require.ErrorAs(t, err, &refused)
	require.True(t, refused.Addr.Addr().IsLoopback())
	require.NotContains(t, err.Error(), "dial")
}
