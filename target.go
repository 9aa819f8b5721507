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

// target is a destination of a Forwarder, and what belongs to it alone: Update
// gives the Forwarder another one.
type target struct {
	upstream.Target
	src *Source
	dst Destination
	id  string
	// place is the same for two that the same server would not take at once.
	place    string
	resolved bool        // by the Resolver, not added by the host
	warned   atomic.Bool // of a codec
	turn     turn
	runs     int // that use it; guarded by Forwarder.mu
}

func newTarget(s *Source, d Destination) (*target, error) {
	ep, err := d.endpoint()
	if err != nil {
		return nil, err
	}
	t := &target{src: s, dst: d.withDefaults(), id: d.id(), place: ep.Place(), turn: turn{done: make(chan struct{})}}
	d = t.dst
	t.Target = upstream.Target{
		Endpoint: ep, FlashVer: d.FlashVer, ChunkSize: d.ChunkSize,
		NoReleaseStream: d.NoReleaseStream, NoFCPublish: d.NoFCPublish, DigestHandshake: d.DigestHandshake,
		DialTimeout: d.DialTimeout, SetupTimeout: d.SetupTimeout, PublishTimeout: d.PublishTimeout,
		WriteTimeout: orForever(s.cfg.WriteTimeout),
		Dial:         t.dial, TLS: d.TLSConfig, Redirected: t.redirected,
		Limits: setupLimits, Memory: s.memory,
		Log: s.srv.log.With("source", s.req.logName(), "destination", d, "id", t.id),
	}
	def(&t.ChunkSize, s.vhost.ChunkSize)
	def(&t.TLS, s.cfg.TLSConfig)
	return t, nil
}

// String names what is pushed where, as in the log.
func (t *target) String() string { return t.src.req.logName() + " to " + t.dst.String() }

// dial makes the TCP connection to a place.
func (t *target) dial(ctx context.Context, at endpoint.Endpoint) (nc net.Conn, err error) {
	dial := t.dst.DialContext
	if dial == nil {
		dial = t.src.cfg.Dial
	}
	from := t.dst.origin()
	if at.Untrusted {
		from = fromOutside
	}
	srv := t.src.srv
	dial = srv.guarded(from, dial)
	err = srv.guard("Dial", func() (err error) {
		nc, err = dial(ctx, "tcp", net.JoinHostPort(at.Host, at.Port))
		return err
	})
	return nc, err
}

// redirected is where a reference leads that the server at a place has given.
func (t *target) redirected(at endpoint.Endpoint, ref string) (endpoint.Endpoint, error) {
	return t.dst.redirected(t.src.srv.cfg.Load(), at, ref)
}

// properties are what a place is told in connect.
//
// As a client says it before any media comes, what is said of Enhanced RTMP can be
// wrong at the first connection, for an encoder that does not say it (OBS). It is no
// condition for Enhanced RTMP: we do not wait for the first frame.
func (t *target) properties(at endpoint.Endpoint) (properties amf.Object) {
	if !at.Profile.IsPlatform() { // it may be a Server of this library
		properties = amf.Object{{Key: hopsProperty, Value: t.src.Request().onward()}}
	}
	if t.src.Request().enhanced || t.src.log.Info().Enhanced {
		properties = append(properties, rtmp.Enhanced(t.dst.Redirect != RedirectNever)...)
	}
	return properties
}

// cursor says how a connection reads the log, from a message on if from is not 0.
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

// error names the destination in an error.
func (t *target) error(err *upstream.Error) *DestinationError {
	return &DestinationError{Op: Op(err.Op), Destination: t.dst, Err: err.Err, Code: err.Code}
}

// pushKey is what a destination takes for the same publish.
type pushKey struct {
	stream streamKey
	place  string // of the destination
}

// turn is a target's at its place, where the server would refuse a second publish of
// the same stream.
type turn struct {
	f     *Forwarder
	moved atomic.Bool   // f has another target now
	held  bool          // guarded by Server.mu
	done  chan struct{} // closed when the turn is over
}

// leaving reports whether another one may wait for the turn's end.
func (t *turn) leaving() bool { return t.moved.Load() || t.f.Ending() }

// await waits until an earlier publish of the same stream, or one that is being
// closed, is gone from the place. It is false if ctx or the stream ends first.
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

// enter notes that the target's turn has come, or returns whose it is. Two targets of
// one stream may be at a place while one replaces the other.
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

// leave ends the target's turn, if it has come.
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
