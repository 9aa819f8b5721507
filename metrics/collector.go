package metrics

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/rtmp-forward/forward"
)

// collector is safe for concurrent use.
type collector struct {
	srv *forward.Server
	o   Options

	mu           sync.Mutex
	streams      *share[*forward.Source, forward.SourceStats]
	destinations *share[*forward.Forwarder, forward.ForwarderStats]
}

func newCollector(srv *forward.Server, o Options) *collector {
	return &collector{
		srv: srv, o: o,
		streams:      newShare[*forward.Source](streamMetrics, o.MaxStreams),
		destinations: newShare[*forward.Forwarder](destinationMetrics, o.MaxDestinations),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range serverMetrics {
		ch <- m.desc
	}
	for _, m := range streamMetrics {
		ch <- m.desc
	}
	for _, m := range destinationMetrics {
		ch <- m.desc
	}
	for _, d := range others {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, m := range c.collect() { // not under mu: ch may block
		ch <- m
	}
}

func (c *collector) collect() samples {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out samples
	st := c.srv.Stats()
	add(&out, serverMetrics, nil, &st)
	out = append(out, histogram(writeLatency, st.Latency), histogram(firstKeyframe, st.FirstKeyframe))
	for call, calls := range st.Calls {
		out = append(out, histogram(callSeconds, calls.Durations, call),
			prometheus.MustNewConstMetric(callFailures, prometheus.CounterValue, float64(calls.Failed), call))
	}
	out = append(out, prometheus.MustNewConstMetric(buildInfo, prometheus.GaugeValue, 1, build()...))

	c.streams.begin()
	c.destinations.begin()
	names := make(map[string]bool)
	for _, src := range c.srv.Sources() {
		st := src.Stats()
		name := other
		if c.streams.owns(src) {
			name = c.name(src, names)
			add(&out, streamMetrics, []*dto.LabelPair{pair("stream", name)}, &st)
			values := append([]string{name, src.ID()}, info(&st)...)
			out = append(out, prometheus.MustNewConstMetric(streamInfo, prometheus.GaugeValue, 1, values...))
		} else {
			c.streams.add(src, &st)
		}
		ids, forwarders := distinct(src.Forwarders())
		for _, id := range ids {
			f := forwarders[id]
			st := f.Stats()
			if st.State == forward.StateClosed {
				continue
			}
			if name != other && c.destinations.owns(f) {
				add(&out, destinationMetrics, []*dto.LabelPair{pair("destination", id), pair("host", clean(f.Host())), pair("stream", name)}, &st)
			} else {
				c.destinations.add(f, &st)
			}
		}
	}
	c.streams.end(&out, []*dto.LabelPair{pair("stream", other)})
	c.destinations.end(&out, []*dto.LabelPair{pair("destination", other), pair("host", other), pair("stream", other)})
	return out
}

// other is the value of each label of what has no series of its own. No stream and no
// destination has such a name.
const other = "other"

// name is the label of a stream, which no other has.
func (c *collector) name(src *forward.Source, taken map[string]bool) string {
	name := fmt.Sprint(src)
	if c.o.Names {
		name = src.Name()
	}
	name = clean(name)
	if taken[name] { // 32 bits of the ID, or shortened
		name += "#" + src.ID()
	}
	taken[name] = true
	return name
}

// maxLabel is the length of a value, in bytes, beyond which it is cut: clients choose
// the names of streams, and perhaps hosts.
const maxLabel = 128

// clean makes a valid value of a label.
func clean(s string) string {
	if len(s) > maxLabel {
		s = s[:maxLabel-len("…")] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// distinct has one Forwarder for each ID: one that ends gives way to one that does not.
func distinct(forwarders []*forward.Forwarder) (ids []string, by map[string]*forward.Forwarder) {
	by = make(map[string]*forward.Forwarder, len(forwarders))
	for _, f := range forwarders {
		id := f.ID()
		if by[id] == nil {
			ids = append(ids, id)
		}
		if by[id] == nil || by[id].Ending() {
			by[id] = f
		}
	}
	return ids, by
}

// samples are metrics to send.
type samples []prometheus.Metric

// sample is one value. Its labels are shared with other samples.
type sample struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	labels []*dto.LabelPair // sorted, and without room for more
	value  float64
}

// Desc implements prometheus.Metric.
func (s *sample) Desc() *prometheus.Desc { return s.desc }

// Write implements prometheus.Metric.
func (s *sample) Write(m *dto.Metric) error {
	m.Label = s.labels
	if s.kind == prometheus.CounterValue {
		m.Counter = &dto.Counter{Value: &s.value}
	} else {
		m.Gauge = &dto.Gauge{Value: &s.value}
	}
	return nil
}

// add adds the metrics of a thing.
func add[T any](out *samples, all []metric[T], labels []*dto.LabelPair, st *T) {
	labels = slices.Clip(labels)
	for i := range all {
		m := &all[i]
		m.values(st, func(label string, v float64) { out.put(m.desc, m.kind, labels, m.label, label, v) })
	}
}

// put adds a sample with labels and, if name is not empty, with one more.
func (out *samples) put(desc *prometheus.Desc, kind prometheus.ValueType, labels []*dto.LabelPair, name, value string, v float64) {
	if name != "" {
		i, _ := slices.BinarySearchFunc(labels, name, func(l *dto.LabelPair, name string) int { return strings.Compare(l.GetName(), name) })
		labels = slices.Clip(slices.Insert(slices.Clone(labels), i, pair(name, value)))
	}
	*out = append(*out, &sample{desc, kind, labels, v})
}

func pair(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

func histogram(desc *prometheus.Desc, d forward.Durations, labels ...string) prometheus.Metric {
	buckets := make(map[float64]uint64, len(d.Buckets))
	for _, b := range d.Buckets {
		buckets[b.UpTo.Seconds()] = b.Count
	}
	return prometheus.MustNewConstHistogram(desc, d.Count, d.Sum.Seconds(), buckets, labels...)
}
