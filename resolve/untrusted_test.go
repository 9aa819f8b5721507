package resolve

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/stretchr/testify/require"
)

// origin is who a destination comes from, as its marks say.
type origin string

func originOf(d forward.Destination) origin {
	switch {
	case d.Untrusted:
		return "outside"
	case d.NoLinkLocal:
		return "operator"
	}
	return "host"
}

// replyWith is a backend with one answer.
func replyWith(reply string) roundTripper {
	return func(*http.Request) (*http.Response, error) { return hosttest.Reply(reply), nil }
}

// Each way by which a destination comes over the network is marked; what the
// host names is not.
func TestUntrustedDestinations(t *testing.T) {
	const url = "rtmp://10.0.0.1/live/s"
	reply := replyWith(`{"code":0,"data":{"urls":["` + url + `"]}}`)
	backend := &HTTP{URL: "http://backend/", Client: &http.Client{Transport: reply}}
	stranger := &HTTP{URL: "http://backend/", Client: &http.Client{Transport: reply}, Untrusted: true}
	own := forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
		return []forward.Destination{{URL: url, Untrusted: true}}, nil
	})
	changed := With(backend, func(_ *forward.Request, d *forward.Destination) { d.ChunkSize = 4096 })
	for _, row := range []struct {
		name  string
		r     forward.DestinationResolver
		param string
		want  origin
	}{
		{"static", forward.MustStatic(url), "", "host"},
		{"backend", backend, "", "operator"},
		{"backend, named by the publisher", backend, "?forward=" + url, "outside"},
		{"another's backend", stranger, "", "outside"},
		{"changed", changed, "", "operator"},
		{"combined", Cached(Union(FirstOf(backend)), 0), "", "operator"},
		{"combined, named by the publisher", Cached(Union(FirstOf(backend)), 0), "?forward=" + url, "outside"},
		{"param", FromParam("to", "10.0.0.0/8"), "?to=" + url, "outside"},
		{"the host's own", own, "", "outside"},
		{"the host's own, combined", Cached(Union(own), 0), "", "outside"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ds, err := row.r.ResolveDestinations(t.Context(), &forward.Request{App: "live", Stream: canary, Param: row.param})
			require.NoError(t, err)
			require.Len(t, ds, 1)
			require.Equal(t, row.want, originOf(ds[0]))
		})
	}
}

// The host of a backend's answer is the publisher's where the publisher has
// said it, except the address that the publisher has connected to.
func TestDestinationsNamedByPublishers(t *testing.T) {
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1935} }
	seed := func(change func(*forward.Request)) *forward.Request {
		r := &forward.Request{
			Vhost: forward.DefaultVhost, App: "live", Stream: "livestream", TcURL: "rtmp://127.0.0.1:1935/live",
			RemoteAddr: tcp("127.0.0.1"), LocalAddr: tcp("127.0.0.1"),
		}
		if change != nil {
			change(r)
		}
		return r
	}
	for _, row := range []struct {
		name  string
		req   *forward.Request
		host  string
		named bool
	}{
		{"the seed's example", seed(nil), "127.0.0.1:19350", false},
		{"the seed's pattern", seed(func(r *forward.Request) { r.Param = "?forward=rtmp://127.0.0.1:19351/test/livestream" }), "127.0.0.1:19351", true},
		{"another port", seed(func(r *forward.Request) { r.Param = "?forward=rtmp://10.0.0.5:1936/test/livestream" }), "10.0.0.5:22", true},
		{"another host", seed(func(r *forward.Request) { r.Param = "?forward=rtmp://10.0.0.5/test/livestream" }), "10.0.0.6", false},
		{"userinfo", seed(func(r *forward.Request) { r.Param = "?to=rtmp://a:b@10.0.0.5/x/y" }), "c:d@10.0.0.5", true},
		{"encoded", seed(func(r *forward.Request) { r.Param = "?to=rtmp%253A%252F%252F10%252E0.0.5" }), "10.0.0.5", true},
		{"pageUrl", seed(func(r *forward.Request) { r.PageURL = "https://page.example/?to=10.0.0.5" }), "10.0.0.5", true},
		{"pageUrl's host", seed(func(r *forward.Request) { r.PageURL = "https://intern.example/" }), "INTERN.example", true},
		{"path of tcUrl", seed(func(r *forward.Request) { r.TcURL = "rtmp://127.0.0.1/live/10.0.0.5" }), "10.0.0.5", true},
		{"query of tcUrl", seed(func(r *forward.Request) { r.TcURL = "rtmp://127.0.0.1?to=127.0.0.1" }), "127.0.0.1", true},
		{"user of tcUrl", seed(func(r *forward.Request) { r.TcURL = "rtmp://10.0.0.5@127.0.0.1/live" }), "10.0.0.5", true},
		{"app", seed(func(r *forward.Request) { r.App = "10.0.0.5" }), "10.0.0.5", true},
		{"stream", seed(func(r *forward.Request) { r.Stream = "10.0.0.5" }), "10.0.0.5", true},

		{"localhost", seed(func(r *forward.Request) { r.TcURL = "rtmp://LocalHost/live" }), "localhost:19350", false},
		{"localhost by IPv6", seed(func(r *forward.Request) { r.TcURL, r.LocalAddr = "rtmp://[::1]:1935/live", tcp("::1") }), "[::1]:19350", false},
		{"address of the network", seed(func(r *forward.Request) { r.TcURL, r.LocalAddr = "rtmp://192.168.1.5/live", tcp("192.168.1.5") }), "192.168.1.5:19350", false},
		{"address that is another", seed(func(r *forward.Request) { r.TcURL, r.LocalAddr = "rtmp://192.168.1.6/live", tcp("192.168.1.5") }), "192.168.1.6", true},
		{"loopback from afar", seed(func(r *forward.Request) { r.RemoteAddr, r.LocalAddr = tcp("203.0.113.9"), tcp("192.168.1.5") }), "127.0.0.1:19350", true},
		{"localhost from afar", seed(func(r *forward.Request) { r.TcURL, r.LocalAddr = "rtmp://localhost/live", tcp("192.168.1.5") }), "localhost", true},
		{"name of another", seed(func(r *forward.Request) { r.TcURL = "rtmp://intern/live" }), "intern", true},
		{"no address of ours known", seed(func(r *forward.Request) { r.LocalAddr = nil }), "127.0.0.1:19350", false},
		{"no address known", seed(func(r *forward.Request) { r.LocalAddr, r.RemoteAddr = nil, nil }), "127.0.0.1:19350", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := &HTTP{URL: "http://backend/", Client: &http.Client{Transport: replyWith(`{"code":0,"data":{"urls":["rtmp://` + row.host + `/a/b"]}}`)}}
			ds, err := r.ResolveDestinations(t.Context(), row.req)
			require.NoError(t, err)
			require.Equal(t, row.named, ds[0].Untrusted)
			require.True(t, ds[0].NoLinkLocal)
		})
	}
}

// An answer kept for a backend that is down is checked again for each publisher: its
// destinations are untrusted if that publisher names their host.
func TestLastGoodIsAskedAboutAgain(t *testing.T) {
	var down atomic.Bool
	r := &HTTP{URL: "http://backend/", OnFailure: LastGood, Client: &http.Client{Transport: roundTripper(func(q *http.Request) (*http.Response, error) {
		if down.Load() {
			return nil, errors.New("down")
		}
		return replyWith(`{"code":0,"data":{"urls":["rtmp://10.0.0.5/a/b"]}}`).RoundTrip(q)
	})}}
	ask := func(param string) bool {
		ds, err := r.ResolveDestinations(t.Context(), &forward.Request{App: "live", Stream: "s", Param: param})
		require.NoError(t, err)
		require.Len(t, ds, 1)
		return ds[0].Untrusted
	}
	require.False(t, ask(""))
	down.Store(true)
	require.False(t, ask(""))
	require.True(t, ask("?to=10.0.0.5"))
	require.False(t, ask(""), "the answer that is kept has not changed")
}

// Over sockets, with a forward.Config that has only a backend: its destinations on this
// machine work, and those that the publisher names work only if they are allowed.
func TestBackendOnThisMachine(t *testing.T) {
	for _, row := range []struct {
		name, param string
		allow       []netip.Prefix
		ok          bool
	}{
		{"the backend's", "", nil, true},
		{"the publisher's", "?forward=", nil, false},
		{"the publisher's, allowed", "?forward=", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := forwardtest.NewDestination()
			defer d.Close()
			to := d.URL("test/teststream")
			states := make(chan error, 16)
			s := newServer(t, forward.Config{
				AllowNetworks: row.allow,
				Resolver: &HTTP{URL: "http://backend/", Client: &http.Client{
					Transport: replyWith(`{"code":0,"data":{"urls":["` + to + `"]}}`)}},
				Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, state forward.State, err error) {
					if state == forward.StatePublishing || state == forward.StateWaiting {
						states <- err
					}
				}},
			})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			go s.Serve(l)
			if row.param != "" {
				row.param += to
			}
			pub, err := forwardtest.Client{URL: "rtmp://" + l.Addr().String() + "/live/livestream" + row.param}.Publish(t.Context())
			require.NoError(t, err)
			defer pub.Close()
			err = <-states
			if row.ok {
				require.NoError(t, err)
				return
			}
			require.ErrorAs(t, err, new(*forward.AddressError))
			require.ErrorContains(t, err, "unless Config.AllowNetworks holds 127.0.0.1/32")
		})
	}
}
