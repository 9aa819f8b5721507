package status_test

import (
	"log"
	"net"
	"os"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/live"
	"github.com/rtmp-forward/forward/status"
)

// The page at http://127.0.0.1:8080/, for operators with the token.
func ExampleHandler() {
	srv := forward.NewServer(forward.Config{})
	operators, err := control.NewServer(srv, control.ServerOptions{
		Options: control.Options{Tokens: []forward.Secret{forward.Secret(os.Getenv("TOKEN"))}},
	})
	if err != nil {
		log.Fatal(err)
	}
	page := status.Handler(srv, status.Options{IsOperator: operators.IsOperator, Pictures: true})
	operators.Handle("GET /{$}", control.HandlerDecides, page)
	operators.Handle("GET /page/", control.HandlerDecides, page)
	operators.Handle("/sources/", control.HandlerDecides, live.New(srv, live.Options{Operator: operators.IsOperator}).Operators())
	l, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	go operators.Serve(l)
	log.Print(srv.ListenAndServe())
	operators.Close()
}
