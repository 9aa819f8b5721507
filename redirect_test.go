package forward

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRedirected(t *testing.T) {
	const key = "k?t=" + canary
	plain := Destination{URL: "rtmp://a.example/live?x=1", StreamKey: key, User: "jo", Password: canary, Timestamps: TimestampsZero}
	secure := Destination{URL: "rtmps://a.example:1443/live/more", StreamKey: key, ServerName: "name.example"}
	anywhere := func(d Destination) Destination { d.Redirect = RedirectAnywhere; return d }
	for _, c := range []struct {
		name string
		d    Destination
		ref  string
		want string // tcUrl
		err  error
	}{
		{"nothing", plain, "", "rtmp://a.example/live?x=1", nil},
		{"another port", plain, "rtmp://a.example:1936/live", "rtmp://a.example:1936/live", nil},
		{"another app, in capitals", plain, "RTMP://A.Example/other/inst", "rtmp://A.Example/other/inst", nil},
		{"no path", plain, "rtmp://a.example:1936", "rtmp://a.example:1936/live?x=1", nil},
		{"no path but a slash", plain, "rtmp://a.example:1936/", "rtmp://a.example:1936/live?x=1", nil},
		{"to TLS", plain, "rtmps://a.example/live", "rtmps://a.example/live", nil},
		{"without a scheme", secure, "//a.example/live", "rtmps://a.example/live", nil},
		{"a path", secure, "/other?y=1", "rtmps://a.example:1443/other?y=1", nil},
		{"a relative path", secure, "other", "rtmps://a.example:1443/live/other", nil},
		{"a relative path of one element", plain, "other", "rtmp://a.example/other", nil},
		{"no app", plain, "/", "", errRedirectURL},
		{"the name of the certificate", secure, "rtmps://name.example/live", "rtmps://name.example/live", nil},
		{"a key in it", plain, "rtmp://a.example/live/k2", "rtmp://a.example/live/k2", nil}, // an instance, for all we know

		{"another host", plain, "rtmp://b.example/live", "", errRedirectHost},
		{"a host that begins so", plain, "rtmp://a.example.org/live", "", errRedirectHost},
		{"a host behind a user", plain, "rtmp://a.example@b.example/live", "", errRedirectURL},
		{"a user", plain, "rtmp://al:x@a.example/live", "", errRedirectURL},
		{"from TLS", secure, "rtmp://a.example/live", "", errRedirectTLS},
		{"from TLS, anywhere", anywhere(secure), "rtmp://b.example/live", "", errRedirectTLS},
		{"a low port", plain, "rtmp://a.example:22/live", "", errRedirectPort},
		{"a low port of four digits", plain, "rtmp://a.example:1023/live", "", errRedirectPort},
		{"port 443", plain, "rtmp://a.example:443/live", "rtmp://a.example:443/live", nil},
		{"another scheme", plain, "http://a.example/live", "", errRedirectURL},
		{"a file", plain, "file:///etc/passwd", "", errRedirectURL},
		{"no host", plain, "rtmp:///live", "", errRedirectURL},
		{"a bad port", plain, "rtmp://a.example:x/live", "", errRedirectURL},
		{"too long", plain, "rtmp://a.example/" + strings.Repeat("a", 4096), "", errRedirectURL},

		{"anywhere", anywhere(plain), "rtmp://b.example/live", "rtmp://b.example/live", nil},
		{"anywhere, same host", anywhere(plain), "rtmp://a.example/b", "rtmp://a.example/b", nil},
		{"never", Destination{URL: plain.URL, StreamKey: key, Redirect: RedirectNever}, "rtmp://a.example/b", "", errRedirectNever},
		{"never, nothing", Destination{URL: plain.URL, StreamKey: key, Redirect: RedirectNever}, "", "", errRedirectNever},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, err := c.d.endpoint()
			require.NoError(t, err)
			e, err := c.d.redirected(new(Config), at, c.ref)
			require.ErrorIs(t, err, c.err)
			if c.err != nil {
				return
			}
			require.Equal(t, c.want, e.TcURL)
			require.Equal(t, key, e.Key)
			require.Equal(t, at.User, e.User)
			require.Equal(t, at.Password, e.Password)
			require.Equal(t, string(c.d.Timestamps), e.Times)
			other := strings.Contains(c.want, "b.example")
			require.Equal(t, other, e.Untrusted, "what another server names is not trusted")
			if other {
				require.Equal(t, "b.example", e.ServerName)
			} else {
				require.Equal(t, at.ServerName == "name.example", e.ServerName == "name.example")
			}
		})
	}
	require.ErrorContains(t, Destination{URL: "rtmp://h/a/k", Redirect: 3}.Validate(), "unknown Redirect")
}

// Whatever a server answers, a redirect stays on the host unless RedirectAnywhere is set, and
// stays on TLS. Key and password do not change.
func FuzzRedirected(f *testing.F) {
	for _, ref := range []string{"", "/a", "a", "//b/a", "rtmp://a.example:1936/live", "rtmps://A.example", "rtmp://a.example@b/a", "rtmp://a.example:1935\x00@b/", "RTMPS://[::1%25a]/x?y"} {
		f.Add(ref, true)
		f.Add(ref, false)
	}
	f.Fuzz(func(t *testing.T, ref string, secure bool) {
		d := Destination{URL: "rtmp://a.example/live?x=1", StreamKey: canary, User: "jo", Password: canary}
		if secure {
			d.URL = "rtmps://a.example/live?x=1"
		}
		for _, d.Redirect = range []Redirect{RedirectSameHost, RedirectAnywhere} {
			at, err := d.endpoint()
			require.NoError(t, err)
			e, err := d.redirected(new(Config), at, ref)
			if err != nil {
				require.NotContains(t, err.Error(), canary)
				require.Equal(t, at, e)
				continue
			}
			same := strings.EqualFold(e.Host, "a.example")
			require.True(t, same || d.Redirect == RedirectAnywhere && e.Untrusted)
			require.True(t, e.Scheme == "rtmps" || !secure && e.Scheme == "rtmp")
			require.Equal(t, []string{canary, "jo", canary}, []string{e.Key, e.User, e.Password})
			require.NotEmpty(t, e.App)
			require.NotEmpty(t, e.Port)
			require.True(t, strings.HasSuffix(e.TcURL, "/"+e.App), e.TcURL)
		}
	})
}
