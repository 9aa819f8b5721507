package srs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/resolve"
	"github.com/stretchr/testify/require"
)

// The seed's own files, as they are.
func TestParseConfigOfTheSeed(t *testing.T) {
	for _, row := range []struct {
		file, pid, listen string
		to                []string // where live/s goes; nil: nowhere
		backend           string
	}{
		{"master.conf", "./objs/srs.pid", ":1935",
			[]string{"rtmp://192.168.1.6:1935/live", "rtmp://192.168.1.6:1936/live", "rtmp://192.168.1.7:1935/live", "rtmp://192.168.1.7:1936/live"}, ""},
		{"slave.1935.conf", "./objs/srs.1935.pid", ":1935", nil, ""},
		{"slave.1936.conf", "./objs/srs.1936.pid", ":1936", nil, ""},
		{"forward.conf", "", "", nil, "http://127.0.0.1:8085/api/v1/forward"},
		{"forward.backend.conf", "", "", nil, "http://127.0.0.1:8085/api/v1/forward"},
	} {
		t.Run(row.file, func(t *testing.T) {
			f, err := LoadConfig(filepath.Join("..", "testdata", "conf", row.file))
			require.NoError(t, err)
			require.NoError(t, f.Config.Validate())
			require.Empty(t, f.Ignored)
			require.Equal(t, row.pid, f.PID)
			if row.listen != "" {
				require.Equal(t, []string{row.listen}, f.Listen)
				require.Equal(t, row.listen, f.Config.Addr)
			} else { // a part of a file, without an address
				require.Empty(t, f.Listen)
				require.Equal(t, noAddr, f.Config.Addr)
			}
			if row.pid != "" {
				require.Equal(t, 10240, f.Config.Limits.Connections)
			}
			r := f.Config.Vhosts[forward.DefaultVhost].Resolver
			if h, ok := r.(*resolve.HTTP); ok {
				require.Equal(t, row.backend, h.URL)
				return
			}
			require.Empty(t, row.backend)
			if r == nil { // the default: nowhere
				require.Nil(t, row.to)
				return
			}
			ds, err := r.ResolveDestinations(t.Context(), &forward.Request{Vhost: forward.DefaultVhost, App: "live", Stream: "s", Param: "?k=1"})
			require.NoError(t, err)
			var to []string
			for _, d := range ds {
				require.Equal(t, forward.Secret("s?k=1"), d.StreamKey)
				to = append(to, d.URL)
			}
			require.Equal(t, row.to, to)
		})
	}
}

func TestParseConfig(t *testing.T) {
	vhost := func(body string) string { return "vhost v { " + body + " }" }
	of := func(v forward.Vhost) forward.Config {
		return forward.Config{Addr: noAddr, Vhosts: map[string]forward.Vhost{"v": v}}
	}
	for _, row := range []struct {
		src  string
		want forward.Config
	}{
		{"", forward.Config{Addr: noAddr, Vhosts: map[string]forward.Vhost{}}},
		{"rtmp { listen 1936 [::1]:1935; chunk_size 4096; }", forward.Config{Addr: ":1936", ChunkSize: 4096, Vhosts: map[string]forward.Vhost{}}},
		{"chunk_size 128; rtmp { listen 1936; chunk_size 4096; }", forward.Config{Addr: ":1936", ChunkSize: 4096, Vhosts: map[string]forward.Vhost{}}},
		{"rtmp { listen 1936; chunk_size 4096; } chunk_size 128;", forward.Config{Addr: ":1936", ChunkSize: 4096, Vhosts: map[string]forward.Vhost{}}},
		{"listen 127.0.0.1:1935 [::]:1936;", forward.Config{Addr: "127.0.0.1:1935", Vhosts: map[string]forward.Vhost{}}},
		{"listen 19350; chunk_size 4096; max_connections 7;",
			forward.Config{Addr: ":19350", ChunkSize: 4096, Limits: forward.Limits{Connections: 7}, Vhosts: map[string]forward.Vhost{}}},
		{vhost(""), of(forward.Vhost{})},
		{vhost("enabled off;"), of(forward.Vhost{Disabled: true})},
		{vhost("chunk_size 128;"), of(forward.Vhost{ChunkSize: 128})},
		{vhost("play { gop_cache off; queue_length 10; mw_latency 350; }"),
			of(forward.Vhost{NoGOPCache: true, MaxLatency: 10 * time.Second, MergeWindow: 350 * time.Millisecond})},
		{vhost("play { gop_cache on; queue_length 0; mw_latency 0; }"), of(forward.Vhost{MaxLatency: -1, MergeWindow: -1})},
		{vhost("publish { firstpkt_timeout 20000; normal_timeout 7000; }"),
			of(forward.Vhost{FirstMediaTimeout: 20 * time.Second, ReadTimeout: 7 * time.Second})},
		{vhost("publish { grace 30000; takeover on; }"), of(forward.Vhost{PublishGrace: 30 * time.Second, Takeover: true})},
		{vhost("publish { standby 2; standby_stall 3000; standby_return 60000; standby_same_format on; }"),
			of(forward.Vhost{Standby: &forward.Standby{Publishers: 2, Stall: 3 * time.Second, Return: time.Minute, SameFormat: true}})},
		{vhost("publish { grace 0; takeover off; }"), of(forward.Vhost{PublishGrace: -1})},
		{vhost("publish { grace 30000; grace_unpublish on; }"), of(forward.Vhost{PublishGrace: 30 * time.Second, GraceUnpublish: true})},
		{vhost("play { end_players on; player_wait 60000; }"), of(forward.Vhost{EndPlayers: true, PlayerWait: time.Minute})},
		{vhost("play { end_players off; player_wait 0; }"), of(forward.Vhost{PlayerWait: -1})},
		{vhost("publish { firstpkt_timeout 0; }"), of(forward.Vhost{FirstMediaTimeout: -1})},
		{vhost("gop_cache off; queue_length 10; mw_latency 350; publish_1stpkt_timeout 20000; publish_normal_timeout 7000;"),
			of(forward.Vhost{NoGOPCache: true, MaxLatency: 10 * time.Second, MergeWindow: 350 * time.Millisecond,
				FirstMediaTimeout: 20 * time.Second, ReadTimeout: 7 * time.Second})}, // as SRS 2 spells it
		{vhost("queue_length 10; play { gop_cache off; } mw_latency 350;"),
			of(forward.Vhost{NoGOPCache: true, MaxLatency: 10 * time.Second, MergeWindow: 350 * time.Millisecond})},
		{vhost("forward { refresh_ms 60000; }"), of(forward.Vhost{Resolver: forward.MustStatic(), RefreshInterval: time.Minute})},
		{vhost("forward { destination a; }"), of(forward.Vhost{Resolver: forward.MustStatic()})}, // not enabled
	} {
		f, err := ParseConfig("x.conf", []byte(row.src))
		require.NoError(t, err, row.src)
		require.Equal(t, row.want, f.Config, row.src)
		require.Empty(t, f.Ignored, row.src)
	}
}

func TestParseConfigOfPublishAuth(t *testing.T) {
	f, err := ParseConfig("x.conf", []byte(`publish_auth { enabled on; method llnw; user jo "`+canary+`"; user "a b" other; }`))
	require.NoError(t, err)
	require.Equal(t, forward.AuthLimelight, f.Config.PublishAuthMethod)
	require.Equal(t, map[string]forward.Secret{"jo": canary, "a b": "other"}, f.Users)
	for user, want := range f.Users {
		password, ok := f.Config.PublishAuth(user)
		require.True(t, ok)
		require.Equal(t, want, password)
	}
	_, ok := f.Config.PublishAuth("al")
	require.False(t, ok)
	require.NotContains(t, secretscan.Prints(f)+secretscan.Prints(f.Users), canary)

	for src, users := range map[string]map[string]forward.Secret{
		"":                             nil,
		"publish_auth { user jo pw; }": nil, // not enabled
		"publish_auth { enabled off; user jo pw; }": nil,
		"publish_auth { enabled on; }":              {},
	} {
		f, err := ParseConfig("x.conf", []byte(src))
		require.NoError(t, err)
		require.Equal(t, users, f.Users, src)
		require.Equal(t, users != nil, f.Config.PublishAuth != nil, src)
	}
	_, err = ParseConfig("x.conf", []byte("publish_auth { user jo "+canary+" "+canary+"; }"))
	require.Error(t, err)
	require.NotContains(t, err.Error(), canary)
}

func TestParseConfigReportsIgnoredDirectives(t *testing.T) {
	src := strings.Join([]string{
		"daemon off;",
		"srs_log_tank console;",
		"vhost __defaultVhost__ {",
		"  tcp_nodelay off;",
		"  hls { enabled on; hls_path ./html; }",
		"  play { atc on; }",
		"}",
		"http_api { enabled on; listen 1985; }",
	}, "\n")
	f, err := ParseConfig("srs.conf", []byte(src))
	require.NoError(t, err)
	var places []string
	for _, i := range f.Ignored {
		place, what, _ := strings.Cut(i, ": ")
		word, _, _ := strings.Cut(what, " ")
		places = append(places, place+" "+word)
	}
	require.ElementsMatch(t, []string{
		"srs.conf:1:1 daemon", "srs.conf:2:1 srs_log_tank", "srs.conf:4:3 tcp_nodelay",
		"srs.conf:5:3 hls", "srs.conf:6:10 atc", "srs.conf:8:1 http_api",
	}, places)
}

func TestParseConfigErrors(t *testing.T) {
	for _, row := range []struct{ src, want string }{
		{"listen", "x.conf:1:7"},
		{"listem 1935;", "x.conf:1:1"},
		{"vhost a {", "x.conf:1:"},
		{"vhost a { forward { enabled yes; } }", "x.conf:1:29"},
		{"vhost a { forward { enabled on; destination a rtmp://h/a?k=[secret]; } }", "x.conf:1:47"},
		{"vhost a { forward { enabled on; backend ftp://h/; } }", "x.conf:1:41"},
		{"vhost a { play { mw_latency 20000; } }", "mw_latency is 20s, expected at most 10s"},
		{"vhost a { } vhost a { }", "x.conf:1:13"},
		{"vhost a.example { } vhost A.Example { }", `x.conf:1:21: found a second vhost "A.Example"`},
		{"vhost a/b { }", `x.conf:1:7: vhost "a/b"`},
		{"vhost a { } vhost a\\b { }", "x.conf:1:19"},
	} {
		_, err := ParseConfig("x.conf", []byte(row.src))
		require.ErrorContains(t, err, row.want, row.src)
		require.NotContains(t, err.Error(), "secret")
	}
	_, err := LoadConfig(filepath.Join(t.TempDir(), "none.conf"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// The bound of mw_latency is that of the Server's.
func TestMergeWindowOfAFileIsThatOfAConfig(t *testing.T) {
	require.NoError(t, forward.Config{MergeWindow: maxMergeWindow}.Validate())
	require.Error(t, forward.Config{MergeWindow: maxMergeWindow + 1}.Validate())
}
