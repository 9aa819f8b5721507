package srs_test

import (
	"log"
	"os"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/srs"
)

// The callbacks of one backend for all vhosts.
func ExampleHooks() {
	hooks := &srs.Hooks{
		URLs: srs.HookURLs{
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
