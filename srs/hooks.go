package srs

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/backend"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/webhook"
)

// HookURLs are the URLs, http or https, to call at each event. User and password in a
// URL are sent as basic authentication.
type HookURLs struct {
	// OnConnect, OnClose, OnPublish, OnUnpublish, OnPlay and OnStop are called at the
	// events of forward.Hooks with these names.
	OnConnect, OnClose     []string
	OnPublish, OnUnpublish []string
	OnPlay, OnStop         []string

	// Timeout replaces Hooks.Timeout unless it is 0.
	Timeout time.Duration
}

// Format writes "srs.HookURLs", for every verb: a URL may contain a token.
func (HookURLs) Format(f fmt.State, _ rune) { io.WriteString(f, "srs.HookURLs") }

// MarshalText gives the same as Format.
func (HookURLs) MarshalText() ([]byte, error) { return []byte("srs.HookURLs"), nil }

// Hooks are SRS's HTTP callbacks: a backend that works with SRS works unchanged. Each
// is a POST of
//
//	{"action":"on_publish","server_id":"…","service_id":"…","client_id":"…",
//	 "ip":"…","vhost":"…","app":"…","tcUrl":"…","stream":"…","param":"?…",
//	 "stream_url":"/app/stream","stream_id":"…"}
//
// with action also on_unpublish, on_play and on_stop. on_play has pageUrl too.
// on_connect has pageUrl and nothing after param; its param is the query of tcUrl and
// its stream is empty. on_close has send_bytes and recv_bytes after app. stream_id is
// that of forward.Source.ID.
//
// The answer is status 200 or 201 with 0 or {"code":0}. JSON that SRS accepts beyond
// the standard is accepted too, such as a byte order mark. Any other answer to
// on_connect, on_publish and on_play refuses the client: another code, with an error
// that wraps forward.ErrRefused, or a failure: no connection, no answer in time, another
// status (redirects are not followed), or an answer that is too long or malformed.
//
// A URL that fails is logged as a warning, without its secrets: once for each cause,
// then every 10 minutes with the number of failures left out, and once when it answers
// again.
//
// The URLs of an event are called in order, until one refuses. The URLs before it are not
// told of the refusal, because the publish or play has not begun. Events that only report
// go to all URLs.
//
// A client may name another vhost in publish or play than in connect. on_connect is
// asked once, about the vhost of connect: it cannot protect a vhost.
//
// Encoders split paths of several levels differently between app and stream. A backend
// that decides about single streams uses vhost and stream_url, which are the same
// either way.
//
// A client waits for its own callbacks only. Each call has Timeout, with one retry
// after a connection error; waiting for a turn may take as long again. A URL that has
// not answered 5 times in a row is called for one client at a time until it answers;
// the other clients wait for 1 s and are refused.
//
// No field may change after the first callback, and Hooks must not be copied.
type Hooks struct {
	shownHooks

	// URLs are for all vhosts that are not in Vhosts. Names are not case-sensitive.
	URLs   HookURLs
	Vhosts map[string]HookURLs

	// Client makes the requests. The default uses no proxy, keeps no connection open
	// between calls, and is not shared with other Hooks. Redirects are followed only by
	// a Client with its own CheckRedirect.
	Client *http.Client

	// Timeout limits a call and its retry together; default 30 s, as in SRS.
	// Waiting for a turn does not count, and has a limit of the same length.
	Timeout time.Duration

	// MaxReply is the longest answer in bytes, default 1 MiB.
	MaxReply int

	// MaxQuestions is how many calls of one URL may be in progress, default 512. Up to
	// 4096 more wait for a turn; a publisher that gets none is told that the server is
	// busy. The clients of one address (of IPv6, of the first 64 bits) have at most
	// half of the turns and of the places to wait. If several addresses wait, their
	// turns alternate.
	MaxQuestions int

	// ServiceID is sent as service_id.
	ServiceID string

	// Secret, if not empty, signs the requests as resolve.HTTP does.
	Secret forward.Secret

	// Logger gets the failures of the URLs. Default: the logger of the Server that
	// calls.
	Logger *slog.Logger

	once     sync.Once
	err      error
	backends map[string]*backend.Backend // by URL
}

// shownHooks prints Hooks without their URLs.
type shownHooks struct{}

func (shownHooks) Format(f fmt.State, _ rune) { io.WriteString(f, "srs.Hooks") }

func (shownHooks) MarshalText() ([]byte, error) { return []byte("srs.Hooks"), nil }

// Validate returns an error if a URL, Secret or Vhosts is invalid. The error shows
// neither URL nor Secret.
func (h *Hooks) Validate() error {
	if a, b, found := rtmp.SameVhosts(h.Vhosts); found {
		return fmt.Errorf("vhosts %q and %q are the same: case does not count", a, b)
	}
	return h.options().Check(h.all()...)
}

// Hooks returns the callbacks for forward.Config.Hooks. If Validate returns an error, they
// refuse with that error.
func (h *Hooks) Hooks() forward.Hooks {
	return forward.Hooks{
		OnConnect: func(ctx context.Context, req *forward.Request) error {
			u := h.of(req.Vhost)
			return h.ask(ctx, hookCall{"on_connect", req.RemoteAddr, u.Timeout}, u.OnConnect, h.connectBody(req))
		},
		OnPublish: func(ctx context.Context, req *forward.Request) error {
			u := h.of(req.Vhost)
			return h.ask(ctx, hookCall{"on_publish", req.RemoteAddr, u.Timeout}, u.OnPublish, h.streamBody("on_publish", req, nil))
		},
		OnUnpublish: func(ctx context.Context, req *forward.Request) {
			u := h.of(req.Vhost)
			h.tell(ctx, hookCall{"on_unpublish", req.RemoteAddr, u.Timeout}, u.OnUnpublish, h.streamBody("on_unpublish", req, nil))
		},
		OnPlay: func(ctx context.Context, req *forward.Request) error {
			u := h.of(req.Vhost)
			return h.ask(ctx, hookCall{"on_play", req.RemoteAddr, u.Timeout}, u.OnPlay, h.streamBody("on_play", req, &req.PageURL))
		},
		OnStop: func(ctx context.Context, req *forward.Request) {
			u := h.of(req.Vhost)
			h.tell(ctx, hookCall{"on_stop", req.RemoteAddr, u.Timeout}, u.OnStop, h.streamBody("on_stop", req, nil))
		},
		OnClose: func(ctx context.Context, req *forward.Request, sent, received uint64) {
			u := h.of(req.Vhost)
			h.tell(ctx, hookCall{"on_close", req.RemoteAddr, u.Timeout}, u.OnClose, h.closeBody(req, sent, received))
		},
	}
}

// hookCall is an event of a client.
type hookCall struct {
	action  string
	from    net.Addr
	timeout time.Duration // of the vhost, or 0
}

func (h *Hooks) init() {
	if h.err = h.Validate(); h.err != nil {
		return
	}
	h.backends = make(map[string]*backend.Backend)
	for _, u := range h.all() {
		h.backends[u] = backend.New(u, h.options())
	}
}

func (h *Hooks) options() backend.Options {
	return backend.Options{
		Client: h.Client, Secret: h.Secret, Timeout: h.Timeout, MaxReply: h.MaxReply, MaxQuestions: h.MaxQuestions,
	}
}

// all returns the URLs of all events and vhosts.
func (h *Hooks) all() []string {
	var urls []string
	add := func(u HookURLs) {
		for _, of := range [][]string{u.OnConnect, u.OnClose, u.OnPublish, u.OnUnpublish, u.OnPlay, u.OnStop} {
			urls = append(urls, of...)
		}
	}
	add(h.URLs)
	for _, u := range h.Vhosts {
		add(u)
	}
	return urls
}

func (h *Hooks) of(vhost string) HookURLs {
	if name, ok := rtmp.ListedVhost(h.Vhosts, vhost); ok {
		return h.Vhosts[name]
	}
	return h.URLs
}

// ask calls the URLs until one refuses.
func (h *Hooks) ask(ctx context.Context, c hookCall, urls []string, body any) error {
	h.once.Do(h.init)
	for i := range urls {
		if err := h.call(ctx, c, urls, i, body); err != nil {
			return err
		}
	}
	return h.err
}

// tell calls all URLs. Their answers are ignored, except that failures and malformed
// answers are logged.
func (h *Hooks) tell(ctx context.Context, c hookCall, urls []string, body any) {
	h.once.Do(h.init)
	for i := range urls {
		if err := h.call(ctx, c, urls, i, body); err != nil && !backend.IsLogged(err) {
			cmp.Or(h.Logger, forward.Logger(ctx)).Warn("callback failed", "err", err)
		}
	}
}

func (h *Hooks) call(ctx context.Context, c hookCall, urls []string, i int, body any) error {
	err := h.err
	if err == nil {
		err = h.backends[urls[i]].Call(ctx, cmp.Or(h.Logger, forward.Logger(ctx)), c.action, c.from, body, c.timeout, checkHookReply)
	}
	if err != nil && len(urls) > 1 {
		return fmt.Errorf("%s, URL %d of %d: %w", c.action, i+1, len(urls), err)
	} else if err != nil {
		return fmt.Errorf("%s: %w", c.action, err)
	}
	return nil
}

// checkHookReply reads an answer as SRS does: a bare number, or an object.
func checkHookReply(reply []byte) error {
	reply = webhook.Reply(reply)
	if code, err := strconv.ParseInt(string(reply), 10, 64); err == nil {
		if code != 0 {
			return backend.Refused(code)
		}
		return nil
	}
	_, err := backend.ParseReply(reply)
	return err
}

func (h *Hooks) streamBody(action string, req *forward.Request, pageURL *string) any {
	// As in SRS, without a slash before the vhost.
	url := "/" + req.App + "/" + req.Stream
	if rtmp.FoldVhost(req.Vhost) != "" {
		url = req.Vhost + url
	}
	return struct {
		backend.Stream
		PageURL   *string `json:"pageUrl,omitempty"`
		StreamURL string  `json:"stream_url"`
		StreamID  string  `json:"stream_id"`
	}{backend.NewStream(action, h.ServiceID, req), pageURL, url, req.ID()}
}

func (h *Hooks) connectBody(req *forward.Request) any {
	_, query, ok := strings.Cut(req.TcURL, "?")
	if ok {
		query = "?" + query
	}
	return struct {
		backend.Stream
		PageURL string `json:"pageUrl"`
	}{backend.Stream{Client: h.client("on_connect", req), TcURL: req.TcURL, Param: query}, req.PageURL}
}

func (h *Hooks) closeBody(req *forward.Request, sent, received uint64) any {
	return struct {
		backend.Client
		Sent     uint64 `json:"send_bytes"`
		Received uint64 `json:"recv_bytes"`
	}{h.client("on_close", req), sent, received}
}

func (h *Hooks) client(action string, req *forward.Request) backend.Client {
	return backend.Client{
		Action: action, ServerID: req.ServerID, ServiceID: h.ServiceID, ClientID: req.ClientID,
		IP: req.IP(), Vhost: req.Vhost, App: req.App,
	}
}
