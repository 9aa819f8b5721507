package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/sys"
)

// configFields has each field's default, and where its effect is shown: a test, or the code
// that uses it.
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
	"LogNames":          {nil, "TestLogNames"},
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
	"HandshakeTimeout":  {5 * time.Second, "TestTimeoutsOfPeers"},
	"SetupTimeout":      {10 * time.Second, "TestTimeoutsOfPeers"},
	"FirstMediaTimeout": {15 * time.Second, "TestTimeoutsOfPeers"},
	"ReadTimeout":       {10 * time.Second, "TestTimeoutsOfPeers"},
	"PublishGrace":      {nil, "TestFault17_PublishGrace"},
	"GraceUnpublish":    {nil, "TestGraceForAnUnpublish"},
	"Takeover":          {nil, "TestFault20_Takeover"},
	"Standby":           {nil, "TestStandby"},
	"EndPlayers":        {nil, "TestPlayersAreToldTheEnd"},
	"PlayerWait":        {nil, "TestPlayerWait"},
	"WriteTimeout":      {10 * time.Second, "TestTimeoutsOfPeers"},
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
	"Limits.MediaSize":             {8 << 20, "TestLimitsOfMessages"},
	"Limits.DataSize":              {256 << 10, "TestLimitsOfMessages"},
	"Limits.PartialSize":           {16 << 20, "TestLimitsOfMessages"},
	"Limits.ChunkStreams":          {32, "TestLimitsOfMessages"},
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

// Fields that are set keep their values.
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

// A vhost inherits each field from the Config unless it sets its own.
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

		// A Server with an invalid Config serves nobody and returns the error.
		s := NewServer(row.cfg)
		defer s.Close()
		l, lerr := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, lerr)
		require.EqualError(t, s.Serve(l), row.want)
		ours, theirs := net.Pipe()
		require.EqualError(t, s.ServeConn(t.Context(), theirs), row.want)
		_, err = ours.Read(make([]byte, 1))
		require.Error(t, err, "the connection is closed")
		_, err = s.Publish(t.Context(), Request{App: "live", Stream: canary})
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
