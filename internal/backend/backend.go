// Package backend sends requests about clients to a host's HTTP backend, in the format of
// SRS's HTTP callbacks.
package backend

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/webhook"
)

// Options are the options that resolve.HTTP and srs.Hooks have in common.
type Options struct {
	Client *http.Client   // see webhook.Client, also for nil
	Secret forward.Secret // signs the requests if not empty

	// These have a default if they are not above 0.
	Timeout      time.Duration
	MaxReply     int // bytes
	MaxQuestions int // calls in progress at a URL
}

const (
	// defaultTimeout is the timeout that SRS has for its backends. Some of them create a
	// broadcast at a platform before they answer.
	defaultTimeout      = 30 * time.Second
	defaultMaxReply     = 1 << 20
	defaultMaxQuestions = 512
)

// Check returns an error if the Secret or a URL is malformed. The error shows neither.
func (o Options) Check(urls ...string) error {
	for _, u := range urls {
		if err := webhook.CheckURL(u); err != nil {
			return err
		}
	}
	_, err := webhook.Key(string(o.Secret))
	return err
}

// Backend is a URL of the host's backend. It remembers whether the URL has answered. Its
// methods are safe for concurrent use.
type Backend struct {
	hook    *webhook.Hook
	timeout time.Duration
	outage  hostcode.Outage
	name    string // the URL for the log, masked
}

// New returns the Backend at a URL. The options must pass Check.
func New(url string, o Options) *Backend {
	key, _ := webhook.Key(string(o.Secret))
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.MaxReply <= 0 {
		o.MaxReply = defaultMaxReply
	}
	if o.MaxQuestions <= 0 {
		o.MaxQuestions = defaultMaxQuestions
	}
	hook := webhook.New(webhook.Options{
		URL: url, Key: key, Client: webhook.Client(o.Client), MaxReply: o.MaxReply, Turns: o.MaxQuestions,
	})
	return &Backend{hook: hook, timeout: o.Timeout, name: Redact(url)}
}

// UnderWay returns how many calls are in progress.
func (b *Backend) UnderWay() int { return b.hook.UnderWay() }

// Call sends body, a request about the client with address from, and reads the reply with
// parse. If timeout is not above 0, that of the Options applies. Call logs a failure (see
// IsLogged), but not a refusal, which is an answer.
func (b *Backend) Call(ctx context.Context, log *slog.Logger, action string, from net.Addr, body any, timeout time.Duration, parse func(reply []byte) error) error {
	if timeout <= 0 {
		timeout = b.timeout
	}
	text, err := webhook.Encode(body)
	if err != nil {
		return err
	}
	reply, err := b.hook.Call(ctx, clientAddr(from), text, timeout)
	if err == nil {
		err = parse(reply)
	}
	switch {
	case err == nil || errors.Is(err, forward.ErrRefused):
		if lasted, notLogged, ok := b.outage.Over(); ok {
			log.Info("backend answers again", hostcode.WithLeftOut(notLogged, "url", b.name, "after", lasted.Round(time.Millisecond))...)
		}
		return err
	case ctx.Err() != nil: // the client has left
		return err
	}
	if notLogged, ok := b.outage.Note(hostcode.CauseOf(err)); ok {
		log.Warn("backend failed", hostcode.WithLeftOut(notLogged, "url", b.name, "action", action, "err", err)...)
	}
	return logged{err}
}

// clientAddr returns the part of an address that counts as one client: an IPv4 address, or
// the first 64 bits of an IPv6 address. It is empty if there is no address.
func clientAddr(a net.Addr) (who string) {
	if a != nil {
		hostcode.Protect(func() { who = a.String() })
	}
	at, err := netip.ParseAddrPort(who)
	if err != nil {
		return ""
	}
	ip := at.Addr().Unmap()
	if ip.Is6() {
		p, _ := ip.WithZone("").Prefix(64)
		ip = p.Addr()
	}
	return ip.String()
}

// logged is an error that has already been logged.
type logged struct{ error }

func (e logged) Unwrap() error { return e.error }

// Logged returns true. See forward.DestinationResolver.
func (e logged) Logged() bool { return true }

// IsLogged reports whether Call has already logged err.
func IsLogged(err error) bool { return errors.As(err, new(logged)) }

// Redact masks the secrets in a backend's URL: user and password, the query, and elements
// of the path that look like a token. It masks a malformed URL completely.
func Redact(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return endpoint.Masked
	}
	var b strings.Builder
	b.WriteString(u.Scheme + "://")
	if u.User != nil {
		b.WriteString(endpoint.Masked + "@")
	}
	b.WriteString(u.Host)
	for i, part := range strings.Split(u.EscapedPath(), "/") {
		if i > 0 {
			b.WriteByte('/')
		}
		if len(part) >= 16 || strings.ContainsAny(part, "%0123456789") && len(part) >= 8 {
			part = endpoint.Masked
		}
		b.WriteString(part)
	}
	if u.RawQuery != "" {
		b.WriteString("?" + endpoint.Masked)
	}
	return b.String()
}
