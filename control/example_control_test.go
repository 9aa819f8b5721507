package control_test

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
)

// The control handler, for this machine alone. Then
//
//	curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:9000/control/sources
func ExampleHandler() {
	srv := forward.NewServer(forward.Config{})
	handler, err := control.Handler(srv, control.Options{Tokens: []forward.Secret{forward.Secret(os.Getenv("TOKEN"))}})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/control/", http.StripPrefix("/control", handler))
	go http.ListenAndServe("127.0.0.1:9000", nil)
	log.Fatal(srv.ListenAndServe())
}

// A server of its own for operators, with a handler of the host's. It ends after the
// forward.Server, so that /readyz tells of the end.
func ExampleServer() {
	srv := forward.NewServer(forward.Config{})
	operators, err := control.NewServer(srv, control.ServerOptions{
		Options: control.Options{Tokens: []forward.Secret{forward.Secret(os.Getenv("TOKEN"))}},
	})
	if err != nil {
		log.Fatal(err)
	}
	operators.Handle("GET /version", control.RequireToken, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "1.0")
	}))
	l, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	go operators.Serve(l)
	log.Print(srv.ListenAndServe()) // until Shutdown
	operators.Close()
}
