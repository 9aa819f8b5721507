package forward

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"syscall"
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

// link is a connection that the destination has accepted for publishing.
type link struct {
	nc     net.Conn
	out    *fanout.Sender
	client *rtmp.Client
	at     endpoint.Endpoint
	size   int // of our chunks
	move   move
	close  func() // ends the connection
}

// connect makes a connection to at, with the handshake in the form that fm says,
// within what su has left of the time. auth answers what the one before was
// asked. Where it is the first of the session it shows as f's state.
func (f *Forwarder) connect(ctx context.Context, at endpoint.Endpoint, auth string, fm *form, su *setup, shown bool) (_ *link, derr *DestinationError) {
	if shown {
		f.setState(StateConnecting, nil)
	} else {
		f.mu.Lock()
		f.total.Connects++
		f.mu.Unlock()
	}
	nc, derr := f.dial(ctx, at, su)
	if derr != nil {
		return nil, derr
	}
	stop := context.AfterFunc(ctx, func() { hostcode.Close(nc) })
	l := &link{nc: nc, at: at, size: f.dst.ChunkSize}
	l.close = func() {
		stop()
		hostcode.Close(nc)
	}
	defer func() {
		if derr != nil {
			l.close()
		}
	}()
	if shown {
		f.connected()
		f.setState(StateHandshaking, nil)
	}
	nc.SetDeadline(su.begins(OpHandshake, su.by))
	if err := rtmp.ClientHandshake(nc, fm.digest); err != nil {
		return nil, f.error(OpHandshake, cause(nc, err), su.limit)
	}
	fm.known = true
	nc.SetDeadline(time.Time{}) // writing is limited by the sender
	out := fanout.NewSender(nc, orForever(f.src.cfg.WriteTimeout))
	out.OnStall(stalledAfter, f.stallChanged)
	if own := f.dst.MergeWindow; own != 0 {
		out.SetWindow(max(own, 0), max(f.src.vhost.MergeWindow, 0))
	}
	l.out = out
	def(&l.size, f.src.vhost.ChunkSize)
	// As a client says it before any media comes, this can be wrong at the
	// first connection, for an encoder that does not say it (OBS). It is no
	// condition for Enhanced RTMP: we do not wait for the first frame.
	var properties amf.Object
	if !at.Profile.IsPlatform() { // it may be a Server of this library
		properties = amf.Object{{Key: hopsProperty, Value: f.src.Request().onward()}}
	}
	if f.src.Request().enhanced || f.src.log.Info().Enhanced {
		properties = append(properties, rtmp.Enhanced(f.dst.Redirect != RedirectNever)...)
	}
	rc := rtmp.NewConn(ingest.NewReader(nc), out.Send, setupBuffer, l.size, setupLimits)
	rc.Charge = f.src.memory.Account(func() { go nc.Close() }).Charge // that of TLS may wait
	l.close = func() {
		stop()
		out.Close()
		out.Wait()
		hostcode.Close(nc)
		rc.Release()
	}
	l.client = rtmp.NewClient(rc, rtmp.Options{
		App: at.App, TcURL: at.TcURL, Key: at.Key, FlashVer: f.dst.FlashVer,
		User: at.User, Password: at.Password, Auth: auth,
		NoReleaseStream: f.dst.NoReleaseStream, NoFCPublish: f.dst.NoFCPublish,
		Properties: properties,
		Step:       func(name string) { nc.SetReadDeadline(su.begins(Op(name), su.by)) },
		Reconnect:  func(to string) { f.reconnect(l, to) },
	})
	if err := l.client.Publish(); err != nil {
		return nil, f.error(su.step, first(out.Err(), err), su.limit)
	}
	nc.SetReadDeadline(time.Time{})
	l.client.Resize(playBuffer)
	if !shown && !stop() { // from now on it lives as long as f
		return nil, f.error(su.step, ctx.Err(), su.limit)
	}
	if !shown {
		stop = context.AfterFunc(f.ctx, func() { hostcode.Close(nc) })
	}
	return l, nil
}

// push sends over a connection until that ends, from a message on where from is
// not 0. It returns who goes on, if there is one.
func (f *Forwarder) push(l *link, from uint64) (*successor, *DestinationError) {
	defer l.close()
	sending := f.isSending(l)
	if !sending && !f.begin(l.out, l.client) {
		return nil, nil
	}
	defer f.end(l)
	defer f.src.group.Remove(l.out)
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
	defer later(codecsKnown, func() { f.warnOfCodec(l.client) })()
	began := time.Now()
	err := l.client.Watch(nil)
	if next := f.successor(l); next != nil {
		return next, nil
	}
	if f.Ending() {
		return nil, nil
	}
	op := OpRead
	if werr := l.out.Err(); werr != nil {
		op, err = OpWrite, werr
	}
	if codec := f.untaken(l.client); codec != nil && time.Since(began) < f.src.cfg.Backoff.Healthy {
		err = fmt.Errorf("%w: %w", codec, err)
	}
	return nil, f.error(op, err, 0)
}

// attach begins to send the stream, from a message on where from is not 0.
func (f *Forwarder) attach(l *link, from uint64) {
	o := gop.Options{
		Push:   !f.dst.PlainMetadata,
		NoMeta: f.dst.NoMetadata,
		Layout: chunk.Layout{StreamID: l.client.StreamID(), Size: l.size},
		Size:   f.src.vhost.ChunkSize,
		Live:   f.src.vhost.NoGOPCache,
		From:   from,
		Times:  Timestamps(l.at.Times).times(),
	}
	log, group := f.src.log, f.src.group
	var end func() ([]byte, bool)
	end = func() ([]byte, bool) {
		next := l.out.Next()
		if !f.bequeath(next) && !f.moveOn(l, next) && (!log.Ended() || next < log.Head()) {
			o.From = next // the heir for whom it was to stop is gone
			l.out.Attach(log, o, end)
			return nil, false
		}
		group.Remove(l.out)
		l.nc.SetReadDeadline(time.Now().Add(lingerTime))
		return l.client.AppendUnpublish(nil), true
	}
	group.Add(l.out, o, end)
	if f.isAwaited() {
		l.out.StopAtKeyframe()
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
	current := f.out == l.out
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

// form is in which form the handshake is made with a server, plain or with
// digests. Until it has succeeded in one of them, which then stays, the forms
// take turns: after a handshake that has failed comes the other one. It comes
// in the same attempt, once, where the server has broken off; one that says
// nothing has used up the attempt's time.
//
// A Forwarder makes one connection after the other, so that nothing guards it.
type form struct {
	digest bool // the next handshake's
	known  bool // has succeeded
}

// formAt is the form for a place. Only that of Destination.URL is remembered.
func (f *Forwarder) formAt(at endpoint.Endpoint) *form {
	if at.Host == f.ep.Host && at.Port == f.ep.Port {
		return &f.form
	}
	return &form{digest: f.dst.DigestHandshake}
}

// turn has the other form come next where a handshake has failed, and reports
// whether at once: where the server has broken off, and not because it speaks
// another protocol.
func (fm *form) turn(err *DestinationError) (atOnce bool) {
	if err.Op != OpHandshake {
		return false
	}
	fm.digest = !fm.digest
	var version rtmp.VersionError
	other := errors.As(err.Err, &version) && version.OtherProtocol()
	return !other && !errors.Is(err.Err, os.ErrDeadlineExceeded)
}

// setup is how far a connection has come: its step, how long that may take, and
// when all must be done, which holds for another one in its place, too.
type setup struct {
	step    Op
	limit   time.Duration
	by      time.Time     // zero until it is connected
	whole   time.Duration // Destination.SetupTimeout
	publish time.Duration // Destination.PublishTimeout
}

// begins notes a step. It returns until when it may take: up to the answer to
// connect half of whole, but no longer than by. With createStream the time of
// createStream and publish begins.
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

// error makes the typed error of a session's end; limit is how long the step
// might take.
func (f *Forwarder) error(op Op, err error, limit time.Duration) *DestinationError {
	if op == OpHandshake && isAlert(err) {
		op = OpTLS // TLS 1.3 tells only now that our certificate is refused
	}
	de := &DestinationError{Op: op, Destination: f.dst, Err: err}
	var st *rtmp.StatusError
	var noTLS tls.RecordHeaderError
	hint := f.ep.HintAt(string(op))
	switch {
	case errors.As(err, &st):
		de.Code = st.Code
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		de.Err = fmt.Errorf("closed by the destination%s: %w", hint, err)
	case errors.Is(err, os.ErrDeadlineExceeded) && op != OpWrite, isTimeout(err) && (op == OpTLS || op == OpDial || op == OpResolve):
		de.Err = hidden{err, fmt.Sprintf("no answer within %v%s", limit.Round(time.Millisecond), hint)}
	case errors.As(err, &noTLS), errors.Is(err, rtmp.ErrVersion):
		de.Err = fmt.Errorf("%w%s", err, hint)
	}
	return de
}

// isTimeout reports whether time has run out, ours or the system's.
func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// dial connects, with TLS where the destination asks for it. The set-up's time
// begins when it is connected, unless it is running already.
func (f *Forwarder) dial(ctx context.Context, at endpoint.Endpoint, su *setup) (net.Conn, *DestinationError) {
	su.limit = f.dst.DialTimeout
	dialBy := time.Now().Add(su.limit)
	again := !su.by.IsZero()
	if again && su.by.Before(dialBy) {
		dialBy = su.by
	}
	whole := ctx
	ctx, cancel := context.WithDeadline(whole, dialBy)
	defer cancel()
	dial := f.dst.DialContext
	if dial == nil {
		dial = f.src.cfg.Dial
	}
	from := f.dst.origin()
	if at.Untrusted {
		from = fromOutside
	}
	dial = f.src.srv.guarded(from, dial)
	var nc net.Conn
	err := f.src.srv.guard("Dial", func() (err error) {
		if nc, err = dial(ctx, "tcp", net.JoinHostPort(at.Host, at.Port)); err == nil && nc == nil {
			err = errNoConn
		}
		return err
	})
	if err != nil {
		op := OpDial
		var dns *net.DNSError
		if errors.As(err, &dns) {
			op = OpResolve
		}
		return nil, f.error(op, err, su.limit)
	}
	if !again {
		su.whole, su.publish = f.dst.SetupTimeout, f.dst.PublishTimeout
		su.by = time.Now().Add(su.whole)
	}
	if at.Scheme != "rtmps" {
		return nc, nil
	}
	by := dialBy
	if su.by.Before(by) {
		by = su.by
	}
	ctx, cancel = context.WithDeadline(whole, su.begins(OpTLS, by))
	defer cancel()
	tc := fanout.TLSClient(nc, f.tlsConfig(at))
	if err := tc.HandshakeContext(ctx); err != nil {
		hostcode.Close(nc)
		return nil, f.error(OpTLS, err, su.limit)
	}
	return tc, nil
}

var errNoConn = errors.New("dialling has returned neither a connection nor an error")

var errPin = errors.New("the server's public key is not the one of Fingerprint")

func (f *Forwarder) tlsConfig(at endpoint.Endpoint) *tls.Config {
	base := f.dst.TLSConfig
	if base == nil {
		base = f.src.cfg.TLSConfig
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		cfg = base.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = at.ServerName
	}
	// The first batch is the largest, and all are gathered: full records
	// from the start.
	cfg.DynamicRecordSizingDisabled = true
	// Not shared with other destinations, which may trust others.
	if cfg.ClientSessionCache == nil {
		f.tlsOnce.Do(func() { f.sessions = tls.NewLRUClientSessionCache(2) })
		cfg.ClientSessionCache = f.sessions
	}
	if cfg.InsecureSkipVerify && at.Pin == nil {
		if !f.warnedTLS.Swap(true) {
			f.log.Warn("destination is not verified: TLSConfig has InsecureSkipVerify")
		}
	}
	if pin := at.Pin; pin != nil {
		cfg.InsecureSkipVerify = true // the key is verified instead
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			sum := sha256.Sum256(spki(cs.PeerCertificates[0]))
			if subtle.ConstantTimeCompare(sum[:], pin) != 1 {
				return fmt.Errorf("%w: the SHA-256 of its key is %x", errPin, sum)
			}
			return nil
		}
	}
	return cfg
}

func spki(c *x509.Certificate) []byte { return c.RawSubjectPublicKeyInfo }

// cause is the alert that the peer has sent before it closed, if err is that
// writing has failed.
func cause(nc net.Conn, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "write" {
		if _, rerr := nc.Read(make([]byte, 1)); isAlert(rerr) {
			return rerr
		}
	}
	return err
}

// isAlert reports whether the peer has ended TLS with an alert. crypto/tls has
// no type of its own for those.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// open connects to at, in the other form of the handshake where the first is
// broken off, answers what it is asked and goes where it is sent.
func (f *Forwarder) open(ctx context.Context, at endpoint.Endpoint, shown bool) (*link, *DestinationError) {
	auth := ""
	fm := f.formAt(at)
	var su setup
	var broken *DestinationError // why fm's other form has failed
	for redirects := 0; ; {
		l, err := f.connect(ctx, at, auth, fm, &su, shown)
		var asked *rtmp.AuthRequired
		var sent *rtmp.Redirect
		switch {
		case err == nil || f.Ending():
			return l, err
		case errors.As(err.Err, &asked):
			auth, su = asked.Auth, setup{}
		case errors.As(err.Err, &sent):
			to, why := f.redirected(at, sent.URL())
			if redirects++; why == nil && redirects > maxRedirects {
				why = errRedirectTimes
			}
			if why != nil {
				return nil, f.error(OpConnect, fmt.Errorf("%w; sent to %s: %w", sent, endpoint.Redact(sent.URL(), true), why), 0)
			}
			f.log.Debug("destination redirects", "to", endpoint.Redact(to.TcURL, true))
			at, auth = to, ""
			fm, su, broken = f.formAt(to), setup{}, nil
		case fm.known || ctx.Err() != nil:
			return nil, err
		case fm.turn(err) && broken == nil:
			f.log.Debug("destination gets the other handshake", "err", err)
			broken = err
		default:
			return nil, cmp.Or(broken, err)
		}
	}
}
