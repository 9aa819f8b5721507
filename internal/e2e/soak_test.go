package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/soak"
)

var (
	soakSeed  = flag.Uint64("soak.seed", 1, "seed of the soak's faults, 0 for a random one")
	soakHours = flag.Float64("soak.hours", 24, "virtual hours of the soak")
)

// A day of a server with faults in one of twenty connections, dials and calls of the
// host's code: nothing leaks, nothing grows, and no receiver gets wrong frames.
func TestFault28_Soak(t *testing.T) {
	const phases = 6
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	defer func() {
		if t.Failed() {
			t.Logf("again: go test -run '^TestFault28_Soak$' -soak.seed %d -soak.hours %g", seed, *soakHours)
		}
	}()
	phase := time.Duration(*soakHours / phases * float64(time.Hour))
	var heaps []int
	var r soak.Report
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		s, err := soak.New(soak.Options{
			Seed: seed, Network: new(forwardtest.Network), Faults: 0.05,
			Publishers: 3, Players: 2, Destinations: 4, FPS: 1, VideoBitrate: 12000, Pause: time.Minute,
		})
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		synctest.Wait()
		goroutines := inBubbles()
		for range phases {
			ctx, cancel := context.WithTimeout(t.Context(), phase)
			s.Run(ctx)
			cancel()
			synctest.Wait()
			r = s.Report()
			require.Empty(t, r.Wrong)
			require.Equal(t, goroutines, inBubbles(), "goroutines are left")
			heaps = append(heaps, soak.LiveHeap())
		}
	})
	grown := soak.GrowthOf(heaps, phase)
	require.False(t, grown.Leak(), "%+v: %v", grown, heaps)
	// Every kind of fault must have occurred, or the test shows nothing.
	for _, n := range []int{r.Publishes, r.Plays, r.Sessions, r.Frames, r.Faults} {
		require.Positive(t, n)
	}

	what := fmt.Sprintf("soak of %g virtual hours, seed %d", *soakHours, seed)
	measured(28, what+": done", "5 % faults, in a minute",
		"%d publishes, %d plays, %d pushes, %d faults in %v", r.Publishes, r.Plays, r.Sessions, r.Faults, time.Since(began).Round(time.Second))
	measured(28, what+": received", "0 out of order", "%d frames, 0 wrong; %d missed by slow receivers", r.Frames, r.Missing)
	measured(28, what+": left", "0 leaks, heap < 1 MiB/h", "0 goroutines, 0 connections; heap %.2f MiB, %+.1f KiB/h",
		float64(heaps[phases-1])/(1<<20), grown.PerHour/1024)
}

// inBubbles is the number of goroutines in bubbles.
func inBubbles() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), ", synctest bubble ")
}
