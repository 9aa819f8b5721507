package rtmp

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// requests are the tcUrls, apps and names that encoders send, and their meaning.
var requests = []struct {
	who               string
	tcURL, app, name  string
	host, vhost       string
	wantApp, wantName string
	param             string
}{
	{"OBS", "rtmp://example.com/live", "live", "key", "example.com", "", "live", "key", ""},
	{"OBS with a port", "rtmp://example.com:1935/live", "live", "key", "example.com", "", "live", "key", ""},
	{"OBS, app of two levels", "rtmp://example.com/a/b", "a/b", "key", "example.com", "", "a/b", "key", ""},
	{"OBS, key with a query", "rtmps://example.com:443/rtmp/", "rtmp", "FB-1-2?s_bl=1&a=Ab/c+d=", "example.com", "", "rtmp", "FB-1-2", "?s_bl=1&a=Ab/c+d="},
	{"OBS, key that is a query", "rtmp://example.com/live/stream", "live/stream", "?token=1", "example.com", "", "live", "stream", "?token=1"},
	{"OBS, empty key", "rtmp://example.com/live/stream", "live/stream", "", "example.com", "", "live", "stream", ""},
	{"OBS, empty key, tcUrl as typed", "rtmp://example.com/live/stream/", "live/stream/", "", "example.com", "", "live", "stream", ""},
	{"YouTube's backup", "rtmp://b.example.com/live2?backup=1", "live2?backup=1", "abcd-efgh", "b.example.com", "", "live2", "abcd-efgh", "?backup=1"},

	{"ffmpeg", "rtmp://example.com:1935/live", "live", "stream", "example.com", "", "live", "stream", ""},
	{"ffmpeg, three segments", "rtmp://example.com:1935/live/inst", "live/inst", "stream", "example.com", "", "live/inst", "stream", ""},
	{"ffmpeg, four segments", "rtmp://example.com:1935/live/inst", "live/inst", "a/b", "example.com", "", "live/inst", "a/b", ""},
	{"ffmpeg, mp4 prefix", "rtmp://example.com:1935/vod", "vod", "mp4:a.mp4", "example.com", "", "vod", "mp4:a.mp4", ""},
	{"ffmpeg, query", "rtmp://example.com:1935/live", "live", "stream?token=a?b", "example.com", "", "live", "stream", "?token=a?b"},
	{"ffmpeg, slist", "rtmp://example.com:1935/live?slist=stream", "live?slist=stream", "stream", "example.com", "", "live", "stream", "?slist=stream"},
	{"Telegram's key", "rtmps://dc4-1.example.com:443/s", "s", "123:AbC-d_e", "dc4-1.example.com", "", "s", "123:AbC-d_e", ""},
	{"Akamai's name", "rtmp://p-ep1.example.net/EntryPoint", "EntryPoint", "name_1_2500@37267", "p-ep1.example.net", "", "EntryPoint", "name_1_2500@37267", ""},

	{"FMLE", "rtmp://example.com/live/_definst_", "live/_definst_", "stream", "example.com", "", "live", "stream", ""},
	{"FMLE with a slash", "rtmp://example.com/live/_definst_/", "live/_definst_/", "stream", "example.com", "", "live", "stream", ""},
	{"FMLE, empty name", "rtmp://example.com/live/_definst_/stream", "live/_definst_/stream", "", "example.com", "", "live", "stream", ""},
	{"an app called _definst_", "rtmp://example.com/_definst_", "_definst_", "stream", "example.com", "", "_definst_", "stream", ""},
	{"an instance that ends in _definst_", "rtmp://example.com/a_definst_", "a_definst_", "stream", "example.com", "", "a_definst_", "stream", ""},
	{"FMLE, query in app", "rtmp://example.com/live?k=v", "live?k=v", "stream", "example.com", "", "live", "stream", "?k=v"},
	{"FMLE, stream behind the app's query", "rtmp://example.com/live?k=v/stream", "live?k=v/stream", "", "example.com", "", "live", "stream", "?k=v"},
	{"FMLE, stream and slash behind the app's query", "rtmp://example.com/live?k=v/stream/", "live?k=v/stream/", "", "example.com", "", "live", "stream", "?k=v"},
	{"stream with a query behind the app's", "rtmp://example.com/live?k=v/stream?x=1", "live?k=v/stream?x=1", "", "example.com", "", "live", "stream", "?x=1"},
	{"key that is a query, stream behind the app's", "rtmp://example.com/live?k=v/stream", "live?k=v/stream?x=1", "?token=1", "example.com", "", "live", "stream", "?token=1"},
	{"slash behind the app's query", "rtmp://example.com/live/stream?k=v/", "live/stream?k=v/", "", "example.com", "", "live", "stream", "?k=v"},
	{"vhost and stream behind the app's query", "rtmp://1.2.3.4/live?vhost=a.b/stream", "live?vhost=a.b/stream", "", "1.2.3.4", "a.b", "live", "stream", ""},

	{"vhost in tcUrl", "rtmp://1.2.3.4/live?vhost=a.b", "live", "stream", "1.2.3.4", "a.b", "live", "stream", ""},
	{"vhost in app", "rtmp://1.2.3.4/live?vhost=a.b", "live?vhost=a.b", "stream", "1.2.3.4", "a.b", "live", "stream", ""},
	{"vhost in app, slash", "rtmp://1.2.3.4/live?vhost=a.b/", "live?vhost=a.b/", "stream", "1.2.3.4", "a.b", "live", "stream", ""},
	{"vhost in name", "rtmp://1.2.3.4/live", "live", "stream?vhost=a.b", "1.2.3.4", "a.b", "live", "stream", ""},
	{"vhost in name goes before app and tcUrl", "rtmp://1.2.3.4/live?vhost=t", "live?vhost=a", "s?vhost=n", "1.2.3.4", "n", "live", "s", ""},
	{"vhost among others", "rtmp://1.2.3.4/live", "live", "stream?token=1&vhost=a.b", "1.2.3.4", "a.b", "live", "stream", "?token=1&vhost=a.b"},
	{"domain", "rtmp://1.2.3.4/live?domain=a.b", "live", "stream?token=1", "1.2.3.4", "a.b", "live", "stream", "?token=1"},
	{"vhost twice", "rtmp://1.2.3.4/live", "live", "stream?vhost=a.b&vhost=&domain=A.B/", "1.2.3.4", "a.b", "live", "stream", ""},
	{"vhost in name and app", "rtmp://1.2.3.4/live?vhost=a.b", "live?vhost=a.b", "stream?token=1&vhost=a.b", "1.2.3.4", "a.b", "live", "stream", "?token=1&vhost=a.b"},
	{"no vhost but a key that ends so", "rtmp://1.2.3.4/live", "live", "stream?xvhost=a", "1.2.3.4", "", "live", "stream", "?xvhost=a"},
	{"dots", "rtmp://1.2.3.4/live...vhost...a.b", "live...vhost...a.b", "stream", "1.2.3.4", "a.b", "live", "stream", ""},
	{"dots and a slash", "rtmp://1.2.3.4/live...vhost...a.b/", "live...vhost...a.b/", "stream", "1.2.3.4", "a.b", "live", "stream", ""},
	{"dots, more of them", "rtmp://1.2.3.4/x", "live...token...1...vhost...a.b", "stream", "1.2.3.4", "a.b", "live", "stream", ""},
	{"dots, empty name", "rtmp://1.2.3.4/x", "live...vhost...a.b/stream", "", "1.2.3.4", "a.b", "live", "stream", ""},
	{"dots without vhost", "rtmp://1.2.3.4/x", "live...b", "stream", "1.2.3.4", "", "live...b", "stream", ""},
	{"dots behind a query's vhost", "rtmp://1.2.3.4/x", "live...vhost...a.b?vhost=c.d", "stream", "1.2.3.4", "c.d", "live", "stream", ""},

	{"ffmpeg, one segment", "rtmp://example.com:1935/stream", "stream", "", "example.com", "", DefaultApp, "stream", ""},
	{"ffmpeg, one segment and a query", "rtmp://example.com:1935/stream?token=1", "stream?token=1", "", "example.com", "", DefaultApp, "stream", "?token=1"},
	{"ffmpeg before 5, one segment", "rtmp://example.com:1935/", "", "stream", "example.com", "", DefaultApp, "stream", ""},
	{"OBS, one segment and an empty key", "rtmp://example.com/stream/", "stream", "", "example.com", "", DefaultApp, "stream", ""},
	{"OBS, one segment and a key that is a query", "rtmp://example.com/stream", "stream", "?token=1", "example.com", "", DefaultApp, "stream", "?token=1"},
	{"OBS, no path", "rtmp://example.com", "", "key", "example.com", "", DefaultApp, "key", ""},
	{"OBS, a slash as path", "rtmp://example.com/", "/", "key", "example.com", "", DefaultApp, "key", ""},
	{"RootEncoder, one segment and a query", "rtmp://example.com:1935/mystream?", "mystream?", "user=a&pass=b", "example.com", "", DefaultApp, "mystream", "?user=a&pass=b"},
	{"RootEncoder, two segments and a query", "rtmp://h/live/mystream?", "live/mystream?", "user=a&pass=b", "h", "", "live", "mystream", "?user=a&pass=b"},
	{"the query's start in tcUrl alone", "rtmp://h/mystream?", "mystream", "user=a&pass=b", "h", "", DefaultApp, "mystream", "?user=a&pass=b"},
	{"the query in tcUrl and as the name", "rtmp://h/live/mystream?user=a&pass=b", "live/mystream", "user=a&pass=b", "h", "", "live", "mystream", "?user=a&pass=b"},
	{"the query in the app and as the name", "rtmp://h/mystream?user=a", "mystream?user=a", "user=a", "h", "", DefaultApp, "mystream", "?user=a"},
	{"no app, the query as the name", "rtmp://h/mystream?", "", "user=a&pass=b", "h", "", DefaultApp, "mystream", "?user=a&pass=b"},
	{"one pair as the name", "rtmp://h/mystream?", "mystream?", "token=a", "h", "", DefaultApp, "mystream", "?token=a"},
	{"a key without a value", "rtmp://h/mystream?", "mystream?", "a&token=b", "h", "", DefaultApp, "mystream", "?a&token=b"},
	{"a query with a slash and a question mark as the name", "rtmp://h/mystream?", "mystream?", "token=a/b?c=d/e", "h", "", DefaultApp, "mystream", "?token=a/b?c=d/e"},
	{"the query cut behind &", "rtmp://h/mystream?user=a&", "mystream?user=a&", "pass=b", "h", "", DefaultApp, "mystream", "?user=a&pass=b"},
	{"the query cut before &", "rtmp://h/mystream?user=a", "mystream?user=a", "&pass=b", "h", "", DefaultApp, "mystream", "?user=a&pass=b"},
	{"FFmpeg, the query cut at a slash in a value", "rtmp://h:1935/mystream?token=a", "mystream?token=a", "b&pass=c", "h", "", DefaultApp, "mystream", "?token=a/b&pass=c"},
	{"a slash in a value, nothing cut", "rtmp://h/mystream?token=a/b&pass=c", "mystream?token=a/b&pass=c", "", "h", "", DefaultApp, "mystream", "?token=a/b&pass=c"},
	{"FFmpeg, the query cut in a value in base64", "rtmp://h:1935/live/mystream?sign=Zm9v", "live/mystream?sign=Zm9v", "YmFy==", "h", "", "live", "mystream", "?sign=Zm9v/YmFy=="},
	{"in a value with two slashes", "rtmp://h:1935/live/mystream?sign=Zm9v", "live/mystream?sign=Zm9v", "Ym/Fy=", "h", "", "live", "mystream", "?sign=Zm9v/Ym/Fy="},
	{"in one with others behind it", "rtmp://h:1935/live/mystream?sign=Zm9v", "live/mystream?sign=Zm9v", "Ym/Fy==&t=1", "h", "", "live", "mystream", "?sign=Zm9v/Ym/Fy==&t=1"},
	{"FFmpeg, the query cut in a URL, one segment", "rtmp://h:1935/mystream?forward=rtmp:/", "mystream?forward=rtmp:/", "127.0.0.1:19351/test/key", "h", "", DefaultApp, "mystream", "?forward=rtmp://127.0.0.1:19351/test/key"},
	{"GStreamer, the query cut in a URL", "rtmp://h:1935/live/mystream?forward=rtmp:/", "live/mystream?forward=rtmp:/", "a/test/key", "h", "", "live", "mystream", "?forward=rtmp://a/test/key"},
	{"librtmp, the query cut behind a URL's host", "rtmp://h:1935/mystream?t=1&forward=rtmps://a:444", "mystream?t=1&forward=rtmps://a:444", "test/key", "h", "", DefaultApp, "mystream", "?t=1&forward=rtmps://a:444/test/key"},
	{"GStreamer, the query cut behind a URL's app", "rtmp://h:1935/live/mystream?forward=rtmp://a/test", "live/mystream?forward=rtmp://a/test", "key", "h", "", "live", "mystream", "?forward=rtmp://a/test/key"},
	{"an app's query that ends in a URL of an app", "rtmp://h/live?forward=rtmp://a/test", "live?forward=rtmp://a/test", "mystream", "h", "", "live", "mystream", "?forward=rtmp://a/test"},
	{"an app's query that ends in a URL", "rtmp://h/live?forward=rtmp://a/test/key", "live?forward=rtmp://a/test/key", "mystream", "h", "", "live", "mystream", "?forward=rtmp://a/test/key"},
	{"an app's query that ends in a URL of a host", "rtmp://h/live?forward=rtmp://a", "live?forward=rtmp://a", "mystream", "h", "", "live", "mystream", "?forward=rtmp://a"},
	{"an app's query that ends in a time", "rtmp://h/live?at=10:15", "live?at=10:15", "inst/mystream", "h", "", "live", "inst/mystream", "?at=10:15"},
	{"a vhost in a query that is cut", "rtmp://1.2.3.4/mystream?", "mystream?", "vhost=a.b&pass=b", "1.2.3.4", "a.b", DefaultApp, "mystream", "?vhost=a.b&pass=b"},
	{"a slash in the query of a stream behind the app's", "rtmp://h/live?k=v/stream?x=a/b", "live?k=v/stream?x=a/b", "", "h", "", "live", "stream", "?x=a/b"},
	{"an empty query, and a name with one", "rtmp://h/live?", "live?", "stream?user=a&pass=b", "h", "", "live", "stream", "?user=a&pass=b"},
	{"an empty query, and a path with an equals sign", "rtmp://h/live?", "live?", "inst/s=1", "h", "", "live", "inst/s=1", ""},
	{"a key that ends in equals signs", "rtmp://h/live?backup=1", "live?backup=1", "abcd==", "h", "", "live", "abcd==", "?backup=1"},
	{"a key with an equals sign", "rtmp://h/live", "live", "user=a&pass=b", "h", "", "live", "user=a&pass=b", ""},
	{"one segment and a vhost", "rtmp://1.2.3.4/stream?vhost=a.b", "stream?vhost=a.b", "", "1.2.3.4", "a.b", DefaultApp, "stream", ""},
	{"one segment and a vhost in dots", "rtmp://1.2.3.4/stream...vhost...a.b", "stream...vhost...a.b", "", "1.2.3.4", "a.b", DefaultApp, "stream", ""},
	{"no tcUrl, no app", "", "", "stream", "", "", DefaultApp, "stream", ""},

	{"query on name goes before app's", "rtmp://h/live?a=1", "live?b=2", "stream?c=3", "h", "", "live", "stream", "?c=3"},
	{"query on app goes before tcUrl's", "rtmp://h/live?a=1", "live?b=2", "stream", "h", "", "live", "stream", "?b=2"},
	{"query on tcUrl alone", "rtmp://h/live?a=1", "live", "stream", "h", "", "live", "stream", "?a=1"},
	{"empty query", "rtmp://h/live?", "live?", "stream?", "h", "", "live", "stream", ""},
	{"query without path", "rtmp://h?a=1", "live", "stream", "h", "", "live", "stream", "?a=1"},

	{"no tcUrl", "", "live", "stream", "", "", "live", "stream", ""},
	{"tcUrl without scheme", "example.com/live", "live", "stream", "", "", "live", "stream", ""},
	{"no app", "rtmp://h/live", "", "stream", "h", "", "live", "stream", ""},
	{"no app, more levels", "rtmp://h/live/inst/", "", "stream", "h", "", "live/inst", "stream", ""},
	{"no app, no name", "rtmp://h/live/stream?t=1", "", "", "h", "", "live", "stream", "?t=1"},
	{"quotes", "'rtmp://h/live'", "live", "stream", "h", "", "live", "stream", ""},
	{"double quotes, no app", `"rtmp://h/live/"`, "", "stream", "h", "", "live", "stream", ""},
	{"slashes around", "rtmp://h//live//", "/live//", "/stream/", "h", "", "live", "stream", ""},
	{"scheme in capitals", "RTMP://H/live", "live", "stream", "H", "", "live", "stream", ""},
	{"other schemes", "rtmpte://h/live", "live", "stream", "h", "", "live", "stream", ""},
	{"tcUrl's path is not the app", "rtmp://h/other?x=1", "live", "stream", "h", "", "live", "stream", "?x=1"},

	{"IPv4", "rtmp://10.0.0.1:19350/live", "live", "stream", "10.0.0.1", "", "live", "stream", ""},
	{"IPv6", "rtmp://[2001:db8::1]/live", "live", "stream", "2001:db8::1", "", "live", "stream", ""},
	{"IPv6 with a port", "rtmp://[2001:db8::1]:1935/live", "live", "stream", "2001:db8::1", "", "live", "stream", ""},
	{"IPv6 with a zone", "rtmp://[fe80::1%25eth0]:1935/live", "live", "stream", "fe80::1%25eth0", "", "live", "stream", ""},
	{"IPv6 without brackets", "rtmp://2001:db8::1/live", "live", "stream", "2001:db8::1", "", "live", "stream", ""},
	{"user and password", "rtmp://user:pass@h:1935/live", "live", "stream", "h", "", "live", "stream", ""},
	{"at sign in the password", "rtmp://user:p@ss@[::1]:1935/live", "live", "stream", "::1", "", "live", "stream", ""},
	{"at sign in the path", "rtmp://h/live@1", "live@1", "stream", "h", "", "live@1", "stream", ""},
	{"empty port", "rtmp://h:/live", "live", "stream", "h", "", "live", "stream", ""},
	{"no host", "rtmp:///live", "live", "stream", "", "", "live", "stream", ""},
	{"UTF-8", "rtmp://h/löve", "löve", "キー", "h", "", "löve", "キー", ""},
	{"space inside", "rtmp://h/live", "live", "my stream", "h", "", "live", "my stream", ""},
}

func TestParseRequest(t *testing.T) {
	for _, c := range requests {
		t.Run(c.who, func(t *testing.T) {
			r, err := ParseRequest(c.tcURL, c.app, c.name)
			require.NoError(t, err)
			require.Equal(t, Request{
				TcURL: c.tcURL, Host: c.host, Vhost: c.vhost,
				App: c.wantApp, Stream: c.wantName, Param: c.param,
			}, r)
		})
	}
}

// A URL has one meaning, wherever an encoder cuts it, and whether or not the character
// at the cut is lost.
func TestParseRequestOfOneURLHoweverCut(t *testing.T) {
	for _, c := range []struct{ url, app, stream, param string }{
		{"mystream?user=a&pass=b", DefaultApp, "mystream", "?user=a&pass=b"},
		{"live/mystream?user=a&pass=b&x=1", "live", "mystream", "?user=a&pass=b&x=1"},
		{"live/inst/mystream?token=1", "live/inst", "mystream", "?token=1"},
	} {
		ways := map[[3]string]bool{{c.url, c.url, ""}: true, {c.url, "", ""}: true}
		for i := range len(c.url) {
			if !strings.ContainsRune("/?&", rune(c.url[i])) {
				continue
			}
			before, at, behind := c.url[:i], c.url[i:i+1], c.url[i+1:]
			for _, cut := range [][2]string{{before, behind}, {before + at, behind}, {before, at + behind}} {
				ways[[3]string{c.url, cut[0], cut[1]}] = true
				// If the character is lost, tcUrl must contain it.
				if at == "/" || cut[0]+cut[1] == c.url {
					ways[[3]string{cut[0], cut[0], cut[1]}] = true
				}
			}
		}
		for way := range ways {
			r, err := ParseRequest("rtmp://h/"+way[0], way[1], way[2])
			require.NoError(t, err, "%q", way)
			path := strings.TrimPrefix(r.App+"/"+r.Stream, DefaultApp+"/")
			require.Equal(t, strings.TrimPrefix(c.app+"/"+c.stream, DefaultApp+"/"), path, "%q", way)
			require.Equal(t, c.param, r.Param, "%q", way)
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	for _, c := range []struct {
		who              string
		tcURL, app, name string
	}{
		{"nothing", "", "", ""},
		{"no path", "rtmp://h", "", ""},
		{"slashes", "rtmp://h//", "//", ""},
		{"only a query", "rtmp://h/?token=secret", "", "?token=secret"},
		{"only a query, cut", "rtmp://h/?", "?", "user=secret"},
		{"name of slashes", "rtmp://h/live", "live", "//"},
		{"parent", "rtmp://h/live", "live", "../secret"},
		{"parent in the middle", "rtmp://h/live", "live", "a/../secret"},
		{"itself", "rtmp://h/live", "live", "./secret"},
		{"parent app", "rtmp://h/live", "live/..", "secret"},
		{"parent as the last of an app", "rtmp://h/live", "live/..", ""},
		{"empty segment", "rtmp://h/live", "live", "a//secret"},
		{"empty segment in app", "rtmp://h/live", "a//secret", "b"},
		{"backslash", "rtmp://h/live", "live", `..\secret`},
		{"zero byte", "rtmp://h/live", "live", "secret\x00"},
		{"line feed", "rtmp://h/live", "live", "secret\nb"},
		{"delete", "rtmp://h/live", "live", "secret\x7f"},
		{"C1 control character", "rtmp://h/live", "live", "secret\u0085"},
		{"no UTF-8", "rtmp://h/live", "live", "secret\xff"},
		{"no UTF-8 in app", "rtmp://h/live", "secret\xc0\xaf", "a"},
		{"name of 256 bytes", "rtmp://h/live", "live", "secret" + strings.Repeat("a", 250)},
		{"app of 256 bytes", "rtmp://h/live", "secret" + strings.Repeat("a", 250), "a"},
		{"vhost of 256 bytes", "rtmp://h/live", "live", "a?vhost=secret" + strings.Repeat("a", 250)},
		{"vhost that is a path", "rtmp://h/live", "live", "a?vhost=../secret"},
		{"vhost in dots that is a path", "rtmp://h/live", "live...vhost...../secret", "a"},
		{"vhost with a slash", "rtmp://h/live", "live", "a?vhost=secret/live"},
		{"vhost in the app with a slash", "rtmp://h/live", "live?vhost=secret/live", "a"},
		{"vhost in dots with a slash", "rtmp://h/live", "live...vhost...secret/live", "a"},
		{"two vhosts", "rtmp://h/live", "live", "a?vhost=b&vhost=secret"},
		{"vhost and domain", "rtmp://h/live", "live?domain=b&vhost=secret", "a"},
		{"two vhosts in tcUrl", "rtmp://h/live?vhost=b&k=v&domain=secret", "live", "a?vhost=b"},
		{"vhost with a backslash", "rtmp://h/live", "live", `a?vhost=secret\b`},
		{"vhost of dots", "rtmp://h/live", "live", "a?vhost=..&secret"},
		{"vhost that is no UTF-8", "rtmp://h/live", "live", "a?vhost=secret\xff"},
		{"vhost with a line feed", "rtmp://h/live?vhost=secret\r\n", "live", "a"},
		{"tcUrl of 4097 bytes", "rtmp://h/secret" + strings.Repeat("a", 4097-15), "live", "a"},
		{"app of 4097 bytes", "rtmp://h/live", "live?secret" + strings.Repeat("a", 4097-11), "a"},
		{"name of 4097 bytes", "rtmp://h/live", "live", "a?secret" + strings.Repeat("a", 4097-8)},
	} {
		t.Run(c.who, func(t *testing.T) {
			_, err := ParseRequest(c.tcURL, c.app, c.name)
			require.ErrorIs(t, err, ErrName)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestParseRequestTakesUpToTheLimits(t *testing.T) {
	long := strings.Repeat("a", MaxName)
	query := func(s string) string { return s + "?q=" + strings.Repeat("x", MaxURL-len(s)-3) }
	r, err := ParseRequest(query("rtmp://h/live"), query(long), query(long))
	require.NoError(t, err)
	require.Equal(t, long, r.App)
	require.Equal(t, long, r.Stream)
	require.Len(t, r.Param, MaxURL-MaxName)
	require.Len(t, r.TcURL, MaxURL)
}

func TestCheckName(t *testing.T) {
	for _, s := range []string{
		"a", "-", "...", ".a", "a..b", "a/b/c", "a b", "é", "a?b", "%00", "*",
		strings.Repeat("a", 254), strings.Repeat("a", 255),
		strings.Repeat("é", 127) + "a", // 255 bytes
		strings.Repeat("a/", 127) + "a",
	} {
		require.NoError(t, CheckName(s), "%q", s)
	}
	for _, s := range []string{
		"", "/", ".", "..", "/a", "a/", "a//b", "a/.", "a/..", "./a", "../a", "a/./b", "a/../b",
		`\`, `a\b`, "\x00", "a\t", "\x1f", "\x7f", "\u0080", "\u009f",
		"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80",
		strings.Repeat("a", 256), strings.Repeat("é", 128), strings.Repeat("a", 1<<20),
	} {
		require.ErrorIs(t, CheckName(s), ErrName, "%.20q", s)
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, c := range requests {
		f.Add(c.tcURL, c.app, c.name)
	}
	f.Add("rtmp://h/", "a/..", "..")
	f.Add("rtmp://@[", "...vhost...", "?/?vhost=//")
	f.Add("0", "0?/?", "")
	f.Fuzz(func(t *testing.T, tcURL, app, name string) {
		r, err := ParseRequest(tcURL, app, name)
		require.Equal(t, tcURL, r.TcURL)
		if err != nil {
			require.ErrorIs(t, err, ErrName)
			require.Less(t, len(err.Error()), 100)
			// The words of our errors are not secret; a longer name is.
			if len(name) > 20 {
				require.NotContains(t, err.Error(), name)
			}
			return
		}
		require.NoError(t, CheckName(r.App))
		require.NoError(t, CheckName(r.Stream))
		if r.Vhost != "" {
			require.NoError(t, CheckVhost(r.Vhost))
		}
		require.LessOrEqual(t, len(r.Param), MaxURL+1)
		if r.Param != "" {
			require.Equal(t, byte('?'), r.Param[0])
		}
		require.True(t, utf8.ValidString(r.App+r.Stream+r.Vhost))
		require.NotContains(t, r.Stream, "?")
		require.NotContains(t, r.App, "?")

		// Parsing the result again gives the same result. Of several _definst_,
		// each time removes one.
		again, err := ParseRequest("", r.App, r.Stream)
		require.NoError(t, err)
		require.Equal(t, strings.TrimSuffix(r.App, "/_definst_"), again.App)
		require.Equal(t, r.Stream, again.Stream)
	})
}
