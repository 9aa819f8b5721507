// Package upstream makes connections to destinations, from name resolution to the answer
// to publish. It knows which addresses do not lead to a public server. Its caller decides
// which addresses are allowed, what is sent, and when to retry.
package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/ingest"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

const (
	// setupBuffer is the size of the read buffer until publish is answered,
	// watchBuffer that after it: a destination then sends very little.
	setupBuffer = 1 << 10
	watchBuffer = 128
)

// MaxRedirects is how many redirects are followed in a row.
const MaxRedirects = 3

// ErrRedirects says that there were more than MaxRedirects redirects.
var ErrRedirects = fmt.Errorf("more than %d redirects", MaxRedirects)

// Target is a destination and its state between connections. The exported fields must not
// be changed after the first Open. Its methods are safe for concurrent use.
type Target struct {
	Endpoint        endpoint.Endpoint
	FlashVer        string
	ChunkSize       int // of what is sent
	NoReleaseStream bool
	NoFCPublish     bool
	DigestHandshake bool // is tried first

	DialTimeout    time.Duration // of the name, TCP and TLS together
	SetupTimeout   time.Duration // from TLS to the answer to connect
	PublishTimeout time.Duration // of createStream and publish together
	WriteTimeout   time.Duration // within which there must be progress

	// Dial makes the TCP connection. It may be the host's code.
	Dial func(ctx context.Context, at endpoint.Endpoint) (net.Conn, error)
	TLS  *tls.Config // nil: the default
	// Redirected returns the place to which ref redirects from at, or why the
	// redirect is not followed.
	Redirected func(at endpoint.Endpoint, ref string) (endpoint.Endpoint, error)
	Limits     chunk.Limits // for messages from the server
	Memory     *gop.Budget  // counts unfinished messages from the server
	Log        *slog.Logger

	form      form                   // of the handshake at Endpoint
	sessions  tls.ClientSessionCache // of TLS, for reconnecting
	tlsOnce   sync.Once
	warnedTLS atomic.Bool
}

// Session says how a connection is used. Its functions are called by Open, and
// Reconnect also by the goroutine that watches the Link.
type Session struct {
	// Begins is called with OpDial before a connection is made, and with
	// OpHandshake when it has been made.
	Begins func(Op)
	// Ended reports whether the connection is no longer needed. A failed
	// connection is then not replaced by another one.
	Ended func() bool
	// Properties are added to the connect command's object.
	Properties func(at endpoint.Endpoint) amf.Object
	// Sender is called with the sender of each connection before it is used.
	Sender func(*fanout.Sender)
	// Reconnect is called with the reference in a ReconnectRequest.
	Reconnect func(l *Link, ref string)
}

// Link is a connection that the destination has accepted for publishing.
type Link struct {
	Conn      net.Conn
	Out       *fanout.Sender
	Client    *rtmp.Client
	At        endpoint.Endpoint
	ChunkSize int

	close func()
}

// Close ends the connection.
func (l *Link) Close() { l.close() }

// Open connects to at and publishes. It makes another connection with the other form of
// the handshake if the first is broken off, with the answer to a challenge, or to the
// place of a redirect. The connection ends with ctx.
func (t *Target) Open(ctx context.Context, at endpoint.Endpoint, s Session) (*Link, *Error) {
	auth := ""
	fm := t.formAt(at)
	var su setup
	var broken *Error // why fm's other form has failed
	for redirects := 0; ; {
		l, err := t.connect(ctx, at, auth, fm, &su, s)
		var asked *rtmp.AuthRequired
		var sent *rtmp.Redirect
		switch {
		case err == nil || s.Ended():
			return l, err
		case errors.As(err.Err, &asked):
			auth, su = asked.Auth, setup{}
		case errors.As(err.Err, &sent):
			to, why := t.Redirected(at, sent.URL())
			if redirects++; why == nil && redirects > MaxRedirects {
				why = ErrRedirects
			}
			traceOf(ctx).ended(OpRedirect, why, func(s *Step) { s.To = endpoint.Redact(sent.URL(), true) })
			if why != nil {
				return nil, t.error(OpConnect, fmt.Errorf("%w; sent to %s: %w", sent, endpoint.Redact(sent.URL(), true), why), 0)
			}
			t.Log.Debug("destination redirects", "to", endpoint.Redact(to.TcURL, true))
			at, auth = to, ""
			fm, su, broken = t.formAt(to), setup{}, nil
		case fm.known.Load() || ctx.Err() != nil:
			return nil, err
		case fm.turn(err) && broken == nil:
			t.Log.Debug("destination gets the other handshake", "err", err)
			broken = err
		default:
			return nil, cmp.Or(broken, err)
		}
	}
}

// connect makes one connection to at, with the handshake in the form of fm and within the
// time left in su. auth is the answer to the challenge of the connection before.
func (t *Target) connect(ctx context.Context, at endpoint.Endpoint, auth string, fm *form, su *setup, s Session) (_ *Link, err *Error) {
	s.Begins(OpDial)
	tr := traceOf(ctx)
	tr.begin(at)
	nc, err := t.dial(ctx, at, su)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { hostcode.Close(nc) })
	l := &Link{Conn: nc, At: at, ChunkSize: t.ChunkSize}
	l.close = func() {
		stop()
		hostcode.Close(nc)
	}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	s.Begins(OpHandshake)
	nc.SetDeadline(su.begins(OpHandshake, su.by))
	digest := fm.turned.Load() != t.DigestHandshake
	herr := rtmp.ClientHandshake(nc, digest)
	tr.ended(OpHandshake, herr, func(s *Step) { s.Digest = digest })
	if herr != nil {
		return nil, t.error(OpHandshake, cause(nc, herr), su.limit)
	}
	fm.known.Store(true)
	nc.SetDeadline(time.Time{}) // writing is limited by the sender
	l.Out = fanout.NewSender(nc, t.WriteTimeout)
	s.Sender(l.Out)
	rc := rtmp.NewConn(ingest.NewReader(nc), l.Out.Send, setupBuffer, l.ChunkSize, t.Limits)
	rc.Charge = t.Memory.Account(func() { go nc.Close() }).Charge // closing TLS may wait
	l.close = func() {
		stop()
		l.Out.Close()
		l.Out.Wait()
		hostcode.Close(nc)
		rc.Release()
	}
	options := rtmp.Options{
		App: at.App, TcURL: at.TcURL, Key: at.Key, FlashVer: t.FlashVer,
		User: at.User, Password: at.Password, Auth: auth,
		NoReleaseStream: t.NoReleaseStream, NoFCPublish: t.NoFCPublish,
		Properties: s.Properties(at),
		Step: func(name string) {
			tr.next(l.Client, Op(name), nil)
			nc.SetReadDeadline(su.begins(Op(name), su.by))
		},
		Reconnect: func(ref string) { s.Reconnect(l, ref) },
	}
	if tr != nil {
		options.Said = tr.said
	}
	l.Client = rtmp.NewClient(rc, options)
	perr := l.Client.Publish()
	tr.next(l.Client, "", perr)
	if err := perr; err != nil {
		return nil, t.error(su.step, firstOf(l.Out.Err(), err), su.limit)
	}
	nc.SetReadDeadline(time.Time{})
	l.Client.Resize(watchBuffer)
	return l, nil
}

// firstOf returns the error of sending, unless it is nil or we have closed the connection,
// else err.
func firstOf(sending, err error) error {
	if sending != nil && !errors.Is(sending, fanout.ErrClosed) {
		return sending
	}
	return err
}

// dial connects, with TLS if the destination requires it. SetupTimeout begins when the
// connection has been made, unless an earlier connection of the attempt has begun it.
func (t *Target) dial(ctx context.Context, at endpoint.Endpoint, su *setup) (net.Conn, *Error) {
	su.limit = t.DialTimeout
	dialBy := time.Now().Add(su.limit)
	again := !su.by.IsZero()
	if again && su.by.Before(dialBy) {
		dialBy = su.by
	}
	dialing, cancel := context.WithDeadline(ctx, dialBy)
	defer cancel()
	nc, err := t.Dial(dialing, at)
	if err == nil && nc == nil {
		err = errNoConn
	}
	tr := traceOf(ctx)
	if err != nil {
		op := Op(OpDial)
		var dns *net.DNSError
		if errors.As(err, &dns) {
			op = OpResolve
		} else {
			tr.ended(op, err, nil)
		}
		return nil, t.error(op, err, su.limit)
	}
	tr.ended(OpDial, nil, func(s *Step) { s.Addr = nc.RemoteAddr() })
	if !again {
		su.whole, su.publish = t.SetupTimeout, t.PublishTimeout
		su.by = time.Now().Add(su.whole)
	}
	if at.Scheme != "rtmps" {
		return nc, nil
	}
	by := dialBy
	if su.by.Before(by) {
		by = su.by
	}
	shaking, cancel := context.WithDeadline(ctx, su.begins(OpTLS, by))
	defer cancel()
	tc := fanout.TLSClient(nc, t.tlsConfig(at))
	err = tc.HandshakeContext(shaking)
	tr.secured(tc, err)
	if err != nil {
		hostcode.Close(nc)
		return nil, t.error(OpTLS, err, su.limit)
	}
	return tc, nil
}

// form is the form of the handshake with a server: plain or with digests. Until a
// handshake has succeeded, the forms alternate after each failure; the form that has
// succeeded is kept. If the server has broken the handshake off, the other form follows
// once in the same attempt. A server that does not answer has used up the attempt's time.
type form struct {
	turned atomic.Bool // the next handshake has the second form
	known  atomic.Bool // a handshake has succeeded
}

// formAt returns the form for a place. Only the form for Endpoint is remembered.
func (t *Target) formAt(at endpoint.Endpoint) *form {
	if at.Host == t.Endpoint.Host && at.Port == t.Endpoint.Port {
		return &t.form
	}
	return new(form)
}

// turn switches to the other form if err is a failed handshake. It reports whether the
// other form follows in the same attempt: if the server has broken the handshake off, and
// does not speak another protocol.
func (fm *form) turn(err *Error) (atOnce bool) {
	if err.Op != OpHandshake {
		return false
	}
	fm.turned.Store(!fm.turned.Load())
	var version rtmp.VersionError
	other := errors.As(err.Err, &version) && version.OtherProtocol()
	return !other && !err.Timeout()
}

// setup is the progress of a connection: its step, how long the step may take, and when
// all steps must be done. The last also applies to a connection that replaces it.
type setup struct {
	step    Op
	limit   time.Duration
	by      time.Time     // end of SetupTimeout; zero before the TCP connection is made
	whole   time.Duration // SetupTimeout
	publish time.Duration // PublishTimeout
}

// begins records a step and returns its deadline. Steps up to the answer to connect may
// take half of whole, but no longer than until by. createStream begins the time for
// createStream and publish.
func (su *setup) begins(step Op, by time.Time) time.Time {
	now := time.Now()
	limit := su.whole / 2
	switch step {
	case OpCreateStream:
		limit = su.publish
		su.by = now.Add(limit)
		by = su.by
	case OpPublish:
		limit = su.publish
	}
	su.step, su.limit = step, min(limit, by.Sub(now))
	return now.Add(su.limit)
}
