// Package webhook posts JSON to a URL of the host's.
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

// Options are what a Hook does.
type Options struct {
	URL      string
	Key      []byte       // signs, unless empty
	Client   *http.Client // of the function Client
	MaxReply int          // bytes
	Turns    int          // calls that may be under way
}

// maxWaiting is how many calls may wait for a turn.
const maxWaiting = 4096

// Hook is a URL of the host's that takes questions and news in JSON. It may be
// used concurrently.
type Hook struct {
	Options
	turns   *turns
	breaker *breaker
}

// New returns a Hook.
func New(o Options) *Hook { return &Hook{Options: o, turns: newTurns(o.Turns), breaker: newBreaker()} }

// CheckURL says what is wrong with a URL, without showing it.
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

// UnderWay is how many calls are.
func (h *Hook) UnderWay() int { return h.turns.underWay() }

// Call sends body, once more after a connection error, and returns the reply. who is the
// address of the client that the call is about, or "". Call first waits for its turn, for
// timeout at most; then both tries together have timeout. A backend that has not answered
// several times in a row is asked by one call at a time, for which the others wait a second
// at most. The errors do not show the URL, which may contain a token.
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
	case ctx.Err() != nil && err != nil: // the client is gone, which says nothing about the backend
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
		release() // it has stopped answering meanwhile
	}
}

// noAnswer says how long was waited, and not with what.
type noAnswer struct {
	within time.Duration
	cause  error
}

func (e noAnswer) Error() string { return fmt.Sprintf("no answer within %v", e.within) }

// Unwrap has context.DeadlineExceeded in it, whatever has run out of time.
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

// Post sends body once, with a header of Header, and returns the status of the answer. Of
// its body it reads at most maxReply bytes. Errors do not show the URL.
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

// decoded is the body of an answer without its compression, which we have not
// asked for and some proxies use regardless.
func decoded(resp *http.Response) (io.Reader, error) {
	switch encoding := strings.ToLower(resp.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		return resp.Body, nil
	case "gzip", "x-gzip":
		plain, err := gzip.NewReader(resp.Body)
		if err == io.EOF {
			return resp.Body, nil // nothing is in it
		}
		if err != nil {
			return nil, fmt.Errorf("read reply: %w", shown(err))
		}
		return plain, nil
	default:
		return nil, fmt.Errorf("reply has Content-Encoding %.20q: expected none or gzip", encoding)
	}
}

// header is that of a call, with those of Standard Webhooks where there is a
// Key. It is the same for each try.
func (h *Hook) header(body []byte) http.Header {
	header := Header()
	if len(h.Key) > 0 {
		Sign(header, NewID(), time.Now(), body, h.Key)
	}
	return header
}

// Header returns the header of a post that may be made again.
func Header() http.Header {
	// The name without a value is not sent, and has net/http try another connection
	// where one that was kept is closed.
	return http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": nil}
}

// NewID returns the id of a message.
func NewID() string { return "msg_" + rand.Text() }

// Sign sets the headers of Standard Webhooks: the message with that id and body was sent
// at a time. There is a signature for each key.
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

// Key is the key of a secret: base64 after whsec_, as in Standard Webhooks, or its own
// bytes.
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

// Encode encodes a body.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // as SRS, whose backends may not decode JSON well
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
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

// shown is an error of net/http without what may be a secret: the *url.Error around it,
// which prints the URL, and what it quotes of an answer that is not HTTP, which may be
// our request. Errors about certificates quote nothing of the answer.
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

// quoted is what the verb %q writes.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// unquoted is an error with another text.
type unquoted struct {
	cause error
	text  string
}

func (e unquoted) Error() string { return e.text }

func (e unquoted) Unwrap() error { return e.cause }
