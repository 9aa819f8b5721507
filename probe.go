package forward

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// probe is Server.Probe for a valid destination.
func probe(ctx context.Context, s *Server, d Destination, ep endpoint.Endpoint) error {
	var failed *upstream.Error
	if err := hostcode.Protect(func() { failed = tryPublish(ctx, s, d.withDefaults(), ep) }); err != nil {
		return &DestinationError{Op: OpPanic, Destination: d, Err: errors.New("the host's code has panicked")}
	}
	if failed == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		failed.Err = fmt.Errorf("%w: %w", cause, failed.Err)
	}
	return &DestinationError{Op: Op(failed.Op), Destination: d, Err: failed.Err, Code: failed.Code}
}

// tryPublish publishes to a destination with defaults, and leaves.
func tryPublish(ctx context.Context, s *Server, d Destination, ep endpoint.Endpoint) *upstream.Error {
	cfg := s.cfg.Load()
	t := &upstream.Target{Memory: s.memory.Load(), Log: s.log.With("destination", d, "id", d.id())}
	aim{s, cfg, &d}.set(t, ep)
	def(&t.ChunkSize, cfg.ChunkSize)
	l, err := t.Open(ctx, ep, upstream.Session{
		Begins: func(upstream.Op) {},
		Ended:  func() bool { return false },
		Properties: func(at endpoint.Endpoint) (properties amf.Object) {
			if !at.Profile.IsPlatform() {
				properties = amf.Object{{Key: hopsProperty, Value: s.id}}
			}
			return append(properties, rtmp.Enhanced(d.Redirect != RedirectNever)...)
		},
		Sender:    func(*fanout.Sender) {},
		Reconnect: func(*upstream.Link, string) {},
	})
	if err != nil {
		var st *rtmp.StatusError
		if errors.As(err.Err, &st) && st.Description == passedBefore {
			err.Err = fmt.Errorf("%w: %w", ErrLoop, err.Err)
		}
		return err
	}
	defer l.Close()
	l.Conn.SetReadDeadline(time.Now().Add(probeStay))
	if err := l.Client.Watch(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		return t.Lost(upstream.OpRead, err)
	}
	l.Out.Send(l.Client.AppendUnpublish(nil))
	l.Out.Shutdown()
	l.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	var st *rtmp.StatusError
	if errors.As(l.Client.Watch(nil), &st) && st.Code != "close" {
		return t.Lost(upstream.OpRead, st)
	}
	return nil
}

// probeStay is how long a probe stays after the publish has been accepted. Some servers
// accept every publish and end the connection of one that they refuse, for example
// nginx-rtmp because of its rule "deny publish".
const probeStay = 300 * time.Millisecond

// places are the destinations of a Server that are connected to, by endpoint.Place. The
// zero value has none.
type places struct {
	mu     sync.Mutex
	in     map[string]*place
	closed bool
}

// place is a destination that is connected to. Its fields are guarded by places.mu.
type place struct {
	runs  int      // of Forwarders
	probe *probing // or nil
}

// probing is a probe in progress.
type probing struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// probe begins a probe of a place, unless it is connected to. leave must be called at its
// end. Until then the probe counts in wg.
func (ps *places) probe(ctx context.Context, at string, wg *sync.WaitGroup) (_ context.Context, leave func(), err error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	switch {
	case ps.closed:
		return nil, nil, ErrServerClosed
	case ps.in[at] != nil:
		return nil, nil, ErrDuplicate
	}
	p := &probing{done: make(chan struct{})}
	ctx, p.cancel = context.WithCancelCause(ctx)
	of := ps.getLocked(at)
	of.probe = p
	wg.Add(1) // nobody waits for it before close
	return ctx, func() {
		p.cancel(nil)
		ps.leave(at, func() { of.probe = nil })
		close(p.done)
		wg.Done()
	}, nil
}

// occupy notes that a Forwarder connects to a place, until leave is called. It ends a
// probe of the place and waits for that, or until ctx ends.
func (ps *places) occupy(ctx context.Context, at string) (leave func()) {
	ps.mu.Lock()
	p := ps.getLocked(at)
	p.runs++
	probe := p.probe
	ps.mu.Unlock()
	if probe != nil {
		probe.cancel(ErrDuplicate)
		select {
		case <-probe.done:
		case <-ctx.Done():
		}
	}
	return func() { ps.leave(at, func() { p.runs-- }) }
}

func (ps *places) getLocked(at string) *place {
	p := ps.in[at]
	if p == nil {
		if ps.in == nil {
			ps.in = make(map[string]*place)
		}
		p = new(place)
		ps.in[at] = p
	}
	return p
}

// leave calls f and forgets a place that nothing is connected to.
func (ps *places) leave(at string, f func()) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	f()
	if p := ps.in[at]; p.runs == 0 && p.probe == nil {
		delete(ps.in, at)
	}
}

// close ends all probes, and allows no others.
func (ps *places) close() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.closed = true
	for _, p := range ps.in {
		if p.probe != nil {
			p.probe.cancel(ErrServerClosed)
		}
	}
}
