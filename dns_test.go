package forward

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/stretchr/testify/require"
)

// Types and codes of RFC 1035, RFC 3596 and RFC 2782.
const (
	typeA    = 1
	typeAAAA = 28
	typeSRV  = 33

	codeServFail = 2
	codeNXDomain = 3
)

// dnsServer answers from a table over UDP, and over TCP what is too long.
type dnsServer struct {
	conn net.PacketConn

	mu    sync.Mutex
	addrs map[string][]string
	srv   map[string][]net.SRV
	fail  bool // all questions
}

func newDNSServer(t *testing.T) *dnsServer {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &dnsServer{conn: conn}
	var wg sync.WaitGroup
	wg.Go(func() {
		query := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(query)
			if err != nil {
				return
			}
			reply := s.answer(query[:n])
			if len(reply) > 1232 {
				reply = reply[:len(query[:n])]
				reply[2] |= 2 // truncated
				clear(reply[6:12])
			}
			conn.WriteTo(reply, from)
		}
	})
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return s
}

func (s *dnsServer) set(addrs map[string][]string, srv map[string][]net.SRV) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs, s.srv = addrs, srv
}

// resolver asks this server only.
func (s *dnsServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if strings.HasPrefix(network, "udp") {
			return (&net.Dialer{}).DialContext(ctx, "udp", s.conn.LocalAddr().String())
		}
		client, server := net.Pipe()
		go s.serveStream(server)
		return client, nil
	}}
}

// serveStream answers one question in the framing of TCP.
func (s *dnsServer) serveStream(c net.Conn) {
	defer c.Close()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, query); err != nil {
		return
	}
	reply := s.answer(query)
	c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
}

// answer makes the reply to a query with one question.
func (s *dnsServer) answer(query []byte) []byte {
	var labels []string
	i := 12
	for query[i] != 0 {
		n := int(query[i])
		labels = append(labels, string(query[i+1:i+1+n]))
		i += 1 + n
	}
	name := strings.Join(labels, ".")
	typ := binary.BigEndian.Uint16(query[i+1:])
	question := query[12 : i+5]

	s.mu.Lock()
	defer s.mu.Unlock()
	var records [][]byte
	switch typ {
	case typeA, typeAAAA:
		for _, a := range s.addrs[name] {
			if addr := netip.MustParseAddr(a); addr.Is4() == (typ == typeA) {
				records = append(records, addr.AsSlice())
			}
		}
	case typeSRV:
		for _, r := range s.srv[name] {
			b := binary.BigEndian.AppendUint16(nil, r.Priority)
			b = binary.BigEndian.AppendUint16(b, r.Weight)
			b = binary.BigEndian.AppendUint16(b, r.Port)
			for label := range strings.SplitSeq(r.Target, ".") {
				b = append(append(b, byte(len(label))), label...)
			}
			records = append(records, append(b, 0))
		}
	}
	code := byte(0)
	if s.fail {
		code, records = codeServFail, nil
	} else if s.addrs[name] == nil && s.srv[name] == nil {
		code = codeNXDomain
	}
	reply := append([]byte{query[0], query[1], 0x81, 0x80 | code, 0, 1}, 0, 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(reply[6:], uint16(len(records)))
	reply = append(reply, question...)
	for _, data := range records {
		reply = append(reply, 0xc0, 12) // the name of the question
		reply = binary.BigEndian.AppendUint16(reply, typ)
		reply = append(reply, 0, 1, 0, 0, 0, 0) // class IN, TTL 0
		reply = binary.BigEndian.AppendUint16(reply, uint16(len(data)))
		reply = append(reply, data...)
	}
	return reply
}

func TestDNSResolverSendsToEveryAddress(t *testing.T) {
	s := newDNSServer(t)
	s.set(map[string][]string{"media.test": {"10.0.0.2", "2001:db8::1", "10.0.0.1", "10.0.0.2"}}, nil)
	r := &DNSResolver{URL: "rtmps://u:p@media.test:1936/[app]/[stream][param]", Resolver: s.resolver()}
	req := seedRequest()
	req.Param = "?a/b"
	ds, ttl, err := r.ResolveTTL(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, 30*time.Second, ttl)
	require.Len(t, ds, 3)
	for i, host := range []string{"10.0.0.1", "10.0.0.2", "2001:db8::1"} {
		e, err := ds[i].endpoint()
		require.NoError(t, err)
		require.Equal(t, endpoint.Endpoint{
			Scheme: "rtmps", Host: host, Port: "1936", ServerName: "media.test", User: "u", Password: "p",
			App: "live", TcURL: "rtmps://media.test:1936/live", Key: "livestream?a/b",
		}, e)
	}

	s.set(map[string][]string{"media.test": {"10.0.0.3", "10.0.0.2"}}, nil)
	again, err := r.ResolveDestinations(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, again, 2)
	require.True(t, again[0].Equal(ds[1]), "who stays is not touched")

	for network, want := range map[string]int{"ip": 2, "ip4": 1, "ip6": 1} {
		s.set(map[string][]string{"media.test": {"10.0.0.3", "2001:db8::1"}}, nil)
		r := &DNSResolver{URL: "media.test", Network: network, TTL: time.Second, Resolver: s.resolver()}
		ds, ttl, err := r.ResolveTTL(t.Context(), req)
		require.NoError(t, err)
		require.Len(t, ds, want)
		require.Equal(t, time.Second, ttl)
	}
}

func TestDNSResolverService(t *testing.T) {
	const service = "_rtmp._tcp.media.test"
	srv := map[string][]net.SRV{service: {
		{Target: "c.test", Port: 1937, Priority: 20},
		{Target: "b.test", Port: 1936, Priority: 10},
		{Target: "a.test", Port: 1935, Priority: 10, Weight: 5},
	}}
	s := newDNSServer(t)
	r := &DNSResolver{URL: "rtmp://" + service + "/[app]/[stream]", Resolver: s.resolver()}
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
		s.set(tt.addrs, srv)
		ds, err := r.ResolveDestinations(t.Context(), seedRequest())
		require.NoError(t, err, tt.name)
		var got []string
		for _, d := range ds {
			e := must(d.endpoint())
			got = append(got, net.JoinHostPort(e.Host, e.Port)+"|"+e.TcURL)
			require.Equal(t, "livestream", e.Key)
			require.Contains(t, e.TcURL, "//"+e.ServerName+":")
		}
		require.Equal(t, tt.want, got, tt.name)
	}
	s.set(nil, srv)
	_, err := r.ResolveDestinations(t.Context(), seedRequest())
	require.ErrorContains(t, err, "no target has an address")
}

func TestDNSResolverFails(t *testing.T) {
	s := newDNSServer(t)
	many := make([]string, maxDNSAddrs+1)
	services := make([]net.SRV, maxDNSAddrs+1)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String()
		services[i] = net.SRV{Target: "media.test", Port: uint16(i + 1)}
	}
	s.set(
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
		_, err := (&DNSResolver{URL: url, Resolver: s.resolver()}).ResolveDestinations(t.Context(), seedRequest())
		require.ErrorContains(t, err, want, url)
		require.NotContains(t, err.Error(), canary)
	}
	ds, err := (&DNSResolver{URL: "most.test", Resolver: s.resolver()}).ResolveDestinations(t.Context(), seedRequest())
	require.NoError(t, err)
	require.Len(t, ds, maxDNSAddrs)

	require.ErrorContains(t, (&DNSResolver{URL: "h", Network: "tcp"}).Validate(), "bad Network")
	require.NoError(t, (&DNSResolver{URL: "h"}).Validate())

	s.mu.Lock()
	s.fail = true
	s.mu.Unlock()
	_, err = (&DNSResolver{URL: "most.test", Resolver: s.resolver()}).ResolveDestinations(t.Context(), seedRequest())
	require.ErrorContains(t, err, "server misbehaving")
}

func TestDNSResolverTakesAddresses(t *testing.T) {
	ds, err := (&DNSResolver{URL: "rtmp://127.0.0.1/app"}).ResolveDestinations(t.Context(), seedRequest())
	require.NoError(t, err)
	require.Equal(t, []string{"rtmp://127.0.0.1:1935/app"}, destinationURLs(ds))
}
