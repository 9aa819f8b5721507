package forward

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// link is a connection that the destination has accepted for publishing.
type link struct {
	*upstream.Link
	move move
}

// newTarget is where f connects to.
func (f *Forwarder) newTarget() *upstream.Target {
	d := f.dst
	t := &upstream.Target{
		Endpoint: f.ep, FlashVer: d.FlashVer, ChunkSize: d.ChunkSize,
		NoReleaseStream: d.NoReleaseStream, NoFCPublish: d.NoFCPublish, DigestHandshake: d.DigestHandshake,
		DialTimeout: d.DialTimeout, SetupTimeout: d.SetupTimeout, PublishTimeout: d.PublishTimeout,
		WriteTimeout: orForever(f.src.cfg.WriteTimeout),
		Dial:         f.dial, TLS: d.TLSConfig, Redirected: f.redirected,
		Limits: setupLimits, Memory: f.src.memory, Log: f.log,
	}
	def(&t.ChunkSize, f.src.vhost.ChunkSize)
	def(&t.TLS, f.src.cfg.TLSConfig)
	return t
}

// dial makes the TCP connection to a place.
func (f *Forwarder) dial(ctx context.Context, at endpoint.Endpoint) (nc net.Conn, err error) {
	dial := f.dst.DialContext
	if dial == nil {
		dial = f.src.cfg.Dial
	}
	from := f.dst.origin()
	if at.Untrusted {
		from = fromOutside
	}
	dial = f.src.srv.guarded(from, dial)
	err = f.src.srv.guard("Dial", func() (err error) {
		nc, err = dial(ctx, "tcp", net.JoinHostPort(at.Host, at.Port))
		return err
	})
	return nc, err
}

// properties are what a place is told in connect.
//
// As a client says it before any media comes, what is said of Enhanced RTMP can be
// wrong at the first connection, for an encoder that does not say it (OBS). It is no
// condition for Enhanced RTMP: we do not wait for the first frame.
func (f *Forwarder) properties(at endpoint.Endpoint) (properties amf.Object) {
	if !at.Profile.IsPlatform() { // it may be a Server of this library
		properties = amf.Object{{Key: hopsProperty, Value: f.src.Request().onward()}}
	}
	if f.src.Request().enhanced || f.src.log.Info().Enhanced {
		properties = append(properties, rtmp.Enhanced(f.dst.Redirect != RedirectNever)...)
	}
	return properties
}

// prepareSender sets how a connection is written to.
func (f *Forwarder) prepareSender(out *fanout.Sender) {
	out.OnStall(stalledAfter, f.stallChanged)
	if own := f.dst.MergeWindow; own != 0 {
		out.SetWindow(max(own, 0), max(f.src.vhost.MergeWindow, 0))
	}
}

// open connects to at. If it is the first connection of the session it shows as f's
// state.
func (f *Forwarder) open(ctx context.Context, at endpoint.Endpoint, shown bool) (*link, *DestinationError) {
	l := new(link)
	up, err := f.target.Open(ctx, at, upstream.Session{
		Begins: func(op upstream.Op) { f.begins(op, shown) },
		Ended:  f.Ending, Properties: f.properties, Sender: f.prepareSender,
		Reconnect: func(_ *upstream.Link, ref string) { f.reconnect(l, ref) },
	})
	if err != nil {
		return nil, f.error(err)
	}
	l.Link = up
	return l, nil
}

// begins notes that a connection begins to be made, or is there.
func (f *Forwarder) begins(op upstream.Op, shown bool) {
	switch {
	case op == upstream.OpDial && shown:
		f.setState(StateConnecting, nil)
	case op == upstream.OpDial:
		f.mu.Lock()
		f.total.Connects++
		f.mu.Unlock()
	case shown:
		f.connected()
		f.setState(StateHandshaking, nil)
	}
}

// error names the destination in an error.
func (f *Forwarder) error(err *upstream.Error) *DestinationError {
	return &DestinationError{Op: Op(err.Op), Destination: f.dst, Err: err.Err, Code: err.Code}
}

// push sends over a connection until that ends, from a message on where from is
// not 0. It returns who goes on, if there is one.
func (f *Forwarder) push(l *link, from uint64) (*successor, *DestinationError) {
	defer l.Close()
	sending := f.isSending(l)
	if !sending && !f.begin(l.Out, l.Client) {
		return nil, nil
	}
	defer f.end(l)
	defer f.src.group.Remove(l.Out)
	if !sending {
		f.takeOver(func(at uint64) {
			f.attach(l, max(from, at))
		})
		f.report(slog.LevelInfo, "destination publishing") // before the hook, which may take its time
		f.setState(StatePublishing, nil)
		f.stallChanged() // may have come before
		if f.Ending() {
			f.drains()
		}
		defer func() {
			if old := f.replaces.Load(); old != nil && !old.disown(f) {
				<-f.begun
			}
		}()
	}
	defer later(codecsKnown, func() { f.warnOfCodec(l.Client) })()
	began := time.Now()
	err := l.Client.Watch(nil)
	if next := f.successor(l); next != nil {
		return next, nil
	}
	if f.Ending() {
		return nil, nil
	}
	op := upstream.OpRead
	if werr := l.Out.Err(); werr != nil {
		op, err = upstream.OpWrite, werr
	}
	if codec := f.untaken(l.Client); codec != nil && time.Since(began) < f.src.cfg.Backoff.Healthy {
		err = fmt.Errorf("%w: %w", codec, err)
	}
	return nil, f.error(f.target.Lost(op, err))
}

// attach begins to send the stream, from a message on where from is not 0.
func (f *Forwarder) attach(l *link, from uint64) {
	o := gop.Options{
		Push:   !f.dst.PlainMetadata,
		NoMeta: f.dst.NoMetadata,
		Layout: chunk.Layout{StreamID: l.Client.StreamID(), Size: l.ChunkSize},
		Size:   f.src.vhost.ChunkSize,
		Live:   f.src.vhost.NoGOPCache,
		From:   from,
		Times:  Timestamps(l.At.Times).times(),
	}
	log, group := f.src.log, f.src.group
	var end func() ([]byte, bool)
	end = func() ([]byte, bool) {
		next := l.Out.Next()
		if !f.bequeath(next) && !f.moveOn(l, next) && (!log.Ended() || next < log.Head()) {
			o.From = next // the heir for whom it was to stop is gone
			l.Out.Attach(log, o, end)
			return nil, false
		}
		group.Remove(l.Out)
		l.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		return l.Client.AppendUnpublish(nil), true
	}
	group.Add(l.Out, o, end)
	if f.isAwaited() {
		l.Out.StopAtKeyframe()
	}
}

// begin makes a session's sender and client known to Stats and Close. It is
// false when Close has come before.
func (f *Forwarder) begin(out *fanout.Sender, client *rtmp.Client) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop {
		return false
	}
	f.out, f.client = out, client
	return true
}

// isSending reports whether l has got the place of another connection already.
func (f *Forwarder) isSending(l *link) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return l.move.sending
}

// end adds a connection's counters to the total. Who waits for a keyframe to
// take over waits no longer.
func (f *Forwarder) end(l *link) {
	f.mu.Lock()
	current := f.out == l.Out
	if current {
		f.total.add(f.out.Stats())
		f.out, f.client = nil, nil
	}
	f.mu.Unlock()
	if current {
		f.bequeath(0)
	}
}

// isAwaited reports whether somebody waits for f to stop at a keyframe.
func (f *Forwarder) isAwaited() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.succeed != nil
}
