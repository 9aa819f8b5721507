package endpoint

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	tests := map[string]struct {
		s    Spec
		want Endpoint
	}{
		"plain": {
			Spec{URL: "rtmp://10.0.0.7/live/livestream"},
			Endpoint{Scheme: "rtmp", Host: "10.0.0.7", Port: "1935", App: "live", TcURL: "rtmp://10.0.0.7/live", Key: "livestream"},
		},
		"port as typed": {
			Spec{URL: "rtmp://10.0.0.7:1935/live/livestream"},
			Endpoint{Scheme: "rtmp", Host: "10.0.0.7", Port: "1935", App: "live", TcURL: "rtmp://10.0.0.7:1935/live", Key: "livestream"},
		},
		"rtmps has port 443, scheme in any case": {
			Spec{URL: "RTMPS://Host.example/app/key"},
			Endpoint{Scheme: "rtmps", Host: "Host.example", Port: "443", App: "app", TcURL: "rtmps://Host.example/app", Key: "key"},
		},
		"app of several levels": {
			Spec{URL: "rtmp://h/a/b/c/key"},
			Endpoint{Scheme: "rtmp", Host: "h", Port: "1935", App: "a/b/c", TcURL: "rtmp://h/a/b/c", Key: "key"},
		},
		"query of the key is the key's, unchanged (Facebook)": {
			Spec{URL: "rtmps://h:443/rtmp/FB-123?s_bl=1&a=%2F/x&a=b?c#d"},
			Endpoint{Scheme: "rtmps", Host: "h", Port: "443", App: "rtmp", TcURL: "rtmps://h:443/rtmp", Key: "FB-123?s_bl=1&a=%2F/x&a=b?c#d"},
		},
		"trailing slash before a stream key (Facebook)": {
			Spec{URL: "rtmps://h:443/rtmp/", StreamKey: "FB-1?a=b"},
			Endpoint{Scheme: "rtmps", Host: "h", Port: "443", App: "rtmp", TcURL: "rtmps://h:443/rtmp", Key: "FB-1?a=b"},
		},
		"double slash before the key": {
			Spec{URL: "rtmps://h:443/rtmp//key"},
			Endpoint{Scheme: "rtmps", Host: "h", Port: "443", App: "rtmp", TcURL: "rtmps://h:443/rtmp", Key: "key"},
		},
		"double slash after the host": {
			Spec{URL: "rtmp://h//live/key"},
			Endpoint{Scheme: "rtmp", Host: "h", Port: "1935", App: "live", TcURL: "rtmp://h/live", Key: "key"},
		},
		"query of the app, key in the URL (YouTube)": {
			Spec{URL: "rtmps://h/live2?backup=1/abcd-efgh"},
			Endpoint{Scheme: "rtmps", Host: "h", Port: "443", App: "live2?backup=1", TcURL: "rtmps://h/live2?backup=1", Key: "abcd-efgh"},
		},
		"query of the app after a slash": {
			Spec{URL: "rtmps://h/live2/?backup=1/abcd-efgh"},
			Endpoint{Scheme: "rtmps", Host: "h", Port: "443", App: "live2?backup=1", TcURL: "rtmps://h/live2?backup=1", Key: "abcd-efgh"},
		},
		"query of the app, key apart (YouTube)": {
			Spec{URL: "rtmps://h/live2?backup=1", StreamKey: "abcd-efgh"},
			Endpoint{Scheme: "rtmps", Host: "h", Port: "443", App: "live2?backup=1", TcURL: "rtmps://h/live2?backup=1", Key: "abcd-efgh"},
		},
		"stream key of any characters": {
			Spec{URL: "rtmp://h/a/b", StreamKey: "/a/:@?%zz# é[x]\\"},
			Endpoint{Scheme: "rtmp", Host: "h", Port: "1935", App: "a/b", TcURL: "rtmp://h/a/b", Key: "/a/:@?%zz# é[x]\\"},
		},
		"colon in the key (Telegram)": {
			Spec{URL: "rtmps://dc4-1.rtmp.t.me/s/123:AbC-d"},
			Endpoint{Scheme: "rtmps", Host: "dc4-1.rtmp.t.me", Port: "443", App: "s", TcURL: "rtmps://dc4-1.rtmp.t.me/s", Key: "123:AbC-d"},
		},
		"at in the key is no userinfo (Akamai)": {
			Spec{URL: "rtmp://h/EntryPoint/name_1_2500@37267"},
			Endpoint{Scheme: "rtmp", Host: "h", Port: "1935", App: "EntryPoint", TcURL: "rtmp://h/EntryPoint", Key: "name_1_2500@37267"},
		},
		"percent and space in the key stay": {
			Spec{URL: "rtmp://h/live/a b%20c%"},
			Endpoint{Scheme: "rtmp", Host: "h", Port: "1935", App: "live", TcURL: "rtmp://h/live", Key: "a b%20c%"},
		},
		"userinfo is decoded and not in tcUrl": {
			Spec{URL: "rtmp://us%40er:p:a%2Fs@s@h:1936/live/key"},
			Endpoint{Scheme: "rtmp", Host: "h", Port: "1936", App: "live", TcURL: "rtmp://h:1936/live", Key: "key", User: "us@er", Password: "p:a/s@s"},
		},
		"user without password": {
			Spec{URL: "rtmp://u@h/live/key"},
			Endpoint{Scheme: "rtmp", Host: "h", Port: "1935", App: "live", TcURL: "rtmp://h/live", Key: "key", User: "u"},
		},
		"fields replace userinfo": {
			Spec{URL: "rtmp://u:p@h/live/key", User: "%41", Password: "b"},
			Endpoint{Scheme: "rtmp", Host: "h", Port: "1935", App: "live", TcURL: "rtmp://h/live", Key: "key", User: "%41", Password: "b"},
		},
		"IPv6": {
			Spec{URL: "rtmp://[2001:db8::1]/live/key"},
			Endpoint{Scheme: "rtmp", Host: "2001:db8::1", Port: "1935", App: "live", TcURL: "rtmp://[2001:db8::1]/live", Key: "key"},
		},
		"IPv6, zone and port": {
			Spec{URL: "rtmp://[fe80::1%eth0]:1936/live/key"},
			Endpoint{Scheme: "rtmp", Host: "fe80::1%eth0", Port: "1936", App: "live", TcURL: "rtmp://[fe80::1]:1936/live", Key: "key"},
		},
		"name with underscore, international name": {
			Spec{URL: "rtmp://media_server.bücher.example./live/key"},
			Endpoint{Scheme: "rtmp", Host: "media_server.bücher.example.", Port: "1935", App: "live", TcURL: "rtmp://media_server.bücher.example./live", Key: "key"},
		},
		"tcUrl replaced": {
			Spec{URL: "rtmp://10.0.0.1/live/key", TcURL: "rtmp://name/live/"},
			Endpoint{Scheme: "rtmp", Host: "10.0.0.1", Port: "1935", App: "live", TcURL: "rtmp://name/live/", Key: "key"},
		},
		"server name": {
			Spec{URL: "rtmps://10.0.0.1/live/key", ServerName: "h.example"},
			Endpoint{Scheme: "rtmps", Host: "10.0.0.1", Port: "443", ServerName: "h.example", App: "live", TcURL: "rtmps://10.0.0.1/live", Key: "key"},
		},
		"key that is a query only": {
			Spec{URL: "rtmp://h/live", StreamKey: "?token=1"},
			Endpoint{Scheme: "rtmp", Host: "h", Port: "1935", App: "live", TcURL: "rtmp://h/live", Key: "?token=1"},
		},
		"fingerprint": {
			Spec{URL: "rtmps://h/live/key", Fingerprint: strings.Repeat("Ab:", 31) + "aB"},
			Endpoint{Scheme: "rtmps", Host: "h", Port: "443", App: "live", TcURL: "rtmps://h/live", Key: "key", Pin: []byte(strings.Repeat("\xab", 32))},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := tt.s.Parse()
			require.NoError(t, err)
			if tt.want.ServerName == "" {
				tt.want.ServerName = tt.want.Host
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestProfiles(t *testing.T) {
	ivs := "rtmps://fa7.global-contribute.live-video.net"
	for _, d := range []Spec{
		{URL: ivs, StreamKey: "sk_1"}, {URL: ivs + "/", StreamKey: "sk_1"}, {URL: ivs + "/app", StreamKey: "sk_1"},
		{URL: ivs + "/sk_1"}, {URL: ivs + "/app/sk_1"},
	} {
		e, err := d.Parse()
		require.NoError(t, err)
		require.Equal(t, "app", e.App)
		require.Equal(t, "sk_1", e.Key)
		require.Equal(t, ivs+"/app", e.TcURL)
	}
	_, err := Spec{URL: ivs + "/app"}.Parse()
	require.ErrorContains(t, err, "no stream key")

	e, err := Spec{URL: ivs + "/other", StreamKey: "sk_1"}.Parse()
	require.NoError(t, err)
	require.Equal(t, "other", e.App, "what is given stands")

	for url, hint := range map[string]string{
		"rtmp://live-api-s.facebook.com/rtmp/k":   "Facebook wants rtmps://",
		"rtmp://A.RTMPS.youtube.com./live2/k":     "YouTube wants rtmps://",
		"rtmps://a.rtmp.youtube.com/live2/k":      "YouTube: rtmps:// needs a host in rtmps.youtube.com; the stream needs an audio track",
		"rtmp://x.live-video.net/app/k":           "Amazon IVS (Kick, Twitch): rtmp:// is refused where it is not enabled",
		"rtmps://x.live-video.net/app/k":          "Amazon IVS (Kick, Twitch): a channel takes one publisher, whose media must be as it expects",
		"rtmps://x.live-video.net/live/k":         "Amazon IVS (Kick, Twitch): its app is app",
		"rtmps://b.rtmps.youtube.com/live2?b=1/k": "YouTube: the stream needs an audio track",
		"rtmp://notfacebook.com/rtmp/k":           "",
		"rtmp://facebook.com.example.org/rtmp/k":  "",
		"rtmp://10.0.0.1/live/k":                  "",
		"rtmp://p-ep1.i.akamaientrypoint.net/E/k": "Akamai: user and password are needed",
	} {
		e, err := Spec{URL: url}.Parse()
		require.NoError(t, err)
		require.Equal(t, hint, e.hint(), url)
	}
}

func TestQueryValues(t *testing.T) {
	for query, want := range map[string][]string{
		"": nil, "?": nil, "?b=1": nil, "?a=1": {"1"}, "a=1&b=2&a=3": {"1", "3"}, "?%61=x%26y+z": {"x&y+z"}, "?a": {""}, "?%zz=1&a=2": {"2"},
	} {
		got, err := QueryValues(query, "a")
		require.NoError(t, err, query)
		require.Equal(t, want, got, query)
	}
	_, err := QueryValues("?a=secret%zz", "a")
	require.EqualError(t, err, "bad percent-encoding in parameter a")
}

func TestHostPort(t *testing.T) {
	for url, want := range map[string]string{
		"rtmp://A.example/live/k":      "a.example",
		"rtmp://a.example:1935/live/k": "a.example",
		"rtmp://a.example:443/live/k":  "a.example:443",
		"rtmps://a.example:443/live/k": "a.example",
		"rtmp://[::1]/live/k":          "::1",
		"rtmp://[::1]:1936/live/k":     "[::1]:1936",
	} {
		e, err := Spec{URL: url}.Parse()
		require.NoError(t, err)
		require.Equal(t, want, e.HostPort(), url)
	}
}
