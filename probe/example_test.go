package probe_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/probe"
)

// A probe says what is wrong with a destination, and what to do about it, before a stream
// is pushed to it.
func ExampleRun() {
	var network forwardtest.Network // instead of the real one
	ingest := network.NewDestination("ingest.example:1935", forwardtest.Script{Steps: map[string]forwardtest.Step{
		"publish": {Refuse: "NetStream.Publish.BadName", Description: "unknown stream key"},
	}})
	defer ingest.Close()
	srv := forward.NewServer(forward.Config{Dial: network.Dial, Logger: slog.New(slog.DiscardHandler)})
	defer srv.Close()
	ctx := context.Background()

	d := forward.Destination{URL: "rtmp://ingest.example/live", StreamKey: "key"}
	for _, w := range probe.Warnings(d) {
		fmt.Println(w)
	}
	report := probe.Run(ctx, srv, d, func(s probe.Step) {
		fmt.Println(s.Text)
		if s.Said != "" {
			fmt.Printf("    the server: %q\n", s.Said)
		}
	})
	fmt.Println()
	fmt.Println(report.Verdict)
	// Output:
	// Connected to ingest.example:1935.
	// The RTMP handshake without digests succeeded.
	// The server has accepted the app. It lists no codecs.
	//     the server: "NetConnection.Connect.Success: Connection succeeded."
	// The server has made a message stream.
	// The server refuses the stream key (NetStream.Publish.BadName).
	//     the server: "NetStream.Publish.BadName: unknown stream key"
	//
	// The server refuses the stream key (NetStream.Publish.BadName). Check the stream key. If it is right, another encoder may be publishing with it now.
}
