package forward_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

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
		&forward.PublishRequest{App: "live", Stream: "livestream"})
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
	// entry 2: rtmp://192.168.1.7/live/***: unknown placeholder: want one of [vhost] [app] [stream] [param]
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
		&forward.PublishRequest{App: "live", Stream: "livestream"})
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

// A unit test of a routing table: no server, no network.
func ExampleRoutes() {
	resolver, err := forward.Routes(forward.AllMatches,
		forward.Route{App: "live", Stream: "cam-*", To: []string{"rtmp://archive.example/cameras/$1"}},
		forward.Route{App: `~live|(event)s`, To: []string{"10.0.0.6", "10.0.0.7"}},
		forward.Route{Vhost: "internal"},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{"live/cam-17", "events/opening", "test/x"} {
		app, stream, _ := strings.Cut(name, "/")
		destinations, err := resolver.ResolveDestinations(context.Background(),
			&forward.PublishRequest{App: app, Stream: stream})
		fmt.Println(name, len(destinations), err)
		for _, d := range destinations {
			fmt.Println("  ", d.URL, string(d.StreamKey))
		}
	}
	// Output:
	// live/cam-17 3 <nil>
	//    rtmp://archive.example/cameras 17
	//    rtmp://10.0.0.6/live cam-17
	//    rtmp://10.0.0.7/live cam-17
	// events/opening 2 <nil>
	//    rtmp://10.0.0.6/events opening
	//    rtmp://10.0.0.7/events opening
	// test/x 0 <nil>
}

// The backend is a function here; in a program Client is left out.
func ExampleHTTPResolver() {
	backend := func(r *http.Request) (*http.Response, error) {
		reply := `{"code":0,"data":{"urls":["rtmp://10.0.0.6/test/teststream", "oops"],"ttl":60}}`
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(reply))}, nil
	}
	resolver := &forward.HTTPResolver{
		URL:       "http://127.0.0.1:8085/api/v1/forward",
		Client:    &http.Client{Transport: roundTripFunc(backend)},
		Timeout:   3 * time.Second,
		OnFailure: forward.LastGood,
		Logger:    slog.New(slog.DiscardHandler), // gets a warning about "oops"
	}
	destinations, ttl, err := resolver.ResolveTTL(context.Background(),
		&forward.PublishRequest{App: "live", Stream: "livestream"})
	fmt.Println(destinations, ttl.Round(time.Second), err)
	// Output:
	// [rtmp://10.0.0.6/test/***] 1m0s <nil>
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Ask the backend, or else forward to a standby; record all streams besides.
func ExampleUnion() {
	backend := forward.ResolverFunc(func(context.Context, *forward.PublishRequest) ([]forward.Destination, error) {
		return nil, fmt.Errorf("backend is down")
	})
	resolver := forward.Union(
		forward.FirstOf(backend, forward.MustStatic("standby.example")),
		forward.MustStatic("rtmp://recorder.example/record"),
	)
	destinations, err := resolver.ResolveDestinations(context.Background(),
		&forward.PublishRequest{App: "live", Stream: "livestream"})
	fmt.Println(destinations, err)
	// Output:
	// [rtmp://standby.example/live/*** rtmp://recorder.example/record/***] <nil>
}

func ExampleCached() {
	asked := 0
	resolver := forward.Cached(forward.ResolverFunc(
		func(context.Context, *forward.PublishRequest) ([]forward.Destination, error) {
			asked++
			return []forward.Destination{{URL: "rtmp://10.0.0.6/live/livestream"}}, nil
		}), time.Minute)
	for range 3 {
		resolver.ResolveDestinations(context.Background(), &forward.PublishRequest{App: "live", Stream: "livestream"})
	}
	fmt.Println("asked", asked)
	// Output:
	// asked 1
}

func ExampleWith() {
	resolver := forward.With(forward.MustStatic("rtmps://ingest.example/live/[stream]"),
		func(_ *forward.PublishRequest, d *forward.Destination) {
			d.NoFCPublish = true
			d.DialTimeout = 5 * time.Second
		})
	destinations, _ := resolver.ResolveDestinations(context.Background(),
		&forward.PublishRequest{App: "live", Stream: "livestream"})
	fmt.Println(destinations[0], destinations[0].DialTimeout)
	// Output:
	// rtmps://ingest.example/live/*** 5s
}

func ExampleFromParam() {
	resolver := forward.FromParam("forward", "*.example.com", "10.0.0.0/24:1936")
	for _, param := range []string{
		"?forward=rtmp://10.0.0.7:1936/live/livestream",
		"?forward=rtmp://127.0.0.1:6379/live/livestream",
		"",
	} {
		destinations, err := resolver.ResolveDestinations(context.Background(),
			&forward.PublishRequest{App: "live", Stream: "livestream", Param: param})
		fmt.Println(destinations, err)
	}
	// Output:
	// [rtmp://10.0.0.7:1936/live/***] <nil>
	// [] parameter forward: stream refused: destination rtmp://127.0.0.1:6379/live/*** is not allowed
	// [] <nil>
}

// All pods behind a headless service get every stream.
func ExampleDNSResolver() {
	resolver := &forward.DNSResolver{
		URL: "rtmp://media-headless.prod.svc.cluster.local/[app]/[stream]",
		TTL: 10 * time.Second,
	}
	fmt.Println(resolver.Validate())
	// Output:
	// <nil>
}

func ExampleToken() {
	token := forward.Token{Secrets: []forward.Secret{"current", "previous"}, Purpose: "publish"}
	query, _ := token.Sign("live/livestream", time.Now().Add(time.Hour))

	good := &forward.PublishRequest{App: "live", Stream: "livestream", Param: "?" + query}
	stolen := &forward.PublishRequest{App: "live", Stream: "other", Param: "?" + query}
	fmt.Println(token.Verify(good))
	fmt.Println(token.Verify(stolen))
	// Output:
	// <nil>
	// token refused: parameter sign is wrong
}
