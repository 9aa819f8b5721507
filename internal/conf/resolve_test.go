package conf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// environ returns an Environment of pairs NAME=VALUE.
func environ(pairs ...string) Environment {
	return Environment{LookupEnv: func(name string) (string, bool) {
		for _, p := range pairs {
			if n, v, _ := strings.Cut(p, "="); n == name {
				return v, true
			}
		}
		return "", false
	}}
}

// files writes files, by name, into a new directory, and returns its path.
func files(t *testing.T, texts map[string]string) string {
	dir := t.TempDir()
	for name, text := range texts {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return dir
}

// load loads and checks srs.conf in a directory. In the error, "DIR" stands for the
// directory.
func load(t *testing.T, dir string, env Environment) (*File, []Note, error) {
	t.Helper()
	src, err := ReadFile(filepath.Join(dir, "srs.conf"))
	require.NoError(t, err)
	f, notes, err := Load(filepath.Join(dir, "srs.conf"), src, env)
	if err == nil {
		_, err = Check(f)
	}
	return f, notes, err
}

// words returns a tree as text without positions.
func words(block []*Directive) string { return strings.Join(strings.Fields(format(block)), " ") }

func parsed(t *testing.T, src string) string {
	f, err := Parse("x", []byte(src))
	require.NoError(t, err)
	return words(f.Root)
}

func TestLoadIncludes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"at the top", map[string]string{"srs.conf": "include a.conf; pid x;", "a.conf": "listen 1;\nvhost v { }"},
			"listen 1; vhost v { } pid x;"},
		{"several, in their order", map[string]string{"srs.conf": "include b.conf a.conf;", "a.conf": "listen 1;", "b.conf": "listen 2;"}, "listen 2; listen 1;"},
		{"in blocks", map[string]string{
			"srs.conf": "vhost v { include f; forward { enabled on; include d; } http_hooks { include h; } }",
			"f":        "play { gop_cache off; }", "d": "destination a;", "h": "enabled on; on_play http://h/;",
		}, "vhost v { play { gop_cache off; } forward { enabled on; destination a; } http_hooks { enabled on; on_play http://h/; } }"},
		{"from the directory of the file", map[string]string{
			"srs.conf": "include vhosts/all.conf;", "vhosts/all.conf": "include one.conf ../two.conf;",
			"vhosts/one.conf": "vhost one { }", "two.conf": "vhost two { }",
		}, "vhost one { } vhost two { }"},
		{"the same file twice", map[string]string{
			"srs.conf": "vhost a { include x; } vhost b { include x; }", "x": "play { gop_cache off; }",
		}, "vhost a { play { gop_cache off; } } vhost b { play { gop_cache off; } }"},
		{"an empty file", map[string]string{"srs.conf": "include a; listen 1;", "a": ""}, "listen 1;"},
		{"a byte order mark", map[string]string{"srs.conf": "include a;", "a": "\ufefflisten 1;"}, "listen 1;"},
		{"not in what is ignored", map[string]string{"srs.conf": "http_server { include none; x ${NONE}; } vhost v { hls { include none; } } listen 1;"},
			"http_server { include none; x ${NONE}; } vhost v { hls { include none; } } listen 1;"},
		{"by a variable", map[string]string{"srs.conf": "include ${WHICH}.conf;", "a.conf": "listen 1;"}, "listen 1;"},
		{"the options of a destination", map[string]string{"srs.conf": "vhost v { forward { destination a { include o; } } }", "o": "chunk_size 128;"},
			"vhost v { forward { destination a { chunk_size 128; } } }"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, _, err := load(t, files(t, tt.files), environ("WHICH=a"))
			require.NoError(t, err)
			require.Equal(t, parsed(t, tt.want), words(f.Root))
		})
	}
}

func TestLoadIncludeErrors(t *testing.T) {
	deep := map[string]string{"srs.conf": "include 1;"}
	for i := '1'; i <= '9'; i++ {
		deep[string(i)] = "\ninclude " + string(i+1) + ";"
	}
	big := map[string]string{"srs.conf": "include a a a a a;", "a": strings.Repeat("#", MaxFileSize/4)}
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no file", map[string]string{"srs.conf": "listen 1;\ninclude a.conf;"}, `DIR/srs.conf:2:9: found "a.conf", expected a file that can be read (no such file or directory)`},
		{"a directory", map[string]string{"srs.conf": "include a;", "a/b": ""}, `DIR/srs.conf:1:9: found "a", expected a regular file`},
		{"itself", map[string]string{"srs.conf": "include srs.conf;"}, `DIR/srs.conf:1:9: found "srs.conf", expected a file that it is not within`},
		{"in a circle", map[string]string{"srs.conf": "include a;", "a": "include d/../b;", "b": "include ./a;", "d/x": ""}, `DIR/b:1:9: found "./a", expected a file that it is not within`},
		{"too deep", deep, `DIR/8:2:9: found include, expected at most 8 files within one another`},
		{"too much", big, `DIR/srs.conf:1:15: found "a", expected at most `},
		{"no path", map[string]string{"srs.conf": "include;"}, `DIR/srs.conf:1:8: found ";", expected a path`},
		{"a block", map[string]string{"srs.conf": "include a { }"}, `DIR/srs.conf:1:11: found "{", expected ";"`},
		{"a fault in it", map[string]string{"srs.conf": "include a;", "a": "\nlisten x;"}, `DIR/a:2:8: found "x", expected a port`},
		{"no syntax", map[string]string{"srs.conf": "include a;", "a": "listen 1"}, `DIR/a:1:9: found end of file, expected ";" or "{"`},
		{"out of place", map[string]string{"srs.conf": "vhost v { include a; }", "a": "listen 1;"}, `DIR/a:1:1: found "listen", expected a directive of vhost`},
		{"a second one", map[string]string{"srs.conf": "pid x; include a;", "a": "pid y;"}, `DIR/a:1:1: found a second "pid", expected only the one at DIR/srs.conf:1:1`},
		{"half a block", map[string]string{"srs.conf": "vhost v { include a;", "a": "}"}, `DIR/srs.conf:1:21: found end of file`},
		{"by a variable", map[string]string{"srs.conf": "include ${WHICH};"}, `DIR/srs.conf:1:9: found what ${WHICH} stands for, expected a file that can be read (no such file or directory)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := files(t, tt.files)
			_, _, err := load(t, dir, environ("WHICH=s3cret"))
			require.Error(t, err)
			require.IsType(t, &Error{}, err)
			require.Contains(t, strings.ReplaceAll(err.Error(), dir, "DIR"), tt.want)
			require.NotContains(t, err.Error(), "s3cret")
		})
	}
}

func TestLoadVariables(t *testing.T) {
	env := environ("PORT=1936", "HOST=10.0.0.6", "KEY=a b;{}#\"'\\${PORT}", "EMPTY=", "_x1=y", "TWO=a b", "LATIN1=\xfc", "LINES=a\n")
	for _, tt := range []struct{ src, want string }{
		{"listen ${PORT};", "listen 1936;"},
		{"listen ${HOST}:${PORT};", "listen 10.0.0.6:1936;"},
		{`pid "./${_x1}.pid";`, "pid ./y.pid;"},
		{"pid $${PORT};", `pid "${PORT}";`},
		{"pid $$${PORT};", `pid "$${PORT}";`},
		{`pid "$${${PORT}";`, `pid "${1936";`},
		{"pid a${EMPTY}b;", "pid ab;"},
		{"pid $x;", "pid $x;"},
		{"pid x$;", "pid x$;"},
		{"vhost ${_x1} { }", "vhost y { }"},
		// A variable's value stays one word, whatever it contains, and is not expanded again.
		{"vhost v { forward { destination h { stream_key ${KEY}; } } }", `vhost v { forward { destination h { stream_key "a b;{}#\"'\\${PORT}"; } } }`},
		{"pid ${TWO};", `pid "a b";`},
	} {
		f, _, err := load(t, files(t, map[string]string{"srs.conf": tt.src}), env)
		require.NoError(t, err, tt.src)
		require.Equal(t, parsed(t, tt.want), words(f.Root), tt.src)
	}
	for _, tt := range []struct{ src, want string }{
		{"listen ${NONE};", "1:8: found ${NONE}, which is not set, expected a variable of the environment"},
		{"listen 1;\nvhost v { forward { backend http://h/${NONE}; } }", "2:29: found ${NONE}, which is not set"},
		{"pid ${};", `1:5: found "${", expected ${NAME}, or $${ for ${ itself`},
		{`pid "${a b}";`, `1:5: found "${", expected`},
		{"pid a${x", `found end of file`},
		{"listen ${PORT:-1};", `1:8: found "${", expected ${NAME}, or $${ for ${ itself`},
		{"pid ${a-b}.${PORT};", `1:5: found "${", expected`},
		{"vhost v { forward { destination h { stream_key ${LATIN1}; } } }", "1:48: found what ${LATIN1} stands for, expected UTF-8 text"},
		{"publish_auth { user a ${LINES}; }", "1:23: found what ${LINES} stands for, expected a password of 1 to 4096 bytes without control characters"},
		{"pid a${x y};", `1:11: found "}", expected ";" or "{"`},
		{`pid "a${x";`, `1:5: found "${"`},
		{"listen ${HOST};", "1:8: found what ${HOST} stands for, expected a port, host:port or [ipv6]:port"},
		{"listen 1 ${HOST};", `1:10: found what ${HOST} stands for, expected ";" or a port`},
		{"listen ${EMPTY};", "1:8: found what ${EMPTY} stands for, expected a port"},
		{"max_connections ${HOST}${KEY};", "1:17: found what ${HOST} and ${KEY} stands for, expected a number"},
		{"vhost a { } vhost ${_x1} { } vhost ${_x1} { }", "1:30: found a second vhost of that name: what ${_x1} stands for"},
		{"pid x ${HOST};", `1:7: found what ${HOST} stands for, expected ";"`},
	} {
		_, _, err := load(t, files(t, map[string]string{"srs.conf": tt.src}), env)
		require.ErrorContains(t, err, tt.want, tt.src)
		for _, value := range []string{"10.0.0.6", "a b", "1936"} {
			require.NotContains(t, err.Error(), value)
		}
	}
}

func TestLoadNotesWhatLooksLikeAVariable(t *testing.T) {
	for src, want := range map[string]int{
		"vhost v { forward { destination h { stream_key $KEY; } } }":          1,
		"vhost v { forward { destination h { stream_key $key; } } }":          1,
		"vhost v { forward { destination h { stream_key pre-$KEY-post; } } }": 1,
		"vhost v { forward { destination $HOST:1935 b$; } }":                  1,
		"vhost v { forward { destination h { stream_key a$b; } } }":           0,
		"vhost v { forward { destination h { stream_key a$1$; } } }":          0,
		"vhost v { forward { destination h { stream_key ${KEY}; } } }":        0,
		"vhost v { forward { destination h { stream_key $${KEY}; } } }":       0,
		"rtc_server { candidate $CANDIDATE; }":                                0,
	} {
		_, notes, err := Load("srs.conf", []byte(src), environ("KEY=$SECRET"))
		require.NoError(t, err, src)
		require.Len(t, notes, want, src)
		for _, n := range notes {
			require.Contains(t, n.Text, "${NAME}")
			require.Equal(t, strings.Index(src, "$")+1, n.Pos.Column+strings.Index(src[n.Pos.Column-1:], "$"))
		}
	}
}

func TestLoadSecretFiles(t *testing.T) {
	dir := files(t, map[string]string{
		"key": "k;{}$KEY ${NONE}\n", "crlf": "\ufeffk\r\n", "pw": "p w", "url": "rtmp://u:p@h/a/k\n", "hook": "http://u:p@h/x?token=t", "two": "a\nb\n", "empty": "\n", "utf16": "\xff\xfek\x00", "latin1": "k\xfc\n",
	})
	write := func(src string) { require.NoError(t, os.WriteFile(filepath.Join(dir, "srs.conf"), []byte(src), 0o600)) }
	for _, tt := range []struct{ src, want string }{
		{"vhost v { forward { destination h { stream_key_file key; } } }", `vhost v { forward { destination h { stream_key "k;{}$KEY ${NONE}"; } } }`},
		{"vhost v { forward { destination h { stream_key_file crlf; user_file jo pw; tc_url_file url; } } }",
			`vhost v { forward { destination h { stream_key k; user jo "p w"; tc_url rtmp://u:p@h/a/k; } } }`},
		{"publish_auth { enabled on; user_file jo pw; user_file al pw; }", `publish_auth { enabled on; user jo "p w"; user al "p w"; }`},
		{"vhost v { forward { destination_file url { chunk_size 128; } destination a; backend_file hook; } }",
			"vhost v { forward { destination rtmp://u:p@h/a/k { chunk_size 128; } destination a; backend http://u:p@h/x?token=t; } }"},
		{"vhost v { http_hooks { on_publish_file hook; } }", "vhost v { http_hooks { on_publish http://u:p@h/x?token=t; } }"},
		{"vhost v { forward { destination h { stream_key_file ${WHICH}; } } }", `vhost v { forward { destination h { stream_key k; } } }`},
		{"vhost v { forward { destination h { stream_key_file " + dir + "/crlf; } } }", `vhost v { forward { destination h { stream_key k; } } }`},
	} {
		write(tt.src)
		f, _, err := load(t, dir, environ("WHICH=crlf"))
		require.NoError(t, err, tt.src)
		require.Equal(t, parsed(t, tt.want), words(f.Root), tt.src)
	}
	for _, tt := range []struct{ src, want string }{
		{"vhost v { forward { destination h { stream_key_file none; } } }", `1:53: found "none", expected a file that can be read (no such file or directory)`},
		{"vhost v { forward { destination h { stream_key_file two; } } }", `1:53: found the text of "two", expected a stream key`},
		{"vhost v { forward { destination h { stream_key_file empty; } } }", `1:53: found the text of "empty", expected a stream key`},
		{"vhost v { forward { destination h { stream_key_file latin1; } } }", `1:53: found the text of "latin1", expected UTF-8 text`},
		{"publish_auth { user_file jo utf16; }", `1:29: found the text of "utf16", expected UTF-8 text`},
		{"publish_auth { user_file jo two; }", `1:29: found the text of "two", expected a password`},
		{"vhost v { forward { destination h { stream_key_file; } } }", `1:52: found ";", expected a path`},
		{"vhost v { forward { destination h { stream_key_file key key; } } }", `1:57: found a value more, expected ";"`},
		{"vhost v { forward { destination h { stream_key k; stream_key_file key; } } }", `1:51: found a second "stream_key", expected only the one`},
		{"publish_auth { user_file pw; }", `1:28: found ";", expected a path`},
		{"publish_auth { user_file; }", `1:25: found ";", expected a user's name`},
		{"pid_file x;", `1:1: found "pid_file", expected a directive of the top level`},
		{"vhost v { forward { backend_file key; } }", `1:34: found the text of "key", expected an http`},
		{"vhost v { forward { destination h { stream_key_file .; } } }", `found ".", expected a regular file`},
	} {
		write(tt.src)
		_, _, err := load(t, dir, environ("WHICH=crlf"))
		require.ErrorContains(t, err, tt.want, tt.src)
		require.NotContains(t, err.Error(), "k;{}")
	}
}

func TestLoadOldSpellings(t *testing.T) {
	for _, tt := range []struct {
		src, want string
		notes     []string
	}{
		{"vhost v { forward 127.0.0.1:1936; }", "vhost v { forward { enabled on; destination 127.0.0.1:1936; } }", []string{"1:11"}},
		{"vhost v {\n forward a b:1 rtmp://c/d; }", "vhost v { forward { enabled on; destination a b:1 rtmp://c/d; } }", []string{"2:2"}},
		{"vhost v { gop_cache off; queue_length 3; mw_latency 9; }", "vhost v { play { gop_cache off; queue_length 3; mw_latency 9; } }", []string{"1:11", "1:26", "1:42"}},
		{"vhost v { gop_cache off; play { mw_latency 9; } queue_length 3; }", "vhost v { play { mw_latency 9; gop_cache off; queue_length 3; } }", []string{"1:11", "1:49"}},
		{"vhost v { publish_1stpkt_timeout 1; publish_normal_timeout 2; }", "vhost v { publish { firstpkt_timeout 1; normal_timeout 2; } }", []string{"1:11", "1:37"}},
		{"vhost v { forward ${TO}; }", "vhost v { forward { enabled on; destination h; } }", []string{"1:11"}},
	} {
		f, notes, err := load(t, files(t, map[string]string{"srs.conf": tt.src}), environ("TO=h"))
		require.NoError(t, err, tt.src)
		require.Equal(t, parsed(t, tt.want), words(f.Root), tt.src)
		var at []string
		for _, n := range notes {
			at = append(at, strings.TrimPrefix(n.Pos.String(), n.Pos.File+":"))
			require.Contains(t, n.Text, "of SRS 2")
		}
		require.Equal(t, tt.notes, at, tt.src)
	}
	for _, tt := range []struct{ src, want string }{
		{"vhost v { forward; }", `1:18: found ";", expected "{"`},
		{"vhost v { forward a { } }", `1:19: found "a", expected "{"`},
		{"vhost v { forward a/b; }", "1:19: found value 1 of destination, expected host"},
		{"vhost v { forward a; forward { } }", `1:22: found a second "forward"`},
		{"vhost v { gop_cache x; }", `1:21: found "x", expected "on" or "off"`},
		{"vhost v { gop_cache on; play { gop_cache on; } }", `found a second "gop_cache"`},
		{"forward a;", `1:1: found "forward", expected a directive of the top level`},
	} {
		_, _, err := load(t, files(t, map[string]string{"srs.conf": tt.src}), environ())
		require.ErrorContains(t, err, tt.want, tt.src)
	}
}

// SRS's own variables override the file.
func TestLoadSRSVariables(t *testing.T) {
	for _, tt := range []struct {
		env       []string
		src, want string
	}{
		{[]string{"SRS_LISTEN=1936"}, "listen 1935 1; pid x;", "pid x; listen 1936;"},
		{[]string{"SRS_LISTEN=1936 [::]:1"}, "", "listen 1936 [::]:1;"},
		{[]string{"SRS_RTMP_LISTEN=1936"}, "rtmp { listen 1935; chunk_size 128; }", "rtmp { chunk_size 128; } listen 1936;"},
		{[]string{"SRS_LISTEN=1", "SRS_RTMP_LISTEN=2"}, "listen 3;", "listen 2;"},
		{[]string{"SRS_LISTEN="}, "listen 1935;", "listen 1935;"},
		{[]string{"SRS_MAX_CONNECTIONS=7", "SRS_PID=/run/x"}, "max_connections 9;", "max_connections 7; pid /run/x;"},
		{[]string{"SRS_RTMP_CHUNK_SIZE=4096"}, "chunk_size 128; vhost v { chunk_size 256; }", "vhost v { chunk_size 256; } chunk_size 4096;"},
		{[]string{"SRS_VHOST_CHUNK_SIZE=4096"}, "chunk_size 128; vhost v { chunk_size 256; } vhost w { }", "vhost v { chunk_size 4096; } vhost w { chunk_size 4096; } chunk_size 4096;"},
		{[]string{"SRS_RTMPS_ENABLED=on", "SRS_RTMPS_LISTEN=1443", "SRS_RTMPS_KEY=k", "SRS_RTMPS_CERT=c"}, "rtmps { listen 1; }",
			"rtmps { enabled on; listen 1443; key k; cert c; }"},
		{[]string{"SRS_VHOST_PLAY_GOP_CACHE=off"}, "vhost a { play { gop_cache on; mw_latency 9; } } vhost b { }",
			"vhost a { play { mw_latency 9; gop_cache off; } } vhost b { play { gop_cache off; } }"},
		{[]string{"SRS_VHOST_PLAY_GOP_CACHE=off", "SRS_VHOST_PLAY_QUEUE_LENGTH=3", "SRS_VHOST_PLAY_MW_LATENCY=9", "SRS_VHOST_TCP_NODELAY=on"}, "vhost v { gop_cache on; }",
			"vhost v { play { gop_cache off; queue_length 3; mw_latency 9; } tcp_nodelay on; }"},
		{[]string{"SRS_VHOST_PUBLISH_FIRSTPKT_TIMEOUT=1", "SRS_VHOST_PUBLISH_NORMAL_TIMEOUT=2"}, "", "vhost __defaultVhost__ { publish { firstpkt_timeout 1; normal_timeout 2; } }"},
		{[]string{"SRS_VHOST_HTTP_HOOKS_ENABLED=on", "SRS_VHOST_HTTP_HOOKS_ON_PUBLISH=http://a/ http://b/"}, "vhost v { http_hooks { on_publish http://c/; on_publish http://d/; } }",
			"vhost v { http_hooks { enabled on; on_publish http://a/ http://b/; } }"},
		{[]string{"SRS_VHOST_FORWARD_ENABLED=on", "SRS_VHOST_FORWARD_DESTINATION=a b:1"}, "vhost v { }", "vhost v { forward { enabled on; destination a b:1; } }"},
		{[]string{"SRS_VHOST_FORWARD_BACKEND=http://a/"}, "vhost v { forward { enabled on; backend http://b/; } }", "vhost v { forward { enabled on; backend http://a/; } }"},
		// Variables of directives that are not supported, or that do not exist.
		{[]string{"SRS_VHOST_HLS_ENABLED=on", "SRS_SERVICE_HOST=x", "SRS_HTTP_API_LISTEN=1"}, "listen 1;", "listen 1;"},
	} {
		f, _, err := load(t, files(t, map[string]string{"srs.conf": tt.src}), environ(tt.env...))
		require.NoError(t, err, tt.env)
		// The order of directives in a block does not count.
		require.ElementsMatch(t, strings.Fields(parsed(t, tt.want)), strings.Fields(words(f.Root)), "%s\n%s", tt.env, words(f.Root))
	}
	for _, tt := range []struct{ env, want string }{
		{"SRS_LISTEN=s3cret", "environment: found the value of SRS_LISTEN, expected a port"},
		{"SRS_MAX_CONNECTIONS=s3cret", "environment: found the value of SRS_MAX_CONNECTIONS, expected a number"},
		{"SRS_VHOST_PLAY_GOP_CACHE=s3cret", `environment: found the value of SRS_VHOST_PLAY_GOP_CACHE, expected "on" or "off"`},
		{"SRS_VHOST_HTTP_HOOKS_ON_PLAY=http://a/ ftp://s3cret/", "environment: found the value of SRS_VHOST_HTTP_HOOKS_ON_PLAY"},
		{"SRS_LISTEN=  ", "environment: found \";\", expected a port"},
	} {
		_, _, err := load(t, files(t, map[string]string{"srs.conf": "vhost v { }"}), environ(tt.env))
		require.ErrorContains(t, err, tt.want)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

// Each of SRS's variables belongs to a supported directive.
func TestVariablesAreOfDirectives(t *testing.T) {
	for _, v := range variables {
		in := topLevel
		if v.vhost {
			in = vhost
		}
		if v.block != "" {
			in = in.done[v.block].block
		}
		_, ok := in.done[v.directive]
		require.True(t, ok, v.name)
	}
}

// Comments may be in any encoding.
func TestLoadCommentsInAnyEncoding(t *testing.T) {
	for name, comment := range map[string]string{
		"GBK": "\xd7\xaa\xb7\xa2\xb5\xbd\xc1\xbd\xb8\xf6\xb7\xfe\xce\xf1\xc6\xf7\xa3\xbb", "Latin-1": "f\xfcr \xdcbertragung", "Shift JIS": "\x93]\x91\x97\x5c", "bytes": "\x80\xff\xfe\x00",
	} {
		src := "# " + comment + "\nlisten 1935; # " + comment + "\nvhost v { # " + comment + "\n\tplay { gop_cache off; }#" + comment + "\n}\n#" + comment
		f, err := Parse("srs.conf", []byte(src))
		require.NoError(t, err, name)
		require.Equal(t, parsed(t, "listen 1935; vhost v { play { gop_cache off; } }"), words(f.Root))
		require.Equal(t, "srs.conf:4:2", f.Root[1].Block[0].Pos.String())
		for _, bad := range []string{"pid " + comment + ";", "pid '" + strings.ReplaceAll(comment, `\`, "") + "';"} {
			_, err = Parse("srs.conf", []byte(bad))
			require.ErrorContains(t, err, "expected UTF-8 text", name)
		}
	}
}

// FuzzLoad checks that a file can't read more than it may refer to, and that no error shows
// the value of a variable or the text of a file.
func FuzzLoad(f *testing.F) {
	for _, src := range samples(f) {
		f.Add(src)
	}
	f.Add([]byte("include a; include srs.conf; vhost v { forward ${X}; gop_cache off; include a; forward { destination ${X} { stream_key_file a; user_file x a; } } }"))
	f.Fuzz(func(t *testing.T, src []byte) {
		if strings.Contains(string(src), "s3cret") || strings.Contains(string(src), "/") {
			return
		}
		dir := files(t, map[string]string{"a": "s3cret", "srs.conf": string(src)})
		_, notes, err := load(t, dir, environ("X=s3cret", "SRS_LISTEN=s3cret", "SRS_VHOST_PLAY_MW_LATENCY=s3cret"))
		if err != nil {
			require.IsType(t, &Error{}, err)
			if !strings.Contains(string(src), "include") { // errors show words of an included file
				require.NotContains(t, err.Error(), "s3cret")
			}
		}
		for _, n := range notes {
			require.NotContains(t, n.Text, "s3cret")
		}
	})
}
