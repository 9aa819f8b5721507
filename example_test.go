package forward_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/auth"
)

// The code in the documents is taken from the examples.

// Two servers joined in memory, for a test without a network.
func ExampleServer_ServeConn() {
	arrived := make(chan string, 1)
	slave := forward.NewServer(forward.Config{
		Logger: slog.New(slog.DiscardHandler),
		Hooks: forward.Hooks{
			OnPublish: func(_ context.Context, req *forward.Request) error {
				arrived <- req.Name()
				return nil
			},
		},
	})
	defer slave.Close()
	master := forward.NewServer(forward.Config{
		Logger:   slog.New(slog.DiscardHandler),
		Resolver: forward.MustStatic("slave.example"),
		Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go slave.ServeConn(context.Background(), theirs)
			return ours, nil
		},
	})
	defer master.Close()

	pub, err := master.Publish(context.Background(), forward.Request{App: "live", Stream: "livestream"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pub.Close()
	fmt.Println(<-arrived)
	// Output: live/livestream
}

// Only those who bring a token may publish: rtmp://server/live/stream?token=…
func ExampleHooks() {
	token := auth.Token{Secrets: []forward.Secret{"a long random secret"}}
	hooks := forward.Hooks{
		OnPublish: func(_ context.Context, req *forward.Request) error {
			if err := token.Check(req); err != nil {
				return &forward.StatusError{Description: "Wrong token."}
			}
			return nil
		},
	}
	fmt.Println(hooks.OnPublish(context.Background(), &forward.Request{Param: "?token=guess"}))
	// Output: Wrong token.
}

// What every stream and destination is doing.
func ExampleServer_Sources() {
	srv := forward.NewServer(forward.Config{})
	defer srv.Close()
	for _, src := range srv.Sources() {
		fmt.Println(src.ID(), src.Stats().VideoCodec)
		for _, f := range src.Forwarders() {
			st := f.Stats()
			fmt.Println(f.Destination(), st.State, st.Bytes, st.DroppedLate, st.Lag, st.LastErr)
		}
	}
	// Output:
}

// A destination comes and goes while the stream is live.
func ExampleSource_Forward() {
	srv := forward.NewServer(forward.Config{
		Logger: slog.New(slog.DiscardHandler),
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, net.ErrClosed // the example has no network
		},
	})
	defer srv.Close()
	ctx := context.Background()
	if _, err := srv.Publish(ctx, forward.Request{App: "live", Stream: "livestream"}); err != nil {
		fmt.Println(err)
		return
	}
	src := srv.Source("live/livestream")
	f, err := src.Forward(forward.Destination{
		URL:       "rtmps://ingest.example/app",
		StreamKey: "key",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(f.Destination(), len(src.Forwarders()))
	f.Shutdown(ctx)
	<-f.Done()
	// Output: rtmps://ingest.example/app/*** 1
}

func ExampleDestination_platforms() {
	youtube := forward.Destination{URL: "rtmps://a.rtmps.youtube.com/live2", StreamKey: "abcd-efgh"}
	kick := forward.Destination{URL: "fa723fc1b171.global-contribute.live-video.net", StreamKey: "sk_us-west-2_x"}
	own := forward.Destination{URL: "rtmp://jo:password@10.0.0.7/live/cam", Profile: forward.ProfileMediaMTX}
	for _, d := range []forward.Destination{youtube, kick, own} {
		fmt.Println(d, d.Validate())
	}
	// Output:
	// rtmps://a.rtmps.youtube.com/live2/*** <nil>
	// rtmps://fa723fc1b171.global-contribute.live-video.net/*** <nil>
	// rtmp://***@10.0.0.7/live/*** <nil>
}
