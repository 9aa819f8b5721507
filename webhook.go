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
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Defaults of what asks the host over HTTP.
const (
	defaultMaxReply     = 1 << 20
	defaultMaxQuestions = 512
)

// webhook is a URL of the host's that takes questions and news in JSON, as SRS
// sends them. It may be used concurrently.
type webhook struct {
	url      string
	key      []byte // signs, unless empty
	client   *http.Client
	timeout  time.Duration // of a try, and of waiting for a turn
	maxReply int
	turns    chan struct{}
}

// checkHookURL says what is wrong with a URL, without showing it.
func checkHookURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("bad backend URL: want http:// or https://")
	}
	return nil
}

// hookHTTPClient is the client for webhooks: c, or one of their own that uses
// no proxy and keeps no connection. It follows redirects only where c says how.
func hookHTTPClient(c *http.Client) *http.Client {
	var client http.Client
	if c != nil {
		client = *c
	} else {
		client.Transport = &http.Transport{
			DialContext:            (&net.Dialer{}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	if client.CheckRedirect == nil {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return &client
}

// call sends body, once more after a connection error, and returns the reply.
// Its errors do not show the URL, which may hold a token.
func (w *webhook) call(ctx context.Context, body []byte) ([]byte, error) {
	wait, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	select {
	case w.turns <- struct{}{}:
		defer func() { <-w.turns }()
	case <-wait.Done():
		return nil, fmt.Errorf("wait for a turn: %w", wait.Err())
	}
	reply, err := w.post(ctx, body)
	if connectionError(err) && ctx.Err() == nil {
		reply, err = w.post(ctx, body)
	}
	return reply, err
}

func (w *webhook) post(ctx context.Context, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return nil, withoutURL(err)
	}
	r.Header.Set("Content-Type", "application/json")
	w.sign(r.Header, body)
	resp, err := w.client.Do(r)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	reply, err := io.ReadAll(io.LimitReader(resp.Body, int64(w.maxReply)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read reply: %w", withoutURL(err))
	case len(reply) > w.maxReply:
		return nil, fmt.Errorf("reply longer than %d bytes", w.maxReply)
	}
	return reply, nil
}

// sign adds the headers of Standard Webhooks.
func (w *webhook) sign(header http.Header, body []byte) {
	if len(w.key) == 0 {
		return
	}
	id := "msg_" + rand.Text()
	at := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, w.key)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	header.Set("webhook-id", id)
	header.Set("webhook-timestamp", at)
	header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// signingKey is the key that a Secret stands for.
func signingKey(s Secret) ([]byte, error) {
	b64, ok := strings.CutPrefix(string(s), "whsec_")
	if !ok {
		return []byte(s), nil
	}
	key, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(key) == 0 {
		return nil, errors.New("bad Secret: no base64 after whsec_")
	}
	return key, nil
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

// hookBody encodes a body.
func hookBody(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // as SRS, whose backends may not decode JSON well
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
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
