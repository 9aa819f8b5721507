package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// probed runs forwardd probe. Neither output has a secret.
func probed(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = probeDestination(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	secretscan.Check(t.Name(), out.String(), errs.String())
	return status, regexp.MustCompile(` +\d+ ms  `).ReplaceAllString(out.String(), " N ms "), errs.String()
}

func TestProbe(t *testing.T) {
	d := forwardtest.NewDestination()
	defer d.Close()
	at := strings.TrimSuffix(strings.TrimPrefix(d.URL("live"), "rtmp://"), "/live")
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, []byte(secretscan.Canary+"\n"), 0o600))
	for name, args := range map[string][]string{
		"file":           {"-key-file", file, d.URL("live")},
		"standard input": {d.URL("live"), "-key-file", "-"},
	} {
		status, out, errs := probed(t, secretscan.Canary+"\r\n", args...)
		require.Equal(t, 0, status, name)
		require.Empty(t, errs, name)
		require.Equal(t, `ok    dial N ms Connected to `+at+`.
ok    handshake N ms The RTMP handshake without digests succeeded.
ok    connect N ms The server has accepted the app. It lists no codecs.
                              The server says: "NetConnection.Connect.Success: Connection succeeded."
ok    createStream N ms The server has made a message stream.
ok    publish N ms The server has accepted the publish.
                              The server says: "NetStream.Publish.Start: Publishing."
ok    leave N ms Left without sending media.

The destination has accepted the publish.
`, out, name)
	}
	for _, s := range d.Sessions() {
		publish, err := s.WaitCommand(t.Context(), "publish")
		require.NoError(t, err)
		require.Equal(t, secretscan.Canary, publish.String(1))
	}

	t.Setenv(keyVariable, secretscan.Canary)
	status, _, _ := probed(t, "", d.URL("live"))
	require.Equal(t, 0, status)
	require.Len(t, d.Sessions(), 3)
}

func TestProbeOfARefusal(t *testing.T) {
	d := forwardtest.NewDestination(forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Refuse: "NetStream.Publish.BadName", Description: "no \x1b]0;" + secretscan.Canary}}})
	defer d.Close()
	status, out, errs := probed(t, "", d.URL("live/"+secretscan.Canary))
	require.Equal(t, 1, status)
	require.Equal(t, "note: the URL has the stream key, and other users of this machine can read it: -key-file hides it\n", errs)
	require.Contains(t, out, `FAIL  publish N ms The server refuses the stream key (NetStream.Publish.BadName).
                              The server says: "NetStream.Publish.BadName: no  ]0;***"

The server refuses the stream key (NetStream.Publish.BadName). Check the stream key. If it is right, another encoder may be publishing with it now.
`)
}

func TestWrongUseOfProbe(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no URL":       {nil, "no destination: give its URL, such as rtmp://host/app"},
		"two URLs":     {[]string{"rtmp://a/b/c", "rtmp://a/b/" + secretscan.Canary}, "more than one argument: expected one URL"},
		"no key":       {[]string{"rtmp://a.example/live"}, "destination rtmp://a.example/***: no stream key: give its file with -key-file"},
		"not a URL":    {[]string{secretscan.Canary}, "destination ***: no URL"},
		"no such file": {[]string{"-key-file", empty + "x", "rtmp://a.example/live"}, "no such file"},
		"empty file":   {[]string{"-key-file", empty, "rtmp://a.example/live"}, "empty: empty, expected a secret"},
		"long key":     {[]string{"-key-file", "-", "rtmp://a.example/live"}, "standard input: longer than 4096 bytes"},
		"profile":      {[]string{"-profile", "obs", "rtmp://a.example/live/" + secretscan.Canary}, "unknown Profile"},
		"unknown flag": {[]string{"rtmp://a.example/live/k", "-x"}, "-x"},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errs := probed(t, strings.Repeat("k", 5000), c.args...)
			require.Equal(t, exitUsage, status)
			require.Empty(t, out)
			require.Contains(t, errs, c.want)
		})
	}
	status, _, errs := probed(t, "", "-h")
	require.Equal(t, 0, status)
	require.Contains(t, errs, "usage: forwardd probe [flags] URL")
}
