package forward_test

import (
	"context"
	"fmt"

	"github.com/rtmp-forward/forward"
)

// What a stream's name leads to can be tried without a network.
func ExampleStatic() {
	resolver, err := forward.Static(
		"192.168.1.6:1935",
		"rtmps://ingest.example/[app]/[stream]",
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	destinations, _ := resolver.ResolveDestinations(context.Background(),
		&forward.Request{App: "live", Stream: "livestream"})
	for _, d := range destinations {
		fmt.Println(d, string(d.StreamKey))
	}
	// Output:
	// rtmp://192.168.1.6:1935/live/*** livestream
	// rtmps://ingest.example/live/*** livestream
}

func ExampleStatic_malformed() {
	_, err := forward.Static("192.168.1.6", "rtmp://192.168.1.7/live/[strem]")
	fmt.Println(err)
	// Output:
	// entry 2: rtmp://192.168.1.7/live/***: unknown placeholder: expected one of [vhost] [app] [stream] [param]
}

// A platform's key and options, and a server of one's own.
func ExampleStaticDestinations() {
	resolver, err := forward.StaticDestinations(
		forward.Destination{URL: "rtmps://a.rtmps.youtube.com/live2", StreamKey: "abcd-efgh"},
		forward.Destination{URL: "192.168.1.6:1935", NoFCPublish: true},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	destinations, _ := resolver.ResolveDestinations(context.Background(),
		&forward.Request{App: "live", Stream: "livestream"})
	for _, d := range destinations {
		fmt.Println(d, string(d.StreamKey), d.NoFCPublish)
	}
	// Output:
	// rtmps://a.rtmps.youtube.com/live2/*** abcd-efgh false
	// rtmp://192.168.1.6:1935/live/*** livestream true
}

func ExampleDestination() {
	d := forward.Destination{
		URL:       "rtmps://b.rtmps.youtube.com/live2?backup=1",
		StreamKey: "abcd-efgh-ijkl-mnop",
	}
	fmt.Println(d.Validate(), d)
	fmt.Printf("%v %+v\n", d.StreamKey, d)
	// Output:
	// <nil> rtmps://b.rtmps.youtube.com/live2?***/***
	// *** rtmps://b.rtmps.youtube.com/live2?***/***
}
