package e2e

import (
	"errors"
	"net/url"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// faulty is a stream with a healthy and a faulty destination.
type faulty struct {
	*bubble
	fwd    *forward.Forwarder // frames for the faulty destination
	pub    *forwardtest.Publisher
	others *isolation
	states *states
}

// states records what OnForward reports about the faulty destinations.
type states struct {
	mu    sync.Mutex
	began time.Time
	all   []change
}

type change struct {
	f     *forward.Forwarder
	state forward.State
	at    time.Duration
	err   error
}

func (s *states) note(f *forward.Forwarder, state forward.State, err error) {
	if hostOf(f) == "healthy" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, change{f, state, time.Since(s.began), err})
}

// of returns the times at which f entered a state.
func (s *states) of(f *forward.Forwarder, state forward.State) (at []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		if c.f == f && c.state == state {
			at = append(at, c.at)
		}
	}
	return at
}

// hostOf is the host of f's URL, with the port if there is one.
func hostOf(f *forward.Forwarder) string { return hostOfURL(f.Destination().URL) }

func hostOfURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return u.Host
}

// losses returns the errors of f's attempts with their times.
func (s *states) losses(f *forward.Forwarder) (errs []*forward.DestinationError, at []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		var de *forward.DestinationError
		if c.f == f && c.state == forward.StateWaiting && errors.As(c.err, &de) {
			errs, at = append(errs, de), append(at, c.at)
		}
	}
	return errs, at
}

// withFault runs f while the stream also goes to faulty:1935. prepare makes the
// listener there. At the end withFault checks rule R0 and records its measurement.
func withFault(t *testing.T, row int, cfg forward.Config, media forwardtest.Media, prepare func(b *bubble), f func(f *faulty)) {
	t.Helper()
	st := &states{}
	if cfg.Resolver == nil {
		cfg.Resolver = forward.MustStatic("rtmp://healthy/live/"+canary, "rtmp://faulty/live/"+canary)
	}
	cfg.Hooks.OnForward = st.note
	inBubble(t, cfg, func(b *bubble) {
		healthy := b.Destination("healthy:1935", forwardtest.Script{Recorder: func() *forwardtest.Recorder {
			return &forwardtest.Recorder{Discard: true}
		}})
		if prepare != nil {
			prepare(b)
		}
		st.began = time.Now()
		pub := b.Publish("live/ok")
		s := b.Published(healthy, 1)
		w := &faulty{bubble: b, pub: pub, states: st}
		for _, f := range b.Server.Source("live/ok").Forwarders() {
			if hostOf(f) != "healthy" {
				w.fwd = f
			}
		}
		w.others = b.Neighbours(pub, media, s.Recorder())
		f(w)
		noteIsolation(w.others.Check())
	})
}

func script(step string, s forwardtest.Step) forwardtest.Script {
	return forwardtest.Script{Steps: map[string]forwardtest.Step{step: s}}
}

func at(address string, scripts ...forwardtest.Script) func(b *bubble) {
	return func(b *bubble) { b.Destination(address, scripts...) }
}

// delays requires that the delay before each attempt is between half and all of the
// policy's, which doubles from the first on.
func (f *faulty) delays(fwd *forward.Forwarder) (attempts []time.Duration) {
	f.Helper()
	attempts = f.states.of(fwd, forward.StateConnecting)
	_, lost := f.states.losses(fwd)
	for i, at := range attempts[1:] {
		d := min(30*time.Second, time.Second<<min(i, 10))
		require.LessOrEqual(f, at-lost[i], d, "attempt %d", i)
		require.GreaterOrEqual(f, at-lost[i], d/2, "attempt %d", i)
	}
	return attempts
}

// bitrate is a stream of this many bit/s.
func bitrate(n int) forwardtest.Media {
	m := steady
	m.VideoBitrate = n
	return m
}

// heap is how many bytes are in use, including stacks.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}
