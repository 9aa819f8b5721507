package forward

import (
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Asked is one client's way to name a stream, in connect and in publish or play.
type Asked struct{ TcURL, App, Name string }

// request returns the request that a Server with cfg makes, or nil if it refuses.
func (a Asked) request(cfg *Config) *Request {
	c := &conn{srv: &Server{}, nc: nowhere{}, tcURL: a.TcURL, app: a.App}
	r, err := c.request(cfg, a.Name)
	if err != nil {
		return nil
	}
	return r
}

// nowhere is a connection that is not used.
type nowhere struct{ net.Conn }

func (nowhere) RemoteAddr() net.Addr { return nil }
func (nowhere) LocalAddr() net.Addr  { return nil }

// WaysToStudio are ways to name a stream. Each names live/cam of studio.example, another
// stream, or none.
var WaysToStudio = []Asked{
	{"rtmp://h/studio.example/live", "studio.example/live", "cam"},
	{"rtmp://h/studio.example", "studio.example", "live/cam"},
	{"rtmp://h/studio.example/live/cam", "studio.example/live/cam", ""},
	{"rtmp://h//studio.example/live", "//studio.example/live", "cam"},
	{"rtmp://h//studio.example/live", "//studio.example/live/cam", ""},
	{"rtmp://h/studio.example/live/cam", "", ""},
	{"rtmp://h", "", "studio.example/live/cam"},
	{"rtmp://h", "", "//studio.example/live/cam"},
	{"rtmp://h/live", "live", "//studio.example/live/cam"},
	{"rtmp://h/studio.example/live/_definst_", "studio.example/live/_definst_", "cam"},
	{"rtmp://studio.example/live", "live", "cam"},
	{"rtmp://STUDIO.example:1935/live", "live", "cam"},
	{"rtmp://studio.example./live", "live", "cam"},
	{"rtmp://u:p@studio.example/live", "live", "cam"},
	{"rtmp://studio.example/", "live", "cam"},
	{"rtmp://h/live", "live", "cam?vhost=studio.example"},
	{"rtmp://h/live", "live", "cam?vhost=STUDIO.EXAMPLE"},
	{"rtmp://h/live", "live", "cam?vhost=studio.example/"},
	{"rtmp://h/live", "live", "cam?vhost=studio.example."},
	{"rtmp://h/live", "live", "cam?vhost=studio.example:1935"},
	{"rtmp://h/live", "live", "cam?vhost=studio%2Eexample"},
	{"rtmp://h/live", "live", "cam?vhost=studio.example/live"},
	{"rtmp://h/live", "live", "cam?vhost= studio.example"},
	{"rtmp://h/live", "live", "cam?vhost=//studio.example"},
	{"rtmp://h/live", "live", "cam?domain=Studio.Example"},
	{"rtmp://h/live", "live", "cam?vhost=" + DefaultVhost + "&vhost=studio.example"},
	{"rtmp://h/live", "live", "cam?vhost=studio.example&vhost=" + DefaultVhost},
	{"rtmp://h/live", "live", "cam?vhost=other.example&domain=studio.example"},
	{"rtmp://h/live?vhost=studio.example", "live", "cam?vhost=" + DefaultVhost},
	{"rtmp://h/live?vhost=studio.example", "live?vhost=other.example", "cam"},
	{"rtmp://h/live?vhost=Studio.example", "live", "cam"},
	{"rtmp://h/live", "live?vhost=sTudio.example/", "cam"},
	{"rtmp://h/live", "live?vhost=studio.example/cam", ""},
	{"rtmp://h/live", "live...vhost...studio.EXAMPLE", "cam"},
	{"rtmp://h/live", "live...vhost...studio.example/cam", ""},
	{"rtmp://h/live", "live...vhost...other.example...vhost...studio.example", "cam"},
	{"rtmp://other.example/studio.example/live", "studio.example/live", "cam"},
	{"rtmp://h/", "studio.example/live?vhost=other.example", "cam"},
	{"rtmp://" + DefaultVhost + "/studio.example/live", "studio.example/live", "cam"},
	{"rtmp://h/live", "live", "studio.example/cam"},
	{"rtmp://h/x", "x", "cam?vhost=x/studio.example/live"},
}

// A vhost is the same in upper and lower case, in requests and in Config.Vhosts.
func TestVhostInAnyCaseIsOne(t *testing.T) {
	for _, vhosts := range []map[string]Vhost{nil, {"Studio.Example": {}}} {
		cfg := Config{Vhosts: vhosts}.withDefaults()
		want := streamKey{"studio.example", "live/inst/cam"}
		for _, way := range []Asked{
			{"rtmp://h/live/inst", "live/inst", "cam?vhost=studio.example"},
			{"rtmp://h/live", "live", "inst/cam?vhost=STUDIO.example&k=v"},
			{"rtmp://h/live/inst/cam", "live/inst/cam?domain=studio.EXAMPLE", ""},
			{"rtmp://h/live...vhost...Studio.example", "live...vhost...Studio.example", "inst/cam"},
		} {
			r := way.request(&cfg)
			require.NotNil(t, r, "%+v", way)
			require.Equal(t, want, r.key(), "%+v", way)
			require.Equal(t, "//studio.example/live/inst/cam", r.Name())
			require.Equal(t, cfg.vhostName("studio.example"), r.Vhost)
		}
	}
}

// Everything that is kept by stream is kept by vhost and path.
func TestStreamsOfTwoVhostsShareNothing(t *testing.T) {
	a := &Request{Vhost: "studio.example", App: "live", Stream: "cam"}
	b := &Request{Vhost: DefaultVhost, App: "studio.example/live", Stream: "cam"}
	c := &Request{Vhost: "Studio.Example", App: "live", Stream: "cam"}
	require.NotEqual(t, a.key(), b.key())
	require.Equal(t, a.key(), c.key())
	require.Equal(t, a.ID(), c.ID())
	require.Equal(t, a.logName(), c.logName())
	require.NotEqual(t, a.ID(), b.ID())
	require.NotEqual(t, a.logName(), b.logName())
	require.Regexp(t, `^//studio\.example/live/#[0-9a-f]{8}$`, c.logName())
	require.Regexp(t, `^studio\.example/live/#[0-9a-f]{8}$`, b.logName())
	hash := func(r *Request) string { return r.logName()[strings.LastIndex(r.logName(), "#"):] }
	require.Equal(t, hash(&Request{App: "a/b", Stream: "c"}), hash(&Request{App: "a", Stream: "b/c"}))
}

// A stream that is pushed under its own name has the same identity at the destination,
// whatever its publisher has put into the query.
func TestPushedStreamKeepsItsVhost(t *testing.T) {
	push := func(cfg Config, way Asked) (here, there string) {
		c := cfg.withDefaults()
		r := way.request(&c)
		if r == nil {
			return "", ""
		}
		ds, err := MustStatic("slave.example").ResolveDestinations(t.Context(), r)
		require.NoError(t, err)
		e, err := ds[0].endpoint()
		require.NoError(t, err)
		slave := Config{}.withDefaults()
		pushed := Asked{e.TcURL, e.App, e.Key}.request(&slave)
		require.NotNil(t, pushed, "%+v", way)
		return r.Name(), pushed.Name()
	}
	for _, cfg := range []Config{{}, {Vhosts: map[string]Vhost{DefaultVhost: {}, "Studio.example": {}}}} {
		for _, way := range append(slices.Clone(WaysToStudio),
			Asked{"rtmp://h/live", "live", "cam?token=1&vhost=other.example&x=2"},
			Asked{"rtmp://h/live", "live", "cam?vhost=a b"},
			Asked{"rtmp://h/live", "live", "cam?vhost=é.example"},
			Asked{"rtmp://h/live", "live", "cam?vhost=100%"},
			Asked{"rtmp://h/live", "live", "cam?vhost=::1"},
			Asked{"rtmp://h/live", "live", "cam?vhost=a+b%20c"},
		) {
			here, there := push(cfg, way)
			require.Equal(t, here, there, "%+v", way)
		}
	}
	// These characters end a value of a query. The pushed stream gets another vhost,
	// but never one whose name has none of them.
	for _, vhost := range []string{"a?b", "a#b"} {
		_, there := push(Config{}, Asked{"rtmp://h/live", "live", "cam?vhost=" + vhost})
		require.Contains(t, there, "//a%")
	}
}

// sameStream reports whether two requests name the same stream, in another way than
// streamKey.
func sameStream(a, b *Request) bool {
	return strings.EqualFold(a.Vhost, b.Vhost) && a.App+"/"+a.Stream == b.App+"/"+b.Stream
}

// checkIdentity checks two requests with everything that depends on identity.
func checkIdentity(t *testing.T, a, b *Request) {
	t.Helper()
	same := sameStream(a, b)
	require.Equal(t, same, a.key() == b.key(), "%q %q %q, %q %q %q", a.Vhost, a.App, a.Stream, b.Vhost, b.App, b.Stream)
	require.Equal(t, same, a.Name() == b.Name(), "%q %q", a.Name(), b.Name())
	require.Equal(t, same, a.ID() == b.ID())
	for _, r := range []*Request{a, b} {
		key, ok := parseStreamName(r.Name())
		require.True(t, ok)
		require.Equal(t, r.key(), key, "%q", r.Name())
	}
}

// FuzzIdentity requests two streams in all ways.
func FuzzIdentity(f *testing.F) {
	for i, way := range WaysToStudio {
		other := WaysToStudio[(i+1)%len(WaysToStudio)]
		f.Add(way.TcURL, way.App, way.Name, other.TcURL, other.App, other.Name, i%2 == 0)
	}
	f.Add("rtmp://h/a", "a", "b?vhost=\u212aelvin", "rtmp://h/a", "a", "b?vhost=kelvin", false)
	f.Add("rtmp://h/a", "a", "b?vhost=\u017f", "rtmp://h/a", "a", "b?vhost=S", true)
	f.Add("rtmp://h/a", "a", "b?vhost=\u0130", "rtmp://h/a", "a", "b?vhost=i", false)
	f.Add("rtmp://h/a", "a", "b?vhost=\u03c2", "rtmp://h/a", "a", "b?vhost=\u03a3", false)
	none := Config{}.withDefaults()
	listed := Config{Vhosts: map[string]Vhost{DefaultVhost: {}, "Studio.example": {}, "::1": {}}}.withDefaults()
	f.Fuzz(func(t *testing.T, tcURL, app, name, tcURL2, app2, name2 string, vhosts bool) {
		cfg := &none
		if vhosts {
			cfg = &listed
		}
		a, b := Asked{tcURL, app, name}.request(cfg), Asked{tcURL2, app2, name2}.request(cfg)
		if a == nil || b == nil {
			return
		}
		checkIdentity(t, a, b)
	})
}

// Names of few letters, so that many differ only by a slash or a case.
func TestIdentityOfLikeNames(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	parts := []string{"a", "A", "b", "a.b", "studio.example", "Studio.Example", DefaultVhost, "__DEFAULTVHOST__", "\u212a", "k"}
	path := func(n int) string {
		var p []string
		for range 1 + random.IntN(n) {
			p = append(p, parts[random.IntN(len(parts))])
		}
		return strings.Join(p, "/")
	}
	var same, other int
	for range 20000 {
		var all [2]*Request
		for i := range all {
			r := &Request{Vhost: path(1), App: path(3), Stream: path(2)}
			require.NoError(t, checkRequest(r))
			all[i] = r
		}
		if random.IntN(2) == 0 { // the same path, cut elsewhere
			p := all[0].App + "/" + all[0].Stream
			cut := slices.Collect(maps.Keys(slashes(p)))
			at := cut[random.IntN(len(cut))]
			all[1].App, all[1].Stream = p[:at], p[at+1:]
		}
		checkIdentity(t, all[0], all[1])
		if sameStream(all[0], all[1]) {
			same++
		} else {
			other++
		}
	}
	require.Greater(t, same, 500)
	require.Greater(t, other, 500)
}

func slashes(s string) map[int]bool {
	at := make(map[int]bool)
	for i := range len(s) {
		if s[i] == '/' {
			at[i] = true
		}
	}
	return at
}

// A vhost that is not listed is a vhost of its own with the settings of the default one.
func TestUnlistedVhost(t *testing.T) {
	var cfg Config
	cfg.Vhosts = map[string]Vhost{DefaultVhost: {MaxLatency: 7 * time.Second}, "studio.example": {}}
	r := Asked{"rtmp://h/live", "live", "cam?vhost=Other.example"}.request(&cfg)
	require.Equal(t, "//other.example/live/cam", r.Name())
	require.Equal(t, 7*time.Second, cfg.vhost(r.Vhost).MaxLatency)
	require.True(t, cfg.serves(r.Vhost, false))
	require.Equal(t, "live/cam", Asked{"rtmp://other.example/live", "live", "cam"}.request(&cfg).Name())

}
