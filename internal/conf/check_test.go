package conf

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPublishedConfigurationsRunUnchanged(t *testing.T) {
	forwardOf := func(f *File) *Directive { return f.Root[len(f.Root)-1].Block[0] }
	for _, tt := range []struct {
		file  string
		check func(t *testing.T, f *File)
	}{
		{"master.conf", func(t *testing.T, f *File) {
			require.Equal(t, []string{"1935"}, f.Root[0].Args)
			require.Equal(t, []string{"./objs/srs.pid"}, f.Root[1].Args)
			require.Equal(t, []string{"10240"}, f.Root[2].Args)
			d := forwardOf(f).Block[1]
			require.Equal(t, []string{"192.168.1.6:1935", "192.168.1.6:1936", "192.168.1.7:1935", "192.168.1.7:1936"}, d.Args)
			require.Equal(t, 7, d.Pos.Line)
		}},
		{"slave.1935.conf", func(t *testing.T, f *File) { require.Empty(t, f.Root[3].Block) }},
		{"slave.1936.conf", func(t *testing.T, f *File) { require.Equal(t, []string{"1936"}, f.Root[0].Args) }},
		{"forward.conf", func(t *testing.T, f *File) {
			require.Equal(t, []string{"127.0.0.1:1936", "127.0.0.1:1937"}, forwardOf(f).Block[1].Args)
			require.Equal(t, []string{"http://127.0.0.1:8085/api/v1/forward"}, forwardOf(f).Block[2].Args)
		}},
		{"forward.backend.conf", func(t *testing.T, f *File) {
			require.Equal(t, "backend", forwardOf(f).Block[1].Name)
		}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			src, err := os.ReadFile("../../testdata/conf/" + tt.file)
			require.NoError(t, err)
			f, err := Parse(tt.file, src)
			require.NoError(t, err)
			ignored, err := Check(f)
			require.NoError(t, err)
			require.Empty(t, ignored)
			tt.check(t, f)
		})
	}
}

func TestCheckAcceptsAllThatIsDone(t *testing.T) {
	const src = `
listen 1935 127.0.0.1:1935 [::]:1935;
listen :0 live.example.com:1936 [fe80::1%eth0]:1;
max_connections 10240; chunk_size 60000; pid ./objs/srs.pid;
rtmps { enabled on; listen 443 [::1]:443; key "a b.key"; cert a.crt; }
publish_auth { enabled on; method llnw; user jo "pass word"; user al https://user:a@b/; }
http { listen 8080 [::1]:8080; token 0123456789abcdef; host forward forward.example; cert a.crt; key a.key; }
log_names on;
webhooks { url https://u:p@h/x?y; secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw "0123456789 abcdef"; secret 0123456789abcdef;
	events publish live codec; events unpublish; names on; timeout_ms 5000; }
vhost __defaultVhost__ {
	enabled on; tcp_nodelay off; chunk_size 128;
	forward {
		enabled on;
		destination a b:1 [::1] [::1]:1935 RTMP://a/[app]/[stream] rtmps://u:p@h:443/a/k:@/%?x#;
		destination rtmp://[vhost]:1935/live rtmp://h;
		destination a:1 { }
		destination rtmps://a/live2 {
			stream_key "k/e y;?"; user jo ""; profile nginx-rtmp; tc_url rtmp://v/live2?a=b; flash_ver "FMLE/3.0 (x)";
			chunk_size 65536; server_name a.example; redirect never; no_release_stream on; no_fc_publish off;
			plain_metadata on; no_metadata off; digest_handshake on; merge_window_ms 0; dial_timeout_ms 1;
			setup_timeout_ms 2147483647;
			fingerprint 00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF;
		}
		destination c;
		backend https://user:pass@[::1]:8085/api?token=1;
	}
	play { gop_cache on; queue_length 10; mw_latency 0; }
	publish { firstpkt_timeout 20000; normal_timeout 7000; grace 30000; grace_unpublish on; takeover on; standby 2; standby_stall 3000; standby_return 60000; standby_rank rank; standby_same_format on; }
	http_hooks {
		enabled on;
		on_connect http://a http://b; on_connect http://c;
		on_close http://a; on_publish http://a; on_unpublish http://a; on_play http://a; on_stop http://a;
	}
}
vhost other { enabled off; }
`
	ignored, err := check(t, src)
	require.NoError(t, err)
	require.Empty(t, ignored)
}

func TestCheckReportsIgnoredInOrder(t *testing.T) {
	const src = `daemon off;
http_server { listen nonsense; whatever { } }
heartbeat { }
vhost a {
	hls { no_such_word; }
	play { mw_msgs 8; gop_cache on; }
	ingest one { } ingest two { }
	http_hooks { on_dvr x; }
	gop_cache_max_frames 9;
}`
	ignored, err := check(t, src)
	require.NoError(t, err)
	var got []string
	for _, i := range ignored {
		got = append(got, i.Name+" "+i.Pos.String())
	}
	require.Equal(t, []string{
		"daemon srs.conf:1:1", "http_server srs.conf:2:1", "heartbeat srs.conf:3:1", "hls srs.conf:5:2",
		"mw_msgs srs.conf:6:9", "ingest srs.conf:7:2", "ingest srs.conf:7:17", "on_dvr srs.conf:8:15", "gop_cache_max_frames srs.conf:9:2",
	}, got)
}

func TestCheckErrors(t *testing.T) {
	const (
		addresses    = `a port, host:port or [ipv6]:port`
		destinations = `host, host:port, [ipv6]:port, or an rtmp:// or rtmps:// URL`
		httpURLs     = `an http:// or https:// URL`
	)
	for _, tt := range []struct{ name, src, want string }{
		{"unknown", "colour red;", `1:1: found "colour", expected a directive of the top level`},
		{"short token", "http { token 0123456789abcde; }", `1:14: found value 1 of token, expected a token of 16 to 4096 letters, digits and signs, without spaces`},
		{"token with a space", `http { token "0123456789 abcdef"; }`, `1:14: found value 1 of token, expected a token of 16 to 4096 letters, digits and signs, without spaces`},
		{"short webhook secret", "webhooks { secret 0123456789abcdef whsec_MDEyMzQ1; }", `1:36: found value 2 of secret, expected ";" or a secret of 16 to 4096 bytes, or base64 after whsec_`},
		{"kind of event", "webhooks { events unpublished; }", `1:19: found "unpublished", expected "publish", "live", "codec", "publisher_lost", "publisher", "unpublish", "destination", "first_keyframe", "dropped", "retry", "play", "stop", "resolver_failing" or "resolver_well"`},
		{"host with a port", "http { host a.example:80; }", `1:13: found "a.example:80", expected the name of a host, without a port`},
		{"unknown, one edit", "lisen 1935;", `1:1: found "lisen", expected a directive of the top level (did you mean "listen"?)`},
		{"unknown, two edits", "vhost a { forwrad {} }", `1:11: found "forwrad", expected a directive of vhost (did you mean "forward"?)`},
		{"unknown, like an ignored one", "deamon off;", `1:1: found "deamon", expected a directive of the top level (did you mean "daemon"?)`},
		{"unknown, short", "vhost a { x; }", `1:11: found "x", expected a directive of vhost`},
		{"unknown, upper case", "PID a;", `1:1: found "PID", expected a directive of the top level`},
		{"in the wrong block", "vhost a { destination b; }", `1:11: found "destination", expected a directive of vhost ("destination" belongs in forward)`},
		{"in the wrong block, of several", "enabled on;", `1:1: found "enabled", expected a directive of the top level ("enabled" belongs in rtmps or publish_auth or vhost or forward or http_hooks)`},
		{"unknown and secret", "rtmp://host:1935/live/key?token=x;", `1:1: found "rtmp://host:1935…", expected a directive of the top level`},
		{"unknown and a password", "rtmp://user:pass@host/a;", `1:1: found "rtmp://…", expected a directive of the top level`},
		{"unknown and long", strings.Repeat("é", 50) + ";", `1:1: found "` + strings.Repeat("é", 40) + `…", expected a directive of the top level`},

		{"second of one", "pid a;\npid b;", `2:1: found a second "pid", expected only the one at srs.conf:1:1`},
		{"second block", "vhost a {\n play {}\n play {}\n}", `3:2: found a second "play", expected only the one at srs.conf:2:2`},
		{"second vhost", "vhost a {}\nvhost b {}\n vhost a {}", `3:2: found a second vhost "a", expected only the one at srs.conf:1:1`},

		{"no value", "listen;", `1:7: found ";", expected ` + addresses},
		{"no value but a block", "vhost {}", `1:7: found "{", expected a name`},
		{"two values", "pid a b;", `1:7: found "b", expected ";"`},
		{"two values and a block", "vhost a b {}", `1:9: found "b", expected "{"`},
		{"no block", "vhost a;", `1:8: found ";", expected "{"`},
		{"a block", "pid a {}", `1:7: found "{", expected ";"`},
		{"value of a block", "vhost a { forward b { } }", `1:19: found "b", expected "{"`},
		{"forward of old", "vhost a { forward b; }", `1:19: found "b", expected "{"`},
		{"empty name", `vhost "" {}`, `1:7: found "", expected a name`},

		{"user without password", "publish_auth { user jo; }", `1:23: found ";", expected a password of 1 to 4096 bytes without control characters`},
		{"user without name", "publish_auth { user; }", `1:20: found ";", expected a user's name`},
		{"user with more", "publish_auth { user jo secret pass; }", `1:31: found value 3 of user, expected ";"`},
		{"user with an empty password", `publish_auth { user jo ""; }`, `1:24: found value 2 of user, expected a password of 1 to 4096 bytes without control characters`},
		{"user with a block", "publish_auth { user jo secret { } }", `1:31: found "{", expected ";"`},
		{"second user of a name", "publish_auth { user jo a; user al a; user jo b; }", `1:38: found a second user "jo", expected only the one at srs.conf:1:16`},
		{"method", "publish_auth { method basic; }", `1:23: found "basic", expected "adobe" or "llnw"`},

		{"on or off", "vhost a { enabled yes; }", `1:19: found "yes", expected "on" or "off"`},
		{"connections", "max_connections 0;", `1:17: found "0", expected a number of connections from 1 to 2147483647`},
		{"chunk size too small", "chunk_size 127;", `1:12: found "127", expected a chunk size in bytes from 128 to 65536`},
		{"chunk size too large", "chunk_size 65537;", `1:12: found "65537", expected a chunk size in bytes from 128 to 65536`},
		{"chunk size in words", "chunk_size 60k;", `1:12: found "60k", expected a chunk size in bytes from 128 to 65536`},
		{"seconds", "vhost a { play { queue_length 1.5; } }", `1:31: found "1.5", expected whole seconds from 0 to 2147483647`},
		{"milliseconds", "vhost a { publish { normal_timeout -1; } }", `1:36: found "-1", expected whole milliseconds from 0 to 2147483647`},
		{"milliseconds beyond 64 bits", "vhost a { play { mw_latency 99999999999999999999; } }", `1:29: found "99999999999999999999", expected whole milliseconds from 0 to 2147483647`},

		{"port", "listen 65536;", `1:8: found "65536", expected ` + addresses},
		{"address without port", "listen 127.0.0.1;", `1:8: found "127.0.0.1", expected ` + addresses},
		{"address without brackets", "listen ::1:1935;", `1:8: found "::1:1935", expected ` + addresses},
		{"IPv4 in brackets", "listen [127.0.0.1]:1935;", `1:8: found "[127.0.0.1]:1935", expected ` + addresses},
		{"second address", "listen 1935 pid;", `1:13: found "pid", expected ";" or ` + addresses},

		{"destination", "vhost a { forward {\n\tdestination a:b; } }", `2:14: found value 1 of destination, expected ` + destinations},
		{"destination of port 0", "vhost a { forward { destination a:0; } }", `1:33: found value 1 of destination, expected ` + destinations},
		{"second destination", "vhost a { forward { destination a http://a/key; } }", `1:35: found value 2 of destination, expected ";" or ` + destinations},
		{"destination with a path", "vhost a { forward { destination a/live; } }", `1:33: found value 1 of destination, expected ` + destinations},
		{"destination without host", "vhost a { forward { destination rtmp:///live/key; } }", `1:33: found value 1 of destination, expected ` + destinations},
		{"options of two destinations", `vhost a { forward { destination a b { chunk_size 1; } } }`, `1:37: found "{", expected ";": options are for a single destination`},
		{"options of no destination", `vhost a { forward { destination { } } }`, `1:33: found "{", expected ` + destinations},
		{"options of a wrong destination", `vhost a { forward { destination a/b { } } }`, `1:33: found value 1 of destination, expected ` + destinations},
		{"option out of place", `vhost a { forward { stream_key x; } }`, `1:21: found "stream_key", expected a directive of forward ("stream_key" belongs in destination)`},
		{"backend", "vhost a { forward { backend rtmp://a?token; } }", `1:29: found value 1 of backend, expected ` + httpURLs},
		{"backend not a URL", "vhost a { forward { backend http://%zz; } }", `1:29: found value 1 of backend, expected ` + httpURLs},
		{"backend of port 65536", "vhost a { forward { backend http://a:65536; } }", `1:29: found value 1 of backend, expected ` + httpURLs},
		{"two backends", "vhost a { forward { backend http://a http://b; } }", `1:38: found value 2 of backend, expected ";"`},
		{"hook without host", "vhost a { http_hooks { on_play http:///x; } }", `1:32: found value 1 of on_play, expected ` + httpURLs},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := check(t, tt.src)
			require.EqualError(t, err, "srs.conf:"+tt.want)
			require.IsType(t, &Error{}, err)
		})
	}
}

// The directives are in a destination's block. Columns count from after its "{".
func TestCheckErrorsOfOptions(t *testing.T) {
	const (
		before = "vhost a { forward { destination b {"
		key    = "a stream key of 1 to 4096 bytes without control characters"
		user   = "a user's name of 1 to 4096 bytes without control characters"
		pass   = "a password of 0 to 4096 bytes without control characters"
		pin    = "a SHA-256 in 64 hex digits"
		window = "whole milliseconds from 0 to 10000"
		limit  = "whole milliseconds from 1 to 2147483647"
	)
	for _, tt := range []struct {
		src    string
		column int
		want   string
	}{
		{`streamkey x;`, 1, `found "streamkey", expected a directive of destination (did you mean "stream_key"?)`},
		{`merge_window 5;`, 1, `found "merge_window", expected a directive of destination`},
		{`destination c;`, 1, `found "destination", expected a directive of destination ("destination" belongs in forward)`},
		{`include x;`, 1, `found "include", expected a directive of destination`},
		{`chunk_size 128; chunk_size 128;`, 17, `found a second "chunk_size", expected only the one at srs.conf:1:36`},
		{`user jo x; user al x;`, 12, `found a second "user", expected only the one at srs.conf:1:36`},
		{`redirect never { }`, 16, `found "{", expected ";"`},
		{`stream_key;`, 11, `found ";", expected ` + key},
		{`stream_key "";`, 12, `found value 1 of stream_key, expected ` + key},
		{`stream_key two words;`, 16, `found value 2 of stream_key, expected ";"`},
		{"stream_key \"k\x7f\";", 12, `found value 1 of stream_key, expected ` + key},
		{"stream_key " + strings.Repeat("k", 4097) + ";", 12, `found value 1 of stream_key, expected ` + key},
		{`user jo;`, 8, `found ";", expected ` + pass},
		{`user "" x;`, 6, `found value 1 of user, expected ` + user},
		{"user jo \"x\t\";", 9, `found value 2 of user, expected ` + pass},
		{`user jo x y;`, 11, `found value 3 of user, expected ";"`},
		{`profile YouTube;`, 9, `found "YouTube", expected "none", "youtube", "facebook", "twitch", "ivs", "akamai", "wowza", "srs", "nginx-rtmp" or "mediamtx"`},
		{`tc_url "";`, 8, `found value 1 of tc_url, expected a URL of 1 to 4096 bytes without control characters`},
		{"flash_ver " + strings.Repeat("v", 256) + ";", 11, `found "` + strings.Repeat("v", 40) + `…", expected a flashVer of 1 to 255 bytes without control characters`},
		{`chunk_size 127;`, 12, `found "127", expected a chunk size in bytes from 128 to 65536`},
		{`chunk_size 65537;`, 12, `found "65537", expected a chunk size in bytes from 128 to 65536`},
		{`server_name "";`, 13, `found "", expected a server's name of 1 to 4096 bytes without control characters`},
		{`fingerprint ab;`, 13, `found "ab", expected ` + pin},
		{"fingerprint " + strings.Repeat("x", 64) + ";", 13, `found "` + strings.Repeat("x", 40) + `…", expected ` + pin},
		{`redirect same-host;`, 10, `found "same-host", expected "same_host", "never" or "anywhere"`},
		{`no_release_stream true;`, 19, `found "true", expected "on" or "off"`},
		{`no_fc_publish 1;`, 15, `found "1", expected "on" or "off"`},
		{`plain_metadata yes;`, 16, `found "yes", expected "on" or "off"`},
		{`no_metadata;`, 12, `found ";", expected "on" or "off"`},
		{`digest_handshake on off;`, 21, `found "off", expected ";"`},
		{`merge_window_ms 10001;`, 17, `found "10001", expected ` + window},
		{`merge_window_ms -1;`, 17, `found "-1", expected ` + window},
		{`dial_timeout_ms 0;`, 17, `found "0", expected ` + limit},
		{`setup_timeout_ms 2147483648;`, 18, `found "2147483648", expected ` + limit},
		{`setup_timeout_ms 5s;`, 18, `found "5s", expected ` + limit},
	} {
		_, err := check(t, before+tt.src+"}}}")
		require.EqualError(t, err, fmt.Sprintf("srs.conf:1:%d: %s", len(before)+tt.column, tt.want))
	}
}

func TestCheckErrorKeepsWhatWasIgnored(t *testing.T) {
	ignored, err := check(t, "daemon on; nonsense;")
	require.Error(t, err)
	require.Len(t, ignored, 1)
}

func TestNoNameIsBothDoneAndIgnored(t *testing.T) {
	for _, in := range contexts {
		for name := range in.done {
			require.False(t, in.ignored[name], "%s in %s", name, in.name)
		}
	}
}

func TestEdits(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"listen", "listen", 0}, {"listen", "lisen", 1},
		{"forward", "forwrad", 2}, {"kitten", "sitting", 3}, {"abc", "xyz", 3},
	} {
		require.Equal(t, tt.want, edits(tt.a, tt.b), "%q %q", tt.a, tt.b)
		require.Equal(t, tt.want, edits(tt.b, tt.a), "%q %q", tt.b, tt.a)
	}
}

func check(t *testing.T, src string) ([]Ignored, error) {
	f, err := Parse("srs.conf", []byte(src))
	require.NoError(t, err)
	return Check(f)
}
