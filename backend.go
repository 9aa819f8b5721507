package forward

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/outage"
	"github.com/rtmp-forward/forward/internal/webhook"
)

// Defaults of what asks the host over HTTP.
const (
	// defaultHookTimeout is what SRS gives its backends, some of which first
	// create a broadcast at a platform.
	defaultHookTimeout  = 30 * time.Second
	defaultMaxReply     = 1 << 20
	defaultMaxQuestions = 512
)

// hookURL is a URL of the host's that is asked or told, with how it is doing.
type hookURL struct {
	*webhook.Hook
	outage outage.Outage
	name   string // the URL as the log has it
}

func newHookURL(o webhook.Options) *hookURL {
	return &hookURL{Hook: webhook.New(o), name: redactBackend(o.URL)}
}

// call sends body about a client, and reads the reply with parse. What fails is
// logged, except a refusal, which is an answer.
func (b *hookURL) call(ctx context.Context, log *slog.Logger, action string, from net.Addr, body any, timeout time.Duration, parse func(reply []byte) error) error {
	text, err := webhook.Encode(body)
	if err != nil {
		return err
	}
	who := ""
	if a := clientAddr(from); a.IsValid() {
		who = a.String()
	}
	reply, err := b.Call(ctx, who, text, timeout)
	if err == nil {
		err = parse(reply)
	}
	switch {
	case err == nil || errors.Is(err, ErrRefused):
		if lasted, notLogged, ok := b.outage.Over(); ok {
			log.Info("backend answers again", outage.WithLeftOut(notLogged, "url", b.name, "after", lasted.Round(time.Millisecond))...)
		}
		return err
	case ctx.Err() != nil: // the client is gone
		return err
	}
	if notLogged, ok := b.outage.Note(outage.CauseOf(err)); ok {
		log.Warn("backend failed", outage.WithLeftOut(notLogged, "url", b.name, "action", action, "err", err)...)
	}
	return reported{err}
}

// reported is an error that the log has already.
type reported struct{ error }

func (e reported) Unwrap() error { return e.error }

// Logged says so: see DestinationResolver.
func (e reported) Logged() bool { return true }

// redactBackend is a backend's URL without its secrets: user and password, the
// query, and elements of the path that look like a token.
func redactBackend(s string) string {
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
