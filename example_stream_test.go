package forward_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nareix/joy4/av/avutil"
	"github.com/nareix/joy4/format/flv"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// Bodies of FLV tags as an H.264 encoder makes them, cut short.
var (
	exampleHeader   = []byte{0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff} // the sequence header
	exampleKeyframe = []byte{0x17, 1, 0, 0, 0, 1}
	exampleFrame    = []byte{0x27, 1, 0, 0, 0, 2}
)

// quietly is a Config for examples: nothing is logged, and messages are sent at
// once.
func quietly(cfg forward.Config) forward.Config {
	cfg.Logger, cfg.MergeWindow = slog.New(slog.DiscardHandler), -1
	return cfg
}

// A Publisher takes the bodies of FLV tags, of any codec, and copies them.
func ExamplePublisher() {
	srv := forward.NewServer(quietly(forward.Config{}))
	defer srv.Close()

	pub, err := srv.Publish(context.Background(), forward.Request{App: "live", Stream: "cam"})
	if err != nil {
		fmt.Println(err)
		return
	}
	pub.WriteTag(forward.TagVideo, 0, exampleHeader)
	pub.WriteTag(forward.TagVideo, 0, exampleKeyframe)
	pub.WriteTag(forward.TagVideo, 40, exampleFrame)
	st := pub.Source().Stats()
	fmt.Println(pub.Source().Name(), st.VideoCodec, st.Messages)

	pub.Close()
	<-pub.Source().Done() // all that was written has been sent
	fmt.Println(srv.Source("live/cam") == nil)
	// Output:
	// live/cam avc1 3
	// true
}

// A file of H.264 and AAC is published with joy4. In a program a clock paces it:
// see examples/ingest.
func ExampleServer_Publish() {
	srv := forward.NewServer(quietly(forward.Config{}))
	defer srv.Close()
	file, err := os.Open("testdata/h264_aac.flv")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer file.Close()

	pub, err := srv.Publish(context.Background(), forward.Request{App: "live", Stream: "clip"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pub.Close()
	if err := avutil.CopyFile(pub, flv.NewDemuxer(file)); err != nil {
		fmt.Println(err)
		return
	}
	st := pub.Source().Stats()
	fmt.Println(st.VideoCodec, st.AudioCodec)
	// Output: avc1 mp4a
}

// A Subscription reads a stream as messages: the headers and the last keyframe
// first, then all that comes.
func ExampleSource_Subscribe() {
	srv := forward.NewServer(quietly(forward.Config{}))
	defer srv.Close()
	pub, err := srv.Publish(context.Background(), forward.Request{App: "live", Stream: "cam"})
	if err != nil {
		fmt.Println(err)
		return
	}
	pub.WriteTag(forward.TagVideo, 0, exampleHeader)
	pub.WriteTag(forward.TagVideo, 2000, exampleKeyframe)

	sub := pub.Source().Subscribe(context.Background())
	defer sub.Close()
	pub.WriteTag(forward.TagVideo, 2040, exampleFrame)
	pub.Close()

	for {
		m, err := sub.Next()
		if errors.Is(err, io.EOF) {
			break // the stream has ended
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(m.Type == forward.TagVideo, m.Timestamp, len(m.Payload))
	}
	// Output:
	// true 2000 10
	// true 2000 6
	// true 2040 6
}

// A Demuxer reads a stream as joy4's packets, for joy4's muxers of FLV, MP4 and
// MPEG-TS: see examples/record.
func ExampleSource_Demuxer() {
	srv := forward.NewServer(quietly(forward.Config{}))
	defer srv.Close()
	file, err := os.Open("testdata/h264_aac.flv")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer file.Close()
	pub, err := srv.Publish(context.Background(), forward.Request{App: "live", Stream: "clip"})
	if err != nil {
		fmt.Println(err)
		return
	}
	demuxer := pub.Source().Demuxer(context.Background())
	defer demuxer.Close()
	go func() {
		avutil.CopyFile(pub, flv.NewDemuxer(file))
		pub.Close()
	}()

	streams, err := demuxer.Streams()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range streams {
		fmt.Println(s.Type())
	}
	packet, err := demuxer.ReadPacket()
	fmt.Println(packet.IsKeyFrame, err)
	// Output:
	// H264
	// AAC
	// true <nil>
}

// A destination is replaced while the stream is live. The switch is at a keyframe,
// and nothing is lost between the two.
func ExampleForwarder_Update() {
	var network forwardtest.Network // in a program destinations are servers
	for _, address := range []string{"a.example:1935", "b.example:1935"} {
		defer network.NewDestination(address).Close()
	}
	publishing := make(chan *forward.Forwarder, 2) // room for both destinations
	srv := forward.NewServer(quietly(forward.Config{
		Resolver: forward.MustStatic("rtmp://a.example/live/key"),
		Dial:     network.Dial,
		Hooks: forward.Hooks{
			OnForward: func(f *forward.Forwarder, state forward.State, _ error) {
				if state == forward.StatePublishing {
					publishing <- f
				}
			},
		},
	}))
	defer srv.Close()
	ctx := context.Background()
	pub, err := srv.Publish(ctx, forward.Request{App: "live", Stream: "cam"})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() { // an encoder
		pub.WriteTag(forward.TagVideo, 0, exampleHeader)
		for at := uint32(0); pub.WriteTag(forward.TagVideo, at, exampleKeyframe) == nil; at += 40 {
			time.Sleep(40 * time.Millisecond)
		}
	}()

	f := <-publishing
	fmt.Println(f.Destination(), f.Stats().State)
	if err := f.Update(ctx, forward.Destination{URL: "rtmp://b.example/live/key"}); err != nil {
		fmt.Println(err) // f continues as before
		return
	}
	fmt.Println(f.Destination(), f.Stats().State)
	// Output:
	// rtmp://a.example/live/*** publishing
	// rtmp://b.example/live/*** publishing
}

// Shutdown sends what has been received and tells the destinations that the
// streams have ended; Close cuts off what has not ended in time.
func ExampleServer_Shutdown() {
	var network forwardtest.Network
	destination := network.NewDestination("a.example:1935")
	defer destination.Close()
	srv := forward.NewServer(quietly(forward.Config{
		Resolver: forward.MustStatic("a.example"),
		Dial:     network.Dial,
	}))
	l, err := network.Listen("server.example:1935") // in a program net.Listen
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := forwardtest.Client{URL: "rtmp://server.example/live/cam", Dial: network.Dial}
	if _, err := client.Publish(ctx); err != nil {
		fmt.Println(err)
		return
	}
	session, err := destination.WaitSession(ctx, 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := session.WaitCommand(ctx, "publish"); err != nil {
		fmt.Println(err)
		return
	}

	end, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		srv.Close()
	}
	fmt.Println(errors.Is(<-served, forward.ErrServerClosed))
	commands := session.Commands()
	fmt.Println(commands[len(commands)-1].Name)
	// Output:
	// true
	// deleteStream
}

// A stream waits for its encoder: players and destinations stay connected.
func ExampleConfig_publishGrace() {
	srv := forward.NewServer(quietly(forward.Config{
		PublishGrace:   30 * time.Second,
		GraceUnpublish: true, // also for an encoder that ends in good order
	}))
	defer srv.Close()
	publish := func() *forward.Publisher {
		pub, err := srv.Publish(context.Background(), forward.Request{App: "live", Stream: "cam"})
		if err != nil {
			panic(err)
		}
		pub.WriteTag(forward.TagVideo, 0, exampleHeader)
		pub.WriteTag(forward.TagVideo, 0, exampleKeyframe)
		return pub
	}

	first := publish()
	first.Close()
	second := publish()
	fmt.Println(second.Source() == first.Source())
	// Output: true
}

// A second publisher of a name takes the stream over with its first keyframe.
func ExampleConfig_takeover() {
	srv := forward.NewServer(quietly(forward.Config{Takeover: true}))
	defer srv.Close()
	publish := func() *forward.Publisher {
		pub, err := srv.Publish(context.Background(), forward.Request{App: "live", Stream: "cam"})
		if err != nil {
			panic(err)
		}
		return pub
	}

	first := publish()
	first.WriteTag(forward.TagVideo, 0, exampleHeader)
	first.WriteTag(forward.TagVideo, 0, exampleKeyframe)
	second := publish()
	second.WriteTag(forward.TagVideo, 0, exampleHeader)
	fmt.Println(first.WriteTag(forward.TagVideo, 40, exampleFrame)) // still on air
	second.WriteTag(forward.TagVideo, 0, exampleKeyframe)
	err := first.WriteTag(forward.TagVideo, 80, exampleFrame)
	fmt.Println(errors.Is(err, forward.ErrTakenOver))
	// Output:
	// <nil>
	// true
}

// Two encoders send the same program. If the one on air is lost, the other one continues the
// stream.
func ExampleStandby() {
	srv := forward.NewServer(quietly(forward.Config{
		Standby: &forward.Standby{
			Publishers: 1,
			Return:     time.Minute, // the preferred one comes back
			Rank: func(req *forward.Request) int { // the lowest is preferred
				rank, _ := strconv.Atoi(strings.TrimPrefix(req.Param, "?rank="))
				return rank
			},
		},
	}))
	defer srv.Close()
	publish := func(param string) *forward.Publisher {
		pub, err := srv.Publish(context.Background(), forward.Request{App: "live", Stream: "cam", Param: param})
		if err != nil {
			panic(err)
		}
		pub.WriteTag(forward.TagVideo, 0, exampleHeader)
		pub.WriteTag(forward.TagVideo, 0, exampleKeyframe)
		return pub
	}

	main, backup := publish("?rank=1"), publish("?rank=2")
	src := main.Source()
	fmt.Println(src.Request().Param)
	main.Close()
	fmt.Println(src.Request().Param, backup.WriteTag(forward.TagVideo, 40, exampleFrame))
	// Output:
	// ?rank=1
	// ?rank=2 <nil>
}

// Vhosts have resolvers and settings of their own. The same path in two vhosts is
// two streams.
func ExampleConfig_vhosts() {
	cfg := forward.Config{
		Vhosts: map[string]forward.Vhost{
			forward.DefaultVhost: {Resolver: forward.MustStatic("10.0.0.6")},
			"studio.example": {
				Resolver:     forward.MustStatic("rtmps://ingest.example/live"),
				PublishGrace: 30 * time.Second,
			},
		},
	}
	cfg = quietly(cfg)
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		return nil, net.ErrClosed // the example has no network
	}
	srv := forward.NewServer(cfg)
	defer srv.Close()
	for _, vhost := range []string{"", "Studio.example"} {
		req := forward.Request{Vhost: vhost, App: "live", Stream: "cam"}
		if _, err := srv.Publish(context.Background(), req); err != nil {
			fmt.Println(err)
			return
		}
	}
	for _, src := range srv.Sources() {
		fmt.Println(src.Name(), src.Forwarders()[0].Destination())
	}
	// Output:
	// //studio.example/live/cam rtmps://ingest.example/live/***
	// live/cam rtmp://10.0.0.6/live/***
}
