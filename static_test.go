package forward

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

func TestStatic(t *testing.T) {
	plain := &Request{Vhost: DefaultVhost, App: "live", Stream: "livestream"}
	full := &Request{Vhost: "a.example", App: "live/tv", Stream: "ls", Param: "?token=1/2"}
	tests := []struct {
		url        string
		req        *Request
		tcURL, key string
	}{
		{"10.0.0.6", plain, "rtmp://10.0.0.6/live", "livestream"},
		{"10.0.0.6:1936", plain, "rtmp://10.0.0.6:1936/live", "livestream"},
		{"[::1]:1936", plain, "rtmp://[::1]:1936/live", "livestream"},
		{"[::1]", plain, "rtmp://[::1]/live", "livestream"},
		{"host.example:1935", full, "rtmp://host.example:1935/live/tv?vhost=a.example", "ls?token=1/2"},
		{"rtmp://10.0.0.6", full, "rtmp://10.0.0.6/live/tv?vhost=a.example", "ls?token=1/2"},
		{"rtmps://10.0.0.6:443/", full, "rtmps://10.0.0.6:443/live/tv?vhost=a.example", "ls?token=1/2"},
		{"rtmp://h/app", full, "rtmp://h/app", "ls"},
		{"rtmp://h/app/", full, "rtmp://h/app", "ls"},
		{"rtmp://h/a/b/", full, "rtmp://h/a/b", "ls"},
		{"rtmp://h/live2?backup=1", full, "rtmp://h/live2?backup=1", "ls"},
		{"rtmp://h/app/key", full, "rtmp://h/app", "key"},
		{"rtmp://h/app/key?a=[stream]", full, "rtmp://h/app", "key?a=ls"},
		{"rtmp://h/[app]/[stream]", full, "rtmp://h/live/tv", "ls"},
		{"rtmp://h/[app]/[stream][param]", full, "rtmp://h/live/tv", "ls?token=1/2"},
		{"rtmp://h/[app]/[stream][param]", plain, "rtmp://h/live", "livestream"},
		{"rtmp://h/x_[app]_[vhost]/y-[stream]-[stream]", plain, "rtmp://h/x_live___defaultVhost__", "y-livestream-livestream"},
		{"rtmp://h/[app]?vhost=[vhost]/[stream][param]", full, "rtmp://h/live/tv?vhost=a.example", "ls?token=1/2"},
		{"rtmp://[::1]:1935/[app]/[stream]", plain, "rtmp://[::1]:1935/live", "livestream"},
		{"rtmp://h/app/k[0]E[X]y[]", plain, "rtmp://h/app", "k[0]E[X]y[]"},
		{"rtmps://x.live-video.net/sk_1", plain, "rtmps://x.live-video.net/app", "sk_1"},
		{"rtmps://x.live-video.net/app", plain, "rtmps://x.live-video.net/app", "livestream"},
	}
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			r, err := Static(tt.url)
			require.NoError(t, err)
			before := *tt.req
			ds, err := r.ResolveDestinations(t.Context(), tt.req)
			require.NoError(t, err)
			require.Len(t, ds, 1)
			e, err := ds[0].endpoint()
			require.NoError(t, err)
			require.Equal(t, tt.tcURL, e.TcURL)
			require.Equal(t, tt.key, e.Key)
			require.Equal(t, before, *tt.req)
		})
	}
}

func TestStaticRefusesMalformedEntries(t *testing.T) {
	for url, want := range map[string]string{
		"":                                "entry 2: destination rtmp://***: no host",
		"host/app/" + canary:              "entry 2: neither a host nor a URL",
		"10.0.0.6:99999":                  "bad port",
		"2001:db8::1":                     "bad host",
		"[::1":                            "bad host",
		"a b":                             "bad host",
		"http://h/app/" + canary:          "unknown scheme",
		"rtmp://h/[key]/" + canary:        "rtmp://h/[key]/***: unknown placeholder: expected one of [vhost] [app] [stream] [param]",
		"rtmp://h/app/" + canary + "[st]": "unknown placeholder",
		"rtmp://[vhost]/app/" + canary:    "bad host",
		"rtmp://x-[vhost]/app/" + canary:  "bad host",
		"rtmp://h/?x=" + canary:           "no app",
		"rtmp://h/app/" + canary + "\x00": "control character",
		"rtmp://u:" + canary + "%@h":      "bad percent-encoding",
	} {
		_, err := Static("10.0.0.5", url)
		require.ErrorContains(t, err, want, url)
		require.ErrorContains(t, err, "entry 2: ")
		require.NotContains(t, err.Error(), canary)
		require.Panics(t, func() { MustStatic(url) })
	}
}

func TestStaticRefusesStreamsWithoutName(t *testing.T) {
	for _, url := range []string{"10.0.0.6", "rtmp://h/app", "rtmp://h/app/[stream]"} {
		_, err := MustStatic(url).ResolveDestinations(t.Context(), &Request{App: "live"})
		require.ErrorContains(t, err, "no stream key", url)
	}
}

func TestStaticWithoutURLsForwardsNothing(t *testing.T) {
	ds, err := MustStatic().ResolveDestinations(t.Context(), &Request{App: "live", Stream: "s"})
	require.NoError(t, err)
	require.Empty(t, ds)
}

// With options a URL may have the same forms. Placeholders in options are not replaced.
func TestStaticDestinations(t *testing.T) {
	req := &Request{Vhost: "a.example", App: "live", Stream: "ls", Param: "?t=1"}
	r, err := StaticDestinations(
		Destination{URL: "10.0.0.6", NoMetadata: true, TcURL: "rtmp://h/[app]"},
		Destination{URL: "rtmp://h/x-[app]/y", StreamKey: "a/[stream]"},
		Destination{URL: "10.0.0.7", StreamKey: "k"},
		Destination{URL: "a.rtmps.youtube.com", StreamKey: "k"},
	)
	require.NoError(t, err)
	ds, err := r.ResolveDestinations(t.Context(), req)
	require.NoError(t, err)
	for i, want := range []Destination{
		{URL: "rtmp://10.0.0.6/live?vhost=a.example", StreamKey: "ls?t=1", NoMetadata: true, TcURL: "rtmp://h/[app]"},
		{URL: "rtmp://h/x-live/y", StreamKey: "a/[stream]"},
		{URL: "rtmp://10.0.0.7/live?vhost=a.example", StreamKey: "k"},
		{URL: "rtmps://a.rtmps.youtube.com/live2", StreamKey: "k"},
	} {
		require.True(t, want.Equal(ds[i]), "%d: %s %s", i, ds[i].URL, string(ds[i].StreamKey))
	}
	require.Len(t, ds, 4)

	_, err = StaticDestinations(Destination{URL: "h"}, Destination{URL: "rtmp://h/a", StreamKey: canary, ChunkSize: 1})
	require.EqualError(t, err, "entry 2: destination rtmp://h/a/***: ChunkSize 1 is not within 128 and 65536")
	require.EqualError(t, errors.Unwrap(err), "destination rtmp://h/a/***: ChunkSize 1 is not within 128 and 65536")
}

// A Server that gets the same destinations again does not ask its resolver again.
func TestStaticDestinationsAreComparedByValue(t *testing.T) {
	of := func(ds ...Destination) DestinationResolver { return must(StaticDestinations(ds...)) }
	require.True(t, sameResolver(of(Destination{URL: "h"}), MustStatic("h")))
	require.True(t, sameResolver(static(nil), MustStatic()))
	require.True(t, sameResolver(of(Destination{URL: "h", NoMetadata: true}), of(Destination{URL: "h", NoMetadata: true})))
	require.False(t, sameResolver(of(Destination{URL: "h", NoMetadata: true}), of(Destination{URL: "h"})))
}

// FuzzStaticRequest lets the publisher choose what it can: the destination's
// server and the app of the configured URL must not change.
func FuzzStaticRequest(f *testing.F) {
	f.Add("v.example", "live", "livestream", "?a=b")
	f.Add("", "..", "@evil/x", "/[app]")
	f.Add("x&y?/", "a?b", "?vhost=evil", "@evil")
	f.Add("v.example", "live", "s", "?vhost=evil&token=1")
	f.Fuzz(func(t *testing.T, vhost, app, stream, param string) {
		req := &Request{Vhost: vhost, App: app, Stream: stream, Param: param}
		ds, err := MustStatic("rtmp://u:p@h:1936/fixed?q=1/[stream][param]").ResolveDestinations(t.Context(), req)
		if err == nil {
			e := must(ds[0].endpoint())
			require.Equal(t, endpoint.Endpoint{
				Scheme: "rtmp", Host: "h", Port: "1936", ServerName: "h", User: "u", Password: "p",
				App: "fixed?q=1", TcURL: "rtmp://h:1936/fixed?q=1", Key: stream + param,
			}, e)
		}
		ds, err = MustStatic("h:1936").ResolveDestinations(t.Context(), req)
		if err == nil {
			e := must(ds[0].endpoint())
			require.Equal(t, "h:1936", e.Host+":"+e.Port)
			rest, _ := strings.CutPrefix(param, "?")
			require.True(t, strings.HasPrefix(e.Key, stream))
			if rtmp.WithoutVhost(rest) == rest {
				require.Equal(t, stream+param, e.Key)
			}
			require.True(t, strings.HasPrefix(e.TcURL, "rtmp://h:1936/"))
		}
	})
}
