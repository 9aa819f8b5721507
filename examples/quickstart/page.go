package main

import (
	"crypto/rand"
	"fmt"
	"net"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/live"
	"github.com/rtmp-forward/forward/status"
)

// page is an HTTP server with the page of a master.
type page struct {
	*control.Server
	url, token string
}

// servePage serves the page on a port of this machine, for a token of this run.
func servePage(srv *forward.Server) (*page, error) {
	token := rand.Text()
	s, err := control.NewServer(srv, control.ServerOptions{Options: control.Options{Tokens: []forward.Secret{forward.Secret(token)}}})
	if err != nil {
		return nil, err
	}
	h := status.Handler(srv, status.Options{IsOperator: s.IsOperator, Names: true, Pictures: true})
	s.Handle("GET /{$}", control.HandlerDecides, h)
	s.Handle("GET /page/", control.HandlerDecides, h)
	s.Handle("/sources/", control.HandlerDecides, live.New(srv, live.Options{Operator: s.IsOperator}).Operators())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go s.Serve(l)
	return &page{s, fmt.Sprintf("http://%s/", l.Addr()), token}, nil
}
