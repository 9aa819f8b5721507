// Command ingest publishes a file over and over as a live stream, in real time
// and with times that never go back: in a server of its own, where it can be
// played, and to other servers.
//
//	go run ./examples/ingest clip.mp4
//	go run ./examples/ingest -listen "" -to rtmp://10.0.0.6/live/livestream clip.flv
//
// It takes FLV, MP4 and MPEG-TS with H.264 and AAC.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"

	"github.com/nareix/joy4/av"
	"github.com/nareix/joy4/av/avutil"
	"github.com/nareix/joy4/format/flv"
	"github.com/nareix/joy4/format/mp4"
	"github.com/nareix/joy4/format/ts"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/examples/internal/loop"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "ingest:", err)
		os.Exit(1)
	}
}

// run publishes until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("ingest", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: ingest [flags] FILE")
		flags.PrintDefaults()
	}
	listen := flags.String("listen", "127.0.0.1:1935", "serve players at this `address`; empty for none")
	name := flags.String("stream", "live/livestream", "publish as this `app/stream`")
	var to []string
	flags.Func("to", "push to this `URL`, or host:port under the same name; may be given several times", func(s string) error {
		to = append(to, s)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("expected one file; see -h")
	}
	req := forward.Request{}
	var ok bool
	if req.App, req.Stream, ok = strings.Cut(*name, "/"); !ok {
		return fmt.Errorf("-stream %s: expected app/stream", *name)
	}
	resolver, err := forward.Static(to...)
	if err != nil {
		return fmt.Errorf("-to: %w", err)
	}

	srv := forward.NewServer(forward.Config{Resolver: resolver})
	defer srv.Close()
	if *listen != "" {
		l, err := net.Listen("tcp", *listen)
		if err != nil {
			return err
		}
		go srv.Serve(l)
		fmt.Fprintf(out, "play rtmp://%s/%s\n", l.Addr(), req.Name())
	}
	pub, err := srv.Publish(ctx, req)
	if err != nil {
		return err
	}
	defer pub.Close()
	err = loop.Play(ctx, pub, func() (av.DemuxCloser, error) { return formats.Open(flags.Arg(0)) })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// formats are the formats that joy4 reads: FLV, MP4 and MPEG-TS.
var formats = func() *avutil.Handlers {
	h := &avutil.Handlers{}
	h.Add(flv.Handler)
	h.Add(mp4.Handler)
	h.Add(ts.Handler)
	return h
}()
