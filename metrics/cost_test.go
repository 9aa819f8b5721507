package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
)

// pushing returns a Server that pushes a stream to n destinations over loopback.
func pushing(t testing.TB, n int) *forward.Server {
	sink := hosttest.NewServer(t, forward.Config{ReadTimeout: -1, FirstMediaTimeout: -1})
	addr := serve(t, sink)
	publishes := make(chan struct{}, n)
	srv := hosttest.NewServer(t, forward.Config{MergeWindow: -1, Hooks: forward.Hooks{
		OnForward: func(_ *forward.Forwarder, s forward.State, _ error) {
			if s == forward.StatePublishing {
				publishes <- struct{}{}
			}
		},
	}})
	p := hosttest.Publish(t, srv, "live", "s")
	for i := range n {
		_, err := p.Source().Forward(forward.Destination{URL: fmt.Sprintf("rtmp://%s/live/s%d", addr, i)})
		require.NoError(t, err)
		if i%50 == 49 { // the kernel queues 128 or more
			for range 50 {
				<-publishes
			}
		}
	}
	messages := 0
	for m := range (forwardtest.Media{}).Messages(3 * time.Second) {
		messages++
		require.NoError(t, p.WriteTag(m.Type, m.Timestamp, m.Payload))
	}
	const headers = 3 // which may not count
	for sink.Stats().ReceivedMessages < uint64(n*(messages-headers)) {
		time.Sleep(time.Millisecond) // until the machine is quiet
	}
	return srv
}

// serve serves over loopback and returns the address.
func serve(t testing.TB, s *forward.Server) string {
	l := httptest.NewUnstartedServer(nil).Listener
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return l.Addr().String()
}

// allStats asks for everything.
func allStats(srv *forward.Server) (n int) {
	srv.Stats()
	for _, src := range srv.Sources() {
		src.Stats()
		for _, f := range src.Forwarders() {
			f.Stats()
			n++
		}
	}
	return n
}

// scrape is a request as Prometheus makes it.
func scrape(t testing.TB, h http.Handler) {
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code)
}

// 50 destinations that are scraped each second cost 1 % of a core, and the statistics of
// 200 destinations take 1 ms: five times that is the limit here, for busy machines.
func TestCost(t *testing.T) {
	if hosttest.RaceDetector() {
		return
	}
	least := func(f func()) time.Duration {
		best := time.Hour
		for range 10 {
			began := time.Now()
			f()
			best = min(best, time.Since(began))
		}
		return best
	}
	srv := pushing(t, 50)
	h := Handler(srv, Options{})
	all := gather(t, New(srv, Options{}))
	if all["forward_destination_rtt_seconds"] != nil { // the system tells
		require.Len(t, all["forward_destination_rtt_seconds"].GetMetric(), 50)
	}
	require.Less(t, least(func() { scrape(t, h) }), 5*10*time.Millisecond)
	many := pushing(t, 200)
	require.Less(t, least(func() { require.Equal(t, 200, allStats(many)) }), 5*time.Millisecond)
}

func BenchmarkStats(b *testing.B) {
	benchmark(b, func(s *forward.Server) func() { return func() { allStats(s) } })
}
func BenchmarkScrape(b *testing.B) {
	benchmark(b, func(s *forward.Server) func() {
		h := Handler(s, Options{})
		return func() { scrape(b, h) }
	})
}

func benchmark(b *testing.B, of func(*forward.Server) func()) {
	for _, n := range []int{50, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := of(pushing(b, n))
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
