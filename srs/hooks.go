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

// HookURLs are the URLs, http or https, to call at each event. User and
// password in one are sent as basic authentication.
type HookURLs struct {
	OnConnect, OnClose     []string
	OnPublish, OnUnpublish []string
	OnPlay, OnStop         []string

	// Timeout takes the place of Hooks.Timeout where it is not 0.
	Timeout time.Duration
}

// Format writes "srs.HookURLs", for every verb: a URL may hold a token.
func (HookURLs) Format(f fmt.State, _ rune) { io.WriteString(f, "srs.HookURLs") }

// MarshalText gives the same as Format.
func (HookURLs) MarshalText() ([]byte, error) { return []byte("srs.HookURLs"), nil }

// Hooks are SRS's HTTP callbacks: a backend that works with SRS works
// unchanged. Each is a POST of
//
//	{"action":"on_publish","server_id":"…","service_id":"…","client_id":"…",
//	 "ip":"…","vhost":"…","app":"…","tcUrl":"…","stream":"…","param":"?…",
//	 "stream_url":"/app/stream","stream_id":"…"}
//
// with action also on_unpublish, on_play and on_stop. on_play has pageUrl too;
// on_connect has it and nothing after param, where param is the query of tcUrl
// and stream is empty; on_close has, after app, send_bytes and recv_bytes.
// stream_id is that of forward.Source.ID.
//
// The answer is status 200 or 201 with 0 or {"code":0}; what SRS's reader of
// JSON takes beyond the standard is taken, too, such as a byte order mark. To
// on_connect, on_publish and on_play all else refuses the client: another code,
// with an error that wraps forward.ErrRefused, as well as no connection, no answer in
// time, another status (redirects are not followed), a body that is too long or
// no such answer.
//
// A URL that fails is logged with a warning, without its secrets: once for each
// cause, then every 10 minutes with the number left out, and when it answers again.
//
// The URLs of an event are called in their order. One that refuses ends that,
// so that those behind it are not asked about a client that is not let in;
// those before it are not told, as what they have accepted has not begun. An
// event that only tells is told to all.
//
// A client may name another vhost in publish or play than in connect, and
// on_connect is asked once, for that of connect: it can't protect a vhost.
//
// Encoders cut a path of several levels at different places into app and stream.
// A backend that decides about single streams does so by vhost and stream_url,
// which do not change with that.
//
// A client waits for its callbacks and holds nobody else up. Each URL has
// Timeout, with another try after a connection error, and may be waited for as
// long before, for a turn. A URL that has not answered 5 times in a row is asked
// for one client at a time until it does; the others wait for 1 s and are
// refused.
//
// No field may change once the first callback has been called, and Hooks
// must not be copied.
type Hooks struct {
	shownHooks

	// URLs are for each vhost that Vhosts does not name, in whatever case.
	URLs   HookURLs
	Vhosts map[string]HookURLs

	// Client makes the requests. The default uses no proxy, keeps no
	// connection between calls and is of their own. Redirects are followed
	// only by a Client with its own CheckRedirect.
	Client *http.Client

	// Timeout of a URL, another try included; default 30 s, as in SRS. Waiting
	// for a turn does not count, and has a limit of the same length.
	Timeout time.Duration

	// MaxReply is how many bytes a reply may have, default 1 MiB.
	MaxReply int

	// MaxQuestions is how many calls of one URL may be under way, default
	// 512. Further ones, at most 4096, wait for their turn; a publisher who
	// gets none is told that the server is busy. Clients of one address have
	// at most half of the turns and of the places to wait, of IPv6 per first
	// 64 bits, and where several addresses wait their turns alternate.
	MaxQuestions int

	// ServiceID is sent as service_id.
	ServiceID string

	// Secret, if not empty, signs the requests as resolve.HTTP does.
	Secret forward.Secret

	// Logger gets what is said of a URL that fails; nil is that of the Server
	// that calls.
	Logger *slog.Logger

	once     sync.Once
	err      error
	backends map[string]*backend.Backend // by URL
}

// shownHooks is how Hooks are printed, in place of their URLs.
type shownHooks struct{}

func (shownHooks) Format(f fmt.State, _ rune) { io.WriteString(f, "srs.Hooks") }

func (shownHooks) MarshalText() ([]byte, error) { return []byte("srs.Hooks"), nil }

// Validate says what is wrong with a URL, a Secret or Vhosts, or nil. Its error
// shows neither URL nor Secret.
func (h *Hooks) Validate() error {
	if a, b, found := rtmp.SameVhosts(h.Vhosts); found {
		return fmt.Errorf("vhosts %q and %q are the same: case does not count", a, b)
	}
	return h.options().Check(h.all()...)
}

// Hooks returns the callbacks for forward.Config.Hooks. Where Validate has an error,
// they refuse with it.
func (h *Hooks) Hooks() forward.Hooks {
	return forward.Hooks{
		OnConnect: func(ctx context.Context, req *forward.ConnectRequest) error {
			u := h.of(req.Vhost)
			return h.ask(ctx, hookCall{"on_connect", req.RemoteAddr, u.Timeout}, u.OnConnect, h.connectBody(req))
		},
		OnPublish: func(ctx context.Context, req *forward.PublishRequest) error {
			u := h.of(req.Vhost)
			return h.ask(ctx, hookCall{"on_publish", req.RemoteAddr, u.Timeout}, u.OnPublish, h.streamBody("on_publish", req, nil))
		},
		OnUnpublish: func(ctx context.Context, req *forward.PublishRequest) {
			u := h.of(req.Vhost)
			h.tell(ctx, hookCall{"on_unpublish", req.RemoteAddr, u.Timeout}, u.OnUnpublish, h.streamBody("on_unpublish", req, nil))
		},
		OnPlay: func(ctx context.Context, req *forward.PlayRequest) error {
			u := h.of(req.Vhost)
			return h.ask(ctx, hookCall{"on_play", req.RemoteAddr, u.Timeout}, u.OnPlay, h.streamBody("on_play", req, &req.PageURL))
		},
		OnStop: func(ctx context.Context, req *forward.PlayRequest) {
			u := h.of(req.Vhost)
			h.tell(ctx, hookCall{"on_stop", req.RemoteAddr, u.Timeout}, u.OnStop, h.streamBody("on_stop", req, nil))
		},
		OnClose: func(ctx context.Context, req *forward.ConnectRequest) {
			u := h.of(req.Vhost)
			h.tell(ctx, hookCall{"on_close", req.RemoteAddr, u.Timeout}, u.OnClose, h.closeBody(req))
		},
	}
}

// hookCall is an event that is about a client.
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

// tell calls all URLs. What they answer is of interest only where it is no
// answer, or another than they should give.
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

// checkHookReply reads what SRS takes for an answer: a bare number, or an
// object.
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

func (h *Hooks) streamBody(action string, req *forward.PublishRequest, pageURL *string) any {
	// As SRS has it: without a slash before the vhost.
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

func (h *Hooks) connectBody(req *forward.ConnectRequest) any {
	_, query, ok := strings.Cut(req.TcURL, "?")
	if ok {
		query = "?" + query
	}
	return struct {
		backend.Stream
		PageURL string `json:"pageUrl"`
	}{backend.Stream{Client: h.client("on_connect", req), TcURL: req.TcURL, Param: query}, req.PageURL}
}

func (h *Hooks) closeBody(req *forward.ConnectRequest) any {
	return struct {
		backend.Client
		Sent     uint64 `json:"send_bytes"`
		Received uint64 `json:"recv_bytes"`
	}{h.client("on_close", req), req.Sent, req.Received}
}

func (h *Hooks) client(action string, req *forward.ConnectRequest) backend.Client {
	return backend.Client{
		Action: action, ServerID: req.ServerID, ServiceID: h.ServiceID, ClientID: req.ClientID,
		IP: req.IP(), Vhost: req.Vhost, App: req.App,
	}
}
