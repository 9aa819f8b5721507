package e2e

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// many returns the healthy destination and n faulty ones.
func many(n int) forward.DestinationResolver {
	urls := []string{"rtmp://healthy/live/" + canary}
	for i := range n {
		urls = append(urls, fmt.Sprintf("rtmp://faulty/live/%03d", i))
	}
	return forward.MustStatic(urls...)
}

func median[T cmp.Ordered](v []T) T {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// mostInWindow returns the most times in any period of length d.
func mostInWindow(d time.Duration, times []time.Duration) (most int) {
	for i, from := range times {
		n := 0
		for n < len(times)-i && times[i+n] < from+d {
			n++
		}
		most = max(most, n)
	}
	return most
}

// TestBackoff shows that the limits hold for all random delays.
func TestFault01_Refused(t *testing.T) {
	const n = 100
	withFault(t, 1, forward.Config{Resolver: many(n)}, bitrate(10_000), nil, func(f *faulty) {
		time.Sleep(5 * time.Minute)
		var firstMinute, later []int
		seen := time.Duration(0)
		for _, fwd := range f.Server.Source("live/ok").Forwarders() {
			if hostOf(fwd) == "healthy" {
				continue
			}
			attempts := f.delays(fwd)
			errs, lost := f.states.losses(fwd)
			require.Equal(f, forward.OpDial, errs[0].Op)
			require.True(f, errs[0].Temporary())
			seen = max(seen, lost[0]-attempts[0])
			first := 0
			for first < len(attempts) && attempts[first] < time.Minute {
				first++
			}
			firstMinute, later = append(firstMinute, first), append(later, mostInWindow(time.Minute, attempts[first:]))
		}
		require.LessOrEqual(f, seen, 50*time.Millisecond)
		require.LessOrEqual(f, slices.Max(firstMinute), 8)
		require.LessOrEqual(f, slices.Max(later), 2)
		measured(1, "refused: seen", "<= 50 ms", "%v", seen)
		measured(1, "refused: attempts in the first 60 s", "<= 8", "median %d, max %d", median(firstMinute), slices.Max(firstMinute))
		measured(1, "refused: attempts in a minute, later", "<= 2", "median %d, max %d", median(later), slices.Max(later))
	})
	withFault(t, 1, forward.Config{Resolver: many(n)}, bitrate(10_000), nil, func(f *faulty) {
		time.Sleep(2 * time.Minute)
		back := time.Since(f.states.began)
		f.Destination("faulty:1935")
		time.Sleep(31 * time.Second)
		var took []time.Duration
		for _, fwd := range f.Server.Source("live/ok").Forwarders() {
			if hostOf(fwd) != "healthy" {
				at := f.states.of(fwd, forward.StatePublishing)
				require.Len(f, at, 1)
				took = append(took, at[0]-back)
			}
		}
		require.LessOrEqual(f, slices.Max(took), 30*time.Second)
		measured(1, "refused for 2m0s: back after", "<= 30 s", "median %v, max %v",
			median(took).Round(10*time.Millisecond), slices.Max(took).Round(10*time.Millisecond))
	})
}

// Each destination is down for a different time below 5 s, evenly distributed.
func TestFault01_ShortOutages(t *testing.T) {
	const n, longest = 250, 5 * time.Second
	urls := []string{"rtmp://healthy/live/" + canary}
	address := func(i int) string { return fmt.Sprintf("faulty:%d", 2000+i) }
	for i := range n {
		urls = append(urls, "rtmp://"+address(i)+"/live/"+canary)
	}
	withFault(t, 1, forward.Config{Resolver: forward.MustStatic(urls...)}, bitrate(10_000), nil, func(f *faulty) {
		back := make(map[string]time.Duration)
		for i := range n {
			time.Sleep(longest / n)
			f.Destination(address(i))
			back[address(i)] = time.Since(f.states.began)
		}
		time.Sleep(30 * time.Second)
		var took []time.Duration
		for _, fwd := range f.Server.Source("live/ok").Forwarders() {
			if hostOf(fwd) != "healthy" {
				at := f.states.of(fwd, forward.StatePublishing)
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

// blackHole dials in *in; faulty does not answer.
func blackHole(in **forwardtest.Network) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if !strings.HasPrefix(address, "faulty") {
			return (*in).Dial(ctx, network, address)
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
}

// TestDialer of internal/upstream tests the next address after 300 ms.
func TestFault02_BlackHole(t *testing.T) {
	var in *forwardtest.Network
	withFault(t, 2, forward.Config{Dial: blackHole(&in)}, steady, func(b *bubble) { in = b.Net }, func(f *faulty) {
		time.Sleep(time.Minute)
		errs, lost := f.states.losses(f.fwd)
		took := lost[0] - f.states.of(f.fwd, forward.StateConnecting)[0]
		require.Equal(f, forward.OpDial, errs[0].Op)
		require.LessOrEqual(f, took, 5*time.Second)
		measured(2, "black hole: the dial gives up after", "<= 5 s", "%v", took)
	})
	inBubble(t, forward.Config{Dial: blackHole(&in), Resolver: forward.MustStatic("rtmp://faulty/live/" + canary)}, func(b *bubble) {
		in = b.Net
		b.Publish("live/" + canary)
		synctest.Wait()
		require.Equal(b, forward.StateConnecting, b.Server.Source("live/" + canary).Forwarders()[0].Stats().State)
		began := time.Now()
		require.NoError(b, b.Server.Shutdown(b.Ctx))
		took := time.Since(began)
		require.LessOrEqual(b, took, 100*time.Millisecond)
		measured(2, "black hole: Shutdown during the dial", "<= 100 ms", "%v", took)
	})
}

func TestFault03_NeverSpeaks(t *testing.T) {
	silent := script("handshake", forwardtest.Step{Silent: true})
	withFault(t, 3, forward.Config{}, steady, at("faulty:1935", silent), func(f *faulty) {
		time.Sleep(4 * time.Second)
		require.Equal(f, forward.StateHandshaking, f.fwd.Stats().State)
		time.Sleep(7 * time.Second)
		errs, lost := f.states.losses(f.fwd)
		require.Equal(f, forward.OpHandshake, errs[0].Op)
		require.LessOrEqual(f, lost[0], 10*time.Second)
		measured(3, "sends nothing: given up after", "<= 10 s, state handshaking", "%v", lost[0])
	})
	tls := forward.Config{Resolver: forward.MustStatic("rtmp://healthy/live/"+canary, "rtmps://faulty:1935/live/"+canary)}
	withFault(t, 3, tls, steady, at("faulty:1935", silent), func(f *faulty) {
		time.Sleep(11 * time.Second)
		errs, lost := f.states.losses(f.fwd)
		require.Equal(f, forward.OpTLS, errs[0].Op)
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
		{"createStream", 35 * time.Second}, {"publish", 35 * time.Second}, // the answers wait for the server's hooks
	} {
		step, limit := row.step, row.limit
		for _, how := range []forwardtest.Step{{Silent: true}, {Delay: limit + 10*time.Second}} {
			cfg, at := forward.Config{}, at("faulty:1935", script(step, how), forwardtest.Script{})
			if step == "tls" { // its ClientHello is answered like a handshake
				cfg.Resolver = forward.MustStatic("rtmp://healthy/live/key", "rtmps://faulty:1935/live/key")
				at = func(b *bubble) { b.Destination("faulty:1935", script("handshake", how)) }
			}
			withFault(t, 4, cfg, steady, at, func(f *faulty) {
				time.Sleep(limit + 3*time.Second)
				errs, lost := f.states.losses(f.fwd)
				require.Equal(f, forward.Op(step), errs[0].Op)
				require.ErrorContains(f, errs[0], fmt.Sprintf("%s: no answer within %v", step, limit))
				require.True(f, errs[0].Temporary())
				require.Equal(f, limit, lost[0])
				if step != "tls" {
					require.Equal(f, forward.StatePublishing, f.fwd.Stats().State, "the next attempt")
				}
				if how.Silent {
					measured(4, step+" unanswered: given up after", fmt.Sprintf("<= %v", limit), "%v", lost[0])
				}
			})
		}
	}
	// Each step takes 4 s.
	slow := forwardtest.Step{Delay: 4 * time.Second}
	for _, row := range [][]string{
		{"handshake", "connect", "createStream", "publish"},
		{"tls", "connect", "createStream", "publish"},
	} {
		steps := make(map[string]forwardtest.Step)
		for _, step := range row {
			steps[step] = slow
		}
		cfg := forward.Config{
			Resolver:  forward.MustStatic("rtmp://healthy/live/key", "rtmps://faulty:1935/live/key"),
			TLSConfig: &tls.Config{InsecureSkipVerify: true},
		}
		serve := func(b *bubble) {
			cert := newAuthority(b.T).issue(b.T, "faulty", nil)
			l, err := b.Net.Listen("faulty:1935")
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
			require.Equal(f, forward.StatePublishing, f.fwd.Stats().State)
			measured(4, strings.Join(row, ", ")+" take 4 s each", "publishing", "publishing")
		})
	}
	// Hooks may delay the answers to createStream and publish, which share a timeout,
	// and the answer to connect of servers known for it.
	for _, row := range []struct {
		d                              forward.Destination
		connect, createStream, Publish time.Duration
		op                             string
		lost                           time.Duration
	}{
		{forward.Destination{}, 0, 6 * time.Second, 0, "", 0},
		{forward.Destination{}, 4 * time.Second, 4 * time.Second, 30 * time.Second, "", 0},
		{forward.Destination{}, 4 * time.Second, 20 * time.Second, 20 * time.Second, "publish", 39 * time.Second},
		{forward.Destination{Profile: forward.ProfileSRS}, 9 * time.Second, 0, 34 * time.Second, "", 0},
		{forward.Destination{SetupTimeout: 30 * time.Second}, 14 * time.Second, 0, 34 * time.Second, "", 0},
		{forward.Destination{PublishTimeout: time.Minute}, 0, 0, 59 * time.Second, "", 0},
		{forward.Destination{PublishTimeout: time.Second}, 0, 0, 2 * time.Second, "publish", time.Second},
		{forward.Destination{PublishTimeout: time.Second}, 0, 2 * time.Second, 0, "createStream", time.Second},
	} {
		row.d.URL = "rtmp://faulty/live/key"
		patient := forward.Config{Resolver: forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
			return []forward.Destination{{URL: "rtmp://healthy/live/key"}, row.d}, nil
		})}
		hooks := forwardtest.Script{Steps: map[string]forwardtest.Step{
			"connect": {Delay: row.connect}, "createStream": {Delay: row.createStream}, "publish": {Delay: row.Publish},
		}}
		withFault(t, 4, patient, steady, at("faulty:1935", hooks), func(f *faulty) {
			time.Sleep(row.connect + row.createStream + row.Publish + time.Second/2)
			errs, lost := f.states.losses(f.fwd)
			if row.op == "" {
				require.Empty(f, errs)
				require.Equal(f, forward.StatePublishing, f.fwd.Stats().State)
				return
			}
			require.Equal(f, forward.Op(row.op), errs[0].Op)
			require.Equal(f, row.lost, lost[0])
		})
	}
}

// In memory a connection buffers 64 KiB that nobody reads.
func TestFault05_NeverReads(t *testing.T) {
	for _, row := range []struct {
		rate    int
		stalled time.Duration // 0: not checked
	}{{8_000_000, 3 * time.Second}, {250_000, 12 * time.Second}, {64_000, 0}} {
		stall := forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 4000}}}
		withFault(t, 5, forward.Config{}, bitrate(row.rate), at("faulty:1935", stall, forwardtest.Script{}), func(f *faulty) {
			publishing := f.states.of(f.fwd, forward.StatePublishing)[0]
			stalled := time.Duration(0)
			for len(f.states.of(f.fwd, forward.StatePublishing)) < 2 {
				time.Sleep(50 * time.Millisecond)
				if stalled == 0 && f.fwd.Stats().State == forward.StateStalled {
					stalled = time.Since(f.states.began)
				}
				require.Less(f, time.Since(f.states.began), 2*time.Minute)
			}
			errs, _ := f.states.losses(f.fwd)
			require.Equal(f, forward.OpWrite, errs[0].Op)
			require.ErrorIs(f, errs[0], fanout.ErrStalled)
			back := f.states.of(f.fwd, forward.StatePublishing)[1] - stalled
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

// The connection's own buffer counts, 64 KiB in memory: at half of 250 kbit/s that is
// 4.2 s.
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
	withFault(t, 6, forward.Config{}, bitrate(rate), at("faulty:1935", slow), func(f *faulty) {
		var behind time.Duration
		began := time.Now()
		ctx, stop := context.WithCancel(f.Ctx)
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
		require.Zero(f, st.DroppedNoKeyframe, "it continues at keyframes")
		require.LessOrEqual(f, behind, 10*time.Second)
		what := fmt.Sprintf("reads half of %d kbit/s: ", rate/1000)
		measured(6, what+"late at most", "<= 10 s", "%v", behind.Round(time.Millisecond))
		measured(6, what+"at the receiver", "whole runs to a keyframe", "%d of %d frames in %d gaps, all decodable",
			r.Frames, r.Frames+r.Missing, r.Gaps)
	})
}

// Each connection is cut one byte later than the previous one, through set-up, headers
// and the first frames.
func TestFault07_ResetInsideAMessage(t *testing.T) {
	const from, to = 3200, 4800
	var scripts []forwardtest.Script
	for i := from; i < to; i++ {
		scripts = append(scripts, forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Reset: int64(i)}}})
	}
	var d *forwardtest.Destination
	cfg := forward.Config{Backoff: forward.Backoff{Min: 1, Max: 1}}
	withFault(t, 7, cfg, bitrate(10_000), func(b *bubble) {
		d = b.Destination("faulty:1935", append(scripts, forwardtest.Script{})...)
	}, func(f *faulty) {
		last := f.Session(d, len(scripts)+1)
		require.NoError(f, last.Recorder().WaitFrames(f.Ctx, 100))
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

// The delay after a refusal doubles from 10 s up to 5 min: at least 12 attempts per
// hour, and at most 17 in the first one. A host that wants at most 6 sets Config.Retry,
// see TestFault08_HostDecides.
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
		withFault(t, 8, forward.Config{}, bitrate(10_000), at("faulty:1935", refuse), func(f *faulty) {
			time.Sleep(row.lasts)
			errs, _ := f.states.losses(f.fwd)
			for _, err := range errs {
				require.Equal(f, forward.Op(row.step), err.Op)
				require.Equal(f, row.code, err.Code)
				require.ErrorContains(f, err, "AccessManager.Reject")
				require.False(f, err.Temporary())
			}
			attempts := f.states.of(f.fwd, forward.StateConnecting)
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
		withFault(t, 8, forward.Config{}, steady, at("faulty:1935", later, forwardtest.Script{}), func(f *faulty) {
			time.Sleep(20 * time.Second)
			errs, _ := f.states.losses(f.fwd)
			require.Len(f, errs, 1, name)
			require.Equal(f, name == "closed later", errs[0].Temporary(), name)
			require.Equal(f, forward.StatePublishing, f.fwd.Stats().State)
		})
	}
}

// Config.Retry overrides the delays.
func TestFault08_HostDecides(t *testing.T) {
	refuse := script("publish", forwardtest.Step{Refuse: "NetStream.Publish.BadName"})
	decide := func(d time.Duration, asked chan forward.RetryInfo) forward.Config {
		return forward.Config{Retry: func(r forward.RetryInfo) time.Duration {
			asked <- r
			if r.Err.Temporary() {
				return 0
			}
			return d
		}}
	}
	asked := make(chan forward.RetryInfo, 100)
	withFault(t, 8, decide(10*time.Minute, asked), bitrate(10_000), at("faulty:1935", refuse), func(f *faulty) {
		time.Sleep(time.Hour - time.Second)
		tries := len(f.states.of(f.fwd, forward.StateConnecting))
		require.LessOrEqual(f, tries, 6)
		measured(8, "refused for good, Config.Retry returns 10 min: attempts in an hour", "<= 6", "%d", tries)
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
	// Zero selects the proposed delay, and so does a panic.
	for name, retry := range map[string]func(forward.RetryInfo) time.Duration{
		"none":   nil,
		"zero":   func(forward.RetryInfo) time.Duration { return 0 },
		"panics": func(forward.RetryInfo) time.Duration { panic("boom") },
	} {
		withFault(t, 8, forward.Config{Retry: retry}, steady, nil, func(f *faulty) {
			time.Sleep(2 * time.Minute)
			require.GreaterOrEqual(f, len(f.delays(f.fwd)), 7, name)
		})
	}
	// A negative delay gives up, but new destinations are still tried.
	for _, how := range []string{"Update", "Refresh", "Shutdown"} {
		asked := make(chan forward.RetryInfo, 100)
		resolver := &fakeResolver{Dests: []forward.Destination{{URL: "rtmp://healthy/live/key"}, {URL: "rtmp://faulty/live/key"}}}
		cfg := decide(-1, asked)
		cfg.Resolver = resolver
		withFault(t, 8, cfg, bitrate(10_000), at("faulty:1935", refuse, forwardtest.Script{}), func(f *faulty) {
			time.Sleep(10 * time.Minute)
			st := f.fwd.Stats()
			require.Equal(f, forward.StateWaiting, st.State)
			require.Zero(f, st.NextAttempt)
			require.EqualValues(f, 1, st.Connects)
			require.Len(f, asked, 1)
			switch how {
			case "Update":
				require.NoError(f, f.fwd.Update(f.Ctx, forward.Destination{URL: "rtmp://faulty/live/new"}))
				synctest.Wait()
				require.Equal(f, forward.StatePublishing, f.fwd.Stats().State)
				return
			case "Refresh":
				source := f.Server.Source("live/ok")
				require.NoError(f, source.Refresh(f.Ctx))
				time.Sleep(10 * time.Minute)
				require.EqualValues(f, 1, f.fwd.Stats().Connects, "it is given as before")
				resolver.Set(func(r *fakeResolver) { r.Dests[1].URL = "rtmp://faulty/live/new" })
				require.NoError(f, source.Refresh(f.Ctx))
				synctest.Wait()
				require.Len(f, source.Forwarders(), 2)
				for _, n := range source.Forwarders() {
					require.Equal(f, forward.StatePublishing, n.Stats().State)
				}
			default:
				require.NoError(f, f.fwd.Shutdown(f.Ctx))
			}
			<-f.fwd.Done()
		})
	}
}

// One destination closes 2 s after each publish, another one immediately. Each
// reconnect makes the stream start over for its viewers.
func TestFault09_ClosesAfterEachGOP(t *testing.T) {
	const n = 40
	for _, lasts := range []time.Duration{2 * time.Second, 0} {
		closing := forwardtest.Script{At: map[int]func(*forwardtest.Session){1: func(s *forwardtest.Session) {
			<-time.After(lasts)
			s.Close()
		}}}
		withFault(t, 9, forward.Config{Resolver: many(n)}, bitrate(10_000), at("faulty:1935", closing), func(f *faulty) {
			time.Sleep(5 * time.Minute)
			var counts []int
			for _, fwd := range f.Server.Source("live/ok").Forwarders() {
				if hostOf(fwd) != "healthy" {
					counts = append(counts, len(f.states.of(fwd, forward.StateConnecting)))
				}
			}
			require.LessOrEqual(f, slices.Max(counts), 12, "short runs do not reset the delay")
			measured(9, fmt.Sprintf("closes %v after publish: connects in 5 min", lasts), "<= 12", "median %d, max %d", median(counts), slices.Max(counts))
		})
	}
}

func TestFault10_Flaps(t *testing.T) {
	var lines logtest.Buffer
	cfg := forward.Config{Logger: secretscan.Logger(slog.NewTextHandler(&lines, nil))}
	withFault(t, 10, cfg, bitrate(10_000), nil, func(f *faulty) {
		for range 1800 {
			d := f.Net.NewDestination("faulty:1935")
			time.Sleep(time.Second)
			d.Close()
			time.Sleep(time.Second)
		}
		attempts := len(f.states.of(f.fwd, forward.StateConnecting))
		require.LessOrEqual(f, attempts, 12*12)
		connects := mostInWindow(5*time.Minute, f.states.of(f.fwd, forward.StatePublishing))
		require.LessOrEqual(f, connects, 12)
		n := len(lines.Lines("faulty"))
		require.LessOrEqual(f, n, 60)
		measured(10, "flaps for 1 h: attempts", "as #9: <= 12 in 5 min", "%.1f in 5 min, %d of them connect at most", float64(attempts)/12, connects)
		measured(10, "flaps for 1 h: log lines", "<= 60", "%d", n)

		// Each change is in a line or counted by one, and the last line shows the
		// current state.
		f.Destination("faulty:1935")
		time.Sleep(3 * time.Minute)
		require.Equal(f, forward.StatePublishing, f.fwd.Stats().State)
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
		causes, was := 0, forward.Op("")
		for _, c := range f.states.all {
			var de *forward.DestinationError
			switch {
			case c.state == forward.StatePublishing:
				causes, was = causes+1, ""
			case errors.As(c.err, &de) && de.Op != was:
				causes, was = causes+1, de.Op
			}
		}
		require.Equal(f, causes, changes)
	})
}

// A destination that stays down causes one line, and one when it is back.
func TestFault10_StaysDown(t *testing.T) {
	var lines logtest.Buffer
	cfg := forward.Config{Logger: secretscan.Logger(slog.NewTextHandler(&lines, nil))}
	withFault(t, 10, cfg, bitrate(10_000), nil, func(f *faulty) {
		time.Sleep(time.Hour)
		require.Len(f, lines.Lines("faulty"), 1)
		f.Destination("faulty:1935")
		time.Sleep(time.Minute)
		require.Len(f, lines.Lines("faulty"), 2)
		measured(10, "down for 1 h: log lines", "one for each change", "2")
	})
}

// Each attempt passes the name to the dialer, so it is resolved again.
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
		cfg := forward.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "healthy:1935" || asked >= 3 {
				return in.Net.Dial(ctx, network, address)
			}
			require.Equal(t, "faulty:1935", address, "the name, not an address")
			asked++
			return nil, row.dial(ctx)
		}}
		withFault(t, 11, cfg, steady, func(b *bubble) { in = b; b.Destination("faulty:1935") }, func(f *faulty) {
			time.Sleep(40 * time.Second)
			errs, lost := f.states.losses(f.fwd)
			require.Equal(f, forward.Op(row.op), errs[0].Op)
			took := lost[0] - f.states.of(f.fwd, forward.StateConnecting)[0]
			require.LessOrEqual(f, took, 5*time.Second)
			require.Equal(f, 3, asked)
			require.Equal(f, forward.StatePublishing, f.fwd.Stats().State, "the name resolves now")
			measured(11, "DNS "+row.name+": given up after", "inside the dial's 5 s, asked again", "%v", took)
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
		withFault(t, 12, forward.Config{}, steady, at("faulty:1935", odd, forwardtest.Script{}), func(f *faulty) {
			time.Sleep(20 * time.Second)
			errs, _ := f.states.losses(f.fwd)
			require.Equal(f, row.lost, len(errs) == 1, name)
			require.Equal(f, forward.StatePublishing, f.fwd.Stats().State, name)
		})
	}
	measured(12, "odd destinations: chunk sizes, pings, floods", "answered or ended, <= 64 KiB kept", "11 kinds, limits as before accept")
}

// 64 destinations that read nothing share one log.
func TestFault13_NobodyReads(t *testing.T) {
	const n, limit = 64, 4 << 20
	cfg := forward.Config{Resolver: many(n), MaxBytes: limit, MaxLatency: time.Hour, WriteTimeout: time.Hour}
	stall := forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 4000}}}
	media := bitrate(4_000_000)
	media.KeyframeInterval = time.Hour // no message may be dropped for a keyframe
	withFault(t, 13, cfg, media, at("faulty:1935", stall), func(f *faulty) {
		time.Sleep(2 * time.Second)
		synctest.Wait()
		before := heap()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		st := f.Server.Source("live/ok").Stats()
		require.LessOrEqual(f, st.LogBytes, limit)
		require.Greater(f, st.LogBytes, limit/2)
		grown := heap() - before
		require.LessOrEqual(f, grown, limit+1<<20)
		measured(13, "64 that never read: heap grown", "<= 1 log + 1 MiB", "%.1f MiB, log of %.1f MiB",
			float64(grown)/(1<<20), float64(st.LogBytes)/(1<<20))
	})
}
