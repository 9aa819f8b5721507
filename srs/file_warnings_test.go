package srs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/conf"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/resolve"
)

func TestFileWarnings(t *testing.T) {
	const yt = "rtmps://a.rtmps.youtube.com/live2"
	forward := func(body string) string { return "listen 1935;\nvhost v { forward {\n" + body + " } }" }
	for _, tt := range []struct {
		name, src string
		want      []string // place and a part of the text
	}{
		{"nothing", forward("enabled on; destination 203.0.113.1;"), nil},
		{"no enabled", forward("destination 203.0.113.1;"), []string{`2:11: forward has no "enabled on": nothing is forwarded`}},
		{"no enabled, backend", forward("backend http://h/;"), []string{`2:11: forward has no "enabled on"`}},
		{"the same twice", forward("enabled on; destination 203.0.113.1 203.0.113.2 203.0.113.1;\ndestination 203.0.113.2;"),
			[]string{"3:49: duplicate of the destination at x.conf:3:25", "4:13: duplicate of the destination at x.conf:3:37"}},
		{"the same, written otherwise", forward("enabled on; destination 203.0.113.1:1935 203.0.113.1; destination rtmp://203.0.113.2/a/b; destination rtmp://203.0.113.2/a { stream_key b; }"),
			[]string{"3:42: duplicate of the destination", "3:103: duplicate of the destination"}},
		{"two keys", forward("enabled on; destination rtmp://203.0.113.2/a { stream_key b; } destination rtmp://203.0.113.2/a { stream_key c; }"), nil},
		{"off is meant so", forward("enabled off; destination 203.0.113.1;"), nil},
		{"empty", forward(""), nil},
		{"on without anything", forward("enabled on;"), []string{"2:11: forward is on, but has neither destination nor backend"}},
		{"backend beside destinations", forward("enabled on;\nbackend http://h/;\ndestination 203.0.113.1; destination 203.0.113.2 { }"),
			[]string{"5:1: this destination is not used: the backend at x.conf:4:1", "5:26: this destination is not used"}},
		{"options of no backend", forward("enabled on; destination 203.0.113.1; timeout_ms 5; on_failure open;"),
			[]string{"3:38: timeout_ms has no effect without a backend", "3:52: on_failure has no effect"}},
		{"platform without key", forward("enabled on; destination " + yt + ";"), []string{"3:25: no stream_key: YouTube gets the stream's own name"}},
		{"platform's host without key", forward("enabled on; destination a.rtmps.youtube.com;"), []string{"3:25: no stream_key: YouTube"}},
		{"platform by its profile", forward("enabled on; destination rtmp://h/live2 { profile youtube; }"), []string{"3:25: no stream_key: YouTube"}},
		{"second of two", forward("enabled on; destination 203.0.113.1 rtmp://live.twitch.tv/app;"), []string{"3:37: no stream_key: Twitch"}},
		{"platform with a key in the URL", forward("enabled on; destination " + yt + "/k;"), nil},
		{"platform with the name as it is said", forward("enabled on; destination " + yt + "/[stream];"), nil},
		{"platform with stream_key", forward("enabled on; destination " + yt + " { stream_key k; }"), nil},
		{"a server of one's own", forward("enabled on; destination rtmp://203.0.113.1/live;"), nil},
		{"itself", forward("enabled on; destination 203.0.113.1 127.0.0.1:1935;"), []string{"3:37: this server listens there itself (x.conf:1:8)"}},
		{"itself by name", forward("enabled on; destination rtmp://localhost/[app]/[stream];"), []string{"3:25: this server listens there itself"}},
		{"itself over IPv6", forward("enabled on; destination [::1];"), []string{"3:25: this server listens there itself"}},
		{"another port", forward("enabled on; destination 127.0.0.1:1936;"), nil},
		{"itself at another listen", "listen 1;\nrtmps { enabled on; listen 127.0.0.1:443; cert c; key k; }\nvhost v { forward { enabled on; destination rtmps://127.0.0.1/a/b; } }", []string{"3:45: this server listens there itself"}},
		{"another address", "listen 127.0.0.2:1935;\nvhost v { forward { enabled on; destination 127.0.0.1; } }", nil},
		{"the same listen twice", "listen 1935 1936;\nlisten 1935;", []string{"2:8: this address collides with the one at x.conf:1:8"}},
		{"the same, written otherwise", "listen 1935 [::]:1935 0.0.0.0:1935;", []string{"1:13: this address collides with the one", "1:23: "}},
		{"one address of all", "listen 127.0.0.1:1935; rtmp { listen 1935; }", []string{"1:38: this address collides with the one"}},
		{"with TLS", "listen 443;\nrtmps { enabled on; listen 443; cert c; key k; }", []string{"2:28: this address collides with the one"}},
		{"any port twice", "listen 0 0;", nil},
		{"two addresses", "listen 127.0.0.1:1935 127.0.0.2:1935;", nil},
		{"rtmps not on", "listen 1; rtmps { listen 1; cert c; }", []string{`1:11: rtmps has no "enabled on"`}},
		{"rtmps without listen", "listen 1; rtmps { enabled on; cert c; key k; }", []string{"1:11: rtmps is on, but has no listen"}},
		{"publish_auth not on", "listen 1; publish_auth { user jo pw; }", []string{`1:11: publish_auth has no "enabled on": nobody is asked`}},
		{"http_hooks not on", "listen 1; vhost v { http_hooks { on_publish http://h/; } }", []string{`1:21: http_hooks has no "enabled on"`}},
		{"http", "listen 1; http { listen 8080 127.0.0.1:8081 [::1]:8082 localhost:8083; token 0123456789abcdef; }", nil},
		{"http for others", "listen 1; http { listen 0.0.0.0:8080 forward.example:80; token 0123456789abcdef; }",
			[]string{"1:25: other machines may reach this address, and requests to it carry the token unencrypted", "1:38: "}},
		{"http on a port of RTMP", "listen 1935; http { listen 1935; token 0123456789abcdef; }", []string{"1:28: this address collides with the one at x.conf:1:8"}},
		{"a variable without braces", forward("enabled on; destination 203.0.113.1 { stream_key $KEY; }"), []string{"3:50: a variable of the environment is written ${NAME}"}},
		{"an old spelling", "listen 1; vhost v { forward 203.0.113.1; }", []string{"1:21: forward with destinations is of SRS 2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := ParseConfig("x.conf", []byte(tt.src))
			require.NoError(t, err)
			require.Len(t, f.Warnings, len(tt.want), "%q", f.Warnings)
			for i, w := range tt.want {
				require.Contains(t, f.Warnings[i], "x.conf:"+w)
			}
		})
	}
}

func TestFileHTTP(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte("0123456789-"+canary+"\n"), 0o600))
	f, err := ParseConfig(filepath.Join(dir, "x.conf"), []byte("http { listen 8080 :8081 0.0.0.0:8082; listen [::1]:8083; token_file token; host a.example b; }"))
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.1:8080", "127.0.0.1:8081", "0.0.0.0:8082", "[::1]:8083"}, f.HTTP.Listen)
	require.Equal(t, "0123456789-"+canary, string(f.HTTP.Token))
	require.Equal(t, []string{"a.example", "b"}, f.HTTP.Hosts)
	require.Empty(t, f.Listen)
	require.NotContains(t, secretscan.Prints(f.HTTP), canary)

	for src, want := range map[string]string{
		"listen 1;\nhttp { listen 1; }":                       "x.conf:2:1: http has no token: expected token_file PATH",
		"listen 1;\nhttp { token 0123456789abcdef; }":         "x.conf:2:1: http has no address to listen on",
		"listen 1;\nhttp { listen 1; token " + canary + "; }": "x.conf:2:24: found value 1 of token",
	} {
		_, err := ParseConfig("x.conf", []byte(src))
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), canary)
	}

	f, err = ParseConfig("x.conf", []byte("http_api { enabled on; listen 1985; }"))
	require.NoError(t, err)
	require.Nil(t, f.HTTP)
	require.Equal(t, []string{"x.conf:1:1: http_api (the control API of this server is in the block http)"}, f.Ignored)
}

// A destination that SRS 1 takes goes where it says.
func TestFileOldForward(t *testing.T) {
	f, err := ParseConfig("x.conf", []byte("vhost v { forward 127.0.0.1:1936 rtmp://h/a; }"))
	require.NoError(t, err)
	require.Equal(t, []string{"rtmp://127.0.0.1:1936/live?vhost=v", "rtmp://h/a"}, destinationURLs(resolved(t, f.Config.Vhosts["v"].Resolver)))
	require.Len(t, f.Warnings, 1)
}

func TestFileListen(t *testing.T) {
	for src, want := range map[string][]string{
		"listen 1935;":                            {":1935"},
		"rtmp { listen 1935 [::1]:1936; }":        {":1935", "[::1]:1936"},
		"listen 1; rtmp { listen 2; } listen 3;":  {":1", ":2", ":3"},
		"listen 1935 1935; rtmp { listen 1935; }": {":1935"},
		"":                                nil,
		"vhost __defaultVhost__ { }":      nil,
		"rtmp { }":                        nil,
		"http_api { listen 1985; }":       nil,
		"srt_server { listen 10080; }":    nil,
		"rtmps { enabled on; listen 1; }": nil,
	} {
		f, err := ParseConfig("x.conf", []byte(src))
		require.NoError(t, err, src)
		require.Equal(t, want, f.Listen, src)
		if want == nil { // nor does the Server fall back to a default
			require.NoError(t, f.Config.Validate())
			require.Error(t, forward.NewServer(f.Config).ListenAndServe(), src)
		}
	}
}

// What a backend may take, and what when it fails, is in the file, too.
func TestFileBackend(t *testing.T) {
	parse := func(body string) (*File, forward.Vhost) {
		f, err := ParseConfig("x.conf", []byte("vhost v { forward { enabled on; "+body+" } }"))
		require.NoError(t, err)
		return f, f.Config.Vhosts["v"]
	}
	for body, want := range map[string]struct {
		timeout, refresh time.Duration
		policy           resolve.FailurePolicy
	}{
		"backend http://h/;": {},
		"timeout_ms 60000; backend http://h/; on_failure closed;":   {timeout: time.Minute, policy: resolve.FailClosed},
		"backend http://h/; on_failure open; refresh_ms 60000;":     {refresh: time.Minute, policy: resolve.FailOpen},
		"backend http://h/; on_failure last_good;":                  {policy: resolve.LastGood},
		"on_failure 203.0.113.1; backend http://h/;":                {policy: resolve.Fallback(forward.MustStatic("203.0.113.1"))},
		"on_failure rtmp://h/[app]/[stream]; backend http://h/;":    {policy: resolve.Fallback(forward.MustStatic("rtmp://h/[app]/[stream]"))},
		"on_failure http://b/; timeout_ms 1000; backend http://h/;": {timeout: time.Second, policy: resolve.Fallback(&resolve.HTTP{URL: "http://b/", Timeout: time.Second})},
	} {
		_, v := parse(body)
		h := v.Resolver.(*resolve.HTTP)
		require.Equal(t, want.timeout, h.Timeout, body)
		require.Equal(t, want.refresh, v.RefreshInterval, body)
		require.Equal(t, want.policy, h.OnFailure, body)
	}

	f, err := ParseConfig("x.conf", []byte("vhost v { http_hooks { enabled on; on_publish http://h/; timeout_ms 5000; } }"))
	require.NoError(t, err)
	require.Equal(t, 5*time.Second, f.HTTPHooks.Vhosts["v"].Timeout)

	// An unchanged backend stays in use, a changed one is replaced.
	old, was := parse("backend http://h/; timeout_ms 1; on_failure open;")
	for body, same := range map[string]bool{
		"on_failure open; timeout_ms 1; backend http://h/;": true,
		"backend http://h/; timeout_ms 2; on_failure open;": false,
		"backend http://h/; timeout_ms 1;":                  false,
	} {
		now, _ := parse(body)
		now.Inherit(old)
		require.Equal(t, same, now.Config.Vhosts["v"].Resolver == was.Resolver, body)
	}

	for body, want := range map[string]string{
		"timeout_ms 0;":                      "whole milliseconds from 1",
		"refresh_ms 999;":                    "whole milliseconds from 1000",
		"on_failure;":                        `"closed", "open", "last_good"`,
		"on_failure a b;":                    `expected ";"`,
		"on_failure ftp://x/" + canary + ";": "found value 1 of on_failure",
	} {
		_, err := ParseConfig("x.conf", []byte("vhost v { forward { enabled on; backend http://h/; "+body+" } }"))
		require.ErrorContains(t, err, want, body)
		require.NotContains(t, err.Error(), canary)
	}
}

// Neither an error nor a warning shows what a variable or a file holds.
func TestFileFromEnvironmentShowsNoValue(t *testing.T) {
	env := conf.Environment{LookupEnv: func(name string) (string, bool) { return canary, name == "SECRET" }}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), []byte(canary+"\n"), 0o600))
	for _, src := range []string{
		"listen ${SECRET};", "pid ${SECRET} ${SECRET};", "max_connections ${SECRET};",
		"vhost ${SECRET} { forward { enabled on; destination rtmp://h; backend x; } }",
		"vhost v { forward { enabled on; destination rtmp://${SECRET}/[nothing]/; } }",
		"vhost v { forward { enabled on; destination rtmp://u:%@${SECRET}/a; } }",
		"vhost v { forward { enabled on; destination rtmp://h/a/${SECRET} { chunk_size 1; } } }",
		"vhost v { forward { enabled on; destination rtmp://h/a { fingerprint ${SECRET}; } } }",
		"vhost v { forward { enabled on; destination h { profile ${SECRET}; } } }",
		"vhost v { forward { enabled on; backend ${SECRET}; } }",
		"vhost v { forward { enabled on; backend http://h/; on_failure rtmp://${SECRET}/[x]/; } }",
		"vhost a/${SECRET} { }", "publish_auth { user ${SECRET} a; user ${SECRET} b; }",
		"vhost v { play { mw_latency ${SECRET}; } }", "vhost ${SECRET} { } vhost ${SECRET} { }",
		"include ${SECRET};", "include ${NONE};",
		"vhost v { forward { destination h { stream_key_file key; chunk_size 1; } } }",
		"vhost v { forward { destination h { fingerprint_file key; } } }",
	} {
		_, err := parseConfig(filepath.Join(dir, "x.conf"), []byte(src), env)
		require.Error(t, err, src)
		require.NotContains(t, secretscan.Prints(err), canary, src)
	}
	for _, src := range []string{
		"listen 1935;\nvhost v { forward { destination 127.0.0.1 { stream_key ${SECRET}; } backend http://h/${SECRET}; } }",
		"vhost v { forward { enabled on; destination rtmp://a.rtmps.youtube.com/live2 { stream_key_file key; } } }",
		"publish_auth { user_file jo key; }",
	} {
		f, err := parseConfig(filepath.Join(dir, "x.conf"), []byte(src), env)
		require.NoError(t, err, src)
		require.NotContains(t, strings.Join(f.Warnings, "\n"), canary)
		require.NotContains(t, strings.Join(f.Ignored, "\n"), canary)
	}

	f, err := parseConfig(filepath.Join(dir, "x.conf"), []byte("publish_auth { enabled on; user_file jo key; } vhost v { forward { enabled on; destination rtmp://h/a { stream_key ${SECRET}; user_file al key; } } }"), env)
	require.NoError(t, err)
	require.Equal(t, map[string]forward.Secret{"jo": canary}, f.Users)
	require.Equal(t, fields(forward.Destination{URL: "rtmp://h/a", StreamKey: canary, User: "al", Password: canary}), fields(resolved(t, f.Config.Vhosts["v"].Resolver)...))
}

// SRS's variables are those of the process.
func TestFileTakesSRSVariables(t *testing.T) {
	t.Setenv("SRS_RTMP_LISTEN", "19350")
	t.Setenv("SRS_VHOST_PLAY_GOP_CACHE", "off")
	t.Setenv("FORWARD_TEST_KEY", canary)
	f, err := ParseConfig("x.conf", fmt.Append(nil, "listen 1935; vhost v { forward { enabled on; destination rtmp://h/a { stream_key ${FORWARD_TEST_KEY}; } } }"))
	require.NoError(t, err)
	require.Equal(t, []string{":19350"}, f.Listen)
	require.True(t, f.Config.Vhosts["v"].NoGOPCache)
	require.Equal(t, forward.Secret(canary), resolved(t, f.Config.Vhosts["v"].Resolver)[0].StreamKey)
}

// A vhost that is not listed has the hooks of the default one, also where a file
// has hooks for that one alone.
func TestFileHooksOfAnUnlistedVhost(t *testing.T) {
	f, err := ParseConfig("f", []byte(`
		vhost __defaultVhost__ { http_hooks { enabled on; on_publish http://127.0.0.1/default; } }
		vhost studio.example   { http_hooks { enabled on; on_publish http://127.0.0.1/studio; } }
		vhost free.example     { }`))
	require.NoError(t, err)
	for vhost, want := range map[string][]string{
		forward.DefaultVhost: {"http://127.0.0.1/default"},
		"other.example":      {"http://127.0.0.1/default"},
		"Studio.example":     {"http://127.0.0.1/studio"},
		"free.example":       nil,
	} {
		require.Equal(t, want, f.HTTPHooks.of(vhost).OnPublish, vhost)
	}
}
