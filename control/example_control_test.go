package control_test

import (
	"log"
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
