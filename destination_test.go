package forward

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestDestinationEndpoint(t *testing.T) {
	tests := map[string]struct {
		d    Destination
		want endpoint
	}{
		"plain": {
			Destination{URL: "rtmp://10.0.0.7/live/livestream"},
			endpoint{scheme: "rtmp", host: "10.0.0.7", port: "1935", app: "live", tcURL: "rtmp://10.0.0.7/live", key: "livestream"},
		},
		"port as typed": {
			Destination{URL: "rtmp://10.0.0.7:1935/live/livestream"},
			endpoint{scheme: "rtmp", host: "10.0.0.7", port: "1935", app: "live", tcURL: "rtmp://10.0.0.7:1935/live", key: "livestream"},
		},
		"rtmps has port 443, scheme in any case": {
			Destination{URL: "RTMPS://Host.example/app/key"},
			endpoint{scheme: "rtmps", host: "Host.example", port: "443", app: "app", tcURL: "rtmps://Host.example/app", key: "key"},
		},
		"app of several levels": {
			Destination{URL: "rtmp://h/a/b/c/key"},
			endpoint{scheme: "rtmp", host: "h", port: "1935", app: "a/b/c", tcURL: "rtmp://h/a/b/c", key: "key"},
		},
		"query of the key is the key's, unchanged (Facebook)": {
			Destination{URL: "rtmps://h:443/rtmp/FB-123?s_bl=1&a=%2F/x&a=b?c#d"},
			endpoint{scheme: "rtmps", host: "h", port: "443", app: "rtmp", tcURL: "rtmps://h:443/rtmp", key: "FB-123?s_bl=1&a=%2F/x&a=b?c#d"},
		},
		"trailing slash before a stream key (Facebook)": {
			Destination{URL: "rtmps://h:443/rtmp/", StreamKey: "FB-1?a=b"},
			endpoint{scheme: "rtmps", host: "h", port: "443", app: "rtmp", tcURL: "rtmps://h:443/rtmp", key: "FB-1?a=b"},
		},
		"double slash before the key": {
			Destination{URL: "rtmps://h:443/rtmp//key"},
			endpoint{scheme: "rtmps", host: "h", port: "443", app: "rtmp", tcURL: "rtmps://h:443/rtmp", key: "key"},
		},
		"double slash after the host": {
			Destination{URL: "rtmp://h//live/key"},
			endpoint{scheme: "rtmp", host: "h", port: "1935", app: "live", tcURL: "rtmp://h/live", key: "key"},
		},
		"query of the app, key in the URL (YouTube)": {
			Destination{URL: "rtmps://h/live2?backup=1/abcd-efgh"},
			endpoint{scheme: "rtmps", host: "h", port: "443", app: "live2?backup=1", tcURL: "rtmps://h/live2?backup=1", key: "abcd-efgh"},
		},
		"query of the app after a slash": {
			Destination{URL: "rtmps://h/live2/?backup=1/abcd-efgh"},
			endpoint{scheme: "rtmps", host: "h", port: "443", app: "live2?backup=1", tcURL: "rtmps://h/live2?backup=1", key: "abcd-efgh"},
		},
		"query of the app, key apart (YouTube)": {
			Destination{URL: "rtmps://h/live2?backup=1", StreamKey: "abcd-efgh"},
			endpoint{scheme: "rtmps", host: "h", port: "443", app: "live2?backup=1", tcURL: "rtmps://h/live2?backup=1", key: "abcd-efgh"},
		},
		"stream key of any characters": {
			Destination{URL: "rtmp://h/a/b", StreamKey: "/a/:@?%zz# é[x]\\"},
			endpoint{scheme: "rtmp", host: "h", port: "1935", app: "a/b", tcURL: "rtmp://h/a/b", key: "/a/:@?%zz# é[x]\\"},
		},
		"colon in the key (Telegram)": {
			Destination{URL: "rtmps://dc4-1.rtmp.t.me/s/123:AbC-d"},
			endpoint{scheme: "rtmps", host: "dc4-1.rtmp.t.me", port: "443", app: "s", tcURL: "rtmps://dc4-1.rtmp.t.me/s", key: "123:AbC-d"},
		},
		"at in the key is no userinfo (Akamai)": {
			Destination{URL: "rtmp://h/EntryPoint/name_1_2500@37267"},
			endpoint{scheme: "rtmp", host: "h", port: "1935", app: "EntryPoint", tcURL: "rtmp://h/EntryPoint", key: "name_1_2500@37267"},
		},
		"percent and space in the key stay": {
			Destination{URL: "rtmp://h/live/a b%20c%"},
			endpoint{scheme: "rtmp", host: "h", port: "1935", app: "live", tcURL: "rtmp://h/live", key: "a b%20c%"},
		},
		"userinfo is decoded and not in tcUrl": {
			Destination{URL: "rtmp://us%40er:p:a%2Fs@s@h:1936/live/key"},
			endpoint{scheme: "rtmp", host: "h", port: "1936", app: "live", tcURL: "rtmp://h:1936/live", key: "key", user: "us@er", password: "p:a/s@s"},
		},
		"user without password": {
			Destination{URL: "rtmp://u@h/live/key"},
			endpoint{scheme: "rtmp", host: "h", port: "1935", app: "live", tcURL: "rtmp://h/live", key: "key", user: "u"},
		},
		"fields replace userinfo": {
			Destination{URL: "rtmp://u:p@h/live/key", User: "%41", Password: "b"},
			endpoint{scheme: "rtmp", host: "h", port: "1935", app: "live", tcURL: "rtmp://h/live", key: "key", user: "%41", password: "b"},
		},
		"IPv6": {
			Destination{URL: "rtmp://[2001:db8::1]/live/key"},
			endpoint{scheme: "rtmp", host: "2001:db8::1", port: "1935", app: "live", tcURL: "rtmp://[2001:db8::1]/live", key: "key"},
		},
		"IPv6, zone and port": {
			Destination{URL: "rtmp://[fe80::1%eth0]:1936/live/key"},
			endpoint{scheme: "rtmp", host: "fe80::1%eth0", port: "1936", app: "live", tcURL: "rtmp://[fe80::1]:1936/live", key: "key"},
		},
		"name with underscore, international name": {
			Destination{URL: "rtmp://media_server.bücher.example./live/key"},
			endpoint{scheme: "rtmp", host: "media_server.bücher.example.", port: "1935", app: "live", tcURL: "rtmp://media_server.bücher.example./live", key: "key"},
		},
		"tcUrl replaced": {
			Destination{URL: "rtmp://10.0.0.1/live/key", TcURL: "rtmp://name/live/"},
			endpoint{scheme: "rtmp", host: "10.0.0.1", port: "1935", app: "live", tcURL: "rtmp://name/live/", key: "key"},
		},
		"server name": {
			Destination{URL: "rtmps://10.0.0.1/live/key", ServerName: "h.example"},
			endpoint{scheme: "rtmps", host: "10.0.0.1", port: "443", serverName: "h.example", app: "live", tcURL: "rtmps://10.0.0.1/live", key: "key"},
		},
		"key that is a query only": {
			Destination{URL: "rtmp://h/live", StreamKey: "?token=1"},
			endpoint{scheme: "rtmp", host: "h", port: "1935", app: "live", tcURL: "rtmp://h/live", key: "?token=1"},
		},
		"fingerprint": {
			Destination{URL: "rtmps://h/live/key", Fingerprint: strings.Repeat("Ab:", 31) + "aB"},
			endpoint{scheme: "rtmps", host: "h", port: "443", app: "live", tcURL: "rtmps://h/live", key: "key", pin: []byte(strings.Repeat("\xab", 32))},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := tt.d.endpoint()
			require.NoError(t, err)
			if tt.want.serverName == "" {
				tt.want.serverName = tt.want.host
			}
			require.Equal(t, tt.want, got)
			require.NoError(t, tt.d.Validate())
		})
	}
}

func TestDestinationRefused(t *testing.T) {
	tests := []struct {
		d    Destination
		want string
	}{
		{Destination{}, "destination ***: no URL"},
		{Destination{URL: canary}, "destination ***: no URL"},
		{Destination{URL: "rtmp:/h/live/" + canary}, "destination ***: no URL"},
		{Destination{URL: "http://h/live/" + canary}, "destination ***: unknown scheme"},
		{Destination{URL: canary + "://h/live/key"}, "destination ***: unknown scheme"},
		{Destination{URL: "rtmp://h"}, "destination rtmp://h: no stream key"},
		{Destination{URL: "rtmp://h/" + canary}, "destination rtmp://h/***: no stream key"},
		{Destination{URL: "rtmp://h/app/" + canary + "/"}, "destination rtmp://h/app/***: no stream key"},
		{Destination{URL: "rtmp://h/app?x=" + canary}, "destination rtmp://h?***/***: no stream key"},
		{Destination{URL: "rtmp://h/app/?x=" + canary}, "no stream key"},
		{Destination{URL: "rtmp://h", StreamKey: canary}, "destination rtmp://h/***: no app in the path"},
		{Destination{URL: "rtmp://h/?x=" + canary, StreamKey: "k"}, "no app in the path"},
		{Destination{URL: "rtmp:///live/" + canary}, "no host"},
		{Destination{URL: "rtmp://:1935/live/" + canary}, "no host"},
		{Destination{URL: "rtmp://u:" + canary + "@/live/k"}, "no host"},
		{Destination{URL: "rtmp://h:/live/" + canary}, "bad port"},
		{Destination{URL: "rtmp://h:0/live/" + canary}, "bad port"},
		{Destination{URL: "rtmp://h:65536/live/" + canary}, "bad port"},
		{Destination{URL: "rtmp://h:+1/live/" + canary}, "bad port"},
		{Destination{URL: "rtmp://user:" + canary + "/x@h/live/k"}, "destination rtmp://***: bad port"},
		{Destination{URL: "rtmp://a b/live/" + canary}, "bad host"},
		{Destination{URL: "rtmp://h?x=" + canary}, "bad host"},
		{Destination{URL: "rtmp://h\\x/live/" + canary}, "bad host"},
		{Destination{URL: "rtmp://2001:db8::1/live/" + canary}, "bad host"},
		{Destination{URL: "rtmp://[10.0.0.1]/live/" + canary}, "bad host"},
		{Destination{URL: "rtmp://[::1/live/" + canary}, "bad host"},
		{Destination{URL: "rtmp://[::1]x/live/" + canary}, "bad host"},
		{Destination{URL: "rtmp://[vhost]/live/" + canary}, "bad host"},
		{Destination{URL: "rtmp://" + strings.Repeat("a", 254) + "/live/" + canary}, "bad host"},
		{Destination{URL: "rtmp://h/live/" + canary + "\n"}, "control character in the URL"},
		{Destination{URL: "rtmp://h/live", StreamKey: canary + "\r"}, "control character in the stream key"},
		{Destination{URL: "rtmp://u:" + canary + "%0a@h/live/k"}, "control character in user or password"},
		{Destination{URL: "rtmp://u:" + canary + "%@h/live/k"}, "bad percent-encoding"},
		{Destination{URL: "rtmp://h/live/" + strings.Repeat(canary, 500)}, "URL longer than 4096 bytes"},
		{Destination{URL: "rtmp://h/live/" + canary, ChunkSize: 127}, "ChunkSize 127"},
		{Destination{URL: "rtmp://h/live/" + canary, ChunkSize: 65537}, "ChunkSize 65537"},
		{Destination{URL: "rtmp://h/live/" + canary, DialTimeout: -1}, "negative duration"},
		{Destination{URL: "rtmp://h/live/" + canary, Fingerprint: "abcd"}, "bad Fingerprint"},
		{Destination{URL: "rtmp://h/live/" + canary, Fingerprint: strings.Repeat("x", 64)}, "bad Fingerprint"},
		{Destination{URL: "rtmp://h/live/" + canary, FlashVer: strings.Repeat("x", 256)}, "FlashVer longer"},
	}
	for _, tt := range tests {
		err := tt.d.Validate()
		require.ErrorContains(t, err, tt.want)
		require.NotContains(t, err.Error(), canary)
		require.NotContains(t, secretscan.Prints(tt.d), canary)
	}
}

func TestDestinationString(t *testing.T) {
	for _, tt := range []struct {
		url  string
		key  Secret
		want string
	}{
		{"rtmps://host:443/app/key?a=b", "", "rtmps://host:443/app/***"},
		{"rtmp://host/app", "key", "rtmp://host/app/***"},
		{"rtmp://host/app/", "key", "rtmp://host/app/***"},
		{"rtmp://host/app/maybe-a-key", "key", "rtmp://host/app/***"},
		{"rtmp://host/a/b/key", "", "rtmp://host/a/b/***"},
		{"rtmp://user:pass@host/app/key", "", "rtmp://***@host/app/***"},
		{"rtmp://host/live2?backup=1", "key", "rtmp://host/live2?***/***"},
		{"rtmp://host/key", "", "rtmp://host/***"},
		{"RTMP://[fe80::1%eth0]:1936/app/key", "", "rtmp://[fe80::1%eth0]:1936/app/***"},
		{"rtmp://host/a@b/key", "", "rtmp://***"},
		{"rtmp://host/a\x1b[31m/key", "", "rtmp://***"},
		{"the key", "", "***"},
	} {
		require.Equal(t, tt.want, Destination{URL: tt.url, StreamKey: tt.key}.String(), tt.url)
	}
}

func TestDestinationIsNeverPrintedWithSecrets(t *testing.T) {
	d := Destination{
		URL:       "rtmps://user:" + canary + "@host/app/" + canary + "?t=" + canary,
		StreamKey: canary, Password: canary, TcURL: "rtmps://host/app?t=" + canary,
	}
	for _, v := range []any{d, &d, []Destination{d}, map[string]Destination{"d": d}, struct{ D Destination }{d}} {
		out := secretscan.Prints(v)
		require.NotContains(t, out, canary)
		require.Contains(t, out, "rtmps://***@host/app/***")
	}
}

func TestDestinationEqual(t *testing.T) {
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, nil }
	other := func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
	d := Destination{URL: "rtmp://h/a/k", DialContext: dial, TLSConfig: &tls.Config{}}
	require.True(t, d.equal(d))
	for name, change := range map[string]func(*Destination){
		"URL":         func(d *Destination) { d.URL += "2" },
		"StreamKey":   func(d *Destination) { d.StreamKey = "k" },
		"Password":    func(d *Destination) { d.Password = "p" },
		"NoMetadata":  func(d *Destination) { d.NoMetadata = true },
		"MergeWindow": func(d *Destination) { d.MergeWindow = time.Second },
		"no dialer":   func(d *Destination) { d.DialContext = nil },
		"dialer":      func(d *Destination) { d.DialContext = other },
		"TLSConfig":   func(d *Destination) { d.TLSConfig = &tls.Config{} },
		"Untrusted":   func(d *Destination) { d.Untrusted = true },
		"NoLinkLocal": func(d *Destination) { d.NoLinkLocal = true },
	} {
		o := d
		change(&o)
		require.False(t, d.equal(o), name)
		require.False(t, o.equal(d), name)
	}
}

func TestDestinationID(t *testing.T) {
	d := Destination{URL: "rtmp://h/a/k"}
	_, err := hex.DecodeString(d.id())
	require.NoError(t, err)
	require.Len(t, d.id(), 8)
	require.Equal(t, d.id(), d.id())
	require.NotEqual(t, d.id(), Destination{URL: "rtmp://h/a/k2"}.id())
	require.NotEqual(t, Destination{URL: "rtmp://h/a", StreamKey: "bc"}.id(), Destination{URL: "rtmp://h/ab", StreamKey: "c"}.id())
}

func TestProfiles(t *testing.T) {
	ivs := "rtmps://fa7.global-contribute.live-video.net"
	for _, d := range []Destination{
		{URL: ivs, StreamKey: "sk_1"}, {URL: ivs + "/", StreamKey: "sk_1"}, {URL: ivs + "/app", StreamKey: "sk_1"},
		{URL: ivs + "/sk_1"}, {URL: ivs + "/app/sk_1"},
	} {
		e, err := d.endpoint()
		require.NoError(t, err)
		require.Equal(t, "app", e.app)
		require.Equal(t, "sk_1", e.key)
		require.Equal(t, ivs+"/app", e.tcURL)
	}
	_, err := Destination{URL: ivs + "/app"}.endpoint()
	require.ErrorContains(t, err, "no stream key")

	e, err := Destination{URL: ivs + "/other", StreamKey: "sk_1"}.endpoint()
	require.NoError(t, err)
	require.Equal(t, "other", e.app, "what is given stands")

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
		e, err := Destination{URL: url}.endpoint()
		require.NoError(t, err)
		require.Equal(t, hint, e.hint(), url)
	}
}

// FuzzDestination puts a canary where secrets stand: no error and no print
// may show it, and what is accepted is sent as it was given.
func FuzzDestination(f *testing.F) {
	f.Add("rtmp", "", "", "host:1935", "live", "", "", "")
	f.Add("rtmps", "u", "p", "[::1]", "a/b", "k", "x=1", "key")
	f.Add("http", "", "", "h", "", "/", "?", "/")
	f.Fuzz(func(t *testing.T, scheme, user, password, host, app, key, query, streamKey string) {
		for _, s := range []string{scheme, user, password, host, app, key, query, streamKey} {
			if strings.Contains(s, canary[:4]) {
				return
			}
		}
		if strings.ContainsAny(password, "/") || strings.ContainsAny(key, "/?") {
			return // these must be percent-encoded, or in StreamKey
		}
		for _, d := range []Destination{
			{URL: scheme + "://" + user + ":" + password + canary + "@" + host + "/" + app + "/k"},
			{URL: scheme + "://" + host + "/" + app + "/" + canary + key},
			{URL: scheme + "://" + host + "/" + app + "/" + key + canary + "/"},
			{URL: scheme + "://" + host + "/" + app + "/" + key + "?" + query + canary},
			{URL: scheme + "://" + host + "/" + app + "?" + query + canary, StreamKey: "k"},
			{URL: scheme + "://" + host + "/" + app, StreamKey: Secret(streamKey + canary)},
			{URL: scheme + "://" + host + "/" + app, Password: Secret(password + canary)},
			{URL: scheme + ":" + canary + host + "/" + app},
		} {
			text := d.String()
			e, err := d.endpoint()
			if err != nil {
				text += err.Error()
			} else if d.StreamKey != "" && e.key != string(d.StreamKey) {
				t.Fatalf("key %q became %q", string(d.StreamKey), e.key)
			} else if !strings.HasSuffix(d.URL, e.key) && d.StreamKey == "" {
				t.Fatalf("key %q is not the end of %q", e.key, d.URL)
			}
			if err == nil && (e.app == "" || e.key == "" || e.host == "" || strings.Trim(e.app, "/") != e.app) {
				t.Fatalf("%q gives %+v", d.URL, e)
			}
			if strings.Contains(text, canary) {
				t.Fatalf("%q printed as %s", d.URL, text)
			}
		}
	})
}
