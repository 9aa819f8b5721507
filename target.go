package forward

import (
	"context"
	"net"
	"slices"
	"sync/atomic"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// target is a destination of a Forwarder with its own state. Update gives the Forwarder
// another target.
type target struct {
	upstream.Target
	src  *Source
	dst  Destination
	id   string
	host string // see Forwarder.Host
	// place is equal for two targets if one server would refuse to accept both
	// together.
	place    string
	resolved bool        // from the Resolver, not added by the host
	warned   atomic.Bool // warnOfCodec has logged
	turn     turn
	runs     int // runs that use the target; guarded by Forwarder.mu
}

func newTarget(s *Source, d Destination) (*target, error) {
	ep, err := d.endpoint()
	if err != nil {
		return nil, err
	}
	t := &target{src: s, dst: d.withDefaults(), id: d.id(), host: ep.HostPort(), place: ep.Place(), turn: turn{done: make(chan struct{})}}
	aim{s.srv, s.cfg, &t.dst}.set(&t.Target, ep)
	t.Memory = s.memory
	t.Log = s.srv.log.With("source", s.req.logName(), "destination", d, "id", t.id)
	def(&t.ChunkSize, s.vhost.ChunkSize)
	return t, nil
}

// String returns the names of the stream and the destination, as in the log.
func (t *target) String() string { return t.src.req.logName() + " to " + t.dst.String() }

// aim is how a Server connects to a destination with defaults.
type aim struct {
	srv *Server
	cfg *Config      // of the stream, or the Server's
	dst *Destination // does not change
}

// set sets all of a target except Memory, Log, and the default of ChunkSize.
func (a aim) set(t *upstream.Target, ep endpoint.Endpoint) {
	d := a.dst
	t.Endpoint, t.FlashVer, t.ChunkSize = ep, d.FlashVer, d.ChunkSize
	t.NoReleaseStream, t.NoFCPublish, t.DigestHandshake = d.NoReleaseStream, d.NoFCPublish, d.DigestHandshake
	t.DialTimeout, t.SetupTimeout, t.PublishTimeout = d.DialTimeout, d.SetupTimeout, d.PublishTimeout
	t.WriteTimeout = orForever(a.cfg.WriteTimeout)
	t.Dial, t.Redirected, t.TLS, t.Limits = a.dial, a.redirected, d.TLSConfig, setupLimits
	def(&t.TLS, a.cfg.TLSConfig)
}

// dial makes the TCP connection to a place.
func (a aim) dial(ctx context.Context, at endpoint.Endpoint) (nc net.Conn, err error) {
	dial := a.dst.DialContext
	if dial == nil {
		dial = a.cfg.Dial
	}
	from := a.dst.origin()
	if at.Untrusted {
		from = fromOutside
	}
	dial = a.srv.addressRules(from).restrict(dial)
	err = a.srv.calls.do("Dial", func() (err error) {
		nc, err = dial(ctx, "tcp", net.JoinHostPort(at.Host, at.Port))
		return err
	})
	return nc, err
}

// redirected returns the place to which ref redirects from at.
func (a aim) redirected(at endpoint.Endpoint, ref string) (endpoint.Endpoint, error) {
	return a.dst.redirected(a.srv.cfg.Load(), at, ref)
}

// properties returns the additional properties of connect.
//
// A client announces Enhanced RTMP before any media comes. The first connection may
// therefore not announce it although the stream uses it, if the encoder itself does not
// (OBS). Servers accept Enhanced RTMP without the announcement, so we do not wait for the
// first frame.
func (t *target) properties(at endpoint.Endpoint) (properties amf.Object) {
	if !at.Profile.IsPlatform() { // it may be a Server of this library
		properties = amf.Object{
			{Key: hopsProperty, Value: t.src.Request().onward()},
			{Key: publishProperty, Value: t.src.Request().PublishID},
		}
	}
	if t.src.Request().enhanced || t.src.log.Info().Enhanced {
		properties = append(properties, rtmp.Enhanced(t.dst.Redirect != RedirectNever)...)
	}
	return properties
}

// cursor returns how a connection reads the log, from message from on if that is not 0.
func (t *target) cursor(l *upstream.Link, from uint64) gop.Options {
	return gop.Options{
		Push:   !t.dst.PlainMetadata,
		NoMeta: t.dst.NoMetadata,
		Layout: chunk.Layout{StreamID: l.Client.StreamID(), Size: l.ChunkSize},
		Size:   t.src.vhost.ChunkSize,
		Live:   t.src.vhost.NoGOPCache,
		From:   from,
		Times:  Timestamps(l.At.Times).times(),
	}
}

// error adds the destination to an error.
func (t *target) error(err *upstream.Error) *DestinationError {
	return &DestinationError{Op: Op(err.Op), Destination: t.dst, Err: err.Err, Code: err.Code}
}

// pushKey is equal for pushes that a destination regards as the same publish.
type pushKey struct {
	stream streamKey
	place  string // of the destination
}

// turn is a target's turn to push to its place, where the server would refuse a second
// publish of the same stream.
type turn struct {
	f     *Forwarder
	moved atomic.Bool   // f has another target now
	held  bool          // guarded by Server.mu
	done  chan struct{} // closed when the turn is over
}

// leaving reports whether the turn is about to end, so that another target may wait for it.
func (t *turn) leaving() bool { return t.moved.Load() || t.f.Ending() }

// await waits until t's place has no earlier publish of the same stream, including one
// that is being closed. It returns false if ctx or the stream ends first.
func (t *target) await(ctx context.Context) bool {
	for {
		before := t.enter()
		if before == nil {
			return true
		}
		select {
		case <-before.done:
		case <-t.turn.f.ended:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// enter takes the turn for t, or returns the turn that t has to wait for. Two targets of
// one Source may have a turn at a place while one replaces the other.
func (t *target) enter() (before *turn) {
	s, key := t.src.srv, pushKey{t.src.key, t.place}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.turn.held {
		return nil
	}
	for _, o := range s.pushing[key] {
		if o.f.src != t.src || o.leaving() {
			return o
		}
	}
	t.turn.held = true
	s.pushing[key] = append(s.pushing[key], &t.turn)
	return nil
}

// leave ends t's turn, if t has it.
func (t *target) leave() {
	s, key := t.src.srv, pushKey{t.src.key, t.place}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.turn.held {
		return
	}
	t.turn.held = false
	close(t.turn.done)
	left := slices.DeleteFunc(s.pushing[key], func(o *turn) bool { return o == &t.turn })
	if s.pushing[key] = left; len(left) == 0 {
		delete(s.pushing, key)
	}
}
