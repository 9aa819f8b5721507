// Package webhook posts JSON to a URL of the host.
package webhook

import (
	"bytes"
	"cmp"
	"compress/gzip"
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
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Options configures a Hook.
type Options struct {
	URL      string
	Key      []byte       // signs the requests if not empty
	Client   *http.Client // from the function Client
	MaxReply int          // bytes
	Turns    int          // calls that may be in progress
}

// maxWaiting is how many calls may wait for a turn.
const maxWaiting = 4096

// Hook is a URL of the host that accepts requests in JSON. Its methods are safe for
// concurrent use.
type Hook struct {
	Options
	turns   *turns
	breaker *breaker
}

// New returns a Hook.
func New(o Options) *Hook { return &Hook{Options: o, turns: newTurns(o.Turns), breaker: newBreaker()} }

// CheckURL returns an error if s is not an absolute URL of HTTP or HTTPS. The error does
// not show s.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("bad backend URL: expected http:// or https://")
	}
	return nil
}

// Client returns the client for webhooks: c, or a default one that uses no proxy and keeps
// no connection. It follows redirects only if c has a CheckRedirect.
func Client(c *http.Client) *http.Client {
	var client http.Client
	if c != nil {
		client = *c
	} else {
		client.Transport = &http.Transport{
			DialContext:            (&net.Dialer{}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	client.Transport = located{cmp.Or(client.Transport, http.DefaultTransport)}
	if client.CheckRedirect == nil {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return &client
}

// located removes a Location that is not a URL from answers: it would appear in the error,
// with its secrets.
type located struct{ http.RoundTripper }

func (l located) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err == nil {
		if _, bad := r.URL.Parse(resp.Header.Get("Location")); bad != nil {
			resp.Header.Del("Location")
		}
	}
	return resp, err
}

// UnderWay returns how many calls are in progress.
func (h *Hook) UnderWay() int { return h.turns.underWay() }

// Call sends body and returns the reply. After a connection error it sends body once more.
// The address of the client that the call is about is who, or "". Call first waits for its
// turn, for timeout at most; then both tries together have timeout. If the backend has not
// answered several times in a row, only one call at a time asks it, and the others fail
// after a second. The errors do not show the URL, which may contain a token.
func (h *Hook) Call(ctx context.Context, who string, body []byte, timeout time.Duration) ([]byte, error) {
	leave, err := h.enter(ctx, who, timeout)
	if err != nil {
		return nil, err
	}
	defer leave()
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	header := h.header(body)
	reply, err := h.post(within, header, body)
	if connectionError(err) && within.Err() == nil {
		reply, err = h.post(within, header, body)
	}
	switch {
	case ctx.Err() != nil && err != nil: // the client has left, which says nothing about the backend
	case err != nil && within.Err() != nil:
		err = noAnswer{timeout, err}
		h.breaker.failed(err)
	case isTimeout(err) || connectionError(err):
		h.breaker.failed(err)
	default:
		h.breaker.answered()
	}
	return reply, err
}

// enter waits until the backend may be asked.
func (h *Hook) enter(ctx context.Context, who string, timeout time.Duration) (leave func(), err error) {
	for {
		alone, err := h.breaker.enter(ctx)
		if err != nil {
			return nil, err
		}
		release, err := h.turns.take(ctx, who, timeout)
		switch {
		case alone && err != nil:
			h.breaker.leave()
			return nil, err
		case alone:
			return func() { release(); h.breaker.leave() }, nil
		case err != nil:
			return nil, err
		case !h.breaker.isOpen():
			return release, nil
		}
		release() // the backend has stopped answering meanwhile
	}
}

// noAnswer is the error of a call that was not answered in time. Its text shows the time,
// and not the cause.
type noAnswer struct {
	within time.Duration
	cause  error
}

func (e noAnswer) Error() string { return fmt.Sprintf("no answer within %v", e.within) }

// Unwrap returns context.DeadlineExceeded and the cause, which may be another timeout.
func (e noAnswer) Unwrap() []error { return []error{context.DeadlineExceeded, e.cause} }

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

func (h *Hook) post(ctx context.Context, header http.Header, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return nil, shown(err)
	}
	r.Header = header.Clone()
	resp, err := h.Client.Do(r)
	if err != nil {
		return nil, shown(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	plain, err := decoded(resp)
	if err != nil {
		return nil, err
	}
	reply, err := io.ReadAll(io.LimitReader(plain, int64(h.MaxReply)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read reply: %w", shown(err))
	case len(reply) > h.MaxReply:
		return nil, fmt.Errorf("reply longer than %d bytes", h.MaxReply)
	}
	return reply, nil
}

// Post sends body once, with a header from Header, and returns the status of the answer. It
// reads at most maxReply bytes of the answer's body. Errors do not show the URL.
func Post(ctx context.Context, c *http.Client, url string, header http.Header, body []byte, maxReply int64) (status int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, shown(err)
	}
	r.Header = header
	resp, err := c.Do(r)
	if err != nil {
		return 0, shown(err)
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, maxReply)
	return resp.StatusCode, nil
}

// decoded returns the body of an answer, decompressed. Some proxies compress answers
// although we do not ask for it.
func decoded(resp *http.Response) (io.Reader, error) {
	switch encoding := strings.ToLower(resp.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		return resp.Body, nil
	case "gzip", "x-gzip":
		plain, err := gzip.NewReader(resp.Body)
		if err == io.EOF {
			return resp.Body, nil // the body is empty
		}
		if err != nil {
			return nil, fmt.Errorf("read reply: %w", shown(err))
		}
		return plain, nil
	default:
		return nil, fmt.Errorf("reply has Content-Encoding %.20q: expected none or gzip", encoding)
	}
}

// header returns the header of a call. If there is a Key, it contains the headers of
// Standard Webhooks. All tries of a call have the same header.
func (h *Hook) header(body []byte) http.Header {
	header := Header()
	if len(h.Key) > 0 {
		Sign(header, NewID(), time.Now(), body, h.Key)
	}
	return header
}

// Header returns the header of a post that may be repeated.
func Header() http.Header {
	// Idempotency-Key without a value is not sent. It makes net/http retry on another
	// connection if a kept one has been closed.
	return http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": nil}
}

// NewID returns a new, random message id.
func NewID() string { return "msg_" + rand.Text() }

// Sign sets the headers of Standard Webhooks for a message with this id, time and body. It
// adds a signature for each key.
func Sign(header http.Header, id string, at time.Time, body []byte, keys ...[]byte) {
	unix := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, 0, len(keys))
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", id, unix, body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	header.Set("webhook-id", id)
	header.Set("webhook-timestamp", unix)
	header.Set("webhook-signature", strings.Join(signatures, " "))
}

// Key returns the key of a secret: the decoded base64 after whsec_, as in Standard Webhooks,
// or else the bytes of the secret.
func Key(secret string) ([]byte, error) {
	b64, ok := strings.CutPrefix(secret, "whsec_")
	if !ok {
		return []byte(secret), nil
	}
	key, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(key) == 0 {
		return nil, errors.New("bad Secret: no base64 after whsec_")
	}
	return key, nil
}

// Encode encodes v as JSON, without a final newline.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // as SRS: its backends may not decode the escapes
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// connectionError reports whether err is a failure of the connection, so that another
// connection may succeed. Timeouts and certificate errors are not.
func connectionError(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) {
		return !op.Timeout() && (op.Op == "dial" || op.Op == "read" || op.Op == "write")
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// shown returns an error of net/http without possible secrets. It removes the *url.Error
// around it, which prints the URL, and masks quotes of an answer that is not HTTP, which may
// repeat our request. Errors about certificates do not quote the answer.
func shown(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	text := err.Error()
	masked := quoted.ReplaceAllLiteralString(text, `"***"`)
	if masked == text || errors.As(err, new(*tls.CertificateVerificationError)) {
		return err
	}
	return unquoted{err, masked}
}

// quoted matches the output of the verb %q.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// unquoted is an error with another text.
type unquoted struct {
	cause error
	text  string
}

func (e unquoted) Error() string { return e.text }

func (e unquoted) Unwrap() error { return e.cause }
