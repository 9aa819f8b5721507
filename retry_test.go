package forward

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/secretscan"
)

// dice returns a source of random numbers: from a seed, or always the least or the greatest.
func dice(seed int) func() float64 {
	switch seed {
	case 0:
		return func() float64 { return 0 }
	case 1:
		return func() float64 { return math.Nextafter(1, 0) }
	}
	return rand.New(rand.NewPCG(uint64(seed), 0)).Float64
}

// schedule returns the times of attempts, each of which fails after lasts, until end. sent is
// that of backoff.next.
func schedule(seed int, refused bool, lasts, sent, end time.Duration) (attempts []time.Duration) {
	random := dice(seed)
	b := backoff{Backoff: Config{}.withDefaults().Backoff}
	for at := time.Duration(0); at < end; {
		attempts = append(attempts, at)
		at += lasts + b.next(refused, sent, random())
	}
	return attempts
}

const seeds = 1000

func TestBackoff(t *testing.T) {
	for seed := range seeds {
		attempts := schedule(seed, false, 0, -1, 10*time.Minute)
		first := slices.IndexFunc(attempts, func(at time.Duration) bool { return at >= time.Minute })
		require.LessOrEqual(t, first, 7, "in the first minute")
		require.LessOrEqual(t, attemptsWithin(time.Minute, attempts[first:]), 2)
		require.LessOrEqual(t, attempts[1], time.Second)
		for i := range attempts[1:] {
			require.LessOrEqual(t, attempts[i+1]-attempts[i], 30*time.Second)
		}

		// A session that ends too early is not a success, however early.
		for _, lives := range []time.Duration{0, time.Millisecond, time.Second, 2 * time.Second, 10 * time.Second, 30*time.Second - 1} {
			attempts := schedule(seed, false, lives, lives, 30*time.Minute)
			require.LessOrEqual(t, attemptsWithin(5*time.Minute, attempts), 12, "%v", lives)
		}
		attempts = schedule(seed, false, 30*time.Second, 30*time.Second, time.Hour)
		for i := range attempts[1:] {
			require.LessOrEqual(t, attempts[i+1]-attempts[i], 31*time.Second, "after a healthy one")
		}

		attempts = schedule(seed, true, 0, -1, 3*time.Hour)
		require.GreaterOrEqual(t, attempts[1], 10*time.Second)
		require.LessOrEqual(t, attemptsWithin(time.Hour, attempts), 17)
		require.LessOrEqual(t, attemptsWithin(time.Hour, attempts[6:]), 12)
	}
}

// After a short outage half of the destinations are back within 2 s.
func TestBackoff_ShortOutage(t *testing.T) {
	random := dice(2)
	var took []time.Duration
	for seed := range seeds {
		back := time.Duration(random() * float64(5*time.Second))
		attempts := schedule(seed+2, false, 0, -1, time.Minute)
		next := slices.IndexFunc(attempts, func(at time.Duration) bool { return at >= back })
		took = append(took, attempts[next]-back)
	}
	slices.Sort(took)
	require.LessOrEqual(t, took[len(took)/2], 2*time.Second)
	t.Logf("median %v", took[len(took)/2].Round(10*time.Millisecond))
}

// Alternating refusals and other failures each have their own delay. A healthy session resets
// both.
func TestBackoff_InTurn(t *testing.T) {
	b := backoff{Backoff: Config{}.withDefaults().Backoff}
	for i, row := range []struct {
		refused bool
		sent    time.Duration
		attempt int
		delay   time.Duration // the longest
	}{
		{false, -1, 1, time.Second},
		{true, -1, 2, 10 * time.Second},
		{true, -1, 3, 20 * time.Second},
		{false, -1, 4, 8 * time.Second},
		{true, 5 * time.Second, 5, 10 * time.Second},
		{false, 5 * time.Second, 6, 30 * time.Second},
		{false, time.Minute, 1, time.Second},
		{false, -1, 2, 2 * time.Second},
		{true, time.Minute, 1, 10 * time.Second},
		{true, time.Minute, 1, 10 * time.Second},
		{false, 0, 2, 4 * time.Second},
	} {
		require.Equal(t, row.delay, b.next(row.refused, row.sent, math.Nextafter(1, 0)).Round(time.Microsecond), i)
		require.Equal(t, row.attempt, b.attempt, i)
	}
}

func TestDelay(t *testing.T) {
	const longest = math.MaxInt64
	for _, row := range []struct {
		lo, hi      time.Duration
		n           int
		least, most time.Duration
	}{
		{8, 100, 0, 4, 8},
		{8, 100, 3, 32, 64},
		{8, 100, 4, 100, 100},
		{8, 100, 1 << 30, 100, 100},
		{100, 8, 0, 8, 8},
		{1, 1, 0, 1, 1},
		{1, 100, 0, 0, 1},
		{0, 100, 1 << 30, 0, 0},
		{-1, 100, 5, 0, 0},
		{8, -1, 3, 32, 64},
		{8, -1, 1 << 30, orForever(-1), orForever(-1)},
		{longest/2 + 1, longest, 0, longest / 4, longest/2 + 1},
		{longest/2 + 2, longest, 1, longest, longest},
	} {
		for seed := range 20 {
			random := dice(seed)
			for range 20 {
				d := delay(row.lo, row.hi, row.n, random())
				require.GreaterOrEqual(t, d, row.least, "%+v", row)
				require.LessOrEqual(t, d, row.most, "%+v", row)
			}
		}
	}
}

// recordLog keeps records, and takes some time for each.
type recordLog struct {
	slog.Handler
	mu    *sync.Mutex
	lines *[]slog.Record
	takes time.Duration
}

func (h recordLog) Handle(_ context.Context, r slog.Record) error {
	time.Sleep(h.takes)
	h.mu.Lock()
	defer h.mu.Unlock()
	*h.lines = append(*h.lines, r)
	return nil
}
func (h recordLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (h recordLog) WithAttrs([]slog.Attr) slog.Handler           { return h }

// A delayed log line has the time of its event, and does not follow a line about a later
// event.
func TestHeldBackLinesTellTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var lines []slog.Record
		s := newServer(t, Config{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }, Logger: secretscan.Logger(recordLog{slog.DiscardHandler, &mu, &lines, 20 * time.Second})})
		f, err := newForwarder(publish(t, s, "live", canary).Source(), Destination{URL: "rtmp://a/live", StreamKey: canary})
		require.NoError(t, err)
		lines = nil
		want := map[string]time.Time{}
		report := func(msg string) {
			want[msg] = time.Now()
			go f.reports.report(f.to.Load(), slog.LevelInfo, msg)
			synctest.Wait()
			time.Sleep(time.Second)
		}
		for n := range logBurst {
			report(fmt.Sprint("burst ", n))
		}
		report("held back, and overtaken")
		report("held back")
		time.Sleep(logEvery - 6*time.Second + time.Millisecond) // its line is just being written
		report("later")
		time.Sleep(10 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, lines, logBurst+2)
		for i, l := range lines {
			require.Equal(t, want[l.Message], l.Time, l.Message)
			require.True(t, i == 0 || !l.Time.Before(lines[i-1].Time), l.Message)
		}
		require.Equal(t, "held back", lines[logBurst].Message)
		require.Equal(t, "later", lines[logBurst+1].Message)
		f.cancel()
	})
}

// attemptsWithin returns the largest number of attempts in any period of length d.
func attemptsWithin(d time.Duration, attempts []time.Duration) (most int) {
	for i, from := range attempts {
		n, _ := slices.BinarySearch(attempts[i:], from+d)
		most = max(most, n)
	}
	return most
}
