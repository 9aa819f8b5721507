package forward

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Defaults and limits of HTTPResolver.
const (
	defaultHookTimeout  = 5 * time.Second
	defaultMaxReply     = 1 << 20
	defaultMaxURLs      = 256
	defaultMaxQuestions = 512
	maxHookURLLen       = 2048
	minHookTTL          = time.Second
	maxHookTTL          = 24 * time.Hour
)

// HTTPResolver asks an HTTP backend where a stream goes, with the body and the
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
// backend may be asked again (see TTLResolver). Each URL is one in the sense of
// Destination.URL, and means exactly that: nothing of the request is added. No
// URLs, and the stream is not forwarded. An entry of urls that is no such URL
// is logged and left out, the others count; if none is left, that is a
// failure. code is a number as in SRS, not a string. If it is not 0, the
// backend has refused the stream and so does the resolver, under any
// OnFailure, with an error that wraps ErrRefused.
//
// All else that can go wrong is a failure: no connection, no answer in time,
// another status (redirects are not followed), a body that is too long or not
// such an answer, more than MaxURLs. OnFailure says what then.
//
// Only URL is needed. No field may change once the resolver is in use, and it
// must not be copied. It may be used concurrently.
type HTTPResolver struct {
	// URL of the backend, http or https. User and password in it are sent
	// as basic authentication.
	URL string

	// Client makes the requests. The default uses no proxy, keeps no
	// connection between questions and is this resolver's own. Redirects
	// are followed only by a Client with its own CheckRedirect.
	Client *http.Client

	// Timeout of a question, waiting for its turn and asking again
	// included; default 5 s.
	Timeout time.Duration

	// MaxReply is how many bytes a reply may have, default 1 MiB.
	MaxReply int

	// MaxURLs is how many urls a reply may have, default 256. Each may have
	// 2048 bytes.
	MaxURLs int

	// MaxQuestions is how many may be under way, default 512. Further ones
	// wait for their turn.
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
	Secret Secret

	// Logger gets a warning for each entry left out and each failure that
	// OnFailure covers up; nil is slog.Default.
	Logger *slog.Logger

	once   sync.Once
	client *http.Client
	turns  chan struct{}

	mu       sync.Mutex
	lastGood answers[string] // by stream name, for LastGood only
}

// Validate says what is wrong with URL or Secret, or nil. Its error shows
// neither.
func (h *HTTPResolver) Validate() error {
	u, err := url.Parse(h.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("bad backend URL: want http:// or https://")
	}
	_, err = h.signingKey()
	return err
}

// ResolveDestinations is ResolveTTL without the time.
func (h *HTTPResolver) ResolveDestinations(ctx context.Context, req *PublishRequest) ([]Destination, error) {
	ds, _, err := h.ResolveTTL(ctx, req)
	return ds, err
}

// ResolveTTL asks the backend. A connection that cannot be made or breaks is
// tried once more. When the Server asks again while the stream is live, a
// failure is an error under any OnFailure: the destinations stay as they are.
func (h *HTTPResolver) ResolveTTL(ctx context.Context, req *PublishRequest) ([]Destination, time.Duration, error) {
	h.once.Do(h.init)
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
	if h.OnFailure == nil || errors.Is(err, ErrRefused) || ctx.Err() != nil || isRefresh(ctx) {
		return nil, 0, err
	}
	return h.OnFailure.onFailure(ctx, h, req, err)
}

func (h *HTTPResolver) init() {
	if h.Client != nil {
		c := *h.Client
		h.client = &c
	} else {
		h.client = &http.Client{Transport: &http.Transport{
			DialContext:            (&net.Dialer{}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		}}
	}
	if h.client.CheckRedirect == nil {
		h.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	h.turns = make(chan struct{}, positive(h.MaxQuestions, defaultMaxQuestions))
}

// question asks the backend, and once more after a connection error.
func (h *HTTPResolver) question(ctx context.Context, req *PublishRequest) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, positive(h.Timeout, defaultHookTimeout))
	defer cancel()
	body, err := h.body(req)
	if err != nil {
		return answer{}, err
	}
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		return answer{}, fmt.Errorf("wait for a turn: %w", ctx.Err())
	}
	reply, err := h.post(ctx, body)
	if connectionError(err) && ctx.Err() == nil {
		reply, err = h.post(ctx, body)
	}
	if err != nil {
		return answer{}, err
	}
	urls, ttl, err := parseHookReply(reply, positive(h.MaxURLs, defaultMaxURLs))
	if err != nil {
		return answer{}, err
	}
	return h.answer(urls, ttl, req)
}

func (h *HTTPResolver) body(req *PublishRequest) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // as SRS, whose backends may not decode JSON well
	err := e.Encode(struct {
		Action    string `json:"action"`
		ServerID  string `json:"server_id"`
		ServiceID string `json:"service_id"`
		ClientID  string `json:"client_id"`
		IP        string `json:"ip"`
		Vhost     string `json:"vhost"`
		App       string `json:"app"`
		TcURL     string `json:"tcUrl"`
		Stream    string `json:"stream"`
		Param     string `json:"param"`
	}{
		"on_forward", req.ServerID, h.ServiceID, req.ClientID, req.IP(),
		req.Vhost, req.App, req.TcURL, req.Stream, req.Param,
	})
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// post sends body and returns the reply's. Its errors do not show the
// backend's URL, which may hold a token.
func (h *HTTPResolver) post(ctx context.Context, body []byte) ([]byte, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return nil, withoutURL(err)
	}
	r.Header.Set("Content-Type", "application/json")
	h.sign(r.Header, body)
	resp, err := h.client.Do(r)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	limit := positive(h.MaxReply, defaultMaxReply)
	reply, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read reply: %w", withoutURL(err))
	case len(reply) > limit:
		return nil, fmt.Errorf("reply longer than %d bytes", limit)
	}
	return reply, nil
}

// sign adds the headers of Standard Webhooks.
func (h *HTTPResolver) sign(header http.Header, body []byte) {
	key, _ := h.signingKey()
	if len(key) == 0 {
		return
	}
	id := "msg_" + rand.Text()
	at := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	header.Set("webhook-id", id)
	header.Set("webhook-timestamp", at)
	header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

func (h *HTTPResolver) signingKey() ([]byte, error) {
	b64, ok := strings.CutPrefix(string(h.Secret), "whsec_")
	if !ok {
		return []byte(h.Secret), nil
	}
	key, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(key) == 0 {
		return nil, errors.New("bad Secret: no base64 after whsec_")
	}
	return key, nil
}

// answer makes destinations of the urls of a reply.
func (h *HTTPResolver) answer(urls []json.RawMessage, ttl time.Duration, req *PublishRequest) (answer, error) {
	a := answer{destinations: make([]Destination, 0, len(urls)), ttl: ttl, expires: time.Now().Add(ttl)}
	for i, raw := range urls {
		d, err := hookDestination(raw)
		if err != nil {
			h.logger().Warn("on_forward: entry left out", "source", req.Name(), "entry", i, "err", err)
			continue
		}
		a.destinations = append(a.destinations, d)
	}
	if len(a.destinations) == 0 && len(urls) > 0 {
		return answer{}, fmt.Errorf("data.urls: none of %d is a destination", len(urls))
	}
	a.destinations = distinct(a.destinations)
	return a, nil
}

func hookDestination(raw json.RawMessage) (Destination, error) {
	var u *string
	if err := json.Unmarshal(raw, &u); err != nil || u == nil {
		return Destination{}, errors.New("not a string")
	}
	if len(*u) > maxHookURLLen {
		return Destination{}, fmt.Errorf("longer than %d bytes", maxHookURLLen)
	}
	d := Destination{URL: *u, untrusted: true}
	return d, d.Validate()
}

func (h *HTTPResolver) logger() *slog.Logger {
	if h.Logger != nil {
		return h.Logger
	}
	return slog.Default()
}

// parseHookReply reads {"code":0,"data":{"urls":[…],"ttl":60}}. Its errors
// name the field and do not quote it. Unknown fields are of no interest.
func parseHookReply(reply []byte, maxURLs int) (urls []json.RawMessage, ttl time.Duration, err error) {
	if len(bytes.TrimSpace(reply)) == 0 {
		return nil, 0, errors.New("empty reply")
	}
	var top, data map[string]json.RawMessage // exact names, unlike struct fields
	if !json.Valid(reply) {
		return nil, 0, errors.New("reply is not JSON")
	}
	if json.Unmarshal(reply, &top) != nil || top == nil {
		return nil, 0, errors.New("reply is not an object")
	}
	var code *int64
	if json.Unmarshal(top["code"], &code) != nil || code == nil {
		return nil, 0, errors.New("code: want an integer")
	}
	if *code != 0 {
		return nil, 0, fmt.Errorf("%w by the backend, code %d", ErrRefused, *code)
	}
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

// connectionError says whether err comes from the connection itself, so that
// another may do better. Time running out and certificates are no such thing.
func connectionError(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) {
		return !op.Timeout() && (op.Op == "dial" || op.Op == "read" || op.Op == "write")
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// withoutURL takes off the *url.Error around an error, which prints the URL.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// positive is v, or def if v is not above 0.
func positive[T cmp.Ordered](v, def T) T {
	var zero T
	if v > zero {
		return v
	}
	return def
}
