package forward

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// matrix is what the tests of faults have measured.
var matrix struct {
	sync.Mutex
	rows   []measurement
	faults int           // for which rule R0 was checked
	added  time.Duration // gap of a healthy destination
}

type measurement struct {
	row              int
	what, figure, is string
}

// measured notes a figure of the matrix. figure is what was asked for, which a
// comment in the test says more about where it is not what is asserted.
func measured(row int, what, figure, format string, args ...any) {
	matrix.Lock()
	defer matrix.Unlock()
	matrix.rows = append(matrix.rows, measurement{row, what, figure, fmt.Sprintf(format, args...)})
}

// noteIsolation notes what rule R0 is about: in one row for all faults.
func noteIsolation(added time.Duration) {
	matrix.Lock()
	defer matrix.Unlock()
	matrix.faults++
	matrix.added = max(matrix.added, added)
}

// printMatrix writes the table, in the order of its rows.
func printMatrix() {
	matrix.Lock()
	defer matrix.Unlock()
	if len(matrix.rows) == 0 {
		return
	}
	matrix.rows = append(matrix.rows, measurement{0, "R0: others during each of the faults", "0 lost, gap <= 50 ms p99, 200 ms max",
		fmt.Sprintf("%d faults: 0 lost, added gap at most %v", matrix.faults, matrix.added)})
	slices.SortStableFunc(matrix.rows, func(a, b measurement) int { return cmp.Compare(a.row, b.row) })
	for _, m := range matrix.rows {
		fmt.Fprintf(os.Stderr, "%3d  %-56s  %-38s  %s\n", m.row, m.what, m.figure, m.is)
	}
}

// faulty is a stream that goes to a healthy destination, and to one that is
// not.
type faulty struct {
	*bubble
	fwd    *Forwarder // to the faulty one
	pub    *forwardtest.Publisher
	others *isolation
	states *states
}

// states notes what OnForward tells of the faulty destinations.
type states struct {
	mu    sync.Mutex
	began time.Time
	all   []change
}

type change struct {
	f     *Forwarder
	state State
	at    time.Duration
	err   error
}

func (s *states) note(f *Forwarder, state State, err error) {
	if hostOf(f) == "healthy" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, change{f, state, time.Since(s.began), err})
}

// of returns when f was in a state.
func (s *states) of(f *Forwarder, state State) (at []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		if c.f == f && c.state == state {
			at = append(at, c.at)
		}
	}
	return at
}

// hostOf is where f leads, with the port if its URL has one.
func hostOf(f *Forwarder) string { return hostOfURL(f.Destination().URL) }

func hostOfURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return u.Host
}

// losses returns the errors of f's attempts, and when each came.
func (s *states) losses(f *Forwarder) (errs []*DestinationError, at []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		var de *DestinationError
		if c.f == f && c.state == StateWaiting && errors.As(c.err, &de) {
			errs, at = append(errs, de), append(at, c.at)
		}
	}
	return errs, at
}

// withFault runs f while the stream goes to faulty:1935, too. What listens
// there is made by prepare. Rule R0 is checked at the end, and its measure
// noted.
func withFault(t *testing.T, row int, cfg Config, media forwardtest.Media, prepare func(b *bubble), f func(f *faulty)) {
	t.Helper()
	st := &states{}
	if cfg.Resolver == nil {
		cfg.Resolver = MustStatic("rtmp://healthy/live/"+canary, "rtmp://faulty/live/"+canary)
	}
	cfg.Hooks.OnForward = st.note
	inBubble(t, cfg, func(b *bubble) {
		healthy := b.destination("healthy:1935", forwardtest.Script{Recorder: func() *forwardtest.Recorder {
			return &forwardtest.Recorder{Discard: true}
		}})
		if prepare != nil {
			prepare(b)
		}
		st.began = time.Now()
		pub := b.publish("live/ok")
		s := b.published(healthy, 1)
		w := &faulty{bubble: b, pub: pub, states: st}
		for _, f := range b.srv.Source("live/ok").Forwarders() {
			if hostOf(f) != "healthy" {
				w.fwd = f
			}
		}
		w.others = b.neighbours(pub, media, s.Recorder())
		f(w)
		noteIsolation(w.others.check())
	})
}

func script(step string, s forwardtest.Step) forwardtest.Script {
	return forwardtest.Script{Steps: map[string]forwardtest.Step{step: s}}
}

func at(address string, scripts ...forwardtest.Script) func(b *bubble) {
	return func(b *bubble) { b.destination(address, scripts...) }
}

// many gives the healthy destination and n faulty ones.
func many(n int) DestinationResolver {
	urls := []string{"rtmp://healthy/live/" + canary}
	for i := range n {
		urls = append(urls, fmt.Sprintf("rtmp://faulty/live/%03d", i))
	}
	return MustStatic(urls...)
}

func median[T cmp.Ordered](v []T) T {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// delays requires of each delay before an attempt that it is between half of
// what the policy says and all of it, from the first on doubled.
func (f *faulty) delays(fwd *Forwarder) (attempts []time.Duration) {
	f.Helper()
	attempts = f.states.of(fwd, StateConnecting)
	_, lost := f.states.losses(fwd)
	for i, at := range attempts[1:] {
		d := min(30*time.Second, time.Second<<min(i, 10))
		require.LessOrEqual(f, at-lost[i], d, "attempt %d", i)
		require.GreaterOrEqual(f, at-lost[i], d/2, "attempt %d", i)
	}
	return attempts
}

// mostWithin is how many of the times, at most, are within d.
func mostWithin(d time.Duration, times []time.Duration) (most int) {
	for i, from := range times {
		n := 0
		for n < len(times)-i && times[i+n] < from+d {
			n++
		}
		most = max(most, n)
	}
	return most
}

// That the figures hold whatever the dice is in TestBackoff.
func TestFault01_Refused(t *testing.T) {
	const n = 100
	withFault(t, 1, Config{Resolver: many(n)}, bitrate(10_000), nil, func(f *faulty) {
		time.Sleep(5 * time.Minute)
		var firstMinute, later []int
		seen := time.Duration(0)
		for _, fwd := range f.srv.Source("live/ok").Forwarders() {
			if hostOf(fwd) == "healthy" {
				continue
			}
			attempts := f.delays(fwd)
			errs, lost := f.states.losses(fwd)
			require.Equal(f, OpDial, errs[0].Op)
			require.True(f, errs[0].Temporary())
			seen = max(seen, lost[0]-attempts[0])
			first := 0
			for first < len(attempts) && attempts[first] < time.Minute {
				first++
			}
			firstMinute, later = append(firstMinute, first), append(later, mostWithin(time.Minute, attempts[first:]))
		}
		require.LessOrEqual(f, seen, 50*time.Millisecond)
		require.LessOrEqual(f, slices.Max(firstMinute), 8)
		require.LessOrEqual(f, slices.Max(later), 2)
		measured(1, "refused: seen", "<= 50 ms", "%v", seen)
		measured(1, "refused: attempts in the first 60 s", "<= 8", "median %d, max %d", median(firstMinute), slices.Max(firstMinute))
		measured(1, "refused: attempts in a minute, later", "<= 2", "median %d, max %d", median(later), slices.Max(later))
	})
	withFault(t, 1, Config{Resolver: many(n)}, bitrate(10_000), nil, func(f *faulty) {
		time.Sleep(2 * time.Minute)
		back := time.Since(f.states.began)
		f.destination("faulty:1935")
		time.Sleep(31 * time.Second)
		var took []time.Duration
		for _, fwd := range f.srv.Source("live/ok").Forwarders() {
			if hostOf(fwd) != "healthy" {
				at := f.states.of(fwd, StatePublishing)
				require.Len(f, at, 1)
				took = append(took, at[0]-back)
			}
		}
		require.LessOrEqual(f, slices.Max(took), 30*time.Second)
		measured(1, "refused for 2m0s: back after", "<= 30 s", "median %v, max %v",
			median(took).Round(10*time.Millisecond), slices.Max(took).Round(10*time.Millisecond))
	})
}

// Each of the destinations is down for another time below 5 s, of which none is
// more likely than the other.
func TestFault01_ShortOutages(t *testing.T) {
	const n, longest = 250, 5 * time.Second
	urls := []string{"rtmp://healthy/live/" + canary}
	address := func(i int) string { return fmt.Sprintf("faulty:%d", 2000+i) }
	for i := range n {
		urls = append(urls, "rtmp://"+address(i)+"/live/"+canary)
	}
	withFault(t, 1, Config{Resolver: MustStatic(urls...)}, bitrate(10_000), nil, func(f *faulty) {
		back := make(map[string]time.Duration)
		for i := range n {
			time.Sleep(longest / n)
			f.destination(address(i))
			back[address(i)] = time.Since(f.states.began)
		}
		time.Sleep(30 * time.Second)
		var took []time.Duration
		for _, fwd := range f.srv.Source("live/ok").Forwarders() {
			if hostOf(fwd) != "healthy" {
				at := f.states.of(fwd, StatePublishing)
				require.Len(f, at, 1)
				took = append(took, at[0]-back[hostOf(fwd)])
			}
		}
		require.LessOrEqual(f, slices.Max(took), 30*time.Second)
		require.LessOrEqual(f, median(took), 2*time.Second)
		measured(1, "refused for 0 to 5 s: back after", "median <= 2 s, max <= 30 s", "median %v, max %v",
			median(took).Round(10*time.Millisecond), slices.Max(took).Round(10*time.Millisecond))
	})
}

// blackHole dials in *in, where faulty answers nothing.
func blackHole(in **forwardtest.Network) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if !strings.HasPrefix(address, "faulty") {
			return (*in).Dial(ctx, network, address)
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
}

// The next address after 300 ms is in TestDialer of internal/dialer.
func TestFault02_BlackHole(t *testing.T) {
	var in *forwardtest.Network
	withFault(t, 2, Config{Dial: blackHole(&in)}, steady, func(b *bubble) { in = b.net }, func(f *faulty) {
		time.Sleep(time.Minute)
		errs, lost := f.states.losses(f.fwd)
		took := lost[0] - f.states.of(f.fwd, StateConnecting)[0]
		require.Equal(f, OpDial, errs[0].Op)
		require.LessOrEqual(f, took, 5*time.Second)
		measured(2, "black hole: the dial gives up after", "<= 5 s", "%v", took)
	})
	inBubble(t, Config{Dial: blackHole(&in), Resolver: MustStatic("rtmp://faulty/live/" + canary)}, func(b *bubble) {
		in = b.net
		b.publish("live/" + canary)
		synctest.Wait()
		require.Equal(b, StateConnecting, b.srv.Source("live/" + canary).Forwarders()[0].Stats().State)
		began := time.Now()
		require.NoError(b, b.srv.Shutdown(b.ctx))
		took := time.Since(began)
		require.LessOrEqual(b, took, 100*time.Millisecond)
		measured(2, "black hole: Shutdown during the dial", "<= 100 ms", "%v", took)
	})
}

func TestFault03_NeverSpeaks(t *testing.T) {
	silent := script("handshake", forwardtest.Step{Silent: true})
	withFault(t, 3, Config{}, steady, at("faulty:1935", silent), func(f *faulty) {
		time.Sleep(4 * time.Second)
		require.Equal(f, StateHandshaking, f.fwd.Stats().State)
		time.Sleep(7 * time.Second)
		errs, lost := f.states.losses(f.fwd)
		require.Equal(f, OpHandshake, errs[0].Op)
		require.LessOrEqual(f, lost[0], 10*time.Second)
		measured(3, "never speaks: given up after", "<= 10 s, state handshaking", "%v", lost[0])
	})
	tls := Config{Resolver: MustStatic("rtmp://healthy/live/"+canary, "rtmps://faulty:1935/live/"+canary)}
	withFault(t, 3, tls, steady, at("faulty:1935", silent), func(f *faulty) {
		time.Sleep(11 * time.Second)
		errs, lost := f.states.losses(f.fwd)
		require.Equal(f, OpTLS, errs[0].Op)
		require.LessOrEqual(f, lost[0], 10*time.Second)
		measured(3, "TLS hello unanswered: given up after", "<= 10 s", "%v", lost[0])
	})
}

func TestFault04_SetUpStops(t *testing.T) {
	for _, row := range []struct {
		step  string
		limit time.Duration
	}{
		{"tls", 5 * time.Second}, {"handshake", 5 * time.Second}, {"connect", 5 * time.Second},
		{"createStream", 35 * time.Second}, {"publish", 35 * time.Second}, // they wait for the server's hooks
	} {
		step, limit := row.step, row.limit
		for _, how := range []forwardtest.Step{{Silent: true}, {Delay: limit + 10*time.Second}} {
			cfg, at := Config{}, at("faulty:1935", script(step, how), forwardtest.Script{})
			if step == "tls" { // its hello is answered like a handshake
				cfg.Resolver = MustStatic("rtmp://healthy/live/key", "rtmps://faulty:1935/live/key")
				at = func(b *bubble) { b.destination("faulty:1935", script("handshake", how)) }
			}
			withFault(t, 4, cfg, steady, at, func(f *faulty) {
				time.Sleep(limit + 3*time.Second)
				errs, lost := f.states.losses(f.fwd)
				require.Equal(f, Op(step), errs[0].Op)
				require.ErrorContains(f, errs[0], fmt.Sprintf("%s: no answer within %v", step, limit))
				require.True(f, errs[0].Temporary())
				require.Equal(f, limit, lost[0])
				if step != "tls" {
					require.Equal(f, StatePublishing, f.fwd.Stats().State, "the next attempt")
				}
				if how.Silent {
					measured(4, step+" unanswered: given up after", fmt.Sprintf("<= %v", limit), "%v", lost[0])
				}
			})
		}
	}
	// Each step of them takes 4 s.
	slow := forwardtest.Step{Delay: 4 * time.Second}
	for _, row := range [][]string{
		{"handshake", "connect", "createStream", "publish"},
		{"tls", "connect", "createStream", "publish"},
	} {
		steps := make(map[string]forwardtest.Step)
		for _, step := range row {
			steps[step] = slow
		}
		cfg := Config{
			Resolver:  MustStatic("rtmp://healthy/live/key", "rtmps://faulty:1935/live/key"),
			TLSConfig: &tls.Config{InsecureSkipVerify: true},
		}
		serve := func(b *bubble) {
			cert := newAuthority(b.T).issue(b.T, "faulty", nil)
			l, err := b.net.Listen("faulty:1935")
			require.NoError(b, err)
			d := forwardtest.NewDestinationAt(tls.NewListener(l, &tls.Config{
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
					<-time.After(steps["tls"].Delay)
					return &cert, nil
				},
			}), forwardtest.Script{Steps: steps})
			b.Cleanup(func() { d.Close() })
		}
		withFault(t, 4, cfg, steady, serve, func(f *faulty) {
			time.Sleep(18 * time.Second)
			errs, _ := f.states.losses(f.fwd)
			require.Empty(f, errs, "slow, but not too slow")
			require.Equal(f, StatePublishing, f.fwd.Stats().State)
			measured(4, strings.Join(row, ", ")+" take 4 s each", "publishing", "publishing")
		})
	}
	// Hooks may take long before createStream or publish is answered, which
	// have their time together, and before connect is where it is known.
	for _, row := range []struct {
		d                              Destination
		connect, createStream, publish time.Duration
		op                             string
		lost                           time.Duration
	}{
		{Destination{}, 0, 6 * time.Second, 0, "", 0},
		{Destination{}, 4 * time.Second, 4 * time.Second, 30 * time.Second, "", 0},
		{Destination{}, 4 * time.Second, 20 * time.Second, 20 * time.Second, "publish", 39 * time.Second},
		{Destination{Profile: ProfileSRS}, 9 * time.Second, 0, 34 * time.Second, "", 0},
		{Destination{SetupTimeout: 30 * time.Second}, 14 * time.Second, 0, 34 * time.Second, "", 0},
		{Destination{PublishTimeout: time.Minute}, 0, 0, 59 * time.Second, "", 0},
		{Destination{PublishTimeout: time.Second}, 0, 0, 2 * time.Second, "publish", time.Second},
		{Destination{PublishTimeout: time.Second}, 0, 2 * time.Second, 0, "createStream", time.Second},
	} {
		row.d.URL = "rtmp://faulty/live/key"
		patient := Config{Resolver: ResolverFunc(func(context.Context, *PublishRequest) ([]Destination, error) {
			return []Destination{{URL: "rtmp://healthy/live/key"}, row.d}, nil
		})}
		hooks := forwardtest.Script{Steps: map[string]forwardtest.Step{
			"connect": {Delay: row.connect}, "createStream": {Delay: row.createStream}, "publish": {Delay: row.publish},
		}}
		withFault(t, 4, patient, steady, at("faulty:1935", hooks), func(f *faulty) {
			time.Sleep(row.connect + row.createStream + row.publish + time.Second/2)
			errs, lost := f.states.losses(f.fwd)
			if row.op == "" {
				require.Empty(f, errs)
				require.Equal(f, StatePublishing, f.fwd.Stats().State)
				return
			}
			require.Equal(f, Op(row.op), errs[0].Op)
			require.Equal(f, row.lost, lost[0])
		})
	}
}

// bitrate is a stream of so many bit/s.
func bitrate(n int) forwardtest.Media {
	m := steady
	m.VideoBitrate = n
	return m
}

// In memory a connection takes 64 KiB that nobody reads.
func TestFault05_NeverReads(t *testing.T) {
	for _, row := range []struct {
		rate    int
		stalled time.Duration // 0: not asked for
	}{{8_000_000, 3 * time.Second}, {250_000, 12 * time.Second}, {64_000, 0}} {
		stall := forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 4000}}}
		withFault(t, 5, Config{}, bitrate(row.rate), at("faulty:1935", stall, forwardtest.Script{}), func(f *faulty) {
			publishing := f.states.of(f.fwd, StatePublishing)[0]
			stalled := time.Duration(0)
			for len(f.states.of(f.fwd, StatePublishing)) < 2 {
				time.Sleep(50 * time.Millisecond)
				if stalled == 0 && f.fwd.Stats().State == StateStalled {
					stalled = time.Since(f.states.began)
				}
				require.Less(f, time.Since(f.states.began), 2*time.Minute)
			}
			errs, _ := f.states.losses(f.fwd)
			require.Equal(f, OpWrite, errs[0].Op)
			require.ErrorIs(f, errs[0], fanout.ErrStalled)
			back := f.states.of(f.fwd, StatePublishing)[1] - stalled
			require.LessOrEqual(f, back, 15*time.Second)
			figure := "-"
			if row.stalled > 0 {
				figure = "<= " + row.stalled.String()
				require.LessOrEqual(f, stalled-publishing, row.stalled)
			}
			what := fmt.Sprintf("never reads, %d kbit/s: ", row.rate/1000)
			measured(5, what+"stalled after", figure, "%v", stalled-publishing)
			measured(5, what+"then publishing again after", "<= 15 s", "%v", back)
		})
	}
}

// What the connection itself holds, 64 KiB in memory, counts: at half of
// 250 kbit/s that is 4.2 s.
func TestFault06_ReadsHalfTheRate(t *testing.T) {
	for _, rate := range []int{250_000, 500_000, 1_000_000, 4_000_000} {
		readsHalf(t, rate)
	}
}

func readsHalf(t *testing.T, rate int) {
	rec := &forwardtest.Recorder{Gaps: true}
	slow := forwardtest.Script{
		Faults:   forwardtest.Faults{Read: forwardtest.Fault{Rate: rate / 8 / 2}},
		Recorder: func() *forwardtest.Recorder { return rec },
	}
	withFault(t, 6, Config{}, bitrate(rate), at("faulty:1935", slow), func(f *faulty) {
		var behind time.Duration
		began := time.Now()
		ctx, stop := context.WithCancel(f.ctx)
		go rec.Wait(ctx, func(r forwardtest.Report) bool {
			if r.Last > 0 {
				behind = max(behind, time.Since(began)-time.Duration(r.Last-1)*steadyStep)
			}
			return false
		})
		time.Sleep(2 * time.Minute)
		stop()
		synctest.Wait()
		require.NoError(f, rec.Err(), "decode-clean")
		r, st := rec.Report(), f.fwd.Stats()
		require.Equal(f, uint64(1), st.Connects)
		require.Positive(f, r.Missing)
		require.Positive(f, st.DroppedLate)
		require.Zero(f, st.DroppedNoKeyframe, "it goes on at keyframes")
		require.LessOrEqual(f, behind, 10*time.Second)
		what := fmt.Sprintf("reads half of %d kbit/s: ", rate/1000)
		measured(6, what+"behind at most", "<= 10 s", "%v", behind.Round(time.Millisecond))
		measured(6, what+"at the receiver", "whole runs to a keyframe", "%d of %d frames in %d gaps, all decodable",
			r.Frames, r.Frames+r.Missing, r.Gaps)
	})
}

// Each connection is cut one byte later than the one before, through set-up,
// headers and the first frames.
func TestFault07_ResetInsideAMessage(t *testing.T) {
	const from, to = 3200, 4800
	var scripts []forwardtest.Script
	for i := from; i < to; i++ {
		scripts = append(scripts, forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Reset: int64(i)}}})
	}
	var d *forwardtest.Destination
	cfg := Config{Backoff: Backoff{Min: 1, Max: 1}}
	withFault(t, 7, cfg, bitrate(10_000), func(b *bubble) {
		d = b.destination("faulty:1935", append(scripts, forwardtest.Script{})...)
	}, func(f *faulty) {
		last := f.session(d, len(scripts)+1)
		require.NoError(f, last.Recorder().WaitFrames(f.ctx, 100))
		require.NoError(f, last.Recorder().Err())
		media := 0
		for _, s := range d.Sessions() {
			if r := s.Recorder().Report(); r.Frames > 0 {
				media++
				require.NoError(f, s.Recorder().Err(), "connection %d", s.N)
			}
		}
		errs, _ := f.states.losses(f.fwd)
		for _, err := range errs {
			require.True(f, err.Temporary())
		}
		measured(7, "reset at each byte of set-up and first frames", "next starts at headers + keyframe", "%d cuts, %d connections with media, all clean", len(scripts), media)
	})
}

// The policy, from 10 s doubled up to 5 min, makes 12 attempts an hour at the
// least, and 17 in the first one at the most. The 6 asked for contradict it: a
// host that wants them says so, see TestFault08_HostDecides.
func TestFault08_Refusals(t *testing.T) {
	tries := 0
	for _, row := range []struct {
		step, code string
		lasts      time.Duration
	}{
		{"publish", "NetStream.Publish.BadName", time.Hour},
		{"publish", "NetStream.Publish.Denied", time.Minute},
		{"publish", "NetStream.Publish.Unauthorized", time.Minute},
		{"connect", "NetConnection.Connect.Rejected", time.Minute},
		{"connect", "NetConnection.Connect.InvalidApp", time.Minute},
		{"createStream", "NetConnection.Call.Failed", time.Minute},
	} {
		refuse := script(row.step, forwardtest.Step{Refuse: row.code, Description: "[ AccessManager.Reject ] : no"})
		withFault(t, 8, Config{}, bitrate(10_000), at("faulty:1935", refuse), func(f *faulty) {
			time.Sleep(row.lasts)
			errs, _ := f.states.losses(f.fwd)
			for _, err := range errs {
				require.Equal(f, Op(row.step), err.Op)
				require.Equal(f, row.code, err.Code)
				require.ErrorContains(f, err, "AccessManager.Reject")
				require.False(f, err.Temporary())
			}
			attempts := f.states.of(f.fwd, StateConnecting)
			for i := range attempts[1:] {
				gap := attempts[i+1] - attempts[i]
				require.GreaterOrEqual(f, gap, 10*time.Second)
				d := min(5*time.Minute, 10*time.Second<<min(i, 10))
				require.LessOrEqual(f, gap, d)
				require.GreaterOrEqual(f, gap, d/2)
			}
			require.LessOrEqual(f, len(attempts), 17)
			tries = max(tries, len(attempts))
		})
	}
	measured(8, "refused for good: attempts in the first hour", "<= 6 (cap 5 min: at least 12)", "at most %d", tries)
	for name, do := range map[string]func(*forwardtest.Session){
		"onStatus later": func(s *forwardtest.Session) {
			s.Status("NetStream.Publish.Rejected", "kicked")
			<-time.After(time.Second)
		},
		"closed later": func(s *forwardtest.Session) { s.Close() },
	} {
		later := forwardtest.Script{At: map[int]func(*forwardtest.Session){100: do}}
		withFault(t, 8, Config{}, steady, at("faulty:1935", later, forwardtest.Script{}), func(f *faulty) {
			time.Sleep(20 * time.Second)
			errs, _ := f.states.losses(f.fwd)
			require.Len(f, errs, 1, name)
			require.Equal(f, name == "closed later", errs[0].Temporary(), name)
			require.Equal(f, StatePublishing, f.fwd.Stats().State)
		})
	}
}

// Config.Retry has the last word.
func TestFault08_HostDecides(t *testing.T) {
	refuse := script("publish", forwardtest.Step{Refuse: "NetStream.Publish.BadName"})
	decide := func(d time.Duration, asked chan RetryInfo) Config {
		return Config{Retry: func(r RetryInfo) time.Duration {
			asked <- r
			if r.Err.Temporary() {
				return 0
			}
			return d
		}}
	}
	asked := make(chan RetryInfo, 100)
	withFault(t, 8, decide(10*time.Minute, asked), bitrate(10_000), at("faulty:1935", refuse), func(f *faulty) {
		time.Sleep(time.Hour - time.Second)
		tries := len(f.states.of(f.fwd, StateConnecting))
		require.LessOrEqual(f, tries, 6)
		measured(8, "refused for good, the host says 10 min: in an hour", "<= 6", "%d", tries)
		next := f.fwd.Stats().NextAttempt
		require.Equal(f, time.Second, time.Until(next))
		require.Len(f, asked, tries)
		for i := range tries {
			r := <-asked
			require.Equal(f, "live/ok", r.Request.Name())
			require.Equal(f, "rtmp://faulty/live/***", r.Err.Destination.String())
			require.Equal(f, "NetStream.Publish.BadName", r.Err.Code)
			require.Equal(f, i+1, r.Attempt)
			d := 10 * time.Second << i
			require.LessOrEqual(f, r.Delay, d)
			require.GreaterOrEqual(f, r.Delay, max(d/2, 10*time.Second))
		}
	})
	// Zero is the delay proposed, and so is a panic.
	for name, retry := range map[string]func(RetryInfo) time.Duration{
		"none":   nil,
		"zero":   func(RetryInfo) time.Duration { return 0 },
		"panics": func(RetryInfo) time.Duration { panic("boom") },
	} {
		withFault(t, 8, Config{Retry: retry}, steady, nil, func(f *faulty) {
			time.Sleep(2 * time.Minute)
			require.GreaterOrEqual(f, len(f.delays(f.fwd)), 7, name)
		})
	}
	// A negative one gives up, but for what is new.
	for _, how := range []string{"Update", "Refresh", "Shutdown"} {
		asked := make(chan RetryInfo, 100)
		resolver := &fakeResolver{dests: []Destination{{URL: "rtmp://healthy/live/key"}, {URL: "rtmp://faulty/live/key"}}}
		cfg := decide(-1, asked)
		cfg.Resolver = resolver
		withFault(t, 8, cfg, bitrate(10_000), at("faulty:1935", refuse, forwardtest.Script{}), func(f *faulty) {
			time.Sleep(10 * time.Minute)
			st := f.fwd.Stats()
			require.Equal(f, StateWaiting, st.State)
			require.Zero(f, st.NextAttempt)
			require.EqualValues(f, 1, st.Connects)
			require.Len(f, asked, 1)
			switch how {
			case "Update":
				require.NoError(f, f.fwd.Update(f.ctx, Destination{URL: "rtmp://faulty/live/new"}))
				synctest.Wait()
				require.Equal(f, StatePublishing, f.fwd.Stats().State)
				return
			case "Refresh":
				source := f.srv.Source("live/ok")
				require.NoError(f, source.Refresh(f.ctx))
				time.Sleep(10 * time.Minute)
				require.EqualValues(f, 1, f.fwd.Stats().Connects, "it is given as before")
				resolver.set(func(r *fakeResolver) { r.dests[1].URL = "rtmp://faulty/live/new" })
				require.NoError(f, source.Refresh(f.ctx))
				synctest.Wait()
				require.Len(f, source.Forwarders(), 2)
				for _, n := range source.Forwarders() {
					require.Equal(f, StatePublishing, n.Stats().State)
				}
			default:
				require.NoError(f, f.fwd.Shutdown(f.ctx))
			}
			<-f.fwd.Done()
		})
	}
}

// A destination that closes 2 s after each publish, and one that does so at
// once: each makes the stream begin anew for those behind it.
func TestFault09_ClosesAfterEachGOP(t *testing.T) {
	const n = 40
	for _, lasts := range []time.Duration{2 * time.Second, 0} {
		closing := forwardtest.Script{At: map[int]func(*forwardtest.Session){1: func(s *forwardtest.Session) {
			<-time.After(lasts)
			s.Close()
		}}}
		withFault(t, 9, Config{Resolver: many(n)}, bitrate(10_000), at("faulty:1935", closing), func(f *faulty) {
			time.Sleep(5 * time.Minute)
			var counts []int
			for _, fwd := range f.srv.Source("live/ok").Forwarders() {
				if hostOf(fwd) != "healthy" {
					counts = append(counts, len(f.states.of(fwd, StateConnecting)))
				}
			}
			require.LessOrEqual(f, slices.Max(counts), 12, "short runs do not reset the delay")
			measured(9, fmt.Sprintf("closes %v after publish: connects in 5 min", lasts), "<= 12", "median %d, max %d", median(counts), slices.Max(counts))
		})
	}
}

func TestFault10_Flaps(t *testing.T) {
	var lines logtest.Buffer
	cfg := Config{Logger: secretscan.Logger(slog.NewTextHandler(&lines, nil))}
	withFault(t, 10, cfg, bitrate(10_000), nil, func(f *faulty) {
		for range 1800 {
			d := f.net.NewDestination("faulty:1935")
			time.Sleep(time.Second)
			d.Close()
			time.Sleep(time.Second)
		}
		attempts := len(f.states.of(f.fwd, StateConnecting))
		require.LessOrEqual(f, attempts, 12*12)
		connects := mostWithin(5*time.Minute, f.states.of(f.fwd, StatePublishing))
		require.LessOrEqual(f, connects, 12)
		n := len(lines.Lines("faulty"))
		require.LessOrEqual(f, n, 60)
		measured(10, "flaps for 1 h: attempts", "as #9: <= 12 in 5 min", "%.1f in 5 min, %d of them connect at most", float64(attempts)/12, connects)
		measured(10, "flaps for 1 h: log lines", "<= 60", "%d", n)

		// Each change is in a line or counted by one, and the last line is
		// how it is.
		f.destination("faulty:1935")
		time.Sleep(3 * time.Minute)
		require.Equal(f, StatePublishing, f.fwd.Stats().State)
		changes, last := 0, ""
		for _, last = range lines.Lines("faulty") {
			changes++
			if _, left, ok := strings.Cut(last, "not_logged="); ok {
				var n int
				_, err := fmt.Sscan(left, &n)
				require.NoError(f, err)
				changes += n
			}
			if !strings.Contains(last, "destination publishing") {
				require.Regexp(f, `msg="destination lost".* err="(dial|read|write|handshake|connect|createStream|publish): .*" attempt=\d+ retry=`, last)
			}
		}
		require.Contains(f, last, "destination publishing")
		causes, was := 0, Op("")
		for _, c := range f.states.all {
			var de *DestinationError
			switch {
			case c.state == StatePublishing:
				causes, was = causes+1, ""
			case errors.As(c.err, &de) && de.Op != was:
				causes, was = causes+1, de.Op
			}
		}
		require.Equal(f, causes, changes)
	})
}

// A destination that stays down is one line, and one when it is back.
func TestFault10_StaysDown(t *testing.T) {
	var lines logtest.Buffer
	cfg := Config{Logger: secretscan.Logger(slog.NewTextHandler(&lines, nil))}
	withFault(t, 10, cfg, bitrate(10_000), nil, func(f *faulty) {
		time.Sleep(time.Hour)
		require.Len(f, lines.Lines("faulty"), 1)
		f.destination("faulty:1935")
		time.Sleep(time.Minute)
		require.Len(f, lines.Lines("faulty"), 2)
		measured(10, "down for 1 h: log lines", "one for each change", "2")
	})
}

// What is resolved anew is the name: the dialer gets it at each attempt.
func TestFault11_DNS(t *testing.T) {
	for _, row := range []struct {
		name string
		dial func(ctx context.Context) error
		op   string
	}{
		{"NXDOMAIN", func(context.Context) error {
			return &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "faulty", IsNotFound: true}}
		}, "resolve"},
		{"30 s", func(ctx context.Context) error {
			select {
			case <-time.After(30 * time.Second):
			case <-ctx.Done():
			}
			return &net.OpError{Op: "dial", Err: &net.DNSError{Err: "timeout", Name: "faulty", IsTimeout: true}}
		}, "resolve"},
	} {
		var in *bubble
		asked := 0
		cfg := Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "healthy:1935" || asked >= 3 {
				return in.net.Dial(ctx, network, address)
			}
			require.Equal(t, "faulty:1935", address, "the name, not an address")
			asked++
			return nil, row.dial(ctx)
		}}
		withFault(t, 11, cfg, steady, func(b *bubble) { in = b; b.destination("faulty:1935") }, func(f *faulty) {
			time.Sleep(40 * time.Second)
			errs, lost := f.states.losses(f.fwd)
			require.Equal(f, Op(row.op), errs[0].Op)
			took := lost[0] - f.states.of(f.fwd, StateConnecting)[0]
			require.LessOrEqual(f, took, 5*time.Second)
			require.Equal(f, 3, asked)
			require.Equal(f, StatePublishing, f.fwd.Stats().State, "the name leads somewhere now")
			measured(11, "DNS "+row.name+": given up after", "inside the dial's 5 s, asked anew", "%v", took)
		})
	}
}

func TestFault12_OddDestination(t *testing.T) {
	endless := func(n int, b []byte) func(*forwardtest.Session) {
		return func(s *forwardtest.Session) {
			for range n {
				if _, err := s.Write(b); err != nil {
					return
				}
			}
		}
	}
	for name, row := range map[string]struct {
		do   func(*forwardtest.Session)
		lost bool
	}{
		"chunk size 1":                {func(s *forwardtest.Session) { s.Write(rtmptest.SetChunkSize(1)) }, false},
		"chunk size 2^31":             {func(s *forwardtest.Session) { s.Write(rtmptest.SetChunkSize(1 << 31)) }, true},
		"window 1":                    {func(s *forwardtest.Session) { s.Write(chunk.AppendControl(nil, chunk.TypeWindowAckSize, 1)) }, false},
		"ping":                        {func(s *forwardtest.Session) { s.Write(chunk.AppendUserControl(nil, 6, 1)) }, false},
		"pings, and reads no answers": {endless(50_000, chunk.AppendUserControl(nil, 6, 1)), true},
		"endless data":                {endless(10_000, rtmptest.Zeros(chunk.TypeData, 1, 1000, 128)), false},
		"64 KiB":                      {func(s *forwardtest.Session) { s.Write(rtmptest.Zeros(chunk.TypeSharedObject, 0, 64<<10, 128)) }, false},
		"above 64 KiB":                {func(s *forwardtest.Session) { s.Write(rtmptest.FirstChunk(3, chunk.TypeCommand, 0, 64<<10+1, nil)) }, true},
		"16 MiB of video":             {func(s *forwardtest.Session) { s.Write(rtmptest.FirstChunk(6, chunk.TypeVideo, 1, 1<<24-1, nil)) }, true},
		"17 chunk streams":            {func(s *forwardtest.Session) { s.Write(rtmptest.OnChunkStreams(10, 17)) }, true},
		"deep AMF":                    {func(s *forwardtest.Session) { s.Write(rtmptest.NestedArrays(17)) }, true},
	} {
		odd := forwardtest.Script{At: map[int]func(*forwardtest.Session){10: row.do}}
		withFault(t, 12, Config{}, steady, at("faulty:1935", odd, forwardtest.Script{}), func(f *faulty) {
			time.Sleep(20 * time.Second)
			errs, _ := f.states.losses(f.fwd)
			require.Equal(f, row.lost, len(errs) == 1, name)
			require.Equal(f, StatePublishing, f.fwd.Stats().State, name)
		})
	}
	measured(12, "odd destinations: chunk sizes, pings, floods", "answered or ended, <= 64 KiB kept", "11 kinds, limits as before accept")
}

// 64 destinations that take nothing share one log.
func TestFault13_NobodyReads(t *testing.T) {
	const n, limit = 64, 4 << 20
	cfg := Config{Resolver: many(n), MaxBytes: limit, MaxLatency: time.Hour, WriteTimeout: time.Hour}
	stall := forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 4000}}}
	media := bitrate(4_000_000)
	media.KeyframeInterval = time.Hour // nothing may be dropped for a keyframe
	withFault(t, 13, cfg, media, at("faulty:1935", stall), func(f *faulty) {
		time.Sleep(2 * time.Second)
		synctest.Wait()
		before := heap()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		st := f.srv.Source("live/ok").Stats()
		require.LessOrEqual(f, st.LogBytes, limit)
		require.Greater(f, st.LogBytes, limit/2)
		grown := heap() - before
		require.LessOrEqual(f, grown, limit+1<<20)
		measured(13, "64 that never read: heap grown", "<= 1 log + 1 MiB", "%.1f MiB, log of %.1f MiB",
			float64(grown)/(1<<20), float64(st.LogBytes)/(1<<20))
	})
}

// heap is how many bytes are in use, with those of stacks.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// transport answers HTTP requests in the process.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestFault14_HookWithoutAnswer(t *testing.T) {
	for _, row := range []struct {
		name, policy string
		ok           bool
	}{
		{"FailClosed", "FailClosed", false}, {"FailOpen", "FailOpen", true}, {"LastGood without one", "LastGood", false},
		{"Fallback", "Fallback", true},
	} {
		asked := 0
		silent := ResolveHTTP(HTTPBackend{URL: "http://backend/", OnFailure: row.policy, Fallback: MustStatic("rtmp://faulty/live/" + canary), Logger: quiet, Client: &http.Client{
			Transport: transport(func(r *http.Request) (*http.Response, error) {
				asked++
				<-r.Context().Done()
				return nil, r.Context().Err()
			}),
		}})
		cfg := Config{Resolver: ResolverFunc(func(ctx context.Context, r *PublishRequest) ([]Destination, error) {
			if r.Stream == "ok" {
				return MustStatic("rtmp://healthy/live/"+canary).ResolveDestinations(ctx, r)
			}
			return silent.ResolveDestinations(ctx, r)
		})}
		withFault(t, 14, cfg, steady, nil, func(f *faulty) {
			began := time.Now()
			p, err := f.client("live/" + canary).Publish(f.ctx)
			took := time.Since(began)
			require.Equal(f, row.ok, err == nil)
			require.LessOrEqual(f, took, 30*time.Second)
			require.Equal(f, 1, asked)
			if err == nil {
				p.Close()
			}
			measured(14, "hook without an answer, "+row.name+": answered after", "<= 30 s", "%v", took)
		})
	}
}

// What an answer may be is in the tests of resolve.HTTP and the fuzz target of its
// decoder; here are those that cost.
func TestFault15_HookTalksNonsense(t *testing.T) {
	for name, body := range map[string]io.Reader{
		"garbage":         strings.NewReader("<html>"),
		"wrong types":     strings.NewReader(`{"code":0,"data":{"urls":[1]}}`),
		"10 GiB":          io.LimitReader(zeros{}, 10<<30),
		"1 byte a second": nil,
		"257 urls":        strings.NewReader(`{"code":0,"data":{"urls":[` + strings.Repeat(`"rtmp://a/b/c",`, 256) + `"rtmp://a/b/c"]}}`),
	} {
		r := ResolveHTTP(HTTPBackend{URL: "http://backend/", Logger: quiet, Client: &http.Client{
			Transport: transport(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(bodyOf{r.Context(), body})}, nil
			}),
		}})
		cfg := Config{Resolver: ResolverFunc(func(ctx context.Context, req *PublishRequest) ([]Destination, error) {
			if req.Stream == "ok" {
				return MustStatic("rtmp://healthy/live/"+canary).ResolveDestinations(ctx, req)
			}
			return r.ResolveDestinations(ctx, req)
		})}
		withFault(t, 15, cfg, steady, nil, func(f *faulty) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			_, err := f.client("live/" + canary).Publish(f.ctx)
			require.Equal(f, "NetStream.Publish.Denied", forwardtest.RefusalCode(err), name)
			runtime.ReadMemStats(&after)
			require.LessOrEqual(f, time.Since(began), 30*time.Second, name)
			if name == "10 GiB" {
				allocated := after.TotalAlloc - before.TotalAlloc
				require.LessOrEqual(f, allocated, uint64(8<<20))
				measured(15, "hook answers 10 GiB: allocated in all", "in use <= 2 MiB", "%.1f MiB", float64(allocated)/(1<<20))
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// bodyOf ends with its request, as http.Transport's does. Without a Reader it
// is a space each second.
type bodyOf struct {
	ctx context.Context
	io.Reader
}

func (b bodyOf) Read(p []byte) (int, error) {
	if b.Reader != nil {
		return b.Reader.Read(p)
	}
	select {
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	case <-time.After(time.Second):
		p[0] = ' '
		return 1, nil
	}
}

func TestFault17_PublisherVanishes(t *testing.T) {
	inBubble(t, Config{Resolver: MustStatic("rtmp://a/live/[stream]")}, func(b *bubble) {
		d := b.destination("a:1935")
		others := b.steady()
		p := b.publish("live/" + canary)
		s := b.published(d, 2)
		require.NoError(b, p.Send(b.ctx, steady.Messages(3*time.Second), 1))
		p.Vanish()
		began := time.Now()
		_, err := s.WaitCommand(b.ctx, "FCUnpublish")
		require.NoError(b, err)
		took := time.Since(began)
		_, err = s.WaitCommand(b.ctx, "deleteStream")
		require.NoError(b, err)
		require.LessOrEqual(b, took, 10*time.Second)
		require.Nil(b, b.srv.Source("live/"+canary))
		measured(17, "publisher vanishes: destinations told after", "<= 10 s", "%v", took)
		noteIsolation(others.check())
	})
}

// A publisher as fast as it is taken: it is held back for who makes progress,
// not for who makes none.
func TestFault18_FasterThanRealTime(t *testing.T) {
	for _, row := range []struct {
		media  forwardtest.Media
		length time.Duration
		rate   int
	}{
		{forwardtest.Media{ID: 2}, 2 * time.Minute, 1 << 20},
		{forwardtest.Media{ID: 2, VideoBitrate: -1, AudioBitrate: 16000}, 2 * time.Minute, 1 << 20},
		// 512 KiB, the backlog that is waited for, last longer than a receiver
		// may lag.
		{forwardtest.Media{ID: 2, VideoBitrate: 400_000, AudioBitrate: -1, KeyframeInterval: time.Second}, 2 * time.Minute, 66_000},
		// 2 s, by which a publisher may be early, are more bytes than a
		// receiver may lag.
		{forwardtest.Media{ID: 2, VideoBitrate: 80_000_000, AudioBitrate: -1, KeyframeInterval: time.Second / 2}, 6 * time.Second, 12 << 20},
	} {
		media, length := row.media, row.length
		cfg := Config{Resolver: MustStatic("rtmp://slow/live/"+canary, "rtmp://stalled/live/"+canary), WriteTimeout: time.Hour, ReadTimeout: time.Minute}
		inBubble(t, cfg, func(b *bubble) {
			slowly := b.destination("slow:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Rate: row.rate}}})
			b.destination("stalled:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
			p := b.publish("live/fast")
			s := b.published(slowly, 1)
			began := time.Now()
			require.NoError(b, p.Send(b.ctx, media.Messages(length), 0))
			took := time.Since(began)
			time.Sleep(20 * time.Second) // for what is under way
			require.NoError(b, p.Unpublish())
			_, err := s.WaitCommand(b.ctx, "deleteStream")
			require.NoError(b, err)
			require.NoError(b, s.Recorder().Err())
			r := s.Recorder().Report()
			require.Equal(b, uint64(1), r.First)
			require.Equal(b, uint64(r.Frames), r.Last)
			require.Less(b, took, length)
			measured(18, fmt.Sprintf("as fast as it is taken, %v of media, %d kB/s", length, row.rate/1000), "nothing lost, bounded by bytes",
				"%d frames, 0 lost, in %v", r.Frames, took.Round(time.Second))
		})
	}
}

func TestFault19_RepublishAtOnce(t *testing.T) {
	inBubble(t, Config{Resolver: MustStatic("rtmp://a/live/" + canary)}, func(b *bubble) {
		d := b.destination("a:1935")
		play := b.play("live/" + canary)
		longest := time.Duration(0)
		for i := range 100 {
			c := b.client("live/" + canary)
			began := time.Now()
			p, err := c.Publish(b.ctx)
			require.NoError(b, err, i)
			longest = max(longest, time.Since(began))
			s := b.published(d, i+1)
			media := steady
			media.ID = uint32(i + 1)
			require.NoError(b, p.Send(b.ctx, media.Messages(400*time.Millisecond), 1))
			require.NoError(b, s.Recorder().WaitFrames(b.ctx, 10))
			if i%2 == 0 {
				p.Reset()
			}
			p.Close()
			synctest.Wait()
		}
		time.Sleep(time.Second)
		require.NoError(b, play.Recorder().Err(), "no old frame after a new header")
		require.Equal(b, 1000, play.Recorder().Report().Frames)
		require.Len(b, d.Sessions(), 100, "each publish opened its destination once")
		for _, s := range d.Sessions() {
			require.NoError(b, s.Recorder().Err())
			require.Equal(b, 10, s.Recorder().Report().Frames)
			require.Equal(b, "deleteStream", names(s)[len(names(s))-1])
		}
		require.LessOrEqual(b, longest, 200*time.Millisecond)
		measured(19, "republished at once: accepted", "100 of 100, <= 200 ms", "100 of 100, %v", longest)
	})
}

// The policy that lets the second one take over is not there.
func TestFault20_SecondPublisher(t *testing.T) {
	var got calls
	cfg := Config{Hooks: got.hooks(), Resolver: MustStatic("rtmp://healthy/live/" + canary)}
	inBubble(t, cfg, func(b *bubble) {
		d := b.destination("healthy:1935")
		pub := b.publish("live/ok")
		s := b.published(d, 1)
		others := b.neighbours(pub, steady, s.Recorder())
		for range 20 {
			_, err := b.client("live/ok").Publish(b.ctx)
			require.Equal(b, "NetStream.Publish.BadName", forwardtest.RefusalCode(err))
			_, err = b.srv.Publish(b.ctx, PublishRequest{App: "live", Stream: "ok"})
			require.ErrorIs(b, err, ErrStreamBusy)
			time.Sleep(100 * time.Millisecond)
		}
		noteIsolation(others.check())
		require.Len(b, d.Sessions(), 1)
		require.Equal(b, 1, got.get()["publish"])
		require.Zero(b, got.get()["unpublish"])
		measured(20, "second publisher, 20 times", "BadName, 0 extra connections, 0 hooks", "as asked")
	})
}

func TestFault21_ShutdownInFullFlight(t *testing.T) {
	const streams = 100
	cfg := Config{Resolver: MustStatic("rtmp://a/live/[stream]", "rtmp://b/live/[stream]", "rtmp://c/live/[stream]", "rtmp://d/live/[stream]")}
	inBubble(t, cfg, func(b *bubble) {
		var dests []*forwardtest.Destination
		for _, name := range []string{"a", "b", "c", "d"} {
			dests = append(dests, b.destination(name+":1935"))
		}
		for i := range streams {
			p := b.publish(fmt.Sprintf("live/%d", i))
			go p.Send(b.ctx, bitrate(10_000).Messages(-1), 1)
		}
		time.Sleep(5 * time.Second)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- b.srv.Shutdown(b.ctx) }()
		synctest.Wait()
		_, err := b.net.Dial(b.ctx, "", "server:1935")
		require.ErrorIs(b, err, syscall.ECONNREFUSED, "the listener is closed at once")
		require.NoError(b, <-done)
		took := time.Since(began)
		require.LessOrEqual(b, took, 5*time.Second)
		for _, d := range dests {
			require.Len(b, d.Sessions(), streams)
			for _, s := range d.Sessions() {
				<-s.Done()
				require.ErrorIs(b, s.Err(), io.EOF, "no reset")
				require.Contains(b, names(s), "FCUnpublish")
				require.Contains(b, names(s), "deleteStream")
				require.NoError(b, s.Recorder().Err())
			}
		}
		measured(21, "Shutdown of 100 streams x 4", "<= 5 s, each told, no reset", "%v, 400 told", took)
	})
}

// A publisher's times are passed on, modulo 2^32, also where they jump ahead;
// where they are set back they go on from where they were, audio and video
// alike.
func TestFault22_Times(t *testing.T) {
	for _, start := range []uint32{1<<24 - 500, 1<<31 - 500, 1<<32 - 500} {
		inBubble(t, Config{Resolver: MustStatic("rtmp://a/live/" + canary)}, func(b *bubble) {
			d := b.destination("a:1935")
			p := b.publish("live/" + canary)
			s := b.published(d, 1)
			media := steady
			media.Start = start
			require.NoError(b, p.Send(b.ctx, media.Messages(2*time.Second), 1))
			require.NoError(b, s.Recorder().WaitFrames(b.ctx, 50))
			require.NoError(b, s.Recorder().Err())
			require.Equal(b, start+1960, s.Recorder().Messages()[51].Timestamp)
		})
	}
	for _, c := range []struct {
		jump  int
		raw   bool
		first uint32 // from the last audio before it to the first video after it,
		next  uint32 // and to the first audio from there
	}{
		// By itself the first video may be out of line: it goes out with the
		// time of the video before it.
		{3_600_000, false, 1<<32 - 20, 3_600_060}, {-3_600_000, false, 1<<32 - 20, 60},
		{-3_600_000, true, 1<<32 - 3_599_980, 20},
	} {
		inBubble(t, Config{Resolver: MustStatic("rtmp://a/live/" + canary), RawTimestamps: c.raw}, func(b *bubble) {
			anything := func() *forwardtest.Recorder {
				return &forwardtest.Recorder{Reference: []forwardtest.Message{}}
			}
			d := b.destination("a:1935", forwardtest.Script{Recorder: anything})
			p := b.publish("live/" + canary)
			s := b.published(d, 1)
			send := func(typ uint8, ms int, body []byte) {
				require.NoError(b, p.WriteMessage(forwardtest.Message{Type: typ, Timestamp: uint32(ms), Payload: body}))
			}
			for i := range 500 {
				ms := 10_000_000 + i*40
				if i >= 250 {
					ms += c.jump
				}
				send(TagVideo, ms, rtmptest.Frame(i%25 == 0, i))
				send(TagAudio, ms+20, []byte(aacData))
				time.Sleep(steadyStep)
			}
			late := anything()
			player, err := b.client("live/"+canary).Play(b.ctx, late)
			require.NoError(b, err)
			defer player.Close()
			require.NoError(b, s.Recorder().WaitFrames(b.ctx, 1000))
			require.NoError(b, late.WaitFrames(b.ctx, 50))
			require.Len(b, d.Sessions(), 1)
			all := s.Recorder().Messages()
			require.Equal(b, all[950:], late.Messages(), "for late joiners too")
			for n, m := range all {
				if n == 0 {
					continue
				}
				want := uint32(20)
				switch n {
				case 500:
					want = c.first
				case 501:
					want = c.next
				}
				require.Equal(b, want, m.Timestamp-all[n-1].Timestamp, n)
			}
		})
	}
	measured(22, "times wrap at 2^24, 2^31, 2^32, jump by 1 h, are set back by 1 h", "no disconnect, monotonic", "0 disconnects, monotonic")
}

// What each of them takes TestFault23_MemoryOfHalfOpen measures.
func TestFault23_HalfOpenHandshakes(t *testing.T) {
	const flood = 10_000
	inBubble(t, Config{}, func(b *bubble) {
		others := b.steady()
		var conns []net.Conn
		for i := range flood {
			nc, err := b.net.Dial(b.ctx, "", "server:1935")
			require.NoError(b, err)
			conns = append(conns, nc)
			if i%100 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		synctest.Wait()
		require.Equal(b, 1024+2, b.srv.Stats().Connections, "with publisher and player")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(b, 2, b.srv.Stats().Connections, "publisher and player")
		b.play("live/ok").Close()
		noteIsolation(others.check())
		for _, nc := range conns {
			nc.Close()
		}
		measured(23, "10000 half-open in 1 s", "<= 1024 pending, gone in 5 s", "1024, 5 s")
	})
}

func TestFault26_HostPanics(t *testing.T) {
	cfg := Config{Hooks: Hooks{OnPublish: func(_ context.Context, r *PublishRequest) error {
		if r.Stream == "bad" {
			panic("boom")
		}
		return nil
	}}}
	inBubble(t, cfg, func(b *bubble) {
		others := b.steady()
		for range 10 {
			_, err := b.client("live/bad").Publish(b.ctx)
			require.Equal(b, "NetStream.Publish.Denied", forwardtest.RefusalCode(err))
			time.Sleep(100 * time.Millisecond)
		}
		noteIsolation(others.check())
		measured(26, "host panics (each hook: TestPanicsOfTheHost)", "the session ends, others R0", "as asked")
	})
}

// A stream that comes back is refused at connect, under whatever name.
func TestFault27_Loops(t *testing.T) {
	for _, row := range []struct{ name, to, back string }{
		{"A to A", "rtmp://server/live/[stream]", ""},
		{"A to A, renamed", "rtmp://server/live/[stream]-again", ""},
		{"A to B to A", "rtmp://b/live/[stream]", "rtmp://server/live/[stream]"},
		{"A to B to A, renamed", "rtmp://b/live/[stream]-b", "rtmp://server/live/[stream]-again"},
	} {
		var got calls
		cfg := Config{Hooks: got.hooks(), Resolver: MustStatic(row.to)}
		inBubble(t, cfg, func(b *bubble) {
			last := b.srv
			if row.back != "" {
				last = NewServer(Config{Logger: quiet, Dial: b.net.Dial, Resolver: MustStatic(row.back)})
				defer last.Close()
				l, err := b.net.Listen("b:1935")
				require.NoError(b, err)
				go last.Serve(l)
			}
			b.publish("live/" + canary)
			synctest.Wait()
			require.Len(b, last.Sources(), 1)
			st := last.Sources()[0].Forwarders()[0].Stats()
			var de *DestinationError
			require.ErrorAs(b, st.LastErr, &de)
			require.Equal(b, "NetConnection.Connect.Rejected", de.Code)
			require.False(b, de.Temporary())
			require.Equal(b, 1, got.get()["publish"])
			require.Equal(b, 1, got.get()["connect"])
			measured(27, "loop "+row.name, "refused in 1 round trip, 0 hooks", "refused at connect, 0 hooks")
		})
	}
}

func TestFault30_SlowPlayer(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		others := b.steady()
		play := func(f forwardtest.Fault) (*forwardtest.Player, chan error) {
			c, result := b.served("live/ok")
			c.Dial = forwardtest.FaultDial(c.Dial, forwardtest.Faults{Read: f})
			p, err := c.Play(b.ctx, &forwardtest.Recorder{Gaps: true})
			require.NoError(b, err)
			b.Cleanup(func() { p.Close() })
			return p, result
		}
		began := time.Now()
		_, stalled := play(forwardtest.Fault{Stall: 5000})
		slow, _ := play(forwardtest.Fault{Rate: 31_000})
		require.ErrorIs(b, <-stalled, fanout.ErrStalled)
		took := time.Since(began)
		require.LessOrEqual(b, took, 15*time.Second)
		time.Sleep(2 * time.Minute)
		require.Positive(b, slow.Recorder().Report().Missing)
		require.NoError(b, slow.Recorder().Err())
		slow.Close()
		noteIsolation(others.check())
		measured(30, "player that stops reading: cut after", "10 s without progress", "%v, with 64 KiB taken before", took.Round(10*time.Millisecond))
		measured(30, "player at half the rate", "whole runs to a keyframe", "decodable")
	})
}

// failing is a listener whose Accept fails so often, each time with what next
// gives.
type failing struct {
	net.Listener
	next func() error

	mu sync.Mutex
	at []time.Time
}

func (l *failing) Accept() (net.Conn, error) {
	if err := l.next(); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.at = append(l.at, time.Now())
		return nil, &net.OpError{Op: "accept", Err: err}
	}
	return l.Listener.Accept()
}

func TestFault24_AcceptFails(t *testing.T) {
	for _, cause := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, errors.New("some other")} {
		var lines atomic.Int64
		inBubble(t, Config{Logger: logtest.Count(&lines, slog.LevelWarn, "accept")}, func(b *bubble) {
			others := b.steady()
			began := time.Now()
			lasts := 20 * time.Second
			inner, err := b.net.Listen("failing:1935")
			require.NoError(b, err)
			l := &failing{Listener: inner, next: func() error {
				if time.Since(began) < lasts {
					return cause
				}
				return nil
			}}
			served := make(chan error, 1)
			go func() { served <- b.srv.Serve(l) }()
			c := b.client("live/ok")
			c.URL = "rtmp://failing/live/ok"
			p, err := c.Play(b.ctx, nil)
			require.NoError(b, err)
			recovered := time.Since(began) - lasts
			require.LessOrEqual(b, recovered, time.Second)
			for i := range l.at[1:] {
				require.Equal(b, min(acceptMin<<i, acceptMax), l.at[i+1].Sub(l.at[i]))
			}
			require.LessOrEqual(b, lines.Load(), int64(lasts/time.Second)+1)
			p.Close()
			noteIsolation(others.check())
			b.srv.Close()
			require.ErrorIs(b, <-served, ErrServerClosed)
			if cause == syscall.EMFILE {
				measured(24, "accept fails for 20 s: back after", "<= 1 s, back-off 5 ms to 1 s", "%v, %d attempts", recovered, len(l.at))
				measured(24, "accept fails for 20 s: log lines", "1 a second", "%d", lines.Load())
			}
		})
	}
	// Failures and successes in turn are logged once a second, too.
	var lines atomic.Int64
	inBubble(t, Config{Logger: logtest.Count(&lines, slog.LevelWarn, "accept")}, func(b *bubble) {
		inner, err := b.net.Listen("failing:1935")
		require.NoError(b, err)
		n := 0
		go b.srv.Serve(&failing{Listener: inner, next: func() error {
			if n++; n%2 == 0 {
				return syscall.ECONNABORTED
			}
			return nil
		}})
		for range 100 {
			nc, err := b.net.Dial(b.ctx, "", "failing:1935")
			require.NoError(b, err)
			nc.Close()
			time.Sleep(20 * time.Millisecond)
		}
		require.LessOrEqual(b, lines.Load(), int64(3))
	})
	// A listener that was closed by others ends Serve.
	inBubble(t, Config{}, func(b *bubble) {
		l, err := b.net.Listen("closed:1935")
		require.NoError(b, err)
		served := make(chan error, 1)
		go func() { served <- b.srv.Serve(l) }()
		synctest.Wait()
		l.Close()
		require.ErrorIs(b, <-served, net.ErrClosed)
	})
}
