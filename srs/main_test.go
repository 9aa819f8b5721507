package srs

import (
	"os"
	"testing"
	"time"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

const canary = secretscan.Canary

var (
	quiet           = secretscan.Quiet
	newServer       = hosttest.NewServer
	dialTo          = hosttest.DialTo
	publish         = hosttest.Publish
	seedRequest     = hosttest.Request
	body            = hosttest.Body
	status          = hosttest.Status
	replying        = hosttest.Replying
	destinationURLs = hosttest.URLs
)

type roundTripper = hosttest.RoundTripper

// steady is a stream with a frame every 40 ms.
var steady = forwardtest.Media{ID: 1, KeyframeInterval: time.Second, AudioBitrate: -1}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
