package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/live"
	"github.com/rtmp-forward/forward/metrics"
	"github.com/rtmp-forward/forward/srs"
	statuspage "github.com/rtmp-forward/forward/status"
	"github.com/rtmp-forward/forward/table"
)

// newOperators returns the server of the http block. Its handlers, and the credential
// that each takes, are here. listeners are those of srv.
func newOperators(srv *forward.Server, t *table.Table, h *srs.HTTPFile, log *slog.Logger, listeners int) (*control.Server, error) {
	o := operatorOptions(h)
	o.Logger, o.Listeners, o.Table = log, listeners, t
	s, err := control.NewServer(srv, o)
	if err != nil {
		return nil, err
	}
	page := statuspage.Handler(srv, statuspage.Options{IsOperator: s.IsOperator, Pictures: true})
	s.Handle("GET /{$}", control.HandlerDecides, page) // without data, except for operators
	s.Handle("GET /page/", control.HandlerDecides, page)
	s.Handle("GET /metrics", control.RequireToken, metrics.Handler(srv, metrics.Options{}))
	streams := live.New(srv, live.Options{Operator: s.IsOperator})
	s.Handle("/live/", control.HandlerDecides, http.StripPrefix("/live", streams.Players()))
	s.Handle("/sources/", control.HandlerDecides, streams.Operators())
	s.Handle("/debug/pprof/", control.RequireToken, http.HandlerFunc(pprof.Index))
	s.Handle("/debug/pprof/cmdline", control.RequireToken, http.HandlerFunc(pprof.Cmdline))
	s.Handle("/debug/pprof/profile", control.RequireToken, http.HandlerFunc(pprof.Profile))
	s.Handle("/debug/pprof/symbol", control.RequireToken, http.HandlerFunc(pprof.Symbol))
	s.Handle("/debug/pprof/trace", control.RequireToken, http.HandlerFunc(pprof.Trace))
	return s, nil
}

// operatorOptions are those that a reload may change.
func operatorOptions(h *srs.HTTPFile) control.ServerOptions {
	return control.ServerOptions{Options: control.Options{Tokens: []forward.Secret{h.Token}}, Hosts: h.Hosts}
}

// answersGrace is how long answers under way may take when all streams have ended.
const answersGrace = time.Second

// endOperators ends the server of the http block, at most until ctx ends.
func endOperators(ctx context.Context, s *control.Server) {
	ctx, cancel := context.WithTimeout(ctx, answersGrace)
	defer cancel()
	s.Shutdown(ctx)
	s.Close() // those that have not ended in time
}
