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
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/mention"
	"github.com/rtmp-forward/forward/internal/option"
	"github.com/rtmp-forward/forward/internal/webhook"
)

// Defaults and limits of HTTP.
const (
	defaultMaxURLs = 256
	maxHookURLLen  = 2048
	minHookTTL     = time.Second
	maxHookTTL     = 24 * time.Hour
)

// HTTP asks an HTTP backend where a stream goes. Request and answer are those of SRS's
// on_forward ("Dynamic Forward"): a backend that works with SRS works unchanged. HTTP
// sends
//
//	{"action":"on_forward","server_id":"…","service_id":"…","client_id":"…",
//	 "ip":"…","vhost":"…","app":"…","tcUrl":"…","stream":"…","param":"?…"}
//
// as a POST and accepts, with status 200 or 201,
//
//	{"code":0,"data":{"urls":["rtmp://host/app/stream"],"ttl":60}}
//
// data.ttl is optional: a number of seconds from 1 to a day, after which the backend
// may be asked again (see forward.TTLResolver). Each URL has the form of
// forward.Destination.URL and is used as it is: nothing of the request is added. An
// empty list means that the stream is not forwarded; empty strings are ignored. An
// invalid URL is logged and left out. If no URL is valid, the answer counts as a
// failure. As in SRS, code is a number, not a string. If it is not 0, the backend refuses
// the stream: the error wraps forward.ErrRefused, and OnFailure does not apply.
//
// The backend belongs to the operator. Its URLs may lead to any address except
// link-local ones and those of metadata services (forward.Destination.NoLinkLocal). But
// a backend may pass on input of the publisher, such as
// "?forward=rtmp://other/live/stream" in param. A URL whose host appears in the
// publisher's own app, stream, param, tcUrl or pageUrl counts as the publisher's: it
// may lead only to public addresses and ports (forward.Destination.Untrusted), besides
// those in forward.Config.AllowNetworks and AllowPorts. The host is found in any case
// and spelling, and inside percent-encoding, JSON's \u, base64 and hexadecimal, also
// nested. It is not found if the backend has looked up a name, composed the host from
// parts, or uses another encoding: then set Untrusted, or let the backend check the URLs
// that it passes on. The host of tcUrl does not count if it is the address that the
// publisher has connected to.
//
// Everything else is a failure, which OnFailure handles: no connection, no answer in
// time, another status (redirects are not followed), an answer that is too long or
// malformed, or more than MaxURLs. Failures are logged as those of srs.Hooks are, and a
// backend that does not answer is asked for one stream at a time.
//
// Only URL is required. No field may change once the resolver is in use, and an HTTP
// must not be copied. Its methods are safe for concurrent use.
type HTTP struct {
	shownResolver

	// URL of the backend, http or https. User and password in it are sent
	// as basic authentication.
	URL string

	// Client makes the requests. The default uses no proxy, keeps no connection open
	// between requests, and is not shared with other resolvers. Redirects are followed
	// only by a Client with its own CheckRedirect.
	Client *http.Client

	// Timeout limits a request and its retry together; default 30 s, as in SRS. Waiting
	// for a turn does not count, and has a limit of the same length.
	Timeout time.Duration

	// MaxReply is the longest answer in bytes, default 1 MiB.
	MaxReply int

	// MaxURLs is how many urls an answer may have, default 256. Each may have 2048
	// bytes.
	MaxURLs int

	// MaxQuestions is how many requests may be in progress, default 512: a backend that
	// takes one second then answers 1000 publishers within two. Up to 4096 more wait
	// for a turn; a publisher that gets none is told that the server is busy. Turns are
	// shared among addresses as in srs.Hooks.
	MaxQuestions int

	// OnFailure decides about a stream if the backend cannot be asked. Default:
	// FailClosed.
	OnFailure FailurePolicy

	// ServiceID is sent as service_id.
	ServiceID string

	// Secret, if not empty, signs the requests with the headers webhook-id,
	// webhook-timestamp and webhook-signature of Standard Webhooks (HMAC-SHA256 over
	// "id.timestamp.body"). It is the key itself or, after "whsec_", the key in base64.
	Secret forward.Secret

	// Untrusted treats every URL as if the publisher had named it, for a backend that
	// does not belong to the operator. It also applies to an HTTP that is its Fallback.
	Untrusted bool

	// Logger gets the failures of the backend, a warning for each URL left out, and one
	// for each stream that OnFailure decides about. Default: the logger of the Server
	// that asks.
	Logger *slog.Logger

	once    sync.Once
	backend *backend.Backend
	entries hostcode.Outage // log of the entries left out of answers

	mu       sync.Mutex
	lastGood answers[string] // for LastGood only
}

// shownResolver prints an HTTP without its URL.
type shownResolver struct{}

func (shownResolver) Format(f fmt.State, _ rune) { io.WriteString(f, "resolve.HTTP") }

func (shownResolver) MarshalText() ([]byte, error) { return []byte("resolve.HTTP"), nil }

// Validate returns an error if URL or Secret is invalid. The error shows neither.
func (h *HTTP) Validate() error { return h.options().Check(h.URL) }

func (h *HTTP) options() backend.Options {
	return backend.Options{
		Client: h.Client, Secret: h.Secret, Timeout: h.Timeout, MaxReply: h.MaxReply, MaxQuestions: h.MaxQuestions,
	}
}

// ResolveDestinations is ResolveTTL without the TTL.
func (h *HTTP) ResolveDestinations(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
	ds, _, err := h.ResolveTTL(ctx, req)
	return ds, err
}

// ResolveTTL asks the backend. After a connection error it retries once. When the
// Server asks again about a live stream, a failure is returned whatever OnFailure is:
// the destinations stay as they are.
func (h *HTTP) ResolveTTL(ctx context.Context, req *forward.Request) ([]forward.Destination, time.Duration, error) {
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

// question sends the request to the backend and returns its answer.
func (h *HTTP) question(ctx context.Context, req *forward.Request) (answer, error) {
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

// answer converts the urls of an answer to destinations.
func (h *HTTP) answer(log *slog.Logger, urls []json.RawMessage, ttl time.Duration, req *forward.Request) (answer, error) {
	a := answer{destinations: make([]forward.Destination, 0, len(urls)), ttl: ttl, expires: time.Now().Add(ttl)}
	said := saidBy(req)
	empty := 0
	for i, raw := range urls {
		if string(raw) == `""` { // SRS ignores empty strings
			empty++
			continue
		}
		d, err := h.destination(raw, said)
		if err != nil {
			if notLogged, ok := h.entries.Note(hostcode.CauseOf(err)); ok {
				log.Warn("on_forward: entry left out", hostcode.WithLeftOut(notLogged, "source", req, "entry", i, "err", err)...)
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

// saidBy returns the parts of a request that the publisher has chosen.
func saidBy(req *forward.Request) *mention.Text {
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

// isLocal reports whether a host is the address that the publisher has connected to:
// LocalAddr or, if that is missing, this machine for a RemoteAddr of this machine.
func isLocal(req *forward.Request, host string) bool {
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

// addrOf returns the IP address of a. It is invalid if a has none.
func addrOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return t.AddrPort().Addr().Unmap().WithZone("")
}

// parseHookReply parses {"code":0,"data":{"urls":[…],"ttl":60}}.
func parseHookReply(reply []byte, maxURLs int) (urls []json.RawMessage, ttl time.Duration, err error) {
	top, err := backend.ParseReply(webhook.Reply(reply))
	if err != nil {
		return nil, 0, err
	}
	var data map[string]json.RawMessage
	if json.Unmarshal(top["data"], &data) != nil || data == nil {
		return nil, 0, errors.New("data: expected an object")
	}
	if json.Unmarshal(data["urls"], &urls) != nil || urls == nil {
		return nil, 0, errors.New("data.urls: expected an array")
	}
	if len(urls) > maxURLs {
		return nil, 0, fmt.Errorf("data.urls: %d entries, expected at most %d", len(urls), maxURLs)
	}
	if raw, ok := data["ttl"]; ok {
		var seconds *float64
		if json.Unmarshal(raw, &seconds) != nil || seconds == nil ||
			*seconds < minHookTTL.Seconds() || *seconds > maxHookTTL.Seconds() {
			return nil, 0, fmt.Errorf("data.ttl: expected a number of seconds from %v to %v", minHookTTL, maxHookTTL)
		}
		ttl = time.Duration(*seconds * float64(time.Second))
	}
	return urls, ttl, nil
}

// FailurePolicy decides about a stream if its HTTP gets no answer: FailClosed,
// FailOpen, LastGood or Fallback. A stream that the backend refuses is refused with every
// policy.
type FailurePolicy interface {
	onFailure(ctx context.Context, h *HTTP, req *forward.Request, err error) ([]forward.Destination, time.Duration, error)
}

type failurePolicy int

const (
	// FailClosed refuses the publisher. It is the default: an encoder retries and its
	// user sees the refusal, while a stream without destinations may go unnoticed.
	FailClosed failurePolicy = iota
	// FailOpen accepts the publisher and forwards nothing.
	FailOpen
	// LastGood uses the backend's last answer for a stream of the same Name, from any
	// publisher, and is FailClosed if there is none. The answers of the 4096 streams
	// used last are kept in memory.
	LastGood
)

func (p failurePolicy) onFailure(ctx context.Context, h *HTTP, req *forward.Request, err error) ([]forward.Destination, time.Duration, error) {
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
		// The answer has expired, but the backend is asked again after the same time.
		last.expires = time.Now().Add(last.ttl)
		last.destinations = slices.Clone(last.destinations)
		said := saidBy(req) // this publisher may have named a host that the earlier one did not
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

func (f fallback) onFailure(ctx context.Context, h *HTTP, req *forward.Request, err error) ([]forward.Destination, time.Duration, error) {
	cmp.Or(h.Logger, forward.Logger(ctx)).Warn("resolved by the fallback: the backend has failed", "source", req)
	ds, ttl, ferr := forward.ResolveTTL(ctx, f.resolver, req)
	if ferr != nil {
		return nil, 0, fmt.Errorf("%w; fallback after %w", ferr, err)
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
