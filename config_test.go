package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/secretscan"

	"github.com/rtmp-forward/forward/internal/sys"
)

// configFields has each field's default, and what shows its effect: a test, or
// where it is used.
var configFields = map[string]struct {
	def    any // nil: the zero value
	effect string
}{
	"Addr":              {":1935", "ListenAndServe"},
	"Resolver":          {static(nil), "TestRefreshTouchesOnlyWhatDiffers"},
	"RefreshInterval":   {nil, "refresh_test.go"},
	"Hooks":             {nil, "TestHooksAreCalledOnce"},
	"PublishAuth":       {nil, "TestPublishAuth"},
	"PublishAuthMethod": {AuthAdobe, "TestPublishAuth"},
	"Logger":            {slog.Default, "TestAddressesAreLoggedAsText"},
	"Dial":              {nil, "bubble"},
	"AllowNetworks":     {nil, "TestUntrustedAddresses"},
	"AllowPorts":        {nil, "TestUntrustedPorts"},
	"TLSConfig":         {nil, "Forwarder.tlsConfig"},
	"Vhosts":            {nil, "TestResolveVhost"},
	"NoGOPCache":        {nil, "forwardtest: no GOP cache"},
	"RawTimestamps":     {nil, "TestFault22"},
	"MaxLatency":        {10 * time.Second, "TestLimitsOfLog"},
	"MaxBytes":          {16 << 20, "TestLimitsOfLog"},
	"MemoryBudget":      {nil, "TestMemoryBudgetRefusesAndShortens"},
	"MergeWindow":       {50 * time.Millisecond, "isolation.check"},
	"ChunkSize":         {60000, "TestValidateConfig"},
	"HandshakeTimeout":  {5 * time.Second, "TestLimitsOfTime"},
	"SetupTimeout":      {10 * time.Second, "TestLimitsOfTime"},
	"FirstMediaTimeout": {15 * time.Second, "TestLimitsOfTime"},
	"ReadTimeout":       {10 * time.Second, "TestLimitsOfTime"},
	"PublishGrace":      {nil, "TestFault17_PublishGrace"},
	"GraceUnpublish":    {nil, "TestGraceForAnUnpublish"},
	"Takeover":          {nil, "TestFault20_Takeover"},
	"EndPlayers":        {nil, "TestPlayersAreToldTheEnd"},
	"PlayerWait":        {nil, "TestPlayerWait"},
	"WriteTimeout":      {10 * time.Second, "TestLimitsOfTime"},
	"DrainTimeout":      {5 * time.Second, "TestShutdown"},
	"Retry":             {nil, "TestFault08_HostDecides"},

	"Backoff.Min":        {time.Second, "TestFault01"},
	"Backoff.Max":        {30 * time.Second, "TestFault01"},
	"Backoff.Healthy":    {30 * time.Second, "TestFault09"},
	"Backoff.RefusedMin": {10 * time.Second, "TestFault08"},
	"Backoff.RefusedMax": {5 * time.Minute, "TestFault08"},

	"Limits.Connections":           {max(sys.MaxFiles()/5*4, 0), "TestLimitOfConnections"},
	"Limits.ConnectionsPerAddress": {-1, "TestLimitOfConnectionsPerAddress"},
	"Limits.RefusalsPerAddress":    {-1, "TestLimitOfRefusalsPerAddress"},
	"Limits.PendingHandshakes":     {1024, "TestLimitOfPendingHandshakes"},
	"Limits.Streams":               {4096, "TestLimitOfStreams"},
	"Limits.Destinations":          {1024, "TestLimitsOfDestinations"},
	"Limits.TotalDestinations":     {16384, "TestLimitsOfDestinations"},
	"Limits.MediaSize":             {8 << 20, "TestLimitsOfWhatPeersSend"},
	"Limits.DataSize":              {256 << 10, "TestLimitsOfWhatPeersSend"},
	"Limits.PartialSize":           {16 << 20, "TestLimitsOfWhatPeersSend"},
	"Limits.ChunkStreams":          {32, "TestLimitsOfWhatPeersSend"},
}

func TestNoConfigFieldIsForgotten(t *testing.T) {
	got := reflect.ValueOf(Config{}.withDefaults())
	seen := 0
	check := func(name string, v reflect.Value) {
		f, ok := configFields[name]
		require.True(t, ok, "%s is in no table", name)
		require.NotEmpty(t, f.effect, name)
		seen++
		switch {
		case f.def == nil:
			require.True(t, v.IsZero(), name)
		case name == "Limits.Connections" && f.def == 0:
			require.Equal(t, 10000, v.Interface())
		case name == "Logger":
			require.Same(t, f.def.(func() *slog.Logger)(), v.Interface())
		default:
			require.Equal(t, f.def, v.Interface(), name)
		}
	}
	for i := range got.NumField() {
		name, v := got.Type().Field(i).Name, got.Field(i)
		if name == "Backoff" || name == "Limits" {
			for j := range v.NumField() {
				check(name+"."+v.Type().Field(j).Name, v.Field(j))
			}
			continue
		}
		check(name, v)
	}
	require.Len(t, configFields, seen, "the table has what the Config has not")
}

// What is set stays as it is.
func TestDefaultsChangeNothing(t *testing.T) {
	c := Config{}
	fill(reflect.ValueOf(&c).Elem())
	require.Equal(t, reflect.ValueOf(c.Dial).Pointer(), reflect.ValueOf(c.withDefaults().Dial).Pointer())
	c.Dial = nil // functions can't be compared
	require.Equal(t, c, c.withDefaults())
}

// fill sets every field that is a number, a text or a switch, and Dial.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[Hooks]() {
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Int, reflect.Int64:
		v.SetInt(777)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	}
	switch f := v.Addr().Interface().(type) {
	case *func(context.Context, string, string) (net.Conn, error):
		*f = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("none") }
	case *DestinationResolver:
		*f = MustStatic("other")
	case **slog.Logger:
		*f = quiet
	case **tls.Config:
		*f = &tls.Config{}
	}
}

// A vhost has what the Config has, unless it has its own; each of its fields
// does one of the two.
func TestVhostInheritsEachField(t *testing.T) {
	c := Config{NoGOPCache: true}.withDefaults()
	zero := reflect.ValueOf(c.vhost("none"))
	config := reflect.ValueOf(c)
	own := Vhost{}
	fill(reflect.ValueOf(&own).Elem())
	c.Vhosts = map[string]Vhost{"own": own}
	require.Equal(t, own, c.vhost("own"))
	for i := range zero.NumField() {
		name := zero.Type().Field(i).Name
		if name == "Disabled" {
			require.False(t, zero.Field(i).Bool())
			continue
		}
		require.Equal(t, config.FieldByName(name).Interface(), zero.Field(i).Interface(), name)
	}
}

func TestValidateConfig(t *testing.T) {
	for _, row := range []struct {
		cfg  Config
		want string // empty: valid
	}{
		{Config{}, ""},
		{Config{ChunkSize: 128}, ""},
		{Config{ChunkSize: 65536}, ""},
		{Config{ChunkSize: 127}, "config: ChunkSize is 127, expected 128 to 65536"},
		{Config{ChunkSize: 65537}, "config: ChunkSize is 65537, expected 128 to 65536"},
		{Config{ChunkSize: -1}, "config: ChunkSize is -1, expected 128 to 65536"},
		{Config{PublishAuthMethod: AuthLimelight}, ""},
		{Config{PublishAuthMethod: "basic"}, `config: PublishAuthMethod is "basic", expected "adobe" or "llnw"`},
		{Config{MergeWindow: 10 * time.Second}, ""},
		{Config{MergeWindow: -1}, ""},
		{Config{MergeWindow: 11 * time.Second}, "config: MergeWindow is 11s, expected at most 10s"},
		{Config{Vhosts: map[string]Vhost{"a": {ChunkSize: 4096}}}, ""},
		{Config{Vhosts: map[string]Vhost{"a": {}, "b": {}, "A": {}}}, `config: vhosts "A" and "a" are the same: case does not count`},
		{Config{Vhosts: map[string]Vhost{DefaultVhost: {}, "__DEFAULTVHOST__": {}}}, `config: vhosts "__DEFAULTVHOST__" and "__defaultVhost__" are the same: case does not count`},
		{Config{Vhosts: map[string]Vhost{"a/b": {}}}, `config: vhost "a/b": malformed name: holds a slash`},
		{Config{Vhosts: map[string]Vhost{"": {}}}, `config: vhost "": malformed name: empty`},
		{Config{Vhosts: map[string]Vhost{"a\n": {}}}, `config: vhost "a\n": malformed name: holds a control character`},
		{Config{Vhosts: map[string]Vhost{"a": {ChunkSize: 1}}}, "config: vhost a: ChunkSize is 1, expected 128 to 65536"},
		{Config{Vhosts: map[string]Vhost{"a": {MergeWindow: time.Minute}}}, "config: vhost a: MergeWindow is 1m0s, expected at most 10s"},
	} {
		err := row.cfg.Validate()
		if row.want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, row.want)

		// A Server with it serves nobody, and says why.
		s := NewServer(row.cfg)
		defer s.Close()
		l, lerr := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, lerr)
		require.EqualError(t, s.Serve(l), row.want)
		ours, theirs := net.Pipe()
		require.EqualError(t, s.ServeConn(t.Context(), theirs), row.want)
		_, err = ours.Read(make([]byte, 1))
		require.Error(t, err, "the connection is closed")
		_, err = s.Publish(t.Context(), PublishRequest{App: "live", Stream: canary})
		require.EqualError(t, err, row.want)
	}
}

func TestResolveVhost(t *testing.T) {
	none := Config{}
	one := Config{Vhosts: map[string]Vhost{"a": {}, "off": {Disabled: true}}}
	both := Config{Vhosts: map[string]Vhost{"a": {}, "off": {Disabled: true}, DefaultVhost: {}}}
	hosts := Config{Vhosts: map[string]Vhost{"Studio.example": {}, "::1": {}, "[2001:db8::2]": {}, "__DEFAULTVHOST__": {}, "off.": {Disabled: true}}}
	for _, row := range []struct {
		cfg         *Config
		named, host string
		want        string // empty: refused
	}{
		{&none, "", "a", DefaultVhost},
		{&none, "b", "a", "b"},
		{&one, "a", "x", "a"},
		{&one, "", "a", "a"},
		{&one, "", "A", "a"}, // host names have no case (RFC 4343)
		{&one, "", "x", ""},
		{&one, "b", "x", ""},
		{&one, "b", "a", ""}, // what is named counts alone
		{&one, "off", "a", ""},
		{&one, "", "off", ""},
		{&one, "", "OFF", ""},
		{&one, "A", "x", "a"}, // nor have vhosts that are named
		{&one, "OFF", "a", ""},
		{&one, "a.", "x", ""}, // nothing but a host has a root's dot
		{&both, "", "A", "a"},
		{&both, "a", "x", "a"},
		{&both, "", "a", "a"},
		{&both, "", "x", DefaultVhost},
		{&both, "b", "a", "b"}, // one of its own
		{&both, "B.Example", "a", "b.example"},
		{&both, "off", "a", ""},
		{&both, "", "off", ""},
		{&both, DefaultVhost, "a", DefaultVhost},
		{&both, "__DEFAULTvhost__", "a", DefaultVhost},
		{&none, "B.Example", "a", "b.example"},
		{&none, "__defaultVHOST__", "a", DefaultVhost},
		{&hosts, "STUDIO.example", "x", "Studio.example"},
		{&hosts, "", "studio.EXAMPLE", "Studio.example"},
		{&hosts, "", "studio.example.", "Studio.example"},
		{&hosts, "", "studio.example..", DefaultVhost},
		{&hosts, "", "0:0::1", "::1"},
		{&hosts, "::1", "x", "::1"},
		{&hosts, "", "2001:DB8:0::2", "[2001:db8::2]"},
		{&hosts, "", "x", DefaultVhost},
		{&hosts, "x", "studio.example", "x"},
		{&hosts, DefaultVhost, "studio.example", DefaultVhost},
		{&hosts, "", "off", ""},
	} {
		got, ok := row.cfg.resolveVhost(row.named, row.host)
		require.Equal(t, row.want != "", ok, "%q %q", row.named, row.host)
		if ok {
			require.Equal(t, row.want, got, "%q %q", row.named, row.host)
		}
	}
}

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
			f, err := LoadConfig(filepath.Join("testdata", "conf", row.file))
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
			v := f.Config.withDefaults()
			r := v.vhost(DefaultVhost).Resolver
			if h, ok := r.(*HTTPResolver); ok {
				require.Equal(t, row.backend, h.URL)
				return
			}
			require.Empty(t, row.backend)
			ds, err := r.ResolveDestinations(t.Context(), &PublishRequest{Vhost: DefaultVhost, App: "live", Stream: "s", Param: "?k=1"})
			require.NoError(t, err)
			var to []string
			for _, d := range ds {
				require.Equal(t, Secret("s?k=1"), d.StreamKey)
				to = append(to, d.URL)
			}
			require.Equal(t, row.to, to)
		})
	}
}

func TestParseConfig(t *testing.T) {
	vhost := func(body string) string { return "vhost v { " + body + " }" }
	of := func(v Vhost) Config { return Config{Addr: noAddr, Vhosts: map[string]Vhost{"v": v}} }
	for _, row := range []struct {
		src  string
		want Config
	}{
		{"", Config{Addr: noAddr, Vhosts: map[string]Vhost{}}},
		{"rtmp { listen 1936 [::1]:1935; chunk_size 4096; }", Config{Addr: ":1936", ChunkSize: 4096, Vhosts: map[string]Vhost{}}},
		{"chunk_size 128; rtmp { listen 1936; chunk_size 4096; }", Config{Addr: ":1936", ChunkSize: 4096, Vhosts: map[string]Vhost{}}},
		{"rtmp { listen 1936; chunk_size 4096; } chunk_size 128;", Config{Addr: ":1936", ChunkSize: 4096, Vhosts: map[string]Vhost{}}},
		{"listen 127.0.0.1:1935 [::]:1936;", Config{Addr: "127.0.0.1:1935", Vhosts: map[string]Vhost{}}},
		{"listen 19350; chunk_size 4096; max_connections 7;",
			Config{Addr: ":19350", ChunkSize: 4096, Limits: Limits{Connections: 7}, Vhosts: map[string]Vhost{}}},
		{vhost(""), of(Vhost{})},
		{vhost("enabled off;"), of(Vhost{Disabled: true})},
		{vhost("chunk_size 128;"), of(Vhost{ChunkSize: 128})},
		{vhost("play { gop_cache off; queue_length 10; mw_latency 350; }"),
			of(Vhost{NoGOPCache: true, MaxLatency: 10 * time.Second, MergeWindow: 350 * time.Millisecond})},
		{vhost("play { gop_cache on; queue_length 0; mw_latency 0; }"), of(Vhost{MaxLatency: -1, MergeWindow: -1})},
		{vhost("publish { firstpkt_timeout 20000; normal_timeout 7000; }"),
			of(Vhost{FirstMediaTimeout: 20 * time.Second, ReadTimeout: 7 * time.Second})},
		{vhost("publish { grace 30000; takeover on; }"), of(Vhost{PublishGrace: 30 * time.Second, Takeover: true})},
		{vhost("publish { grace 0; takeover off; }"), of(Vhost{PublishGrace: -1})},
		{vhost("publish { grace 30000; grace_unpublish on; }"), of(Vhost{PublishGrace: 30 * time.Second, GraceUnpublish: true})},
		{vhost("play { end_players on; player_wait 60000; }"), of(Vhost{EndPlayers: true, PlayerWait: time.Minute})},
		{vhost("play { end_players off; player_wait 0; }"), of(Vhost{PlayerWait: -1})},
		{vhost("publish { firstpkt_timeout 0; }"), of(Vhost{FirstMediaTimeout: -1})},
		{vhost("gop_cache off; queue_length 10; mw_latency 350; publish_1stpkt_timeout 20000; publish_normal_timeout 7000;"),
			of(Vhost{NoGOPCache: true, MaxLatency: 10 * time.Second, MergeWindow: 350 * time.Millisecond,
				FirstMediaTimeout: 20 * time.Second, ReadTimeout: 7 * time.Second})}, // as SRS 2 spells it
		{vhost("queue_length 10; play { gop_cache off; } mw_latency 350;"),
			of(Vhost{NoGOPCache: true, MaxLatency: 10 * time.Second, MergeWindow: 350 * time.Millisecond})},
		{vhost("forward { refresh_ms 60000; }"), of(Vhost{Resolver: static{}, RefreshInterval: time.Minute})},
		{vhost("forward { destination a; }"), of(Vhost{Resolver: static{}})}, // not enabled
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
	require.Equal(t, AuthLimelight, f.Config.PublishAuthMethod)
	require.Equal(t, map[string]Secret{"jo": canary, "a b": "other"}, f.Users)
	for user, want := range f.Users {
		password, ok := f.Config.PublishAuth(user)
		require.True(t, ok)
		require.Equal(t, want, password)
	}
	_, ok := f.Config.PublishAuth("al")
	require.False(t, ok)
	require.NotContains(t, secretscan.Prints(f)+secretscan.Prints(f.Users), canary)

	for src, users := range map[string]map[string]Secret{
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

func TestParseConfigTellsWhatIsIgnored(t *testing.T) {
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
