package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestMain(m *testing.M) { os.Exit(secretscan.Main(m)) }

const canary = secretscan.Canary // in every secret

// gather returns the metrics by their names.
func gather(t testing.TB, c prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	all := prometheus.NewPedanticRegistry()
	require.NoError(t, all.Register(c))
	families, err := all.Gather()
	require.NoError(t, err)
	out := make(map[string]*dto.MetricFamily)
	for _, f := range families {
		out[f.GetName()] = f
	}
	return out
}

// page returns what a GET of the handler answers.
func page(t testing.TB, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	return w.Body.String()
}

// labels are those of a metric.
func labels(m *dto.Metric) map[string]string {
	out := make(map[string]string)
	for _, l := range m.GetLabel() {
		out[l.GetName()] = l.GetValue()
	}
	return out
}

// number is the value of a gauge or counter with all of these labels, NaN-free; it fails
// where there is none.
func number(t testing.TB, all map[string]*dto.MetricFamily, name string, with ...string) float64 {
	t.Helper()
	var found []float64
metrics:
	for _, m := range all[name].GetMetric() {
		has := labels(m)
		for i := 0; i < len(with); i += 2 {
			if has[with[i]] != with[i+1] {
				continue metrics
			}
		}
		found = append(found, m.GetGauge().GetValue()+m.GetCounter().GetValue())
	}
	require.Len(t, found, 1, "%s %q", name, with)
	return found[0]
}

// scripted is a Server that every metric but the round-trip time has something to tell
// of: streams with players, destinations in all kinds of trouble, a failing hook.
func scripted(t *testing.T, f func(b *hosttest.Bubble)) {
	cfg := forward.Config{
		MergeWindow: -1, MemoryBudget: 1 << 26, MaxLatency: time.Minute, WriteTimeout: time.Minute,
		Backoff: forward.Backoff{Min: time.Minute, Max: time.Minute},
		Resolver: forward.MustStatic(
			"rtmp://u:"+canary+"@a.example/live/"+canary, "rtmp://b.example/live/"+canary+"?t="+canary,
			"rtmp://c.example:1936/live/"+canary,
		),
		Hooks: forward.Hooks{OnPublish: func(_ context.Context, req *forward.Request) error {
			if req.Stream == "no" {
				return forward.ErrRefused
			}
			return nil
		}},
	}
	hosttest.InBubble(t, cfg, func(b *hosttest.Bubble) {
		b.Destination("a.example:1935")
		b.Destination("b.example:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 100_000}}})
		b.Destination("c.example:1936", forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Refuse: "NetStream.Publish.BadName"}}})
		_, err := b.Client("live/no").Publish(b.Ctx)
		require.Error(t, err)
		p := b.Publish("live/" + canary)
		b.Play("live/" + canary)
		require.NoError(t, p.Send(b.Ctx, forwardtest.Media{}.Messages(9*time.Second), 1))
		synctest.Wait()
		f(b)
	})
}

// needsSystem are the metrics that are missing without help of the system.
var needsSystem = []string{"forward_destination_rtt_seconds"}

// What a scripted Server is doing is in the metrics.
func TestMetricsOfAServer(t *testing.T) {
	scripted(t, func(b *hosttest.Bubble) {
		src := b.Server.Source("live/" + canary)
		stream := fmt.Sprint(src)
		all := gather(t, New(b.Server, Options{}))
		st, srv := src.Stats(), b.Server.Stats()
		for name, want := range map[string]float64{
			"forward_streams": 1, "forward_players": 1, "forward_connections": 2,
			"forward_publishes_total": 1, "forward_plays_total": 1, "forward_refused_total": 1,
			"forward_received_bytes_total": float64(st.Bytes), "forward_sent_bytes_total": float64(srv.Sent.Bytes),
			"forward_push_connects_total": 3, "forward_push_accepted_total": 2,
			"forward_memory_budget_bytes": 1 << 26, "forward_buffered_bytes": float64(srv.Buffered),
			"forward_stream_frames_total": 225, "forward_stream_keyframes_total": 5,
			"forward_stream_gop_seconds": 2, "forward_stream_gop_frames": 50, "forward_stream_players": 1,
			"forward_stream_received_bytes_total": float64(st.Bytes),
			"forward_stream_push_connects_total":  3,
		} {
			require.Equal(t, want, number(t, all, name), name)
		}
		require.InDelta(t, 25, number(t, all, "forward_stream_frames_per_second"), 0.5)
		for state, want := range map[string]float64{"publishing": 1, "stalled": 1, "waiting": 1, "connecting": 0, "handshaking": 0, "draining": 0} {
			require.Equal(t, want, number(t, all, "forward_destinations", "state", state), state)
		}
		require.EqualValues(t, 1, number(t, all, "forward_push_lost_total", "op", "publish"))
		require.EqualValues(t, 0, number(t, all, "forward_push_lost_total", "op", "dial"))

		a := []string{"host", "a.example", "stream", stream}
		require.EqualValues(t, 1, number(t, all, "forward_destination_state", append(a, "state", "publishing")...))
		require.EqualValues(t, 0, number(t, all, "forward_destination_state", append(a, "state", "stalled")...))
		require.Zero(t, number(t, all, "forward_destination_lag_messages", a...))
		require.Greater(t, number(t, all, "forward_destination_first_keyframe_seconds", a...), 0.0)
		require.EqualValues(t, 1, number(t, all, "forward_destination_state", "host", "b.example", "state", "stalled"))
		require.Greater(t, number(t, all, "forward_destination_lag_seconds", "host", "b.example"), 1.0)
		require.Greater(t, number(t, all, "forward_destination_lag_media_seconds", "host", "b.example"), 1.0)
		require.Greater(t, number(t, all, "forward_destination_lag_bytes", "host", "b.example"), 10_000.0)
		require.EqualValues(t, 1, number(t, all, "forward_destination_lost_total", "host", "c.example:1936", "op", "publish"))
		next := number(t, all, "forward_destination_next_attempt_timestamp_seconds", "host", "c.example:1936")
		require.Greater(t, next, float64(time.Now().Unix()))
		for _, f := range src.Forwarders() {
			require.Zero(t, number(t, all, "forward_destination_warning", "destination", f.ID()))
		}
		require.Equal(t, map[string]string{
			"stream": stream, "id": src.ID(), "video": "avc1", "audio": "mp4a", "profile": "High",
			"width": "320", "height": "180", "sample_rate": "48000", "channels": "1",
		}, labels(all["forward_stream_info"].GetMetric()[0]))

		require.EqualValues(t, 2, all["forward_first_keyframe_seconds"].GetMetric()[0].GetHistogram().GetSampleCount())
		require.NotZero(t, all["forward_write_latency_seconds"].GetMetric()[0].GetHistogram().GetSampleCount())
		require.EqualValues(t, 1, number(t, all, "forward_call_failures_total", "call", "OnPublish"))
		for _, m := range all["forward_call_seconds"].GetMetric() {
			if labels(m)["call"] == "OnPublish" {
				require.EqualValues(t, 2, m.GetHistogram().GetSampleCount())
			}
		}
	})
}

// Nothing secret is in the page; the real name of a stream only where the host says so.
func TestPageHoldsNoSecret(t *testing.T) {
	scripted(t, func(b *hosttest.Bubble) {
		require.NotContains(t, page(t, Handler(b.Server, Options{})), canary)
		secretscan.Check("metrics", page(t, Handler(b.Server, Options{})), Options{})
		p := b.Publish("live/" + strings.Repeat("long", 50))
		defer p.Close()
		named := page(t, Handler(b.Server, Options{Names: true}))
		require.Contains(t, named, `forward_stream_players{stream="live/longlong`)
		require.NotContains(t, named, strings.Repeat("long", 40))
	})
}

// promlint finds nothing.
func TestLint(t *testing.T) {
	scripted(t, func(b *hosttest.Bubble) {
		problems, err := promlint.NewWithMetricFamilies(slices.Collect(maps.Values(gather(t, New(b.Server, Options{}))))).Lint()
		require.NoError(t, err)
		require.Empty(t, problems)
	})
}

// The counters of the Server stay when the stream has ended; its series end.
func TestSeriesEnd(t *testing.T) {
	scripted(t, func(b *hosttest.Bubble) {
		c := New(b.Server, Options{})
		before, src := gather(t, c), b.Server.Source("live/"+canary)
		require.NoError(t, src.Close())
		after := gather(t, c)
		for name, f := range before {
			if strings.HasPrefix(name, "forward_stream_") || strings.HasPrefix(name, "forward_destination_") {
				require.NotContains(t, after, name)
				continue
			}
			for _, m := range f.GetMetric() {
				if f.GetType() == dto.MetricType_COUNTER {
					with := []string{}
					for k, v := range labels(m) {
						with = append(with, k, v)
					}
					require.GreaterOrEqual(t, number(t, after, name, with...), m.GetCounter().GetValue(), name)
				}
			}
		}
		require.EqualValues(t, 2, number(t, after, "forward_push_accepted_total"))
	})
}

// Beyond the limits streams and destinations are summed, and no counter of the sums falls
// when one of them ends.
func TestOthersAreSummed(t *testing.T) {
	cfg := forward.Config{ReadTimeout: -1, Resolver: forward.MustStatic("rtmp://a.example/live/[stream]", "rtmp://down.example/live/[stream]")}
	hosttest.InBubble(t, cfg, func(b *hosttest.Bubble) {
		b.Destination("a.example:1935")
		c := New(b.Server, Options{MaxStreams: 2, MaxDestinations: 3})
		var pubs []*forwardtest.Publisher
		for i := range 5 {
			p := b.Publish(fmt.Sprint("live/s", i))
			require.NoError(t, p.Send(b.Ctx, forwardtest.Media{}.Messages(3*time.Second), 1))
			pubs = append(pubs, p)
		}
		synctest.Wait()
		all := gather(t, c)
		require.Len(t, all["forward_stream_frames_total"].GetMetric(), 3)
		require.Len(t, all["forward_stream_info"].GetMetric(), 2)
		require.Len(t, all["forward_destination_sent_bytes_total"].GetMetric(), 4)
		require.EqualValues(t, 3*75, number(t, all, "forward_stream_frames_total", "stream", "other"))
		others := []string{"stream", "other", "destination", "other", "host", "other"}
		require.EqualValues(t, 3, number(t, all, "forward_destination_state", append(others, "state", "publishing")...))
		require.EqualValues(t, 4, number(t, all, "forward_destination_state", append(others, "state", "waiting")...))
		require.EqualValues(t, 3, number(t, all, "forward_destination_accepted_total", others...))
		require.NotContains(t, all["forward_stream_start_timestamp_seconds"].String(), "other")

		for _, p := range pubs[2:] { // the others end
			require.NoError(t, p.Unpublish())
		}
		time.Sleep(time.Second)
		all = gather(t, c)
		require.EqualValues(t, 3*75, number(t, all, "forward_stream_frames_total", "stream", "other"))
		require.EqualValues(t, 3, number(t, all, "forward_destination_accepted_total", others...))
		require.EqualValues(t, 1, number(t, all, "forward_destination_state", append(others, "state", "waiting")...), "of a stream with series")
		require.NoError(t, pubs[0].Unpublish())
		time.Sleep(time.Second)
		gather(t, c) // which notices the end
		b.Publish("live/s9")
		synctest.Wait()
		all = gather(t, c)
		require.EqualValues(t, 3*75, number(t, all, "forward_stream_frames_total", "stream", "other"))
		require.EqualValues(t, 0, number(t, all, "forward_stream_frames_total", "stream", fmt.Sprint(b.Server.Source("live/s9"))), "has the place of s0")
	})
}

// A destination that drains while a new one to the same place begins is one series.
func TestDestinationsOfOneIDAreOneSeries(t *testing.T) {
	hosttest.InBubble(t, forward.Config{DrainTimeout: time.Minute, WriteTimeout: time.Hour}, func(b *hosttest.Bubble) {
		b.Destination("a.example:1935", forwardtest.Script{Faults: forwardtest.Faults{Read: forwardtest.Fault{Stall: 5000}}})
		p := b.Publish("live/s")
		src := b.Server.Source("live/s")
		f, err := src.Forward(forward.Destination{URL: "rtmp://a.example/live/x"})
		require.NoError(t, err)
		require.NoError(t, p.Send(b.Ctx, forwardtest.Media{}.Messages(3*time.Second), 1))
		ctx, cancel := context.WithCancel(b.Ctx)
		ended := make(chan error, 1)
		go func() { ended <- f.Shutdown(ctx) }()
		synctest.Wait()
		again, err := src.Forward(forward.Destination{URL: "rtmp://a.example/live/x"})
		require.NoError(t, err)
		require.Equal(t, f.ID(), again.ID())
		synctest.Wait()
		require.Len(t, src.Forwarders(), 2)
		all := gather(t, New(b.Server, Options{}))
		require.EqualValues(t, 0, number(t, all, "forward_destination_state", "destination", f.ID(), "state", "draining"))
		require.EqualValues(t, 1, number(t, all, "forward_destinations", "state", "draining"))
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

// Scrapes from several sides while streams and destinations come and go.
func TestConcurrentScrapes(t *testing.T) {
	hosttest.InBubble(t, forward.Config{Resolver: forward.MustStatic("rtmp://a.example/live/[stream]")}, func(b *hosttest.Bubble) {
		b.Destination("a.example:1935")
		c := New(b.Server, Options{MaxStreams: 2, MaxDestinations: 2})
		handler := Handler(b.Server, Options{})
		wrapped := prometheus.NewRegistry()
		require.NoError(t, prometheus.WrapRegistererWith(prometheus.Labels{"server": "a"}, wrapped).Register(c))
		done := make(chan struct{})
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				for {
					select {
					case <-done:
						return
					case <-time.After(30 * time.Millisecond):
					}
					page(t, handler)
					_, err := wrapped.Gather()
					require.NoError(t, err)
				}
			})
		}
		var streams sync.WaitGroup
		for i := range 4 {
			streams.Go(func() {
				for range 5 {
					p, err := b.Client(fmt.Sprint("live/s", i)).Publish(b.Ctx)
					require.NoError(t, err)
					require.NoError(t, p.Send(b.Ctx, forwardtest.Media{}.Messages(100*time.Millisecond), 1))
					require.NoError(t, p.Unpublish())
					p.Close()
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		streams.Wait()
		close(done)
		all.Wait()
		require.EqualValues(t, 20, b.Server.Stats().Publishes)
	})
}

// Nothing is registered globally, and the page has the process, too.
func TestHandler(t *testing.T) {
	srv := hosttest.NewServer(t, forward.Config{})
	served := httptest.NewServer(Handler(srv, Options{}))
	defer served.Close()
	defer http.DefaultClient.CloseIdleConnections()
	r, err := http.Get(served.URL)
	require.NoError(t, err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Regexp(t, `^text/plain; version=0\.0\.4`, r.Header.Get("Content-Type"))
	require.Contains(t, string(body), "\nforward_streams 0\n")
	require.Contains(t, string(body), "\nforward_build_info{")
	require.Contains(t, string(body), "\ngo_goroutines ")
	global, err := prometheus.DefaultGatherer.Gather()
	require.NoError(t, err)
	for _, f := range global {
		require.NotContains(t, f.GetName(), "forward_")
	}
}

// notShown are the facts that are no metric of their own: why.
var notShown = map[string]string{
	"ServerStats.Destinations": "the sum of States",
	"ServerStats.RefusedFrom":  "an address for each label has no bound, and is personal",
	"ForwarderStats.LastErr":   "a text; forward_destination_lost_total has its cause",
	"Format.":                  "labels of forward_stream_info",
	"Totals.Bytes":             "of a destination it is ForwarderStats.Bytes",
}

// Every fact of the library's statistics is in a metric: another value of it changes the
// values of the tables.
func TestEveryFactIsAMetric(t *testing.T) {
	everyFact(t, serverMetrics)
	everyFact(t, streamMetrics)
	everyFact(t, destinationMetrics)
}

// beside are the facts that metrics beside the tables have.
var beside = []string{"ServerStats.Latency", "ServerStats.FirstKeyframe", "ServerStats.Calls", "SourceStats.VideoCodec", "SourceStats.AudioCodec", "SourceStats.Format"}

func everyFact[T any](t *testing.T, metrics []metric[T]) {
	read := func(st *T) string {
		var out strings.Builder
		for i := range metrics {
			metrics[i].values(st, func(label string, v float64) { fmt.Fprintln(&out, metrics[i].name, label, v) })
		}
		return out.String()
	}
	zero := read(new(T))
	var look func(of string, get func(st *T) reflect.Value)
	look = func(of string, get func(st *T) reflect.Value) {
		typ := get(new(T)).Type()
		for i := range typ.NumField() {
			name := of + "." + typ.Field(i).Name
			if notShown[name] != "" || slices.Contains(beside, name) {
				continue
			}
			if typ.Field(i).Type == reflect.TypeFor[forward.Totals]() {
				look("Totals", func(st *T) reflect.Value { return get(st).Field(i) })
				continue
			}
			st := new(T)
			change(t, get(st).Field(i))
			require.NotEqual(t, zero, read(st), name)
		}
	}
	typ := reflect.TypeFor[T]()
	look(typ.Name(), func(st *T) reflect.Value { return reflect.ValueOf(st).Elem() })
}

// change gives v another value.
func change(t *testing.T, v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *forward.State:
		*x = forward.StateWaiting
	case *string:
		*x = "x"
	case *time.Time:
		*x = time.Now()
	case *map[forward.Op]uint64:
		*x = map[forward.Op]uint64{forward.OpRead: 1}
	case *map[forward.State]int:
		*x = map[forward.State]int{forward.StateWaiting: 1}
	case *error:
		*x = errors.New("x")
	default:
		switch {
		case v.CanInt():
			v.SetInt(1e9)
		case v.CanUint():
			v.SetUint(1)
		case v.CanFloat():
			v.SetFloat(1)
		default:
			require.Fail(t, "no value", "%T", x)
		}
	}
}

// The metrics know each state and each Op of the library.
func TestEveryStateAndOpIsKnown(t *testing.T) {
	var got []string
	for _, s := range append(states, forward.StateClosed) {
		got = append(got, string(s))
	}
	text, err := os.ReadFile("../forwarder.go")
	require.NoError(t, err)
	found := regexp.MustCompile(`State\w+ +State = "(\w+)"`).FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, found)
	var want []string
	for _, m := range found {
		want = append(want, m[1])
	}
	require.ElementsMatch(t, want, got)

	text, err = os.ReadFile("../errors.go")
	require.NoError(t, err)
	require.Len(t, regexp.MustCompile(`(?m)^\tOp\w+ +Op += `).FindAllString(string(text), -1), len(ops))
}
