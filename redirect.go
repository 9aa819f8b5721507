package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Redirect says where a destination may send us. Two kinds of servers do so:
// Adobe's answer connect with an error that holds the URL of another (302);
// those of Enhanced RTMP v2 ask a client to reconnect, to another tcUrl or the
// same, before they are shut down. Then the new connection is publishing before
// the old one is closed, and the switch is at a keyframe; a server that refuses
// to have the stream published twice gets it after the old connection has
// stopped there.
//
// Nobody is sent from rtmps to rtmp, more than 3 times in a row, or by
// ReconnectRequest more than once in 10 s. The Forwarder stays the same, and
// Hooks.OnForward is not told. A connection that is lost begins again at
// Destination.URL.
type Redirect int

const (
	// RedirectSameHost, the default, follows to other ports, apps and
	// instances of the host in Destination.URL (or ServerName), so that key
	// and password stay where they belong. Another port is 443, at least
	// 1024, or one of Config.AllowPorts.
	RedirectSameHost Redirect = iota
	// RedirectNever follows nowhere, which for a 302 is a refusal, and does
	// not announce that it honours ReconnectRequest.
	RedirectNever
	// RedirectAnywhere follows to any host, which gets the stream key, and
	// an answer if it asks for user and password. Where it leads is checked
	// as of a Destination that is Untrusted: see Config.AllowNetworks.
	// ServerName does not hold there, Fingerprint does.
	RedirectAnywhere
)

const (
	maxRedirects = 3
	// moveEvery is how soon after a ReconnectRequest another is honoured.
	moveEvery = 10 * time.Second
)

var (
	errRedirectNever = errors.New("redirects are not followed")
	errRedirectHost  = errors.New("another host, to which Destination.Redirect does not allow to go")
	errRedirectTLS   = errors.New("from rtmps to rtmp")
	errRedirectPort  = errors.New("a port below 1024 that is not in Config.AllowPorts")
	errRedirectURL   = errors.New("no URL that can be followed")
	errRedirectTimes = fmt.Errorf("more than %d redirects", maxRedirects)
)

// redirected is where a reference leads that a server at a place has given, or
// why it is not followed. One without a path means the same app. cfg says which
// ports it may have.
func (d Destination) redirected(cfg *Config, at endpoint.Endpoint, ref string) (endpoint.Endpoint, error) {
	if d.Redirect == RedirectNever {
		return at, errRedirectNever
	}
	if strings.HasPrefix(ref, "//") {
		ref = at.Scheme + ":" + ref
	}
	_, rest, isURL := strings.Cut(ref, "://")
	if !isURL {
		to, ok := at.Relative(ref)
		if !ok {
			return at, errRedirectURL
		}
		return to, nil
	}
	authority, path, _ := strings.Cut(rest, "/")
	if path == "" {
		ref = strings.TrimSuffix(ref, "/") + "/" + at.App
	}
	e, err := Destination{URL: ref, StreamKey: "-", Profile: d.Profile, ServerName: d.ServerName, Fingerprint: d.Fingerprint}.parse()
	home, herr := d.endpoint()
	port, perr := strconv.ParseUint(e.Port, 10, 16)
	if err != nil || herr != nil || perr != nil || strings.Contains(authority, "@") {
		return at, errRedirectURL
	}
	e.Key, e.User, e.Password, e.Times = at.Key, at.User, at.Password, at.Times
	same := strings.EqualFold(e.Host, home.Host) || strings.EqualFold(e.Host, home.ServerName)
	switch {
	case at.Scheme == "rtmps" && e.Scheme != "rtmps":
		return at, errRedirectTLS
	case !same && d.Redirect != RedirectAnywhere:
		return at, errRedirectHost
	case !same:
		e.Untrusted, e.ServerName = true, e.Host
	case e.Port != home.Port && !cfg.allowsPort(uint16(port)):
		return at, errRedirectPort
	}
	return e, nil
}

func (f *Forwarder) redirected(at endpoint.Endpoint, ref string) (endpoint.Endpoint, error) {
	return f.dst.redirected(f.src.srv.cfg.Load(), at, ref)
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
		case err == nil || f.isEnded():
			return l, err
		case errors.As(err.Err, &asked):
			auth, su = asked.Auth, setup{}
		case errors.As(err.Err, &sent):
			to, why := f.redirected(at, sent.URL())
			if redirects++; why == nil && redirects > maxRedirects {
				why = errRedirectTimes
			}
			if why != nil {
				return nil, f.error("connect", fmt.Errorf("%w; sent to %s: %w", sent, endpoint.Redact(sent.URL(), true), why), 0)
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

// move is how a connection gives way to another one. Its fields are guarded by
// Forwarder.mu.
type move struct {
	done    chan struct{} // closed when next is known; nil: nobody has asked
	cancel  context.CancelFunc
	next    *successor // nil: nobody
	passed  bool       // next has the place
	sending bool       // began in the place of another
}

// successor is who goes on when a connection ends.
type successor struct {
	at   endpoint.Endpoint
	link *link  // nil: to be made
	from uint64 // the message to go on with; 0: as a new one
}

// reconnect does what a ReconnectRequest asks for. It is called by the goroutine
// that watches l, which later waits in successor.
func (f *Forwarder) reconnect(l *link, ref string) {
	at, err := f.redirected(l.at, ref)
	if err != nil {
		f.report(slog.LevelWarn, "request to reconnect not followed", "to", endpoint.Redact(ref, true), "err", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	soon := !f.moved.IsZero() && time.Since(f.moved) < moveEvery
	if soon || l.move.done != nil || f.stop || f.out != l.out {
		return
	}
	f.moved = time.Now()
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan struct{})
	l.move.done, l.move.cancel = done, cancel
	go func() {
		defer close(done)
		if err := hostcode.Protect(func() { f.prepare(ctx, l, at) }); err != nil {
			f.log.Error("panic", "err", err)
		}
	}()
}

// prepare makes the connection that takes l's place, and has l stop before a
// keyframe.
func (f *Forwarder) prepare(ctx context.Context, l *link, at endpoint.Endpoint) {
	next := &successor{at: at}
	var err *DestinationError
	if next.link, err = f.open(ctx, at, false); err != nil {
		var refused *rtmp.StatusError
		if !errors.As(err.Err, &refused) || refused.Command != "publish" {
			f.report(slog.LevelWarn, "request to reconnect not followed", "err", err)
			return
		}
		next.link = nil // it may well take the stream when l has gone
	}
	f.mu.Lock()
	l.move.next = next
	f.mu.Unlock()
	l.out.StopAtKeyframe()
}

// moveOn gives l's place, which has stopped before a message, to its successor.
// It is false where there is none.
func (f *Forwarder) moveOn(l *link, from uint64) bool {
	f.mu.Lock()
	next := l.move.next
	if next == nil || f.stop || f.out != l.out || f.src.log.Ended() {
		f.mu.Unlock()
		return false
	}
	l.move.passed = true
	next.from = from
	n := next.link
	if n != nil {
		n.move.sending = true
		f.total.add(l.out.Stats())
		f.total.Accepted++
		f.out, f.client = n.out, n.client
	}
	f.mu.Unlock()
	if n != nil {
		f.attach(n, from)
		f.stallChanged() // the other connection may have stalled
	}
	return true
}

// successor is who goes on now that l has ended, or nil.
func (f *Forwarder) successor(l *link) *successor {
	f.mu.Lock()
	done, cancel := l.move.done, l.move.cancel
	f.mu.Unlock()
	if done == nil {
		return nil
	}
	defer cancel()
	select {
	case <-done:
	case <-f.ended:
		cancel()
		<-done
	}
	f.mu.Lock()
	next, passed := l.move.next, l.move.passed
	l.move.next = nil
	f.mu.Unlock()
	if next == nil {
		return nil
	}
	if !passed && f.isEnded() {
		if next.link != nil {
			next.link.close()
		}
		return nil
	}
	f.report(slog.LevelInfo, "destination asked to reconnect", "to", endpoint.Redact(next.at.TcURL, true))
	return next
}
