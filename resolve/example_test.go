package resolve_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/resolve"
)

// A unit test of a routing table: no server, no network.
func ExampleRoutes() {
	resolver, err := resolve.Routes(resolve.AllMatches,
		resolve.Route{App: "live", Stream: "cam-*", To: []string{"rtmp://archive.example/cameras/$1"}},
		resolve.Route{App: `~live|(event)s`, To: []string{"10.0.0.6", "10.0.0.7"}},
		resolve.Route{Vhost: "internal"},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{"live/cam-17", "events/opening", "test/x"} {
		app, stream, _ := strings.Cut(name, "/")
		destinations, err := resolver.ResolveDestinations(context.Background(),
			&forward.Request{App: app, Stream: stream})
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
func ExampleHTTP() {
	backend := func(r *http.Request) (*http.Response, error) {
		reply := `{"code":0,"data":{"urls":["rtmp://10.0.0.6/test/teststream", "oops"],"ttl":60}}`
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(reply))}, nil
	}
	resolver := &resolve.HTTP{
		URL:       "http://127.0.0.1:8085/api/v1/forward",
		Client:    &http.Client{Transport: roundTripFunc(backend)},
		Timeout:   3 * time.Second,
		OnFailure: resolve.LastGood,
		Logger:    slog.New(slog.DiscardHandler), // gets a warning about "oops"
	}
	destinations, ttl, err := resolver.ResolveTTL(context.Background(),
		&forward.Request{App: "live", Stream: "livestream"})
	fmt.Println(destinations, ttl.Round(time.Second), err)
	// Output:
	// [rtmp://10.0.0.6/test/***] 1m0s <nil>
}

// Where streams go is asked of an HTTP backend, and again each minute.
func ExampleHTTP_refresh() {
	srv := forward.NewServer(forward.Config{
		Resolver: &resolve.HTTP{
			URL:       "http://127.0.0.1:8085/api/v1/forward",
			OnFailure: resolve.LastGood,
		},
		RefreshInterval: time.Minute,
	})
	srv.Close()
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Ask the backend, or else forward to a standby; record all streams besides.
func ExampleUnion() {
	backend := forward.ResolverFunc(func(context.Context, *forward.Request) ([]forward.Destination, error) {
		return nil, fmt.Errorf("backend is down")
	})
	resolver := resolve.Union(
		resolve.FirstOf(backend, forward.MustStatic("standby.example")),
		forward.MustStatic("rtmp://recorder.example/record"),
	)
	destinations, err := resolver.ResolveDestinations(context.Background(),
		&forward.Request{App: "live", Stream: "livestream"})
	fmt.Println(destinations, err)
	// Output:
	// [rtmp://standby.example/live/*** rtmp://recorder.example/record/***] <nil>
}

func ExampleCached() {
	asked := 0
	resolver := resolve.Cached(forward.ResolverFunc(
		func(context.Context, *forward.Request) ([]forward.Destination, error) {
			asked++
			return []forward.Destination{{URL: "rtmp://10.0.0.6/live/livestream"}}, nil
		}), time.Minute)
	for range 3 {
		resolver.ResolveDestinations(context.Background(), &forward.Request{App: "live", Stream: "livestream"})
	}
	fmt.Println("asked", asked)
	// Output:
	// asked 1
}

func ExampleWith() {
	resolver := resolve.With(forward.MustStatic("rtmps://ingest.example/live/[stream]"),
		func(_ *forward.Request, d *forward.Destination) {
			d.NoFCPublish = true
			d.DialTimeout = 5 * time.Second
		})
	destinations, _ := resolver.ResolveDestinations(context.Background(),
		&forward.Request{App: "live", Stream: "livestream"})
	fmt.Println(destinations[0], destinations[0].DialTimeout)
	// Output:
	// rtmps://ingest.example/live/*** 5s
}

func ExampleFromParam() {
	resolver := resolve.FromParam("forward", "*.example.com", "10.0.0.0/24:1936")
	for _, param := range []string{
		"?forward=rtmp://10.0.0.7:1936/live/livestream",
		"?forward=rtmp://127.0.0.1:6379/live/livestream",
		"",
	} {
		destinations, err := resolver.ResolveDestinations(context.Background(),
			&forward.Request{App: "live", Stream: "livestream", Param: param})
		fmt.Println(destinations, err)
	}
	// Output:
	// [rtmp://10.0.0.7:1936/live/***] <nil>
	// [] parameter forward: forward: stream refused: destination rtmp://127.0.0.1:6379/live/*** is not allowed
	// [] <nil>
}

// All pods behind a headless service get every stream.
func ExampleDNS() {
	resolver := &resolve.DNS{
		URL: "rtmp://media-headless.prod.svc.cluster.local/[app]/[stream]",
		TTL: 10 * time.Second,
	}
	fmt.Println(resolver.Validate())
	// Output:
	// <nil>
}
