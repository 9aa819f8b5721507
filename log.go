package forward

import (
	"context"
	"log/slog"
	"net"
	"runtime/debug"

	"github.com/rtmp-forward/forward/internal/hostcode"
)

// Logger returns the logger of the Server that calls a hook, a resolver or a dialer
// with ctx, and slog.Default for any other context.
func Logger(ctx context.Context) *slog.Logger {
	if l, ok := ctx.Value(logKey{}).(*slog.Logger); ok {
		return l
	}
	return slog.Default()
}

func withLog(ctx context.Context, l *slog.Logger) context.Context {
	return context.WithValue(ctx, logKey{}, l)
}

type logKey struct{}

// hostHandler is the host's slog.Handler. If it panics, the line is lost.
type hostHandler struct{ h slog.Handler }

func (h hostHandler) Enabled(ctx context.Context, l slog.Level) (enabled bool) {
	hostcode.Protect(func() { enabled = h.h.Enabled(ctx, l) })
	return enabled
}

func (h hostHandler) Handle(ctx context.Context, r slog.Record) (err error) {
	if perr := hostcode.Protect(func() { err = h.h.Handle(ctx, r) }); perr != nil {
		return perr
	}
	return err
}

func (h hostHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	hostcode.Protect(func() { h.h = h.h.WithAttrs(attrs) })
	return h
}

func (h hostHandler) WithGroup(name string) slog.Handler {
	hostcode.Protect(func() { h.h = h.h.WithGroup(name) })
	return h
}

// logAddr returns an address as text for the log, because a *net.TCPAddr would be an
// object in JSON. The text is empty inside the process, and for an address of the host's
// that panics.
func logAddr(a net.Addr) (text string) {
	if a != nil {
		hostcode.Protect(func() { text = a.String() })
	}
	return text
}

func stack() string { return string(debug.Stack()) }
