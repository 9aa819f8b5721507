//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nareix/joy4/format/flv"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/testdata"
)

// With this in its environment the test binary runs forwardd.
const asForwardd = "FORWARDD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asForwardd) != "" {
		main()
	}
	os.Exit(secretscan.Main(m))
}

// process is a running forwardd.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner // lines of its log
	log   []map[string]any
}

func start(t *testing.T, conf string, args ...string) *process {
	d := &process{t: t}
	d.cmd = exec.Command(os.Args[0], append([]string{"-c", conf, "-log", "json"}, args...)...)
	d.cmd.Env = append(os.Environ(), asForwardd+"=1")
	r, err := d.cmd.StderrPipe()
	require.NoError(t, err)
	d.lines = bufio.NewScanner(secretscan.Reader(r))
	require.NoError(t, d.cmd.Start())
	t.Cleanup(func() { d.cmd.Process.Kill(); d.cmd.Wait() })
	return d
}

// await reads the log up to a message.
func (d *process) await(msg string) map[string]any { return d.awaitAll(msg)[msg] }

// awaitAll reads the log until all messages have come, in any order.
func (d *process) awaitAll(msgs ...string) map[string]map[string]any {
	found := make(map[string]map[string]any)
	for d.lines.Scan() {
		var entry map[string]any
		require.NoError(d.t, json.Unmarshal(d.lines.Bytes(), &entry), d.lines.Text())
		d.log = append(d.log, entry)
		if msg := entry["msg"].(string); slices.Contains(msgs, msg) {
			found[msg] = entry
		}
		if len(found) == len(msgs) {
			return found
		}
	}
	require.FailNow(d.t, "no such message", "%s in %v", msgs, d.log)
	return nil
}

// end sends a signal and reads the log to its end.
func (d *process) end(sig os.Signal) error {
	require.NoError(d.t, d.cmd.Process.Signal(sig))
	d.await("shutting down")
	return d.wait()
}

func (d *process) wait() error {
	for d.lines.Scan() {
		var entry map[string]any
		require.NoError(d.t, json.Unmarshal(d.lines.Bytes(), &entry), d.lines.Text())
		d.log = append(d.log, entry)
	}
	return d.cmd.Wait()
}

// slave is a server in this process.
func slave(t *testing.T) (srv *forward.Server, addr string, published chan *forward.Request) {
	published = make(chan *forward.Request, 1)
	srv = forward.NewServer(forward.Config{
		Logger: secretscan.Quiet,
		Hooks: forward.Hooks{OnPublish: func(_ context.Context, req *forward.Request) error {
			published <- req
			return nil
		}},
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return srv, l.Addr().String(), published
}

// publish publishes the clip to a destination, as fast as the server reads, and leaves
// the stream open.
func publish(t *testing.T, d forward.Destination) (end func()) {
	srv := forward.NewServer(forward.Config{
		Logger: secretscan.Quiet,
		Resolver: forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
			return []forward.Destination{d}, nil
		}),
	})
	t.Cleanup(func() { srv.Close() })
	pub, err := srv.Publish(t.Context(), forward.Request{App: "live", Stream: secretscan.Canary})
	require.NoError(t, err)
	clip := flv.NewDemuxer(bytes.NewReader(testdata.H264AAC))
	streams, err := clip.Streams()
	require.NoError(t, err)
	require.NoError(t, pub.WriteHeader(streams))
	for {
		pkt, err := clip.ReadPacket()
		if err == io.EOF {
			return func() { pub.Close() }
		}
		require.NoError(t, err)
		require.NoError(t, pub.WritePacket(pkt))
	}
}

func TestForwardsUntilTerminated(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		t.Run(sig.String(), func(t *testing.T) {
			srv, addr, published := slave(t)
			pid := filepath.Join(t.TempDir(), "objs", "srs.pid")
			d := start(t, write(t, fmt.Sprintf(`
listen              127.0.0.1:0 [::1]:0;
pid                 %s;
max_connections     10240;
daemon              off;
vhost __defaultVhost__ {
    forward {
        enabled on;
        destination %s;
    }
}
`, pid, addr)))
			ignored := d.await("configuration ignored")
			require.Contains(t, ignored["directive"], ":5:1: daemon")
			master := d.await("listening")["addr"].(string)
			require.Contains(t, d.await("listening")["addr"], "[::1]:")

			publish(t, forward.Destination{URL: "rtmp://" + master + "/live", StreamKey: secretscan.Canary})
			require.Equal(t, "live/"+secretscan.Canary, (<-published).Name())
			d.await("destination publishing") // the slave has answered: its stream is live
			text, err := os.ReadFile(pid)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintln(d.cmd.Process.Pid), string(text))

			src := srv.Source("live/" + secretscan.Canary)
			require.NotNil(t, src)
			media := src.Demuxer(t.Context())
			defer media.Close()
			streams, err := media.Streams()
			require.NoError(t, err)
			require.Len(t, streams, 2)
			pkt, err := media.ReadPacket()
			require.NoError(t, err)
			require.True(t, pkt.IsKeyFrame)

			require.NoError(t, d.end(sig))
			<-src.Done()
			require.NoFileExists(t, pid)
		})
	}
}

func TestServesRTMPS(t *testing.T) {
	srv, addr, published := slave(t)
	cert, key, roots := certificate(t)
	d := start(t, write(t, fmt.Sprintf(`
listen 127.0.0.1:0;
rtmps { enabled on; listen 127.0.0.1:0; cert %s; key %s; }
vhost __defaultVhost__ { forward { enabled on; destination %s; } }
`, cert, key, addr)))
	require.Equal(t, false, d.await("listening")["tls"])
	secure := d.await("listening")
	require.Equal(t, true, secure["tls"])
	publish(t, forward.Destination{
		URL:       "rtmps://" + secure["addr"].(string) + "/live",
		StreamKey: secretscan.Canary,
		TLSConfig: &tls.Config{RootCAs: roots},
	})
	<-published
	d.await("destination publishing")
	require.NotNil(t, srv.Source("live/"+secretscan.Canary))
	require.NoError(t, d.end(syscall.SIGTERM))
}

// One of two vhosts is sent elsewhere; an invalid file changes nothing.
func TestReloadsOnHangup(t *testing.T) {
	_, addr, published := slave(t)
	_, otherAddr, otherPublished := slave(t)
	text := func(listen, ofA string) string {
		return fmt.Sprintf(`listen %s;
vhost a { forward { enabled on; destination %s; } }
vhost b { forward { enabled on; destination %s; } }
`, listen, ofA, addr)
	}
	conf := write(t, text("127.0.0.1:0", addr))
	d := start(t, conf)
	master := d.await("listening")["addr"].(string)
	for _, vhost := range []string{"a", "b"} {
		publish(t, forward.Destination{URL: "rtmp://" + master + "/live?vhost=" + vhost, StreamKey: secretscan.Canary})
		<-published
		d.await("destination publishing")
	}
	hangup := func(text string) {
		require.NoError(t, os.WriteFile(conf, []byte(text), 0o600))
		require.NoError(t, d.cmd.Process.Signal(syscall.SIGHUP))
	}

	hangup("listen 127.0.0.1:0;\nvhost a { forward { enabled maybe; } }\n")
	require.Contains(t, d.await("not reloaded, nothing has changed")["err"], "forward.conf:2:29: ")

	hangup(text("127.0.0.1:0", otherAddr))
	log := d.awaitAll("reloaded", "refresh", "destination publishing")
	require.Equal(t, []any{"vhost a"}, log["reloaded"]["changed"])
	require.Contains(t, log["refresh"]["source"], "a/live/")
	require.Contains(t, log["destination publishing"]["source"], "a/live/")
	require.Equal(t, "a", (<-otherPublished).Vhost)

	hangup(text("127.0.0.1:0 [::1]:0", otherAddr))
	require.Empty(t, d.await("reloaded")["changed"])
	require.Equal(t, []any{"listen"}, d.await("needs a restart")["directives"])

	hangup("listen 127.0.0.1:0;\nvhost a { forward { enabled on; destination " + otherAddr + "; } }\n")
	log = d.awaitAll("reloaded", "unpublish")
	require.Equal(t, []any{"vhost b is no longer served"}, log["reloaded"]["changed"])
	require.Contains(t, log["unpublish"]["source"], "b/live/")
	require.Empty(t, published, "what was the same has not been published anew")
	require.NoError(t, d.end(syscall.SIGTERM))
	for _, entry := range d.log {
		require.NotEqual(t, "destination lost", entry["msg"])
	}
}

// backendOf is a backend that answers with a URL or, if it is empty, with the one in
// the publisher's parameter "forward".
func backendOf(t *testing.T, answer string) (url string) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := answer
		if to == "" {
			var question struct{ Param string }
			if json.NewDecoder(r.Body).Decode(&question) != nil {
				t.Error("no JSON")
			}
			to = strings.TrimPrefix(question.Param, "?forward=")
		}
		json.NewEncoder(w).Encode(map[string]any{"code": 0, "data": map[string]any{"urls": []string{to}}})
	}))
	t.Cleanup(backend.Close)
	return backend.URL
}

// The dynamic example of SRS's documentation works without flags, and so does a backend
// that passes on the publisher's URL.
func TestForwardsWhereABackendSays(t *testing.T) {
	for name, named := range map[string]bool{"by the backend": false, "by the publisher": true} {
		t.Run(name, func(t *testing.T) {
			_, addr, published := slave(t)
			to, param := "rtmp://"+addr+"/test/"+secretscan.Canary, ""
			if named {
				to, param = "", "?forward="+to
			}
			d := start(t, write(t, `
listen 127.0.0.1:0;
vhost __defaultVhost__ { forward { enabled on; backend `+backendOf(t, to)+`; } }
`))
			master := d.await("listening")["addr"].(string)
			publish(t, forward.Destination{URL: "rtmp://" + master + "/live", StreamKey: forward.Secret("livestream" + param)})
			require.Equal(t, "test/"+secretscan.Canary, (<-published).Name())
			require.NoError(t, d.end(syscall.SIGTERM))
		})
	}
}

// The log names the flag that would allow a destination.
func TestNamesTheFlagThatAllowsADestination(t *testing.T) {
	for name, row := range map[string]struct {
		args          []string
		answer, param string
		allow, hint   string
	}{
		"metadata": {nil, "rtmp://169.254.169.254:80/live/" + secretscan.Canary, "", "169.254.169.254/32", "-allow private,loopback,169.254.169.254/32"},
		"named by a publisher": {[]string{"-allow", "private"}, "", "?forward=rtmp://127.0.0.1:19350/live/" + secretscan.Canary,
			"127.0.0.1/32", "-allow private,loopback"},
		"backend not trusted": {[]string{"-allow", "none", "-untrusted-backend"}, "rtmp://10.0.0.1/live/" + secretscan.Canary, "", "10.0.0.1/32", "-allow private"},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, write(t, `
listen 127.0.0.1:0;
vhost __defaultVhost__ { forward { enabled on; backend `+backendOf(t, row.answer)+`; } }
`), row.args...)
			master := d.await("listening")["addr"].(string)
			publish(t, forward.Destination{URL: "rtmp://" + master + "/live", StreamKey: forward.Secret(secretscan.Canary + row.param)})
			hint := d.await("destination not allowed")
			require.Equal(t, row.allow, hint["allow"])
			require.Equal(t, row.hint, hint["hint"])
			require.NoError(t, d.end(syscall.SIGTERM))
			for _, entry := range d.log {
				require.NotContains(t, fmt.Sprint(entry), "Config.", "a word for programs")
			}
		})
	}
}

// The comparison that decides about a restart is with the running settings, however
// often the file is read.
func TestRestartIsNeededForWhatRuns(t *testing.T) {
	const text = "listen 127.0.0.1:0%s;\npid %s;\nvhost __defaultVhost__ { }\n"
	pid := filepath.Join(t.TempDir(), "pid")
	conf := write(t, fmt.Sprintf(text, "", pid))
	d := start(t, conf)
	d.await("listening")
	hangup := func(more, pid string) {
		require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, text, more, pid), 0o600))
		require.NoError(t, d.cmd.Process.Signal(syscall.SIGHUP))
		require.Empty(t, d.await("reloaded")["changed"])
	}
	for range 2 {
		hangup(" [::1]:0", pid)
		require.Equal(t, []any{"listen"}, d.await("needs a restart")["directives"])
	}
	hangup("", pid+"2")
	require.Equal(t, []any{"pid"}, d.await("needs a restart")["directives"])
	hangup("", pid) // as in the running server
	before := len(d.log)
	require.NoError(t, d.end(syscall.SIGTERM))
	for _, entry := range d.log[before:] {
		require.NotEqual(t, "needs a restart", entry["msg"])
	}
}

// ask asks an operator's server and returns status and body.
func ask(t *testing.T, addr, path, token string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+path, nil)
	require.NoError(t, err)
	r.Close = true
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	secretscan.Check(t.Name(), string(text))
	return resp.StatusCode, string(text)
}

// listeningHTTP awaits the addresses of a listener of RTMP and then one of HTTP.
func (d *process) listeningHTTP() (rtmp, http string) {
	first, second := d.await("listening"), d.await("listening")
	require.Equal(d.t, false, first["http"])
	require.Equal(d.t, true, second["http"])
	return first["addr"].(string), second["addr"].(string)
}

// The http block has the control API and profiles behind the token, and health for
// everybody. The token in the file may change while it runs.
func TestServesOperators(t *testing.T) {
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(tokenFile, []byte(operatorToken+"\n"), 0o600))
	_, to, published := slave(t)
	text := `listen 127.0.0.1:0;
http { listen %s; token_file ` + tokenFile + `; }
vhost __defaultVhost__ { forward { enabled on; destination ` + to + `; } }
`
	conf := write(t, fmt.Sprintf(text, "0"))
	d := start(t, conf)
	rtmp, addr := d.listeningHTTP()
	require.True(t, strings.HasPrefix(addr, "127.0.0.1:"), addr)
	publish(t, forward.Destination{URL: "rtmp://" + rtmp + "/live", StreamKey: secretscan.Canary})
	<-published
	d.await("destination publishing")

	for _, path := range []string{"/healthz", "/readyz"} {
		status, _ := ask(t, addr, path, "")
		require.Equal(t, 200, status, path)
	}
	for path, part := range map[string]string{
		"/control/sources":                `"state":"publishing"`,
		"/page/status.json":               `"state":"publishing"`,
		"/metrics":                        "forward_streams",
		"/debug/pprof/":                   "goroutine",
		"/debug/pprof/heap":               "",
		"/debug/pprof/cmdline":            "-c",
		"/debug/pprof/symbol":             "num_symbols",
		"/debug/pprof/trace?seconds=0.01": "",
		"/debug/pprof/profile?seconds=1":  "",
	} {
		for _, wrong := range []string{"", operatorToken + "x"} {
			status, _ := ask(t, addr, path, wrong)
			require.Equal(t, 401, status, path)
		}
		status, body := ask(t, addr, path, operatorToken)
		require.Equal(t, 200, status, path)
		require.Contains(t, body, part, path)
	}
	status, body := ask(t, addr, "/", "")
	require.Equal(t, 200, status)
	require.Contains(t, body, "<title>forward</title>")
	status, _ = ask(t, addr, "/nothing", operatorToken)
	require.Equal(t, 404, status)

	// Another token, and an address that needs a restart.
	require.NoError(t, os.WriteFile(tokenFile, []byte("another-"+operatorToken), 0o600))
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, text, "127.0.0.1:1"), 0o600))
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGHUP))
	require.Equal(t, []any{"http token"}, d.await("reloaded")["changed"])
	require.Equal(t, []any{"http listen"}, d.await("needs a restart")["directives"])
	status, _ = ask(t, addr, "/control/sources", operatorToken)
	require.Equal(t, 401, status)
	status, _ = ask(t, addr, "/control/sources", "another-"+operatorToken)
	require.Equal(t, 200, status)
	// Without the block the old one stays until the restart.
	require.NoError(t, os.WriteFile(conf, []byte("listen 127.0.0.1:0;\n"), 0o600))
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGHUP))
	require.NotContains(t, d.await("reloaded")["changed"], "http token")
	require.Contains(t, d.await("needs a restart")["directives"], "http listen")
	status, _ = ask(t, addr, "/control/sources", "another-"+operatorToken)
	require.Equal(t, 200, status)
	require.NoError(t, d.end(syscall.SIGTERM))
}

// From SIGTERM on it is alive, but not ready, for as long as a destination holds up the
// end.
func TestIsNotReadyWhenItEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	d := start(t, write(t, fmt.Sprintf(`
listen 127.0.0.1:0;
http { listen 0; token %s; }
vhost __defaultVhost__ { forward { enabled on; destination %s; } }
`, operatorToken, l.Addr())), "-grace", "1m")
	rtmp, addr := d.listeningHTTP()
	publish(t, forward.Destination{URL: "rtmp://" + rtmp + "/live", StreamKey: secretscan.Canary})
	c, err := l.Accept() // and never answer
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGTERM))
	d.await("shutting down")
	require.Eventually(t, func() bool { status, _ := ask(t, addr, "/readyz", ""); return status == 503 }, 5*time.Second, time.Millisecond)
	status, _ := ask(t, addr, "/healthz", "")
	require.Equal(t, 200, status)
	c.Close()
	l.Close()
	require.NoError(t, d.wait())
}

// A file of SRS 7, and one with RTMPS only: no other address is listened on.
func TestListensWhereTheFileSays(t *testing.T) {
	d := start(t, write(t, "rtmp { listen 127.0.0.1:0; chunk_size 4096; }\n"))
	require.Contains(t, d.await("listening")["addr"], "127.0.0.1:")
	require.NoError(t, d.end(syscall.SIGTERM))
	require.Equal(t, 1, d.count("listening"))

	cert, key, _ := certificate(t)
	d = start(t, write(t, fmt.Sprintf("rtmps { enabled on; listen 127.0.0.1:0; cert %s; key %s; }\n", cert, key)))
	require.Equal(t, true, d.await("listening")["tls"])
	require.NoError(t, d.end(syscall.SIGTERM))
	require.Equal(t, 1, d.count("listening"))
}

func (d *process) count(msg string) (n int) {
	for _, entry := range d.log {
		if entry["msg"] == msg {
			n++
		}
	}
	return n
}

// A destination that reads nothing does not delay the shutdown.
func TestGraceIsLimited(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	d := start(t, write(t, fmt.Sprintf(`
listen 127.0.0.1:0;
vhost __defaultVhost__ { forward { enabled on; destination %s; } }
`, l.Addr())), "-grace", "1ms")
	master := d.await("listening")["addr"].(string)
	publish(t, forward.Destination{URL: "rtmp://" + master + "/live", StreamKey: secretscan.Canary})
	c, err := l.Accept() // and never answer
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGTERM))
	d.await("connections cut off: they have not ended in time")
	require.NoError(t, d.wait())
}

// certificate makes a certificate for 127.0.0.1, in files.
func certificate(t *testing.T) (cert, key string, roots *x509.CertPool) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots = x509.NewCertPool()
	roots.AddCert(parsed)

	file := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		block := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		require.NoError(t, os.WriteFile(path, block, 0o600))
		return path
	}
	return file("cert.pem", "CERTIFICATE", der), file("key.pem", "PRIVATE KEY", pkcs8), roots
}

// The table has what a running one does, and no secret; where it cannot be had, a
// sentence says why.
func TestStatus(t *testing.T) {
	_, to, published := slave(t)
	down, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	down.Close()
	token := write(t, operatorToken+"\n")
	text := fmt.Sprintf("listen 127.0.0.1:0;\nhttp { listen %%s; token_file %s; }\nvhost __defaultVhost__ { forward { enabled on; destination %s %s; } }\n",
		token, to, down.Addr())
	d := start(t, write(t, fmt.Sprintf(text, "0")))
	rtmp, addr := d.listeningHTTP()
	ask := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"status"}, args...), &out, &errs)
		secretscan.Check(t.Name(), out.String(), errs.String())
		return code, out.String(), errs.String()
	}
	code, out, errs := ask("-http", addr, "-token-file", token)
	require.Zero(t, code, errs)
	require.Equal(t, "There is no live stream.\n", out)

	publish(t, forward.Destination{URL: "rtmp://" + rtmp + "/live", StreamKey: secretscan.Canary})
	<-published
	d.awaitAll("destination publishing", "destination lost")
	require.Eventually(t, func() bool { // until audio and video have come
		_, out, _ := ask("-http", addr, "-token-file", token)
		return strings.Contains(out, "avc1") && strings.Contains(out, "mp4a")
	}, 10*time.Second, 10*time.Millisecond)
	conf := write(t, fmt.Sprintf(text, addr))
	for _, args := range [][]string{{"-http", addr, "-token-file", token}, {"-c", conf}, {"-c", conf, "-http", addr}} {
		code, out, errs = ask(args...)
		require.Zero(t, code, errs)
		require.Empty(t, errs)
		lines := strings.Split(out, "\n")
		require.Len(t, lines, 7, out)
		require.Regexp(t, `^STREAM +SINCE +VIDEO +AUDIO +KBIT/S +PLAYERS +DESTINATIONS$`, lines[0])
		require.Regexp(t, `^live/#[0-9a-f]{8} +\d+s +avc1 +mp4a +\d+ +0 +2$`, lines[1])
		require.Regexp(t, `^STREAM +DESTINATION +STATE +SINCE +KBIT/S +LAG +NEXT TRY +WHY$`, lines[3])
		require.Regexp(t, `(?m)^live/#[0-9a-f]{8} +rtmp://`+to+`/live/\*\*\* +publishing +\d+s +\d+ +\S+ +- +-$`, out)
		require.Regexp(t, `(?m)^live/#[0-9a-f]{8} +rtmp://`+down.Addr().String()+`/live/\*\*\* +(waiting +\d+s +0 +\S+ +in \d+s|connecting .*-) +dial: .*$`, out)
		at := strings.Index(lines[3], "STATE")
		for _, line := range lines[4:6] {
			require.Equal(t, " ", line[at-1:at], "aligned: %s", out)
			require.NotEqual(t, " ", line[at:at+1], "aligned: %s", out)
		}
	}
	code, out, _ = ask("-c", conf, "-json")
	require.Zero(t, code)
	require.True(t, json.Valid([]byte(out)))
	require.Contains(t, out, `"state":"publishing"`)

	other := write(t, "wrong-"+operatorToken)
	for name, row := range map[string]struct {
		args []string
		code int
		want string
	}{
		"wrong token":     {[]string{"-http", addr, "-token-file", other}, exitServe, addr + " does not accept this token"},
		"nobody there":    {[]string{"-http", down.Addr().String(), "-token-file", token}, exitServe, "no answer from " + down.Addr().String()},
		"RTMP":            {[]string{"-http", rtmp, "-token-file", token}, exitServe, "no answer from " + rtmp},
		"no token":        {[]string{"-http", addr}, exitUsage, "no token: give its file with -token-file"},
		"no such file":    {[]string{"-http", addr, "-token-file", "./none"}, exitUsage, "./none"},
		"no http block":   {[]string{"-c", write(t, "listen 1935;\n")}, exitUsage, "no http block"},
		"not an address":  {[]string{"-http", "somewhere", "-token-file", token}, exitUsage, "-http somewhere: expected an address"},
		"argument":        {[]string{"now"}, exitUsage, `unexpected argument "now"`},
		"unknown flag":    {[]string{"-x"}, exitUsage, "-x"},
		"token of a line": {[]string{"-http", addr, "-token-file", write(t, "a\nb "+secretscan.Canary)}, exitServe, "no answer from"},
	} {
		code, out, errs := ask(row.args...)
		require.Equal(t, row.code, code, name)
		require.Contains(t, errs, row.want, name)
		require.Empty(t, out, name)
	}
	require.NoError(t, d.end(syscall.SIGTERM))
}

// What peers word cannot move the cursor of a terminal.
func TestStatusPrintsNoControlCharacters(t *testing.T) {
	var streams []liveStream
	require.NoError(t, json.Unmarshal([]byte(`[{"stream":"live/#1","forwarders":[{"url":"rtmp://h/\u001b[2J","state":"waiting","error":{"op":"publish","message":"a\nb\tc\u009b"}}]}]`), &streams))
	var out bytes.Buffer
	printStatus(&out, streams, time.Now())
	require.Contains(t, out.String(), "rtmp://h/?[2J")
	require.Contains(t, out.String(), "publish: a?b?c?")
	require.NotContains(t, out.String(), "\x1b")
}
