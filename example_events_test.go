package forward_test

import (
	"context"
	"fmt"
	"log"

	"github.com/rtmp-forward/forward"
)

// Events tell what happens to all streams, destinations and players of a Server. The
// loop ends when the Server has ended.
func ExampleServer_Events() {
	srv := forward.NewServer(quietly(forward.Config{}))
	events := srv.Events(context.Background()) // from here on

	pub, err := srv.Publish(context.Background(), forward.Request{App: "live", Stream: "cam"})
	if err != nil {
		fmt.Println(err)
		return
	}
	pub.WriteTag(forward.TagVideo, 0, exampleHeader)
	pub.WriteTag(forward.TagVideo, 0, exampleKeyframe)
	pub.Close()
	<-pub.Source().Done()
	srv.Close()

	for ev := range events {
		fmt.Printf("%d %s %q\n", ev.Seq, ev.Kind, ev.Reason)
	}
	// Output:
	// 1 publish ""
	// 2 live ""
	// 3 unpublish "unpublish"
}

// watch logs what an operator may want to act on.
func watch(ctx context.Context, srv *forward.Server) {
	for ev := range srv.Events(ctx) {
		switch ev.Kind {
		case forward.EventRetry:
			log.Printf("%s to %s: %s, next attempt at %s", ev.Stream, ev.Destination, ev.Cause, ev.Retry)
		case forward.EventUnpublish:
			log.Printf("%s ended: %s", ev.Stream, ev.Reason)
		case forward.EventMissed:
			log.Printf("%d events missed", ev.Count)
		}
	}
}

func ExampleServer_Events_operator() {
	srv := forward.NewServer(forward.Config{})
	go watch(context.Background(), srv)
	log.Fatal(srv.ListenAndServe())
}
