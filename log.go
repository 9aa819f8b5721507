package forward

import (
	"context"
	"log/slog"
)

// Logger returns the logger of the Server that calls a hook, a resolver or a dialer
// with ctx. Where no Server does it is slog.Default.
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

// Logger returns the logger of Config.Logger. It may be called from everywhere.
func (s *Server) Logger() *slog.Logger { return s.log }
