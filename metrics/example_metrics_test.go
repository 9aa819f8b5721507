package metrics_test

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/metrics"
)

// A host that has a registry adds the Server to it.
func ExampleNew() {
	srv := forward.NewServer(forward.Config{})
	defer srv.Close()

	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.New(srv, metrics.Options{}))
	// Output:
}

// A host without one serves the page.
func ExampleHandler() {
	srv := forward.NewServer(forward.Config{})
	defer srv.Close()
	mux := http.NewServeMux()

	mux.Handle("GET /metrics", metrics.Handler(srv, metrics.Options{}))
	// Output:
}
