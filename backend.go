package forward

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
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
	outage outage
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
		if lasted, notLogged, ok := b.outage.over(); ok {
			log.Info("backend answers again", withLeftOut(notLogged, "url", b.name, "after", lasted.Round(time.Millisecond))...)
		}
		return err
	case ctx.Err() != nil: // the client is gone
		return err
	}
	if notLogged, ok := b.outage.note(causeOf(err)); ok {
		log.Warn("backend failed", withLeftOut(notLogged, "url", b.name, "action", action, "err", err)...)
	}
	return reported{err}
}

// reported is an error that the log has already.
type reported struct{ error }

func (e reported) Unwrap() error { return e.error }

// outageEvery is how often the log is told that something still fails.
const outageEvery = 10 * time.Minute

// outageCauses is how many causes of an outage are told apart.
const outageCauses = 8

// outage is how something is doing that may fail often, for the log: the first
// failure of a cause is told at once, the same again every outageEvery with the
// number of those left out, and once that it works again. The zero value has
// not failed.
type outage struct {
	mu     sync.Mutex
	since  time.Time // zero: it works, or nobody knows otherwise
	causes map[string]*failures
}

// failures are those of one cause.
type failures struct {
	next      time.Time // that one is logged
	notLogged int
}

// note notes a failure. ok says that it is to be logged, with the number of
// those of its cause that were not.
func (o *outage) note(cause string) (notLogged int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	f := o.causes[cause]
	if f == nil && len(o.causes) >= outageCauses {
		cause = "other"
		f = o.causes[cause]
	}
	if f == nil {
		if o.causes == nil {
			o.causes = make(map[string]*failures)
		}
		f = &failures{}
		o.causes[cause] = f
	}
	if now.Before(f.next) {
		f.notLogged++
		return 0, false
	}
	if o.since.IsZero() {
		o.since = now
	}
	notLogged = f.notLogged
	f.next, f.notLogged = now.Add(outageEvery), 0
	return notLogged, true
}

// over notes that it works. ok says that this is to be logged: a failure has
// been since the last time.
func (o *outage) over() (lasted time.Duration, notLogged int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return 0, 0, false
	}
	now := time.Now()
	for cause, f := range o.causes {
		notLogged += f.notLogged
		if f.notLogged = 0; !now.Before(f.next) {
			delete(o.causes, cause)
		}
	}
	lasted = now.Sub(o.since)
	o.since = time.Time{}
	return lasted, notLogged, true
}

// withLeftOut adds to args how many lines were left out, if any.
func withLeftOut(n int, args ...any) []any {
	if n > 0 {
		args = append(args, "not_logged", n)
	}
	return args
}

// causeOf is what failures have in common that differ in addresses and times
// only.
func causeOf(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	var no syscall.Errno
	switch {
	case errors.Is(err, webhook.ErrBusy):
		return "busy"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer"
	case errors.As(err, &dns):
		return "name"
	case errors.As(err, &no):
		return no.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case errors.As(err, &op):
		return op.Op
	}
	return err.Error()
}

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
