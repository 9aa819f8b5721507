package live_test

import (
	"net/http"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/live"
)

// Streams for players at http://host:8080/app/stream.flv and .mp4, as in SRS.
func Example() {
	srv := forward.NewServer(forward.Config{})
	streams := live.New(srv, live.Options{Origins: []string{"https://player.example"}})
	mux := http.NewServeMux()
	mux.Handle("/", streams.Players())
	go http.ListenAndServe(":8080", mux)
}
