package webhooks_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/webhooks"
)

// A backend is told when streams begin and end. Run ends when the Server has ended and
// everything is sent.
func ExampleSender_Run() {
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.Header.Get("webhook-id") != "", r.Header.Get("webhook-signature") != "")
	}))
	defer backend.Close()

	srv := forward.NewServer(forward.Config{Logger: slog.New(slog.DiscardHandler)})
	sender, err := webhooks.New(webhooks.Options{
		URL:     backend.URL,
		Secrets: []forward.Secret{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		Kinds:   []forward.EventKind{forward.EventPublish, forward.EventUnpublish},
		Names:   true, // the backend knows the streams by their names
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	events := srv.Events(ctx) // from here on
	sent := make(chan error)
	go func() { sent <- sender.Run(ctx, events) }()

	pub, err := srv.Publish(ctx, forward.Request{App: "live", Stream: "cam"})
	if err != nil {
		fmt.Println(err)
		return
	}
	pub.Close()
	srv.Close()
	fmt.Println(<-sent)
	// Output:
	// POST true true
	// POST true true
	// <nil>
}
