package forward_test

import (
	"log"
	"net/http"
	"os"

	"github.com/rtmp-forward/forward"
)

// The callbacks of one backend for all vhosts.
func ExampleHTTPHooks() {
	hooks := &forward.HTTPHooks{
		URLs: forward.HTTPHookURLs{
			OnPublish:   []string{"https://backend.example.com/publish"},
			OnUnpublish: []string{"https://backend.example.com/publish"},
		},
		Secret: forward.Secret(os.Getenv("WEBHOOK_SECRET")),
	}
	if err := hooks.Validate(); err != nil {
		log.Fatal(err)
	}
	srv := forward.NewServer(forward.Config{Hooks: hooks.Hooks()})
	log.Fatal(srv.ListenAndServe())
}

// The control handler, for this machine alone. Then
//
//	curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:9000/control/sources
func ExampleServer_Handler() {
	srv := forward.NewServer(forward.Config{})
	handler, err := srv.Handler(forward.ControlOptions{Tokens: []forward.Secret{forward.Secret(os.Getenv("TOKEN"))}})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/control/", http.StripPrefix("/control", handler))
	go http.ListenAndServe("127.0.0.1:9000", nil)
	log.Fatal(srv.ListenAndServe())
}
