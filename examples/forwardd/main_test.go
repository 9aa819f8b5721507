package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

const operatorToken = "0123456789-" + secretscan.Canary

// write writes a configuration file.
func write(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "forward.conf")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestWrongUseIsStatus2(t *testing.T) {
	good := write(t, "listen 127.0.0.1:0;\n")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no file":          {nil, "no configuration file: give one with -c"},
		"missing file":     {[]string{"-c", filepath.Join(t.TempDir(), "none")}, "none"},
		"unknown flag":     {[]string{"-x"}, "-x"},
		"unknown log":      {[]string{"-c", good, "-log", "xml"}, "-log xml: expected text or json"},
		"unknown network":  {[]string{"-c", good, "-allow", "all"}, `"all": expected private, loopback, none or a prefix`},
		"unknown port":     {[]string{"-c", good, "-allow-ports", "http"}, `"http": expected a port such as 80`},
		"argument":         {[]string{"-c", good, "on"}, `unexpected argument "on"`},
		"syntax":           {[]string{"-c", write(t, "listen 1935;\nlisten 1936\n")}, "forward.conf:2:12: "},
		"unknown word":     {[]string{"-c", write(t, "listen 1935;\n  lisden 1936;\n")}, "forward.conf:2:3: "},
		"wrong also in -t": {[]string{"-t", "-c", write(t, "vhost v { forward { enabled maybe; } }\n")}, "forward.conf:1:29: "},
		"no address":       {[]string{"-t", "-c", write(t, "vhost __defaultVhost__ { }\n")}, "forward.conf: no address to listen on: expected listen"},
		"no token":         {[]string{"-t", "-c", write(t, "listen 1935;\nhttp { listen 8080; }\n")}, "forward.conf:2:1: http has no token: expected token_file PATH"},
		"no such include":  {[]string{"-t", "-c", write(t, "listen 1935;\ninclude ./none.conf;\n")}, `forward.conf:2:9: found "./none.conf", expected a file that can be read`},
		"unset variable":   {[]string{"-t", "-c", write(t, "listen ${FORWARDD_TEST_UNSET};\n")}, "forward.conf:1:8: found ${FORWARDD_TEST_UNSET}, which is not set"},
		"no certificate":   {[]string{"-t", "-c", write(t, "rtmps { enabled on; listen 127.0.0.1:0; cert ./none.crt; key ./none.key; }\n")}, "forward.conf: rtmps: open ./none.crt"},
		"certificate of a variable": {[]string{"-t", "-c", write(t, "rtmps { enabled on; listen 127.0.0.1:0; cert ${FORWARDD_TEST_PATH}; key x; }\n")},
			"forward.conf:1:46: what ${FORWARDD_TEST_PATH} stands for: open: no such file or directory"},
		"key of a variable": {[]string{"-t", "-c", write(t, "rtmps { enabled on; listen 127.0.0.1:0; cert "+good+"; key ${FORWARDD_TEST_PATH}; }\n")},
			" stands for: open: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("FORWARDD_TEST_PATH", "/none/s3cret")
			var out, errs bytes.Buffer
			require.Equal(t, exitUsage, run(t.Context(), c.args, &out, &errs))
			require.Contains(t, errs.String(), c.want)
			require.NotContains(t, errs.String(), "s3cret")
			require.Empty(t, out.String())
		})
	}
}

func TestCheckNamesWhatIsIgnored(t *testing.T) {
	conf := write(t, "listen 127.0.0.1:0;\ndaemon off;\nvhost __defaultVhost__ {\n    hls { enabled on; }\n}\n")
	var out, errs bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-t", "-c", conf}, &out, &errs))
	require.Equal(t, []string{
		"ignored: " + conf + ":2:1: daemon",
		"ignored: " + conf + ":4:5: hls",
		conf + ": ok", "",
	}, strings.Split(out.String(), "\n"))
	require.Empty(t, errs.String())
}

func TestCheckWarns(t *testing.T) {
	t.Setenv("FORWARDD_TEST_KEY", secretscan.Canary)
	conf := write(t, "listen 1935;\ninclude more.conf;\n")
	more := filepath.Join(filepath.Dir(conf), "more.conf")
	require.NoError(t, os.WriteFile(more, []byte("vhost v { forward { destination 127.0.0.1 {\nstream_key ${FORWARDD_TEST_KEY}; } } }\n"), 0o600))
	var out, errs bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-t", "-c", conf}, &out, &errs))
	require.Equal(t, []string{
		"warning: " + more + `:1:11: forward has no "enabled on": nothing is forwarded`,
		"warning: " + more + ":1:33: this server listens there itself (" + conf + ":1:8): a stream is not sent back to where it comes from",
		conf + ": ok", "",
	}, strings.Split(out.String(), "\n"))
	require.Empty(t, errs.String())
}

// What the block would tell others is warned of, with its place.
func TestCheckWarnsOfHTTP(t *testing.T) {
	token := write(t, operatorToken+"\n")
	require.NoError(t, os.Chmod(token, 0o644))
	conf := write(t, "listen 1935;\nhttp_api { listen 1985; }\nhttp {\n  listen 0.0.0.0:8080;\n  token_file "+token+";\n}\n")
	var out, errs bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-t", "-c", conf}, &out, &errs))
	require.Equal(t, []string{
		"ignored: " + conf + ":2:1: http_api (the control API of this server is in the block http)",
		"warning: " + conf + ":5:14: the mode 0644 of this file lets every user of the machine read or write the token",
		"warning: " + conf + ":4:10: other machines may reach this address, and requests to it carry the token unencrypted: add cert and key, or put a proxy with TLS in front of 127.0.0.1",
		conf + ": ok", "",
	}, strings.Split(out.String(), "\n"))
	require.Empty(t, errs.String())
}

func TestMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(before)
	for _, c := range []struct {
		name, env string
		system    memlimit.Provider
		want      int64
	}{
		{"limited", "", memlimit.Limit(128 << 20), 112 << 20},
		{"unlimited", "", func() (uint64, error) { return 0, memlimit.ErrNoLimit }, math.MaxInt64},
		{"unknown", "", func() (uint64, error) { return 0, errors.New("no cgroup") }, math.MaxInt64},
		{"set in the environment", "off", memlimit.Limit(128 << 20), math.MaxInt64},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("GOMEMLIMIT", c.env) // which also restores it
			if c.env == "" {
				require.NoError(t, os.Unsetenv("GOMEMLIMIT"))
			}
			debug.SetMemoryLimit(math.MaxInt64)
			limitMemory(c.system)
			require.Equal(t, c.want, debug.SetMemoryLimit(-1))
		})
	}
}

func TestNetworks(t *testing.T) {
	private := len(forward.PrivateNetworks())
	for text, want := range map[string]int{
		"none": 0, "private": private, "loopback": 2, "private,loopback,198.51.100.0/24": private + 3,
	} {
		got, err := networks(text)
		require.NoError(t, err)
		require.Len(t, got, want, text)
	}
	for _, text := range []string{"", "10.0.0.1", "all", "private,"} {
		_, err := networks(text)
		require.ErrorContains(t, err, "expected private, loopback, none or a prefix", text)
	}
}

func TestPorts(t *testing.T) {
	got, err := ports("80,1")
	require.NoError(t, err)
	require.Equal(t, []uint16{80, 1}, got)
	for _, text := range []string{"", "0", "65536", "80,", "http", "-1"} {
		_, err := ports(text)
		require.ErrorContains(t, err, "expected a port", text)
	}
}

func TestHelp(t *testing.T) {
	var out, errs bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-h"}, &out, &errs))
	require.Contains(t, errs.String(), "-grace")
}

// The documentation lists exactly the existing flags, with their defaults.
func TestDocumentsNameEveryFlag(t *testing.T) {
	var help bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-h"}, io.Discard, &help))
	text, err := os.ReadFile("../../docs/forwardd.md")
	require.NoError(t, err)
	named := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `-([a-z-]+)[^|]*\\| *`?([^|`]*)`? *\\|").FindAllStringSubmatch(string(text), -1) {
		named[m[1]] = strings.TrimSpace(m[2])
	}
	flags := 0
	for _, usage := range strings.Split(help.String(), "\n  -")[1:] {
		name := regexp.MustCompile(`^[a-z-]+`).FindString(usage)
		def := ""
		if m := regexp.MustCompile(`\(default ([^)]*)\)`).FindStringSubmatch(usage); m != nil {
			def = strings.Trim(m[1], `"`)
		}
		shown, ok := named[name]
		require.True(t, ok, "-%s is not in docs/forwardd.md", name)
		require.Equal(t, def, shown, "-%s", name)
		flags++
	}
	require.Len(t, named, flags)
}

func TestAddressInUseIsStatus1(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	pid := filepath.Join(t.TempDir(), "pid")
	conf := write(t, "listen 127.0.0.1:0 "+l.Addr().String()+";\npid "+pid+";\n")
	var out, errs bytes.Buffer
	require.Equal(t, exitServe, run(t.Context(), []string{"-c", conf}, &out, &errs))
	require.Contains(t, errs.String(), l.Addr().String())
	require.NoFileExists(t, pid)
}

func TestOpenServerIsWarnedOf(t *testing.T) {
	const warning = "anyone who can reach this address can publish"
	for name, c := range map[string]struct {
		conf string
		want bool
	}{
		"loopback":      {"listen 127.0.0.1:0;", false},
		"all addresses": {"listen 0;", true},
		"asked":         {"listen 0; vhost a { http_hooks { enabled on; on_publish http://127.0.0.1:1/; } }", false},
		"asked to play": {"listen 0; vhost a { http_hooks { enabled on; on_play http://127.0.0.1:1/; } }", true},
		"one of two":    {"listen 0; vhost a { http_hooks { enabled on; on_publish http://127.0.0.1:1/; } } vhost b { }", true},
		"users":         {"listen 0; publish_auth { enabled on; user jo pw; }", false},
		"users, not on": {"listen 0; publish_auth { user jo pw; }", true},
		"disabled":      {"listen 0; vhost b { enabled off; }", false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			var out, log bytes.Buffer
			require.Zero(t, run(ctx, []string{"-c", write(t, c.conf), "-log", "json"}, &out, &log))
			require.Equal(t, c.want, strings.Contains(log.String(), warning), log.String())
		})
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-version"}, &out, &out))
	require.Regexp(t, `^forwardd \S+ go1\.`, out.String())
	require.Equal(t, "(unknown)", versionOf(nil))
	require.Equal(t, "v0.1.0 go1.26", versionOf(&debug.BuildInfo{GoVersion: "go1.26", Main: debug.Module{Version: "v0.1.0"}}))
}
