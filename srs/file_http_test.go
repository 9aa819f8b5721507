package srs

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestParseConfigOfWebhooks(t *testing.T) {
	const src = `listen 1; log_names on;
webhooks { url https://u:` + canary + `@h/?t=` + canary + `; secret ` + canary + `-one "` + canary + ` two"; events publish; events unpublish play; names on; timeout_ms 5000; }`
	f, err := ParseConfig("x.conf", []byte(src))
	require.NoError(t, err)
	require.Empty(t, f.Warnings)
	require.True(t, f.Config.LogNames)
	require.Equal(t, &WebhooksFile{
		URL: "https://u:" + canary + "@h/?t=" + canary, Secrets: []forward.Secret{canary + "-one", canary + " two"},
		Kinds: []forward.EventKind{"publish", "unpublish", "play"}, Names: true, Timeout: 5 * time.Second,
	}, f.Webhooks)
	require.NotContains(t, secretscan.Prints(f)+secretscan.Prints(f.Webhooks), canary)

	f, err = ParseConfig("x.conf", []byte("listen 1; webhooks { url http://h/; }"))
	require.NoError(t, err)
	require.False(t, f.Config.LogNames)
	require.Equal(t, []string{"x.conf:1:11: webhooks has no secret: its receiver cannot tell who sends the events"}, f.Warnings)
	for src, want := range map[string]string{
		"webhooks { names on; }":                                                  "x.conf:1:1: webhooks has no url: expected url, or url_file PATH",
		"webhooks { url http://h/; secret " + canary + "; }":                      "x.conf:1:34: found value 1 of secret, expected a secret of 16 to 4096 bytes",
		"http { listen 1; token 0123456789abcdef; cert a.pem; }":                  "x.conf:1:1: http has only one of cert and key: expected both, or none",
		"webhooks { url http://h/; secret whsec_" + canary + "-" + canary + "; }": "x.conf:1:34: found value 1 of secret",
	} {
		_, err := ParseConfig("x.conf", []byte(src))
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), canary)
	}
}

func TestParseConfigOfHTTPWithTLS(t *testing.T) {
	f, err := ParseConfig("x.conf", []byte("listen 1; http { listen 0.0.0.0:8080; token 0123456789abcdef; cert a.pem; key b.pem; }"))
	require.NoError(t, err)
	require.Empty(t, f.Warnings)
	require.Equal(t, "a.pem", f.HTTP.TLS.CertFile)
	require.Equal(t, "b.pem", f.HTTP.TLS.KeyFile)
}
