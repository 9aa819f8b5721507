package resolve

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/rtmp-forward/forward/internal/dnstest"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/option"
	"github.com/stretchr/testify/require"
)

func TestDNSSendsToEveryAddress(t *testing.T) {
	s := dnstest.New(t)
	s.Set(map[string][]string{"media.test": {"10.0.0.2", "2001:db8::1", "10.0.0.1", "10.0.0.2"}}, nil)
	r := &DNS{URL: "rtmps://u:p@media.test:1936/[app]/[stream][param]", Resolver: s.Resolver()}
	req := seedRequest()
	req.Param = "?a/b"
	ds, ttl, err := r.ResolveTTL(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, 30*time.Second, ttl)
	require.Len(t, ds, 3)
	for i, host := range []string{"10.0.0.1", "10.0.0.2", "2001:db8::1"} {
		e, err := option.Endpoint(ds[i])
		require.NoError(t, err)
		require.Equal(t, endpoint.Endpoint{
			Scheme: "rtmps", Host: host, Port: "1936", ServerName: "media.test", User: "u", Password: "p",
			App: "live", TcURL: "rtmps://media.test:1936/live", Key: "livestream?a/b",
		}, e)
	}

	s.Set(map[string][]string{"media.test": {"10.0.0.3", "10.0.0.2"}}, nil)
	again, err := r.ResolveDestinations(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, again, 2)
	require.True(t, again[0].Equal(ds[1]), "who stays is not touched")

	for network, want := range map[string]int{"ip": 2, "ip4": 1, "ip6": 1} {
		s.Set(map[string][]string{"media.test": {"10.0.0.3", "2001:db8::1"}}, nil)
		r := &DNS{URL: "media.test", Network: network, TTL: time.Second, Resolver: s.Resolver()}
		ds, ttl, err := r.ResolveTTL(t.Context(), req)
		require.NoError(t, err)
		require.Len(t, ds, want)
		require.Equal(t, time.Second, ttl)
	}
}

func TestDNSService(t *testing.T) {
	const service = "_rtmp._tcp.media.test"
	srv := map[string][]net.SRV{service: {
		{Target: "c.test", Port: 1937, Priority: 20},
		{Target: "b.test", Port: 1936, Priority: 10},
		{Target: "a.test", Port: 1935, Priority: 10, Weight: 5},
	}}
	s := dnstest.New(t)
	r := &DNS{URL: "rtmp://" + service + "/[app]/[stream]", Resolver: s.Resolver()}
	for _, tt := range []struct {
		name  string
		addrs map[string][]string
		want  []string // address|tcUrl
	}{
		{"the first priority", map[string][]string{"a.test": {"10.0.0.2", "10.0.0.1"}, "b.test": {"10.0.0.1"}, "c.test": {"10.0.0.3"}},
			[]string{"10.0.0.1:1935|rtmp://a.test:1935/live", "10.0.0.2:1935|rtmp://a.test:1935/live", "10.0.0.1:1936|rtmp://b.test:1936/live"}},
		{"one of it", map[string][]string{"b.test": {"10.0.0.2"}, "c.test": {"10.0.0.3"}},
			[]string{"10.0.0.2:1936|rtmp://b.test:1936/live"}},
		{"the second priority", map[string][]string{"c.test": {"10.0.0.3"}},
			[]string{"10.0.0.3:1937|rtmp://c.test:1937/live"}},
	} {
		s.Set(tt.addrs, srv)
		ds, err := r.ResolveDestinations(t.Context(), seedRequest())
		require.NoError(t, err, tt.name)
		var got []string
		for _, d := range ds {
			e := must(option.Endpoint(d))
			got = append(got, net.JoinHostPort(e.Host, e.Port)+"|"+e.TcURL)
			require.Equal(t, "livestream", e.Key)
			require.Contains(t, e.TcURL, "//"+e.ServerName+":")
		}
		require.Equal(t, tt.want, got, tt.name)
	}
	s.Set(nil, srv)
	_, err := r.ResolveDestinations(t.Context(), seedRequest())
	require.ErrorContains(t, err, "no target has an address")
}

func TestDNSFails(t *testing.T) {
	s := dnstest.New(t)
	many := make([]string, maxDNSAddrs+1)
	services := make([]net.SRV, maxDNSAddrs+1)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String()
		services[i] = net.SRV{Target: "media.test", Port: uint16(i + 1)}
	}
	s.Set(
		map[string][]string{"many.test": many, "most.test": many[1:]},
		map[string][]net.SRV{"_many._tcp.test": services},
	)
	for url, want := range map[string]string{
		"nobody.test":              "no such host",
		"_rtmp._tcp.nobody.test":   "no such host",
		"many.test":                "more than 256 addresses",
		"_many._tcp.test":          "more than 256 records",
		"rtmp://h/app/[x]":         "unknown placeholder",
		"http://h/app/" + canary:   "unknown scheme",
		"rtmp://u:" + canary + "@": "no host",
	} {
		_, err := (&DNS{URL: url, Resolver: s.Resolver()}).ResolveDestinations(t.Context(), seedRequest())
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), canary)
	}
	ds, err := (&DNS{URL: "most.test", Resolver: s.Resolver()}).ResolveDestinations(t.Context(), seedRequest())
	require.NoError(t, err)
	require.Len(t, ds, maxDNSAddrs)

	require.ErrorContains(t, (&DNS{URL: "h", Network: "tcp"}).Validate(), "bad Network")
	require.NoError(t, (&DNS{URL: "h"}).Validate())

	s.Fail()
	_, err = (&DNS{URL: "most.test", Resolver: s.Resolver()}).ResolveDestinations(t.Context(), seedRequest())
	require.ErrorContains(t, err, "server misbehaving")
}

func TestDNSTakesAddresses(t *testing.T) {
	ds, err := (&DNS{URL: "rtmp://127.0.0.1/app"}).ResolveDestinations(t.Context(), seedRequest())
	require.NoError(t, err)
	require.Equal(t, []string{"rtmp://127.0.0.1:1935/app"}, destinationURLs(ds))
}
