//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// told is a webhook as its receiver sees it.
type told struct {
	Type      string
	Name      string
	Data      map[string]any
	signature string
}

// receiver passes on the webhooks that it takes.
func receiver(t *testing.T) (url string, got chan told) {
	got = make(chan told, 1000)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		m := told{signature: r.Header.Get("webhook-signature")}
		if json.NewDecoder(r.Body).Decode(&m) != nil {
			t.Error("no JSON")
		}
		got <- m
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}

// await takes webhooks up to one of a type.
func await(t *testing.T, got chan told, kind string) told {
	t.Helper()
	for {
		select {
		case m := <-got:
			if m.Type == kind {
				return m
			}
		case <-time.After(20 * time.Second):
			require.FailNow(t, "no such webhook", kind)
		}
	}
}

// The block has the events sent to a URL, signed; it may change, come and go while the
// program runs, and the last events are sent at its end. log_names shows names.
func TestWebhooks(t *testing.T) {
	_, to, published := slave(t)
	first, got := receiver(t)
	second, other := receiver(t)
	text := func(block string) string {
		return "listen 127.0.0.1:0;\nlog_names on;\nvhost __defaultVhost__ { forward { enabled on; destination " + to + "; } }\n" + block
	}
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte(secretscan.Canary+"-of-16-bytes\n"), 0o600))
	conf := write(t, text("webhooks { url "+first+"/?t="+secretscan.Canary+"; secret_file "+secret+"; names on; }\n"))
	d := start(t, conf)
	addr := d.await("listening")["addr"].(string)
	publish(t, forward.Destination{URL: "rtmp://" + addr + "/live", StreamKey: "front-door?token=" + secretscan.Canary})
	<-published
	m := await(t, got, "publish")
	require.Equal(t, "live/front-door", m.Name)
	require.Equal(t, "live/front-door", m.Data["stream"])
	require.Regexp(t, "^v1,.{44}$", m.signature)
	require.Equal(t, "live/front-door", d.await("destination publishing")["source"])

	hangup := func(block string) {
		require.NoError(t, os.WriteFile(conf, []byte(text(block)), 0o600))
		require.NoError(t, d.cmd.Process.Signal(syscall.SIGHUP))
		require.Equal(t, []any{"webhooks"}, d.await("reloaded")["changed"])
	}
	hangup("webhooks { url " + second + "; events unpublish publish; }\n")
	end := publish(t, forward.Destination{URL: "rtmp://" + addr + "/live", StreamKey: "back-door"})
	m = await(t, other, "publish")
	require.Empty(t, m.Name)
	require.Empty(t, m.signature)
	end()
	require.Equal(t, "live/back-door", await(t, other, "unpublish").Data["stream"])
	hangup("")
	hangup("webhooks { url " + second + "; }\n")
	require.NoError(t, d.end(syscall.SIGTERM))
	require.Equal(t, "shutdown", await(t, other, "unpublish").Data["reason"])
}

// The http block may have a certificate, which may change while it runs. status accepts
// the one of the file.
func TestServesOperatorsOverTLS(t *testing.T) {
	cert, key, _ := certificate(t)
	next, nextKey, _ := certificate(t)
	text := "listen 127.0.0.1:0;\nhttp { listen %s; token " + operatorToken + "; cert %s; key %s; }\nvhost __defaultVhost__ { }\n"
	conf := write(t, fmt.Sprintf(text, "127.0.0.1:0", cert, key))
	d := start(t, conf)
	_, addr := d.listeningHTTP()
	ask := func(cert, key string) (int, string) {
		var out, errs bytes.Buffer
		file := write(t, fmt.Sprintf(text, addr, cert, key))
		code := run(t.Context(), []string{"status", "-c", file}, &out, &errs)
		return code, out.String() + errs.String()
	}
	code, out := ask(cert, key)
	require.Zero(t, code, out)
	require.Equal(t, "There is no live stream.\n", out)
	code, out = ask(next, nextKey)
	require.Equal(t, exitServe, code)
	require.Contains(t, out, "its certificate is not the one in the file")

	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, text, "127.0.0.1:0", next, nextKey), 0o600))
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGHUP))
	require.Equal(t, []any{"http certificate"}, d.await("reloaded")["changed"])
	code, out = ask(next, nextKey)
	require.Zero(t, code, out)
	plain, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + addr + "/healthz")
	require.NoError(t, err)
	plain.Body.Close()
	require.Equal(t, http.StatusBadRequest, plain.StatusCode, "without TLS")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}}).DialContext(ctx, "tcp", addr)
	require.NoError(t, err)
	require.Equal(t, "http/1.1", conn.(*tls.Conn).ConnectionState().NegotiatedProtocol)
	conn.Close()

	require.NoError(t, os.WriteFile(conf, []byte("listen 127.0.0.1:0;\nhttp { listen 127.0.0.1:0; token "+operatorToken+"; }\nvhost __defaultVhost__ { }\n"), 0o600))
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGHUP))
	require.Equal(t, []any{"http cert"}, d.await("needs a restart")["directives"])
	require.NoError(t, d.end(syscall.SIGTERM))
}
