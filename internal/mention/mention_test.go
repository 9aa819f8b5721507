package mention

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNames(t *testing.T) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, row := range []struct {
		text  string
		hosts string // that it names
		not   string // that it does not name
	}{
		{"", "", "10.0.0.5 a.example a localhost"},
		{"?forward=rtmp://127.0.0.1:19351/test/livestream", "127.0.0.1 127.0.0.1. 127.1 0x7f000001 2130706433 0177.0.0.1 [::ffff:127.0.0.1] [::ffff:7f00:1]", "127.0.0.2 27.0.0.1 [::1] [::7f00:1]"},
		{"?to=10.0.0.12", "10.0.0.12", "10.0.0.1 0.0.0.12"},
		{"?to=x10.0.0.5y", "10.0.0.5", ""},
		{"?to=010.0.0.5", "10.0.0.5 8.0.0.5 010.0.0.5", ""},
		{"?to=0xA.0.0.5", "10.0.0.5", ""},
		{"?to=0x0a000005&x", "10.0.0.5", ""},
		{"?to=0a000005", "10.0.0.5", ""},
		{"?to=167772165", "10.0.0.5", ""},
		{"?to=10.5", "10.0.0.5", ""},

		// Percent-encoding, once, twice, three times, and in part.
		{"?forward=rtmp%3A%2F%2F10.0.0.5%3A1935%2Fa", "10.0.0.5", "10.0.0.51"},
		{"?to=" + url.QueryEscape(url.QueryEscape("rtmp://10.0.0.5/a/b")), "10.0.0.5", ""},
		{"?to=%2531%2530.0.0.5", "10.0.0.5", ""},
		{"?to=%25252531%252525300.0.5", "", "10.0.0.5"},
		{"?to=%2525252531%252525252530.0.0.5", "10.0.0.5", ""},
		{"?to=%zz%31%30.0.0.5%", "10.0.0.5", ""},
		{`?to={"u":"rtmp:\/\/\u0031\u0030.0.0.5\/a"}`, "10.0.0.5", ""},
		{`?to=%u0031%u0030.0.0.5`, "10.0.0.5", ""},

		// Base64 of either alphabet, with and without padding, encoded further.
		{"?to=" + b64("rtmp://10.0.0.5/a/b"), "10.0.0.5", ""},
		{"?to=" + base64.RawURLEncoding.EncodeToString([]byte("??>>rtmp://a.example/x")), "a.example", ""},
		{"?to=" + url.QueryEscape(b64("rtmp://a.example:1935/a/b")), "a.example", ""},
		{"?to=" + b64(b64("10.0.0.5")), "10.0.0.5", ""},
		{"?to=" + b64(url.QueryEscape("rtmp://[fd00::5]/a")), "fd00::5", ""},
		{"rtmp://h/app/" + strings.TrimRight(b64("10.0.0.5"), "="), "10.0.0.5", ""},
		{"?to=" + b64("\x00\xff10.0.0.5\xfe\x01"), "10.0.0.5", ""},
		{"?to=" + hex.EncodeToString([]byte("a.example")), "a.example", ""},

		// IPv6 in any spelling, with zone and port, bare or in brackets.
		{"?to=rtmp://[FD00:0:0::0005]:1935/a", "fd00::5 [fd00::5] [fd00:0:0:0:0:0:0:5]", "fd00::6"},
		{"?to=fe80::1%25eth0", "[fe80::1%eth0] [fe80::1] [fe80::1%eth1]", ""},
		{"?to=fd00::5", "fd00::5", ""},
		{"?to=x:fd00::5", "fd00::5", ""},
		{"?to=fd00:0:0:0:0:0:0:5:1935", "fd00::5", ""},
		{"?to=[::ffff:10.0.0.5]:1935", "10.0.0.5 [::ffff:a00:5]", ""},
		{"?to=[::FFFF:0a00:0005]", "10.0.0.5", ""},

		// Names: case, dot at the end, user and port, inside of others.
		{"?to=rtmp://u:p@A.Example.:1936/x", "a.example A.EXAMPLE a.example.", "b.example example.org example"},
		{"?to=rtmp://u:a.example@evil.example/x", "evil.example a.example", ""},
		{"?to=rtmp-a.example-x", "a.example", ""},
		{"?node=edge1&x", "edge1 EDGE1", "edge edge1.internal node1"},
		{"?to=edge1.internal", "edge1.internal", "edge1 internal"},
		{"?to=localhost", "localhost", "127.0.0.1"},

		// IDN: what is written as it is read, and in Punycode.
		{"?to=rtmp://bücher.example/x", "xn--bcher-kva.example bücher.example BÜCHER.example", "bucher.example"},
		{"?to=XN--BCHER-KVA.example", "bücher.example", ""},
		{"?to=b%C3%BCcher.example", "xn--bcher-kva.example", ""},
		{"?to=例え.テスト", "xn--r8jz45g.xn--zckzah", ""},
		{"?to=rtmp://ａ．example", "a.example", ""},
		{"?to=１０。０。０。５", "10.0.0.5", ""},
		{"?to=a\u200b.exam\u00adple", "a.example", ""},
	} {
		text := In(row.text)
		for h := range strings.FieldsSeq(row.hosts) {
			require.True(t, text.Names(h), "%s names %s", row.text, h)
		}
		for h := range strings.FieldsSeq(row.not) {
			require.False(t, text.Names(h), "%s does not name %s", row.text, h)
		}
		require.False(t, text.Names(""))
		require.False(t, text.Names("."))
	}
}

// RFC 3492, 7.1.
func TestPunycode(t *testing.T) {
	for s, want := range map[string]string{
		"ليهمابتكلموشعربي؟":            "egbpdaj6bu4bxfgehfvwxn",
		"他们为什么不说中文":                    "ihqwcrb4cv8a8dqg056pqjye",
		"pročprostěnemluvíčesky":       "proprostnemluvesky-uyb24dma41a",
		"почемужеонинеговорятпорусски": "b1abfaaepdrnnbgefbadotcwatmq2g4l",
		"3年b組金八先生":                     "3b-ww4c5e180e575a65lsy2b",
		"そのスピードで":                      "d9juau41awczczp",
		"-> $1.00 <-":                  "-> $1.00 <--",
	} {
		require.Equal(t, want, punycode(s))
	}
}

// A text that exceeds the limits of decoding names every host, and takes little time.
func TestTooMuchNamesAll(t *testing.T) {
	deep := strings.Repeat("%25", 1) + strings.Repeat("25", 2000) + "31"
	many := strings.Repeat("QUFBQUFBQUFB.", 1)
	for i := range 400 {
		many += base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%09d", i)) + "."
	}
	for _, s := range []string{deep, many} {
		began := time.Now()
		require.True(t, In(s).Names("10.0.0.5"))
		require.Less(t, time.Since(began), 20*time.Second)
	}
	require.False(t, In(strings.Repeat("x", 4096), strings.Repeat("%41", 1300), strings.Repeat("QUJD", 1000)).Names("10.0.0.5"), "what may be sent at all")
}

// However a host is encoded and spelled, it is found, and nothing panics.
func FuzzNames(f *testing.F) {
	f.Add("?to=rtmp://", "a.example", "/x", []byte{0, 1, 2, 3})
	f.Add("", "10.0.0.5", "", []byte{2, 2, 0})
	f.Add("x=", "[fd00::5]", ":1935", []byte{3, 0})
	f.Fuzz(func(t *testing.T, before, host, after string, steps []byte) {
		In(before, host, after).Names(host)
		addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
		isName := !strings.ContainsFunc(host, func(r rune) bool { return !(r >= 'a' && r <= 'z' || r == '.') }) && strings.Contains(strings.Trim(host, "."), ".")
		if err != nil && !isName || err == nil && addr.Zone() != "" || len(steps) > 3 || len(host) > 100 {
			return
		}
		s := host
		for _, step := range steps {
			switch step % 4 {
			case 0:
				s = url.QueryEscape(s)
			case 1:
				s = base64.StdEncoding.EncodeToString([]byte(" " + s + " "))
			case 2:
				s = base64.RawURLEncoding.EncodeToString([]byte(" " + s + " "))
			case 3:
				s = hex.EncodeToString([]byte(" " + s + " "))
			}
		}
		if text := In("?to=", "="+s+"&x"); !text.Names(host) {
			t.Fatalf("%q does not name %q", s, host)
		}
	})
}
