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
	require.True(t, d.Equal(d))
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
		require.False(t, d.Equal(o), name)
		require.False(t, o.Equal(d), name)
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

// FuzzDestination puts a canary in place of each secret. No error and no print may show it,
// and an accepted destination is sent exactly as given.
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
			} else if d.StreamKey != "" && e.Key != string(d.StreamKey) {
				t.Fatalf("key %q became %q", string(d.StreamKey), e.Key)
			} else if !strings.HasSuffix(d.URL, e.Key) && d.StreamKey == "" {
				t.Fatalf("key %q is not the end of %q", e.Key, d.URL)
			}
			if err == nil && (e.App == "" || e.Key == "" || e.Host == "" || strings.Trim(e.App, "/") != e.App) {
				t.Fatalf("%q gives %+v", d.URL, e)
			}
			if strings.Contains(text, canary) {
				t.Fatalf("%q printed as %s", d.URL, text)
			}
		}
	})
}
