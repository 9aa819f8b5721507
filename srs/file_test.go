package srs

import (
	"cmp"
	"fmt"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/option"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/resolve"
)

// destinationsOf are where live/s goes that publishes with parameters to a
// vhost, by what stands in its forward block.
func destinationsOf(t *testing.T, block string) []forward.Destination {
	t.Helper()
	f, err := ParseConfig("x.conf", []byte("vhost v { forward { enabled on;\n"+block+" } }"))
	require.NoError(t, err)
	return resolved(t, f.Config.Vhosts["v"].Resolver)
}

func resolved(t *testing.T, r forward.DestinationResolver) []forward.Destination {
	t.Helper()
	ds, err := r.ResolveDestinations(t.Context(), &forward.Request{Vhost: "v", App: "live", Stream: "s", Param: "?t=1"})
	require.NoError(t, err)
	return ds
}

// fields are those that are set: of a Destination require shows the URL only.
func fields(ds ...forward.Destination) (out []string) {
	type options forward.Destination
	for _, d := range ds {
		v := reflect.ValueOf(options(d))
		var set []string
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() {
				set = append(set, fmt.Sprintf("%s=%s", v.Type().Field(i).Name, valueOf(f)))
			}
		}
		out = append(out, strings.Join(set, " "))
	}
	return out
}

func valueOf(v reflect.Value) string {
	if v.Kind() == reflect.String {
		return strconv.Quote(v.String())
	}
	return fmt.Sprint(v)
}

func TestFileTakesAllOptionsOfADestination(t *testing.T) {
	const pin = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF"
	got := destinationsOf(t, `destination rtmps://h/app {
		profile srs; stream_key k; user u p; tc_url rtmp://t/app; flash_ver "X 1"; chunk_size 4096;
		server_name n; fingerprint `+pin+`; no_release_stream on; no_fc_publish on; plain_metadata on;
		no_metadata on; digest_handshake on; redirect anywhere; timestamps zero; merge_window_ms 350; dial_timeout_ms 3000;
		setup_timeout_ms 30000; publish_timeout_ms 60000; }`)
	require.Equal(t, fields(forward.Destination{
		URL: "rtmps://h/app", Profile: forward.ProfileSRS, StreamKey: "k", User: "u", Password: "p", TcURL: "rtmp://t/app",
		FlashVer: "X 1", ChunkSize: 4096, ServerName: "n", Fingerprint: pin, NoReleaseStream: true,
		NoFCPublish: true, PlainMetadata: true, NoMetadata: true, DigestHandshake: true, Redirect: forward.RedirectAnywhere,
		Timestamps: forward.TimestampsZero, MergeWindow: 350 * time.Millisecond, DialTimeout: 3 * time.Second, SetupTimeout: 30 * time.Second, PublishTimeout: time.Minute,
	}), fields(got...))
	v := reflect.ValueOf(got[0])
	for i := range v.NumField() {
		switch name := v.Type().Field(i).Name; name {
		case "DialContext", "TLSConfig": // what text cannot say
		case "Untrusted", "NoLinkLocal": // the file is the host's own
			require.True(t, v.Field(i).IsZero())
		default:
			require.False(t, v.Field(i).IsZero(), name)
		}
	}

	// Each word that is known elsewhere.
	for _, name := range endpoint.ProfileNames() {
		d := destinationsOf(t, "destination rtmp://h/app { stream_key k; profile "+name+"; }")[0]
		require.Equal(t, forward.Profile(name), d.Profile)
	}
	for word, want := range map[string]forward.Redirect{"same_host": forward.RedirectSameHost, "never": forward.RedirectNever, "anywhere": forward.RedirectAnywhere} {
		require.Equal(t, want, destinationsOf(t, "destination h { redirect "+word+"; }")[0].Redirect, word)
	}
	// Switches that are off and a window of none.
	require.Equal(t, fields(forward.Destination{URL: "rtmp://h/a", StreamKey: "k", MergeWindow: -1}), fields(destinationsOf(t,
		`destination rtmp://h/a/k { no_release_stream off; no_fc_publish off; plain_metadata off; no_metadata off;
		digest_handshake off; merge_window_ms 0; redirect same_host; }`)...))
}

// Limits that the file's checker has are those of Validate.
func TestFileLimitsOfOptionsAreThoseOfADestination(t *testing.T) {
	text := func(n int) string { return strings.Repeat("x", n) }
	for _, row := range []struct {
		option   string
		in, out  string
		of       func(value string) forward.Destination
		nonsense string // refused too, unless empty
	}{
		{"stream_key", text(4096), text(4097), func(s string) forward.Destination { return forward.Destination{StreamKey: forward.Secret(s)} }, "a\x7f"},
		{"user jo", text(4096), text(4097), func(s string) forward.Destination {
			return forward.Destination{User: "jo", Password: forward.Secret(s)}
		}, "a\t"},
		{"tc_url", text(4096), text(4097), func(s string) forward.Destination { return forward.Destination{TcURL: s} }, "a\u0085"},
		{"flash_ver", text(255), text(256), func(s string) forward.Destination { return forward.Destination{FlashVer: s} }, "\x01"},
		{"server_name", text(4096), text(4097), func(s string) forward.Destination { return forward.Destination{ServerName: s} }, "\x1b["},
		{"fingerprint", strings.Repeat("aB:", 32), strings.Repeat("ab:", 31), func(s string) forward.Destination { return forward.Destination{Fingerprint: s} }, text(64)},
		{"chunk_size", "128", "127", func(s string) forward.Destination { return forward.Destination{ChunkSize: must(strconv.Atoi(s))} }, ""},
		{"chunk_size", "65536", "65537", func(s string) forward.Destination { return forward.Destination{ChunkSize: must(strconv.Atoi(s))} }, ""},
		{"merge_window_ms", "10000", "10001", func(s string) forward.Destination {
			return forward.Destination{MergeWindow: time.Duration(must(strconv.Atoi(s))) * time.Millisecond}
		}, ""},
		{"profile", "akamai", "akamaii", func(s string) forward.Destination { return forward.Destination{Profile: forward.Profile(s)} }, ""},
	} {
		values := []string{row.in, row.out}
		if row.nonsense != "" {
			values = append(values, row.nonsense)
		}
		for i, value := range values {
			d := row.of(value)
			d.URL = "rtmp://h/a"
			d.StreamKey = cmp.Or(d.StreamKey, "k")
			require.Equal(t, i == 0, d.Validate() == nil, "%s %q", row.option, value)
			_, err := ParseConfig("x.conf", []byte("vhost v { forward { destination rtmp://h/a/k {\n"+row.option+` "`+value+`"; } } }`))
			require.Equal(t, i == 0, err == nil, "%s %q: %v", row.option, value, err)
			if err != nil {
				require.Contains(t, err.Error(), "x.conf:2:", "the option's place")
			}
		}
	}
}

func TestFileDestinations(t *testing.T) {
	for _, row := range []struct {
		block string
		want  []forward.Destination
	}{
		{"destination a b:1;", []forward.Destination{
			{URL: "rtmp://a/live?vhost=v", StreamKey: "s?t=1"}, {URL: "rtmp://b:1/live?vhost=v", StreamKey: "s?t=1"}}},
		// Both forms keep their order.
		{"destination a b; destination c { chunk_size 128; } destination d; destination e { } destination f g;", []forward.Destination{
			{URL: "rtmp://a/live?vhost=v", StreamKey: "s?t=1"}, {URL: "rtmp://b/live?vhost=v", StreamKey: "s?t=1"},
			{URL: "rtmp://c/live?vhost=v", StreamKey: "s?t=1", ChunkSize: 128}, {URL: "rtmp://d/live?vhost=v", StreamKey: "s?t=1"},
			{URL: "rtmp://e/live?vhost=v", StreamKey: "s?t=1"},
			{URL: "rtmp://f/live?vhost=v", StreamKey: "s?t=1"}, {URL: "rtmp://g/live?vhost=v", StreamKey: "s?t=1"}}},
		// The URL has the forms of the list's.
		{"destination [::1]:1936 { no_metadata on; }", []forward.Destination{{URL: "rtmp://[::1]:1936/live?vhost=v", StreamKey: "s?t=1", NoMetadata: true}}},
		{"destination rtmp://h/x { no_metadata on; }", []forward.Destination{{URL: "rtmp://h/x", StreamKey: "s", NoMetadata: true}}},
		{"destination rtmp://h/x/ { no_metadata on; }", []forward.Destination{{URL: "rtmp://h/x", StreamKey: "s", NoMetadata: true}}},
		{"destination rtmp://h/x-[app]?v=[vhost]/[stream][param] { no_metadata on; }", []forward.Destination{{URL: "rtmp://h/x-live?v=v", StreamKey: "s?t=1", NoMetadata: true}}},
		// A stream key stands for itself, the path is the app.
		{"destination rtmp://h/x { stream_key k; }", []forward.Destination{{URL: "rtmp://h/x", StreamKey: "k"}}},
		{"destination rtmp://h/x/y/ { stream_key k; }", []forward.Destination{{URL: "rtmp://h/x/y", StreamKey: "k"}}},
		{"destination rtmp://h/x/[app]?v=[vhost]/w { stream_key k; }", []forward.Destination{{URL: "rtmp://h/x/live?v=v/w", StreamKey: "k"}}},
		{`destination rtmp://h/x { stream_key "a/[stream]?[nothing]#"; }`, []forward.Destination{{URL: "rtmp://h/x", StreamKey: "a/[stream]?[nothing]#"}}},
		{"destination h:1936 { stream_key k; }", []forward.Destination{{URL: "rtmp://h:1936/live?vhost=v", StreamKey: "k"}}},
		{"destination rtmps://h/ { stream_key k; }", []forward.Destination{{URL: "rtmps://h/live?vhost=v", StreamKey: "k"}}},
		// Nor do other options have placeholders.
		{"destination rtmp://h/x { tc_url rtmp://h/[app]; flash_ver [nothing]; user [stream] [app]; }",
			[]forward.Destination{{URL: "rtmp://h/x", StreamKey: "s", TcURL: "rtmp://h/[app]", FlashVer: "[nothing]", User: "[stream]", Password: "[app]"}}},
		// What a platform's page shows.
		{"destination rtmps://a.rtmps.youtube.com/live2 { stream_key k; }", []forward.Destination{{URL: "rtmps://a.rtmps.youtube.com/live2", StreamKey: "k"}}},
		{"destination rtmps://b.rtmps.youtube.com/live2?backup=1 { stream_key k; }", []forward.Destination{{URL: "rtmps://b.rtmps.youtube.com/live2?backup=1", StreamKey: "k"}}},
		{"destination a.rtmps.youtube.com { stream_key k; }", []forward.Destination{{URL: "rtmps://a.rtmps.youtube.com/live2", StreamKey: "k"}}},
		{"destination x.live-video.net:443 { stream_key k; }", []forward.Destination{{URL: "rtmps://x.live-video.net:443/app", StreamKey: "k"}}},
		{"destination own.example { stream_key k; profile twitch; }", []forward.Destination{{URL: "rtmp://own.example/app", StreamKey: "k", Profile: forward.ProfileTwitch}}},
		{"destination rtmp://own.example/k { profile twitch; }", []forward.Destination{{URL: "rtmp://own.example/app", StreamKey: "k", Profile: forward.ProfileTwitch}}},
		{"destination rtmp://x.live-video.net/y/k { profile none; }", []forward.Destination{{URL: "rtmp://x.live-video.net/y", StreamKey: "k", Profile: forward.ProfileNone}}},
		// The user of a block comes before that of the URL.
		{`destination rtmp://jo:x@h/a/k { user al ""; }`, []forward.Destination{{URL: "rtmp://jo:x@h/a", StreamKey: "k", User: "al"}}},
	} {
		require.Equal(t, fields(row.want...), fields(destinationsOf(t, row.block)...), row.block)
	}
	require.Empty(t, resolved(t, forward.MustStatic()))
}

// With a backend the destinations are not used, but must be right all the same.
func TestFileWithBackendAndOptions(t *testing.T) {
	const block = "vhost v { forward { enabled on; destination a { chunk_size %s; } backend http://b/; } }"
	f, err := ParseConfig("x.conf", fmt.Appendf(nil, block, "128"))
	require.NoError(t, err)
	require.IsType(t, &resolve.HTTP{}, f.Config.Vhosts["v"].Resolver)
	_, err = ParseConfig("x.conf", fmt.Appendf(nil, block, "1"))
	require.EqualError(t, err, `x.conf:1:60: found "1", expected a chunk size in bytes from 128 to 65536`)

	f, err = ParseConfig("x.conf", []byte("vhost v { forward { destination a { chunk_size 128; } } }"))
	require.NoError(t, err)
	require.Equal(t, forward.MustStatic(), f.Config.Vhosts["v"].Resolver, "not enabled")
}

// What each value holds alone the checker says (internal/conf); this is what
// they are together.
func TestFileDestinationErrors(t *testing.T) {
	for _, row := range []struct{ block, want string }{
		{"destination rtmp://h/?x=1 { stream_key " + canary + "; }", "2:13: destination rtmp://h/***: no app in the path"},
		{"destination rtmp://h/[key] { stream_key " + canary + "; }", "2:13: rtmp://h/[key]/***: unknown placeholder: expected one of [vhost] [app] [stream] [param]"},
		{"destination rtmp://x-[vhost]/a { stream_key " + canary + "; }", "2:13: destination rtmp://***: bad host: expected a name, an IPv4 address or an IPv6 address in brackets"},
		{"destination rtmp://u:%@h/a { user jo " + canary + "; }", "2:13: destination rtmp://***@h/a/***: bad percent-encoding in user or password"},
		{"destination a b;\n destination rtmp://h/" + strings.Repeat("a", 4096) + " { stream_key " + canary + "; }",
			"3:14: destination rtmp://h/" + strings.Repeat("a", 4096) + "/***: URL longer than 4096 bytes"},
	} {
		_, err := ParseConfig("x.conf", []byte("vhost v { forward {\n"+row.block+" } }"))
		require.EqualError(t, err, "x.conf:"+row.want)
	}
}

// Wherever a secret stands, and whatever is wrong, it is not shown; nor is it
// by what the file has become.
func TestFileNeverShowsSecretsOfDestinations(t *testing.T) {
	for _, secret := range []string{"stream_key %s;", "user jo %s;", "user %s pw;", "tc_url %s;"} {
		good := strings.ReplaceAll(secret, "%s", canary)
		f, err := ParseConfig("x.conf", []byte("vhost v { forward { enabled on; destination rtmp://h/a { "+good+" } } }"))
		require.NoError(t, err)
		out := secretscan.Prints(f) + secretscan.Prints(f.Config.Vhosts["v"].Resolver)
		require.NotContains(t, out, canary)
		for name, wrong := range map[string]string{
			"too long":             strings.ReplaceAll(secret, "%s", strings.Repeat(canary, 1000)),
			"a control character":  strings.ReplaceAll(secret, "%s", "\""+canary+"\x00\""),
			"one more value":       strings.ReplaceAll(good, ";", " "+canary+";"),
			"given twice":          good + good,
			"a block":              strings.ReplaceAll(good, ";", " { }"),
			"no end":               strings.ReplaceAll(good, ";", "\n"),
			"another wrong option": good + " chunk_size 1;",
			"no closing quote":     strings.ReplaceAll(secret, "%s", "\""+canary),
		} {
			for _, url := range []string{"h", "rtmp://h/a", "rtmp://u:" + canary + "@h/a/" + canary} {
				_, err := ParseConfig("x.conf", []byte("vhost v { forward { enabled on; destination "+url+" { "+wrong+" } } }"))
				require.Error(t, err, "%s: %s", name, secret)
				require.NotContains(t, secretscan.Prints(err), canary, "%s: %s", name, secret)
			}
		}
		for _, url := range []string{"rtmp://h/[x]/" + canary, "rtmp://h:0/a", "http://h/" + canary, "rtmp:///" + canary} {
			_, err := ParseConfig("x.conf", []byte("vhost v { forward { enabled on; destination "+url+" { "+good+" } } }"))
			require.Error(t, err, url)
			require.NotContains(t, secretscan.Prints(err), canary, url)
		}
	}
}

// FuzzFileStreamKey: any key comes through as it is or is refused, and is not
// shown.
func FuzzFileStreamKey(f *testing.F) {
	for _, key := range []string{"abcd-efgh", "FB-1?s_bl=1&a=Ab/c", `"\`, `\\"';{}#`, "[stream][none]", "a\x00", "a\nb", "\xff", "é", strings.Repeat("k", 4100)} {
		f.Add(key)
	}
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	f.Fuzz(func(t *testing.T, key string) {
		key = canary + key
		src := `vhost v { forward { enabled on; destination rtmp://h/app { stream_key "` + escape.Replace(key) + `"; user "` + escape.Replace(key) + `" p; } } }`
		file, err := ParseConfig("x.conf", []byte(src))
		want := forward.Destination{URL: "rtmp://h/app", StreamKey: forward.Secret(key), User: key, Password: "p"}
		if err != nil {
			require.NotContains(t, err.Error(), canary)
			// Only UTF-8 can stand in a file.
			require.True(t, want.Validate() != nil || strings.ToValidUTF8(key, "") != key, "%q: %v", key, err)
			return
		}
		require.Equal(t, fields(want), fields(resolved(t, file.Config.Vhosts["v"].Resolver)...))
	})
}

func TestFileOfPlatforms(t *testing.T) {
	f, err := LoadConfig(filepath.Join("..", "testdata", "conf", "platforms.conf"))
	require.NoError(t, err)
	require.Empty(t, f.Ignored)
	require.NotContains(t, secretscan.Prints(f), canary)
	var to []string
	for _, d := range resolved(t, f.Config.Vhosts[forward.DefaultVhost].Resolver) {
		e, err := option.Endpoint(d)
		require.NoError(t, err)
		to = append(to, strings.ReplaceAll(e.TcURL+" "+e.Key, canary, "KEY"))
	}
	require.Equal(t, []string{
		"rtmp://192.168.1.6:1935/live?vhost=v s?t=1",
		"rtmp://192.168.1.7/backup s",
		"rtmps://a.rtmps.youtube.com/live2 KEY-1",
		"rtmps://fa7.global-contribute.live-video.net/app KEY/2",
		"rtmps://10.0.0.7:4433/live live-s?user=jo&pass=KEY",
		"rtmp://192.168.1.8/live?vhost=v s?t=1",
	}, to)
}

const fileOfTwo = `
vhost __defaultVhost__ {
	forward {
		enabled on;
		destination rtmp://plain:1935/[app]/` + canary + `;
		destination rtmp://own:1935/[app]-x/y {
			stream_key "` + canary + `/z";
			tc_url rtmp://other.example/y;
			flash_ver "Own/1 2";
			no_release_stream on;
			no_metadata on;
			merge_window_ms 0;
		}
	}
}
`

// A Server of a file pushes as the file says.
func TestServerOfAFileWithOptions(t *testing.T) {
	f, err := ParseConfig("x.conf", []byte(fileOfTwo))
	require.NoError(t, err)
	hosttest.InBubble(t, f.Config, func(b *hosttest.Bubble) {
		plain, own := b.Destination("plain:1935"), b.Destination("own:1935")
		pub := b.Publish("live/" + canary)
		for _, row := range []struct {
			dest                      *forwardtest.Destination
			app, tcURL, flashVer, key string
			commands                  []string
		}{
			{plain, "live", "rtmp://plain:1935/live", "FMLE/3.0 (compatible; FMSc/1.0)", canary,
				[]string{"connect", "releaseStream", "FCPublish", "createStream", "publish"}},
			{own, "live-x/y", "rtmp://other.example/y", "Own/1 2", canary + "/z",
				[]string{"connect", "FCPublish", "createStream", "publish"}},
		} {
			var names []string
			for _, c := range b.Published(row.dest, 1).Commands() {
				names = append(names, c.Name)
				switch c.Name {
				case "connect":
					props := c.Args[0].(map[string]any)
					require.Equal(b, []any{row.app, row.tcURL, row.flashVer}, []any{props["app"], props["tcUrl"], props["flashVer"]})
				case "publish":
					require.Equal(b, row.key, c.String(1))
				}
			}
			require.Equal(b, row.commands, names)
		}
		require.NoError(b, pub.Send(b.Ctx, steady.Messages(time.Second), 1))
		for dest, metadata := range map[*forwardtest.Destination]bool{plain: true, own: false} {
			rec := b.Published(dest, 1).Recorder()
			require.NoError(b, rec.WaitFrames(b.Ctx, 25))
			require.Equal(b, metadata, rec.Messages()[0].Type == forward.TagData)
		}
	})
}

// When a file is read again, only what differs reconnects.
func TestReloadOfOptions(t *testing.T) {
	for name, row := range map[string]struct {
		from, to string
		another  bool // the resolver
		own      int  // connections of the destination with the block
		plain    int
	}{
		"nothing":            {"", "", false, 1, 1},
		"spaces and order":   {"\t\t\ttc_url rtmp://other.example/y;\n\t\t\tflash_ver \"Own/1 2\";", "flash_ver 'Own/1 2'; tc_url rtmp://other.example/y;", false, 1, 1},
		"what was so anyway": {"no_metadata on;", "no_metadata on; plain_metadata off; redirect same_host;", false, 1, 1},
		"an option":          {"Own/1 2", "Own/1 3", true, 2, 1},
		"one more":           {"no_metadata on;", "no_metadata on; chunk_size 4096;", true, 2, 1},
		"one less":           {"no_release_stream on;", "", true, 2, 1},
		"the key":            {"/z", "/zz", true, 2, 1},
		"a block for a list": {"/[app]/" + canary + ";", "/[app]/" + canary + " { }", false, 1, 1},
		"now with an option": {"/[app]/" + canary + ";", "/[app]/" + canary + " { no_fc_publish on; }", true, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, fileOfTwo, row.from)
			old, err := ParseConfig("x.conf", []byte(fileOfTwo))
			require.NoError(t, err)
			next, err := ParseConfig("x.conf", []byte(strings.Replace(fileOfTwo, row.from, row.to, 1)))
			require.NoError(t, err)
			require.Equal(t, row.another, !reflect.DeepEqual(old.Config.Vhosts[forward.DefaultVhost].Resolver, next.Config.Vhosts[forward.DefaultVhost].Resolver))
			hosttest.InBubble(t, old.Config, func(b *hosttest.Bubble) {
				plain, own := b.Destination("plain:1935"), b.Destination("own:1935")
				b.Publish("live/" + canary)
				b.Published(plain, 1)
				b.Published(own, 1)
				next.Inherit(old)
				cfg := b.Config
				cfg.Vhosts = next.Config.Vhosts
				require.NoError(b, b.Server.Reload(cfg))
				synctest.Wait()
				time.Sleep(5 * time.Second)
				synctest.Wait()
				require.Len(b, plain.Sessions(), row.plain)
				require.Len(b, own.Sessions(), row.own)
				for dest, n := range map[*forwardtest.Destination]int{plain: row.plain, own: row.own} {
					b.Published(dest, n)
				}
				require.Len(b, b.Server.Sources()[0].Forwarders(), 2)
			})
		})
	}
}
