// Package metrics tells Prometheus about a forward.Server: a prometheus.Collector, and a
// handler for programs that need nothing but the page.
//
// docs/metrics.md lists the metrics. Their names begin with forward_. Metrics of the
// Server have no label that grows; those of a stream have the label stream, and those of
// a destination stream, destination and host:
//
//   - stream is the stream's name in the log, such as live/#1a2b3c4d, or its real name
//     with Options.Names. Both log and control API know it.
//   - destination is Forwarder.ID, and host Forwarder.Host. No label has a key, a user,
//     a path or a query of a URL.
//
// IDs are those of the process: after a restart a stream that is not named by its real
// name, and each destination, is another series.
//
// Counters of the Server include the streams and destinations that have ended. The
// series of a stream or destination end with it. Beyond Options.MaxStreams and
// MaxDestinations there are no further series: see there.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rtmp-forward/forward"
)

// Options are the options of New and Handler.
type Options struct {
	// Names labels streams with their real names. In many set-ups a name is the key
	// that allows publishing: everybody who can read the metrics can read it.
	Names bool

	// MaxStreams is how many streams at a time have series of their own, and
	// MaxDestinations how many destinations of all streams together. The others are
	// summed in one series, in which each label is "other"; of times and of the lag it
	// has the greatest. A stream or destination keeps its series, or its share in the
	// others, until it ends. Counters of the others do not fall when one ends.
	// Defaults 1000 and 2000; negative is none.
	MaxStreams      int
	MaxDestinations int
}

// The defaults of Options. A destination has about 30 series, a stream about 25.
const (
	defaultMaxStreams      = 1000
	defaultMaxDestinations = 2000
)

func (o Options) withDefaults() Options {
	if o.MaxStreams == 0 {
		o.MaxStreams = defaultMaxStreams
	}
	if o.MaxDestinations == 0 {
		o.MaxDestinations = defaultMaxDestinations
	}
	return o
}

// New returns a collector for srv, which the host registers where it wants it. It may be
// registered in several registries, and be used concurrently.
//
// A host that has several Servers registers each with a label of its own
// (prometheus.WrapRegistererWith): the metrics do not name their Server.
func New(srv *forward.Server, o Options) prometheus.Collector {
	return newCollector(srv, o.withDefaults())
}

// maxScrapes is how many requests a Handler answers at a time.
const maxScrapes = 4

// Handler returns a handler for the metrics of srv, of the process and of the Go
// runtime, in the text formats of Prometheus and OpenMetrics. Nothing is registered
// outside of it. It asks for no credentials: that is for the host to do. Requests are
// answered 4 at a time; others get 503.
func Handler(srv *forward.Server, o Options) http.Handler {
	all := prometheus.NewRegistry()
	all.MustRegister(
		New(srv, o),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: maxScrapes,
	})
}
