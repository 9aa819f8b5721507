package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
)

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
		"argument":         {[]string{"-c", good, "on"}, `unexpected argument "on"`},
		"syntax":           {[]string{"-c", write(t, "listen 1935;\nlisten 1936\n")}, "forward.conf:2:12: "},
		"unknown word":     {[]string{"-c", write(t, "listen 1935;\n  lisden 1936;\n")}, "forward.conf:2:3: "},
		"wrong also in -t": {[]string{"-t", "-c", write(t, "vhost v { forward { enabled maybe; } }\n")}, "forward.conf:1:29: "},
		"no certificate":   {[]string{"-t", "-c", write(t, "rtmps { enabled on; listen 127.0.0.1:0; cert ./none.crt; key ./none.key; }\n")}, "forward.conf: rtmps: open ./none.crt"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			require.Equal(t, exitUsage, run(t.Context(), c.args, &out, &errs))
			require.Contains(t, errs.String(), c.want)
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

func TestHelp(t *testing.T) {
	var out, errs bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"-h"}, &out, &errs))
	require.Contains(t, errs.String(), "-grace")
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

// A host alone listens beyond the loopback interface.
func TestOpenServerIsWarnedOf(t *testing.T) {
	const warning = "anybody who reaches this address"
	refuse := forward.Config{Hooks: forward.Hooks{
		OnPublish: func(context.Context, *forward.PublishRequest) error { return net.ErrClosed },
	}}
	for name, c := range map[string]struct {
		conf forward.File
		want bool
	}{
		"loopback":      {forward.File{Listen: []string{"127.0.0.1:0"}}, false},
		"all":           {forward.File{Listen: []string{":0"}}, true},
		"authenticated": {forward.File{Listen: []string{":0"}, Config: refuse}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			var log bytes.Buffer
			l, err := logger(&log, options{log: "json"})
			require.NoError(t, err)
			require.NoError(t, serve(ctx, &c.conf, l, 0))
			require.Equal(t, c.want, strings.Contains(log.String(), warning), log.String())
		})
	}
}
