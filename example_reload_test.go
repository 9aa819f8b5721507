package forward_test

import (
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/srs"
)

// A file that is wrong changes nothing, and what it says as before is not
// disturbed.
func ExampleServer_Reload() {
	const path = "forward.conf"
	file, err := srs.LoadConfig(path)
	if err != nil {
		log.Fatal(err)
	}
	srv := forward.NewServer(file.Config)
	reload := func() error {
		next, err := srs.LoadConfig(path)
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
