package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// share decides which things, K with the facts T, have series of their own, and sums the
// others. A thing is asked about in each collection, between begin and end.
type share[K comparable, T any] struct {
	metrics []metric[T]
	max     int // with series of their own

	things   map[K]*thing
	owners   int
	rest     bool              // others in this collection
	counters map[value]float64 // of all others that there were
	gauges   map[value]float64 // of this collection
}

// thing is what is remembered of a stream or destination.
type thing struct {
	own  bool
	seen bool              // in this collection
	last map[value]float64 // counters of one that has no series of its own
}

// value is one of a metric's.
type value struct {
	metric int
	label  string
}

func newShare[K comparable, T any](metrics []metric[T], max int) *share[K, T] {
	return &share[K, T]{metrics: metrics, max: max, things: make(map[K]*thing), counters: make(map[value]float64), gauges: make(map[value]float64)}
}

func (s *share[K, T]) begin() {
	for _, t := range s.things {
		t.seen = false
	}
	s.rest = false
	clear(s.gauges)
}

// of is the thing k, which is seen.
func (s *share[K, T]) of(k K) *thing {
	t := s.things[k]
	if t == nil {
		t = new(thing)
		s.things[k] = t
	}
	t.seen = true
	return t
}

// owns reports whether k has series of its own: if there was room when k was first
// asked about.
func (s *share[K, T]) owns(k K) bool {
	_, known := s.things[k]
	t := s.of(k)
	if !known && s.owners < s.max {
		t.own = true
		s.owners++
	}
	return t.own
}

// add sums the facts of k, which has no series of its own.
func (s *share[K, T]) add(k K, st *T) {
	s.rest = true
	t := s.of(k)
	if t.last == nil {
		t.last = make(map[value]float64)
	}
	for i := range s.metrics {
		m := &s.metrics[i]
		m.values(st, func(label string, v float64) {
			at := value{i, label}
			switch {
			case m.kind == prometheus.CounterValue:
				s.counters[at] += v - t.last[at]
				t.last[at] = v
			case m.join == sum:
				s.gauges[at] += v
			case m.join == greatest:
				s.gauges[at] = max(s.gauges[at], v)
			}
		})
	}
}

// end adds the sums, and forgets the things that have ended.
func (s *share[K, T]) end(out *samples, labels []*dto.LabelPair) {
	for k, t := range s.things {
		if !t.seen {
			delete(s.things, k)
			if t.own {
				s.owners--
			}
		}
	}
	for at, v := range s.counters {
		m := &s.metrics[at.metric]
		out.put(m.desc, m.kind, labels, m.label, at.label, v)
	}
	for at, v := range s.gauges {
		m := &s.metrics[at.metric]
		out.put(m.desc, m.kind, labels, m.label, at.label, v)
	}
}
