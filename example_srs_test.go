package forward_test

import (
	"log"
	"os"
	"os/signal"
	"syscall"

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

// A file that is wrong changes nothing, and what it says as before is not
// disturbed.
func ExampleServer_Reload() {
	const path = "forward.conf"
	file, err := forward.LoadConfig(path)
	if err != nil {
		log.Fatal(err)
	}
	srv := forward.NewServer(file.Config)
	reload := func() error {
		next, err := forward.LoadConfig(path)
		if err != nil {
			return err
		}
		next.Inherit(file)
		if err := srv.Reload(next.Config); err != nil {
			return err
		}
		file = next
		return nil
	}

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		for range hangup {
			if err := reload(); err != nil {
				log.Print(err)
			}
		}
	}()
	log.Fatal(srv.ListenAndServe())
}
