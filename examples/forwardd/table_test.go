//go:build unix

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// tell makes a request that changes something, and returns the answer.
func tell(t *testing.T, addr, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+"/control"+path, strings.NewReader(body))
	require.NoError(t, err)
	r.Close = true
	r.Header.Set("Authorization", "Bearer "+operatorToken)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	secretscan.Check(t.Name(), string(text))
	return resp.StatusCode, string(text)
}

// What is put in the table is pushed to when it is on, stays through a reload and a kill,
// and shows its key nowhere but in the file.
func TestTableOfDestinations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table.json")
	_, to, published := slave(t)
	text := "listen 127.0.0.1:0;\nhttp { listen 0; token " + operatorToken + "; }\ndestination_table %s;\n"
	conf := write(t, fmt.Sprintf(text, path))
	d := start(t, conf)
	d.await("new destination table")
	rtmp, addr := d.listeningHTTP()
	status, body := tell(t, addr, "PUT", "/destinations/slave", `{"stream":"live/*","state":"held","destination":{"url":"rtmp://`+to+`/live","stream_key":"`+secretscan.Canary+`"}}`)
	require.Equal(t, 201, status, body)
	stat, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), stat.Mode().Perm())
	kept, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(kept), secretscan.Canary)

	publish(t, forward.Destination{URL: "rtmp://" + rtmp + "/live", StreamKey: secretscan.Canary})
	d.await("publish")
	require.Eventually(t, func() bool { // the stream is in the log a moment before it is in the table
		status, body = tell(t, addr, "POST", "/destinations/slave/live", "")
		return status == 200
	}, 10*time.Second, 10*time.Millisecond, "%s", body)
	<-published
	d.await("destination publishing")

	// The table is that of the start.
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, text, path+"2"), 0o600))
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGHUP))
	d.await("reloaded")
	require.Equal(t, []any{"destination_table"}, d.await("needs a restart")["directives"])
	status, body = tell(t, addr, "POST", "/destinations/slave/disable", "")
	require.Equal(t, 200, status, body)
	d.await("destination draining")
	status, body = tell(t, addr, "POST", "/destinations/slave/enable", "")
	require.Equal(t, 200, status, body)
	<-published
	require.NoError(t, d.cmd.Process.Kill())
	d.wait()

	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, text, path), 0o600))
	d = start(t, conf)
	rtmp, addr = d.listeningHTTP()
	status, body = ask(t, addr, "/control/destinations", operatorToken)
	require.Equal(t, 200, status)
	require.Contains(t, body, `"state":"on"`)
	publish(t, forward.Destination{URL: "rtmp://" + rtmp + "/live", StreamKey: secretscan.Canary + "2"})
	<-published

	other := start(t, conf)
	require.Contains(t, other.await("forwardd")["err"], "destination_table: in use")
	require.Equal(t, exitServe, other.exit())
	require.NoError(t, d.end(syscall.SIGTERM))
}

func (d *process) exit() int {
	d.wait()
	return d.cmd.ProcessState.ExitCode()
}

// A table that is not whole, or is open to others, is an error when the file is checked.
func TestCheckReadsTheTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table.json")
	conf := write(t, "listen 127.0.0.1:0;\nhttp { listen 0; token "+operatorToken+"; }\ndestination_table "+path+";\n")
	check := func() (int, string) {
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{"-t", "-c", conf}, &out, &errs)
		return code, errs.String()
	}
	code, _ := check()
	require.Zero(t, code)
	require.NoFileExists(t, path)
	require.NoError(t, os.WriteFile(path, []byte(`{"version":1,"destinations":[]`), 0o600))
	code, text := check()
	require.Equal(t, exitUsage, code)
	require.Contains(t, text, "destination_table: not a whole table")
	require.NoError(t, os.WriteFile(path, []byte(`{"version":1,"destinations":[]}`), 0o600))
	require.NoError(t, os.Chmod(path, 0o644))
	code, text = check()
	require.Equal(t, exitUsage, code)
	require.Contains(t, text, "destination_table: every user may read or write it: it has mode 0644, expected 0600")
}
