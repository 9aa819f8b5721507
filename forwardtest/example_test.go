package forwardtest_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// A host's resolver sends each stream to two destinations. No network is
// needed to test it.
func Example() {
	resolver := forward.ResolverFunc(func(_ context.Context, req *forward.Request) ([]forward.Destination, error) {
		return []forward.Destination{
			{URL: "rtmp://a.example/live/" + req.Stream},
			{URL: "rtmp://b.example/backup/" + req.Stream},
		}, nil
	})

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var network forwardtest.Network
	a := network.NewDestination("a.example:1935")
	defer a.Close()
	b := network.NewDestination("b.example:1935")
	defer b.Close()
	srv := forward.NewServer(forward.Config{
		Resolver: resolver,
		Dial:     network.Dial,
		Logger:   slog.New(slog.DiscardHandler),
	})
	defer srv.Close()

	encoder := forwardtest.Client{URL: "rtmp://server/live/camera", Dial: forwardtest.Direct(srv)}
	p, err := encoder.Publish(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	media := forwardtest.Media{KeyframeInterval: 10 * time.Second}
	if err := p.Send(ctx, media.Messages(5*time.Second), 0); err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range []*forwardtest.Destination{a, b} {
		s, err := d.WaitSession(ctx, 1)
		if err != nil {
			fmt.Println(err)
			return
		}
		publish, err := s.WaitCommand(ctx, "publish")
		if err != nil {
			fmt.Println(err)
			return
		}
		if err := s.Recorder().WaitFrames(ctx, 360); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(publish.String(1), s.Recorder().Report(), s.Recorder().Err())
	}
	// Output:
	// camera 363 messages, 360 frames (1 to 360), 1 keyframes, 0 missing in 0 gaps <nil>
	// camera 363 messages, 360 frames (1 to 360), 1 keyframes, 0 missing in 0 gaps <nil>
}

// A publisher that is refused gets the code that the host has chosen.
func ExampleRefusalCode() {
	srv := forward.NewServer(forward.Config{
		Logger: slog.New(slog.DiscardHandler),
		Hooks: forward.Hooks{
			OnPublish: func(context.Context, *forward.Request) error {
				return &forward.StatusError{Code: "NetStream.Publish.Denied", Description: "Not today."}
			},
		},
	})
	defer srv.Close()
	_, err := forwardtest.Client{Dial: forwardtest.Direct(srv)}.Publish(context.Background())
	fmt.Println(forwardtest.RefusalCode(err))
	// Output: NetStream.Publish.Denied
}

// A Recorder says what is wrong with a stream.
func ExampleRecorder() {
	var rec forwardtest.Recorder
	i := 0
	for m := range (forwardtest.Media{AudioBitrate: -1}).Messages(time.Second) {
		if i++; i != 10 { // a frame is lost
			rec.Record(m)
		}
	}
	fmt.Println(rec.Err())
	// Output:
	// forwardtest: 26 messages, 24 frames (1 to 25), 1 keyframes, 1 missing in 1 gaps
	// 	message 10, 320 ms: 1 video frames are missing before frame 9
	// 	message 10, 320 ms: video goes on at a frame that is no keyframe
}

// The second connection to a destination is refused, the third accepted.
func ExampleScript() {
	var network forwardtest.Network
	d := network.NewDestination("a.example:1935",
		forwardtest.Script{At: map[int]func(*forwardtest.Session){100: (*forwardtest.Session).Reset}},
		forwardtest.Script{Steps: map[string]forwardtest.Step{"publish": {Refuse: "NetStream.Publish.BadName"}}},
		forwardtest.Script{},
	)
	defer d.Close()
	client := forwardtest.Client{URL: d.URL("live/key"), Dial: network.Dial}
	for range 3 {
		p, err := client.Publish(context.Background())
		if err != nil {
			fmt.Println("refused:", forwardtest.RefusalCode(err))
			continue
		}
		err = p.Send(context.Background(), forwardtest.Media{}.Messages(20*time.Second), 0)
		fmt.Println("lost:", err != nil)
		p.Close()
	}
	// Output:
	// lost: true
	// refused: NetStream.Publish.BadName
	// lost: false
}
