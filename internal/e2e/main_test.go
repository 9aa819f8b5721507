package e2e

import (
	"os"
	"testing"

	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// TestMain fails if a test leaks anything.
func TestMain(m *testing.M) {
	code := secretscan.Main(m)
	if testing.Verbose() {
		printMatrix()
	}
	os.Exit(code)
}

const canary = secretscan.Canary

// quiet discards the log.
var quiet = secretscan.Quiet

// Short names for what most tests use.
type (
	bubble       = hosttest.Bubble
	isolation    = hosttest.Isolation
	calls        = hosttest.Calls
	fakeResolver = hosttest.Resolver
	heard        = hosttest.Heard
)

var (
	inBubble      = hosttest.InBubble
	newServer     = hosttest.NewServer
	publish       = hosttest.Publish
	dialTo        = hosttest.DialTo
	encoder       = hosttest.Encoder
	listener      = hosttest.Listener
	names         = hosttest.CommandNames
	steady        = hosttest.Steady
	other         = hosttest.OtherStream
	without       = hosttest.WithoutKeyframes
	reads         = hosttest.ReadsAt
	watchArrivals = hosttest.WatchArrivals
	mergeWindow   = hosttest.MergeWindow
	neverDials    = hosttest.NeverDials
	raceDetector  = hosttest.RaceDetector
)

const steadyStep = hosttest.SteadyStep
