package resolve

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/backend"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/mention"
	"github.com/rtmp-forward/forward/internal/option"
	"github.com/rtmp-forward/forward/internal/outage"
	"github.com/rtmp-forward/forward/internal/webhook"
)

// Defaults and limits of HTTP.
const (
	defaultMaxURLs = 256
	maxHookURLLen  = 2048
	minHookTTL     = time.Second
	maxHookTTL     = 24 * time.Hour
)

// HTTP asks an HTTP backend where a stream goes, with the body and the
// answer of SRS's on_forward (its "Dynamic Forward"): a backend that works with
// SRS works unchanged. It sends
//
//	{"action":"on_forward","server_id":"…","service_id":"…","client_id":"…",
//	 "ip":"…","vhost":"…","app":"…","tcUrl":"…","stream":"…","param":"?…"}
//
// as a POST and takes, with status 200 or 201,
//
//	{"code":0,"data":{"urls":["rtmp://host/app/stream"],"ttl":60}}
//
// where data.ttl, in seconds from 1 to a day, may be absent: after it the
// backend may be asked again (see forward.TTLResolver). Each URL is one in the sense of
// forward.Destination.URL, and means exactly that: nothing of the request is added. No
// URLs, and the stream is not forwarded; empty ones do not count. An entry of
// urls that is no such URL is logged and left out, the others count; if none is
// left, that is a failure. code is a number as in SRS, not a string. If it is
// not 0, the backend has refused the stream and so does the resolver, under any
// OnFailure, with an error that wraps forward.ErrRefused.
//
// The backend is the operator's, and its URLs may lead anywhere but to
// link-local addresses and those of metadata services (forward.Destination.NoLinkLocal).
// But a backend may pass on what a publisher says, as with
// "?forward=rtmp://other/live/stream" in its param. A URL whose host stands in
// the publisher's own app, stream, param, tcUrl or pageUrl is one of the
// publisher's and may lead to public addresses and ports alone
// (forward.Destination.Untrusted), unless forward.Config.AllowNetworks and AllowPorts hold them.
// The host is found in whatever case and spelling, with percent-encoding, JSON's
// \u, base64 and hexadecimal decoded, also within one another. It is not where
// the backend has looked up a name, has put a host together of parts, or knows
// another encoding: then set Untrusted, or have it check what it passes on. The
// host of tcUrl does not count where it is the address that the publisher has
// connected to.
//
// All else that can go wrong is a failure: no connection, no answer in time,
// another status (redirects are not followed), a body that is too long or not
// such an answer, more than MaxURLs. OnFailure says what then. The log has it as
// srs.Hooks say, and so a backend that does not answer is asked for one stream
// at a time.
//
// Only URL is needed. No field may change once the resolver is in use, and it
// must not be copied. It may be used concurrently.
type HTTP struct {
	shownResolver

	// URL of the backend, http or https. User and password in it are sent
	// as basic authentication.
	URL string

	// Client makes the requests. The default uses no proxy, keeps no
	// connection between questions and is this resolver's own. Redirects
	// are followed only by a Client with its own CheckRedirect.
	Client *http.Client

	// Timeout of a question, asking again included; default 30 s, as in SRS.
	// Waiting for a turn does not count, and has a limit of the same length.
	Timeout time.Duration

	// MaxReply is how many bytes a reply may have, default 1 MiB.
	MaxReply int

	// MaxURLs is how many urls a reply may have, default 256. Each may have
	// 2048 bytes.
	MaxURLs int

	// MaxQuestions is how many may be under way, default 512: with that a
	// backend that takes a second answers 1000 publishers within two.
	// Further ones, at most 4096, wait for their turn; a publisher who gets
	// none is told that the server is busy. Turns are shared among addresses
	// as by srs.Hooks.
	MaxQuestions int

	// OnFailure says what becomes of a stream when the backend cannot be
	// asked, by default FailClosed.
	OnFailure FailurePolicy

	// ServiceID is sent as service_id.
	ServiceID string

	// Secret, if not empty, signs the requests with the headers webhook-id,
	// webhook-timestamp and webhook-signature of Standard Webhooks
	// (HMAC-SHA256 over "id.timestamp.body"). It is the key itself or, after
	// "whsec_", the key in base64.
	Secret forward.Secret

	// Untrusted has all its URLs checked as if the publisher had named
	// them, for a backend that is not the operator's. So are those of an
	// HTTP that is its Fallback.
	Untrusted bool

	// Logger gets what is said of a backend that fails, a warning for each
	// entry left out, and one for each stream of which OnFailure decides; nil
	// is that of the Server that asks.
	Logger *slog.Logger

	once    sync.Once
	backend *backend.Backend
	entries outage.Outage // left out of answers

	mu       sync.Mutex
	lastGood answers[string] // for LastGood only
}

// shownResolver is how an HTTP is printed, in place of its URL.
type shownResolver struct{}

func (shownResolver) Format(f fmt.State, _ rune) { io.WriteString(f, "resolve.HTTP") }

func (shownResolver) MarshalText() ([]byte, error) { return []byte("resolve.HTTP"), nil }

// Validate says what is wrong with URL or Secret, or nil. Its error shows
// neither.
func (h *HTTP) Validate() error { return h.options().Check(h.URL) }

func (h *HTTP) options() backend.Options {
	return backend.Options{
		Client: h.Client, Secret: h.Secret, Timeout: h.Timeout, MaxReply: h.MaxReply, MaxQuestions: h.MaxQuestions,
	}
}

// ResolveDestinations is ResolveTTL without the time.
func (h *HTTP) ResolveDestinations(ctx context.Context, req *forward.PublishRequest) ([]forward.Destination, error) {
	ds, _, err := h.ResolveTTL(ctx, req)
	return ds, err
}

// ResolveTTL asks the backend. A connection that cannot be made or breaks is
// tried once more. When the Server asks again while the stream is live, a
// failure is an error under any OnFailure: the destinations stay as they are.
func (h *HTTP) ResolveTTL(ctx context.Context, req *forward.PublishRequest) ([]forward.Destination, time.Duration, error) {
	h.once.Do(func() { h.backend = backend.New(h.URL, h.options()) })
	a, err := h.question(ctx, req)
	if err == nil {
		if h.OnFailure == LastGood {
			h.mu.Lock()
			h.lastGood.put(req.Name(), a)
			h.mu.Unlock()
		}
		return a.copy()
	}
	err = fmt.Errorf("on_forward: %w", err)
	if h.OnFailure == nil || errors.Is(err, forward.ErrRefused) || ctx.Err() != nil || forward.IsRefresh(ctx) {
		return nil, 0, err
	}
	return h.OnFailure.onFailure(ctx, h, req, err)
}

// question asks the backend.
func (h *HTTP) question(ctx context.Context, req *forward.PublishRequest) (answer, error) {
	if err := h.Validate(); err != nil {
		return answer{}, err
	}
	body := backend.NewStream("on_forward", h.ServiceID, req)
	log := cmp.Or(h.Logger, forward.Logger(ctx))
	var a answer
	err := h.backend.Call(ctx, log, "on_forward", req.RemoteAddr, body, 0, func(reply []byte) error {
		urls, ttl, err := parseHookReply(reply, positive(h.MaxURLs, defaultMaxURLs))
		if err == nil {
			a, err = h.answer(log, urls, ttl, req)
		}
		return err
	})
	return a, err
}

// answer makes destinations of the urls of a reply.
func (h *HTTP) answer(log *slog.Logger, urls []json.RawMessage, ttl time.Duration, req *forward.PublishRequest) (answer, error) {
	a := answer{destinations: make([]forward.Destination, 0, len(urls)), ttl: ttl, expires: time.Now().Add(ttl)}
	said := saidBy(req)
	empty := 0
	for i, raw := range urls {
		if string(raw) == `""` { // SRS skips them
			empty++
			continue
		}
		d, err := h.destination(raw, said)
		if err != nil {
			if notLogged, ok := h.entries.Note(outage.CauseOf(err)); ok {
				log.Warn("on_forward: entry left out", outage.WithLeftOut(notLogged, "source", req, "entry", i, "err", err)...)
			}
			continue
		}
		a.destinations = append(a.destinations, d)
	}
	if len(a.destinations) == 0 && len(urls) > empty {
		return answer{}, fmt.Errorf("data.urls: none of %d is a destination", len(urls))
	}
	a.destinations = distinct(a.destinations)
	return a, nil
}

func (h *HTTP) destination(raw json.RawMessage, said *mention.Text) (forward.Destination, error) {
	var u *string
	if err := json.Unmarshal(raw, &u); err != nil || u == nil {
		return forward.Destination{}, errors.New("not a string")
	}
	if len(*u) > maxHookURLLen {
		return forward.Destination{}, fmt.Errorf("longer than %d bytes", maxHookURLLen)
	}
	d := forward.Destination{URL: *u, NoLinkLocal: true}
	e, err := option.Endpoint(d)
	d.Untrusted = h.Untrusted || said.Names(e.Host)
	return d, err
}

// saidBy is what the publisher has chosen of a request.
func saidBy(req *forward.PublishRequest) *mention.Text {
	_, tcURL, _ := strings.Cut(req.TcURL, "://")
	at := strings.IndexAny(tcURL, "/?")
	if at < 0 {
		at = len(tcURL)
	}
	userinfo, hostport, _ := endpoint.CutLast(tcURL[:at], "@")
	if host, _, err := endpoint.SplitAuthority(hostport); err == nil && isLocal(req, host) {
		tcURL = userinfo + tcURL[at:]
	}
	return mention.In(req.Param, tcURL, req.PageURL, req.App, req.Stream)
}

// isLocal reports whether a host is the address that a publisher has connected
// to, as LocalAddr says, or where that is missing, RemoteAddr of this machine.
func isLocal(req *forward.PublishRequest, host string) bool {
	local := addrOf(req.LocalAddr)
	if remote := addrOf(req.RemoteAddr); !local.IsValid() && remote.IsLoopback() {
		local = remote
	}
	if !local.IsValid() {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return local.IsLoopback()
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	addr = addr.Unmap().WithZone("")
	return err == nil && (addr == local || addr.IsLoopback() && local.IsLoopback())
}

// addrOf is the IP address of a, not valid where it has none.
func addrOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return t.AddrPort().Addr().Unmap().WithZone("")
}

// parseHookReply reads {"code":0,"data":{"urls":[…],"ttl":60}}, as parseReply.
func parseHookReply(reply []byte, maxURLs int) (urls []json.RawMessage, ttl time.Duration, err error) {
	top, err := backend.ParseReply(webhook.Reply(reply))
	if err != nil {
		return nil, 0, err
	}
	var data map[string]json.RawMessage
	if json.Unmarshal(top["data"], &data) != nil || data == nil {
		return nil, 0, errors.New("data: want an object")
	}
	if json.Unmarshal(data["urls"], &urls) != nil || urls == nil {
		return nil, 0, errors.New("data.urls: want an array")
	}
	if len(urls) > maxURLs {
		return nil, 0, fmt.Errorf("data.urls: %d entries, at most %d are taken", len(urls), maxURLs)
	}
	if raw, ok := data["ttl"]; ok {
		var seconds *float64
		if json.Unmarshal(raw, &seconds) != nil || seconds == nil ||
			*seconds < minHookTTL.Seconds() || *seconds > maxHookTTL.Seconds() {
			return nil, 0, fmt.Errorf("data.ttl: want a number of seconds from %v to %v", minHookTTL, maxHookTTL)
		}
		ttl = time.Duration(*seconds * float64(time.Second))
	}
	return urls, ttl, nil
}

// FailurePolicy says what becomes of a stream when its HTTP cannot get
// an answer: FailClosed, FailOpen, LastGood or Fallback. A stream that the
// backend refuses is refused under each.
type FailurePolicy interface {
	onFailure(ctx context.Context, h *HTTP, req *forward.PublishRequest, err error) ([]forward.Destination, time.Duration, error)
}

type failurePolicy int

const (
	// FailClosed refuses the publisher. It is the default: an encoder that
	// is refused tries again and its user is told, whereas a stream that
	// goes nowhere may not be noticed.
	FailClosed failurePolicy = iota
	// FailOpen accepts the publisher and forwards nothing.
	FailOpen
	// LastGood takes what the backend last answered for a stream of the
	// same Name, whoever published it, and is FailClosed where there is
	// nothing. The answers of the 4096 streams asked for last are kept in
	// memory.
	LastGood
)

func (p failurePolicy) onFailure(ctx context.Context, h *HTTP, req *forward.PublishRequest, err error) ([]forward.Destination, time.Duration, error) {
	switch p {
	case FailOpen:
		cmp.Or(h.Logger, forward.Logger(ctx)).Warn("not forwarded: the backend has failed", "source", req)
		return nil, 0, nil
	case LastGood:
		h.mu.Lock()
		last, ok := h.lastGood.get(req.Name())
		h.mu.Unlock()
		if !ok {
			return nil, 0, fmt.Errorf("%w (and no earlier answer)", err)
		}
		cmp.Or(h.Logger, forward.Logger(ctx)).Warn("forwarded as before: the backend has failed", "source", req)
		// Its time is over, but the backend is to be asked again.
		last.expires = time.Now().Add(last.ttl)
		last.destinations = slices.Clone(last.destinations)
		said := saidBy(req) // another publisher may have said it
		for i, d := range last.destinations {
			if e, err := option.Endpoint(d); err == nil && said.Names(e.Host) {
				last.destinations[i].Untrusted = true
			}
		}
		return last.copy()
	}
	return nil, 0, err
}

// Fallback asks r instead.
func Fallback(r forward.DestinationResolver) FailurePolicy { return fallback{r} }

type fallback struct{ resolver forward.DestinationResolver }

func (f fallback) onFailure(ctx context.Context, h *HTTP, req *forward.PublishRequest, err error) ([]forward.Destination, time.Duration, error) {
	cmp.Or(h.Logger, forward.Logger(ctx)).Warn("resolved by the fallback: the backend has failed", "source", req)
	ds, ttl, ferr := resolveTTL(ctx, f.resolver, req)
	if ferr != nil {
		return nil, 0, fmt.Errorf("%w; instead of %w", ferr, err)
	}
	if _, ok := f.resolver.(*HTTP); ok && h.Untrusted {
		ds = slices.Clone(ds)
		for i := range ds {
			ds[i].Untrusted = true
		}
	}
	return ds, ttl, nil
}

func (f fallback) Format(w fmt.State, _ rune) { io.WriteString(w, "Fallback") }
