// Command embed is the smallest server: it takes every stream published to it
// and pushes it to two others.
package main

import (
	"log"

	"github.com/rtmp-forward/forward"
)

func main() {
	srv := forward.NewServer(forward.Config{
		Addr: "127.0.0.1:1935",
		Resolver: forward.MustStatic(
			"127.0.0.1:1936",
			"rtmp://127.0.0.1:1937/[app]/[stream]",
		),
	})
	log.Fatal(srv.ListenAndServe())
}
