package forward

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rtmp-forward/forward/internal/webhook"
)

const defaultHookTimeout = 3 * time.Second

// Defaults of what asks the host over HTTP.
const (
	defaultMaxReply     = 1 << 20
	defaultMaxQuestions = 512
)

// HTTPHookURLs are the URLs, http or https, to call at each event. User and
// password in one are sent as basic authentication.
type HTTPHookURLs struct {
	OnConnect, OnClose     []string
	OnPublish, OnUnpublish []string
	OnPlay, OnStop         []string
}

// Format writes "HTTPHookURLs", for every verb: a URL may hold a token.
func (HTTPHookURLs) Format(f fmt.State, _ rune) { io.WriteString(f, "HTTPHookURLs") }

// MarshalText gives the same as Format.
func (HTTPHookURLs) MarshalText() ([]byte, error) { return []byte("HTTPHookURLs"), nil }

// HTTPHooks are SRS's HTTP callbacks: a backend that works with SRS works
// unchanged. Each is a POST of
//
//	{"action":"on_publish","server_id":"…","service_id":"…","client_id":"…",
//	 "ip":"…","vhost":"…","app":"…","tcUrl":"…","stream":"…","param":"?…",
//	 "stream_url":"/app/stream","stream_id":"…"}
//
// with action also on_unpublish, on_play and on_stop. on_play has pageUrl too;
// on_connect has it and nothing after param, where param is the query of tcUrl
// and stream is empty; on_close has, after app, send_bytes and recv_bytes.
// stream_id is that of Source.ID.
//
// The answer is status 200 or 201 with 0 or {"code":0}. To on_connect,
// on_publish and on_play all else refuses the client: another code, with an
// error that wraps ErrRefused, as well as no connection, no answer in time,
// another status (redirects are not followed), a body that is too long or no
// such answer. After on_close, on_unpublish and on_stop it is logged.
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
// A client waits for its callbacks and holds nobody else up. It is decided
// about within 5/3 of Timeout, which is 5 s, for all URLs of the event, their
// turns, and another try after a connection error. An event that only tells
// takes as long for each URL.
//
// No field may change once the first callback has been called, and HTTPHooks
// must not be copied.
type HTTPHooks struct {
	shownHooks

	// URLs are for each vhost that Vhosts does not name, in whatever case.
	URLs   HTTPHookURLs
	Vhosts map[string]HTTPHookURLs

	// Client makes the requests. The default uses no proxy, keeps no
	// connection between calls and is of their own. Redirects are followed
	// only by a Client with its own CheckRedirect.
	Client *http.Client

	// Timeout of a try, and of waiting for a turn; default 3 s.
	Timeout time.Duration

	// MaxReply is how many bytes a reply may have, default 1 MiB.
	MaxReply int

	// MaxQuestions is how many calls of one URL may be under way, default
	// 512. Further ones, at most 4096, wait for their turn, within the time
	// said above; a publisher who gets none is told that the server is busy.
	MaxQuestions int

	// ServiceID is sent as service_id.
	ServiceID string

	// Secret, if not empty, signs the requests as HTTPResolver does.
	Secret Secret

	// Logger gets a warning for each callback that only tells and has
	// failed; nil is slog.Default.
	Logger *slog.Logger

	once  sync.Once
	err   error
	hooks map[string]*webhook.Hook // by URL
}

// shownHooks is how HTTPHooks are printed, in place of their URLs.
type shownHooks struct{}

func (shownHooks) Format(f fmt.State, _ rune) { io.WriteString(f, "HTTPHooks") }

func (shownHooks) MarshalText() ([]byte, error) { return []byte("HTTPHooks"), nil }

// Validate says what is wrong with a URL, a Secret or Vhosts, or nil. Its error
// shows neither URL nor Secret.
func (h *HTTPHooks) Validate() error {
	if a, b, found := sameVhosts(h.Vhosts); found {
		return fmt.Errorf("vhosts %q and %q are the same: case does not count", a, b)
	}
	for _, u := range h.all() {
		if err := webhook.CheckURL(u); err != nil {
			return err
		}
	}
	_, err := webhook.Key(string(h.Secret))
	return err
}

// Hooks returns the callbacks for Config.Hooks. Where Validate has an error,
// they refuse with it.
func (h *HTTPHooks) Hooks() Hooks {
	return Hooks{
		OnConnect: func(ctx context.Context, req *ConnectRequest) error {
			return h.ask(ctx, "on_connect", h.of(req.Vhost).OnConnect, h.connectBody(req))
		},
		OnPublish: func(ctx context.Context, req *PublishRequest) error {
			return h.ask(ctx, "on_publish", h.of(req.Vhost).OnPublish, h.streamBody("on_publish", req, nil))
		},
		OnUnpublish: func(ctx context.Context, req *PublishRequest) {
			h.tell(ctx, "on_unpublish", h.of(req.Vhost).OnUnpublish, h.streamBody("on_unpublish", req, nil))
		},
		OnPlay: func(ctx context.Context, req *PlayRequest) error {
			return h.ask(ctx, "on_play", h.of(req.Vhost).OnPlay, h.streamBody("on_play", (*PublishRequest)(req), &req.PageURL))
		},
		OnStop: func(ctx context.Context, req *PlayRequest) {
			h.tell(ctx, "on_stop", h.of(req.Vhost).OnStop, h.streamBody("on_stop", (*PublishRequest)(req), nil))
		},
		OnClose: func(ctx context.Context, req *ConnectRequest) {
			h.tell(ctx, "on_close", h.of(req.Vhost).OnClose, h.closeBody(req))
		},
	}
}

func (h *HTTPHooks) init() {
	if h.err = h.Validate(); h.err != nil {
		return
	}
	key, _ := webhook.Key(string(h.Secret))
	client := webhook.Client(h.Client)
	h.hooks = make(map[string]*webhook.Hook)
	for _, u := range h.all() {
		h.hooks[u] = webhook.New(webhook.Options{
			URL: u, Key: key, Client: client,
			Timeout:  positive(h.Timeout, defaultHookTimeout),
			MaxReply: positive(h.MaxReply, defaultMaxReply),
			Turns:    positive(h.MaxQuestions, defaultMaxQuestions),
		})
	}
}

// all returns the URLs of all events and vhosts.
func (h *HTTPHooks) all() []string {
	var urls []string
	add := func(u HTTPHookURLs) {
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

func (h *HTTPHooks) of(vhost string) HTTPHookURLs {
	if name, ok := listedVhost(h.Vhosts, vhost); ok {
		return h.Vhosts[name]
	}
	return h.URLs
}

// ask calls the URLs until one refuses.
func (h *HTTPHooks) ask(ctx context.Context, action string, urls []string, body any) error {
	h.once.Do(h.init)
	ctx, cancel := context.WithTimeout(ctx, h.decideWithin())
	defer cancel()
	for i := range urls {
		if err := h.call(ctx, action, urls, i, body); err != nil {
			return err
		}
	}
	return h.err
}

// tell calls all URLs.
func (h *HTTPHooks) tell(ctx context.Context, action string, urls []string, body any) {
	h.once.Do(h.init)
	for i := range urls {
		ctx, cancel := context.WithTimeout(ctx, h.decideWithin())
		if err := h.call(ctx, action, urls, i, body); err != nil {
			h.logger().Warn("callback failed", "err", err)
		}
		cancel()
	}
}

// decideWithin is longer than a try, so that a second one has a chance.
func (h *HTTPHooks) decideWithin() time.Duration {
	t := positive(h.Timeout, defaultHookTimeout)
	return max(t, t/3*5) // the first where there is no limit to speak of
}

func (h *HTTPHooks) call(ctx context.Context, action string, urls []string, i int, body any) error {
	err := h.err
	if err == nil {
		err = h.post(ctx, h.hooks[urls[i]], body)
	}
	if err != nil && len(urls) > 1 {
		return fmt.Errorf("%s, URL %d of %d: %w", action, i+1, len(urls), err)
	} else if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	return nil
}

func (h *HTTPHooks) post(ctx context.Context, hook *webhook.Hook, body any) error {
	b, err := webhook.Encode(body)
	if err != nil {
		return err
	}
	reply, err := hook.Call(ctx, b)
	if err != nil {
		return err
	}
	// As SRS: a bare number, or an object.
	if code, err := strconv.ParseInt(string(bytes.TrimSpace(reply)), 10, 64); err == nil {
		if code != 0 {
			return refusedBy(code)
		}
		return nil
	}
	_, err = parseReply(reply)
	return err
}

func (h *HTTPHooks) logger() *slog.Logger {
	if h.Logger != nil {
		return h.Logger
	}
	return slog.Default()
}

func (h *HTTPHooks) streamBody(action string, req *PublishRequest, pageURL *string) any {
	// As SRS has it: without a slash before the vhost.
	url := "/" + req.App + "/" + req.Stream
	if foldVhost(req.Vhost) != "" {
		url = req.Vhost + url
	}
	return struct {
		hookStream
		PageURL   *string `json:"pageUrl,omitempty"`
		StreamURL string  `json:"stream_url"`
		StreamID  string  `json:"stream_id"`
	}{newHookStream(action, h.ServiceID, req), pageURL, url, req.id()}
}

func (h *HTTPHooks) connectBody(req *ConnectRequest) any {
	_, query, ok := strings.Cut(req.TcURL, "?")
	if ok {
		query = "?" + query
	}
	return struct {
		hookStream
		PageURL string `json:"pageUrl"`
	}{hookStream{h.client("on_connect", req), req.TcURL, "", query}, req.PageURL}
}

func (h *HTTPHooks) closeBody(req *ConnectRequest) any {
	return struct {
		hookClient
		Sent     uint64 `json:"send_bytes"`
		Received uint64 `json:"recv_bytes"`
	}{h.client("on_close", req), req.Sent, req.Received}
}

func (h *HTTPHooks) client(action string, req *ConnectRequest) hookClient {
	return hookClient{action, req.ServerID, h.ServiceID, req.ClientID, addrIP(req.RemoteAddr), req.Vhost, req.App}
}

// hookClient and hookStream are what most bodies begin with.
type (
	hookClient struct {
		Action    string `json:"action"`
		ServerID  string `json:"server_id"`
		ServiceID string `json:"service_id"`
		ClientID  string `json:"client_id"`
		IP        string `json:"ip"`
		Vhost     string `json:"vhost"`
		App       string `json:"app"`
	}
	hookStream struct {
		hookClient
		TcURL  string `json:"tcUrl"`
		Stream string `json:"stream"`
		Param  string `json:"param"`
	}
)

func newHookStream(action, serviceID string, r *PublishRequest) hookStream {
	return hookStream{
		hookClient{action, r.ServerID, serviceID, r.ClientID, r.IP(), r.Vhost, r.App},
		r.TcURL, r.Stream, r.Param,
	}
}

// parseReply reads {"code":0,…}. Its errors name the field and do not quote
// it; another code is ErrRefused. Unknown fields are of no interest.
func parseReply(reply []byte) (map[string]json.RawMessage, error) {
	if len(bytes.TrimSpace(reply)) == 0 {
		return nil, errors.New("empty reply")
	}
	var top map[string]json.RawMessage // exact names, unlike struct fields
	if !json.Valid(reply) {
		return nil, errors.New("reply is not JSON")
	}
	if json.Unmarshal(reply, &top) != nil || top == nil {
		return nil, errors.New("reply is not an object")
	}
	var code *int64
	if json.Unmarshal(top["code"], &code) != nil || code == nil {
		return nil, errors.New("code: want an integer")
	}
	if *code != 0 {
		return nil, refusedBy(*code)
	}
	return top, nil
}

func refusedBy(code int64) error {
	return fmt.Errorf("%w by the backend, code %d", ErrRefused, code)
}
