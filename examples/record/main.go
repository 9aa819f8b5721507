// Command record serves RTMP and records the first stream of a name that is
// published to it, until that ends, as FLV, MP4 or MPEG-TS.
//
//	go run ./examples/record -for 30s take.mp4
//	ffmpeg -re -i clip.mp4 -c copy -f flv rtmp://127.0.0.1/live/livestream
//
// It takes H.264 and AAC.
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
	"path/filepath"
	"time"

	"github.com/nareix/joy4/av"
	"github.com/nareix/joy4/format/flv"
	"github.com/nareix/joy4/format/mp4"
	"github.com/nareix/joy4/format/ts"

	"github.com/rtmp-forward/forward"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

// run serves until the stream is recorded or ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("record", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: record [flags] FILE.flv|FILE.mp4|FILE.ts")
		flags.PrintDefaults()
	}
	listen := flags.String("listen", "127.0.0.1:1935", "serve at this `address`")
	name := flags.String("stream", "live/livestream", "record this `app/stream`")
	limit := flags.Duration("for", 0, "record this much at most; 0 is to the end of the stream")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("expected one file; see -h")
	}
	path := flags.Arg(0)
	newMuxer := muxers[filepath.Ext(path)]
	if newMuxer == nil {
		return fmt.Errorf("%s: expected a name that ends in .flv, .mp4 or .ts", path)
	}

	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	// The hook gets each stream before its first message.
	live := make(chan *forward.Source, 1)
	srv := forward.NewServer(forward.Config{Hooks: forward.Hooks{
		OnSource: func(src *forward.Source) {
			if src.Name() == *name {
				select {
				case live <- src:
				default:
				}
			}
		},
	}})
	defer srv.Close()
	go srv.Serve(l)
	fmt.Fprintf(out, "publish to rtmp://%s/%s\n", l.Addr(), *name)

	var src *forward.Source
	select {
	case src = <-live:
	case <-ctx.Done():
		return fmt.Errorf("%s was not published", *name)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	media := src.Demuxer(ctx)
	defer media.Close()
	fmt.Fprintln(out, "recording")
	length, err := record(newMuxer(f), media, *limit)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	fmt.Fprintf(out, "recorded %.1f s to %s\n", length.Seconds(), path)
	return nil
}

var muxers = map[string]func(f *os.File) av.Muxer{
	".flv": func(f *os.File) av.Muxer { return flv.NewMuxer(f) },
	".mp4": func(f *os.File) av.Muxer { return mp4.NewMuxer(f) },
	".ts":  func(f *os.File) av.Muxer { return ts.NewMuxer(f) },
}

// record writes a stream to a file until the stream, its context or the limit ends,
// with timestamps from zero, and returns the length.
func record(dst av.Muxer, src av.Demuxer, limit time.Duration) (length time.Duration, err error) {
	streams, err := src.Streams()
	if err != nil {
		return 0, err
	}
	if err := dst.WriteHeader(streams); err != nil {
		return 0, err
	}
	start, begun := time.Duration(0), false
	for {
		pkt, err := src.ReadPacket()
		if err == io.EOF || errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			return 0, err
		}
		if !begun {
			start, begun = pkt.Time, true
		}
		// Packets before the first keyframe are skipped.
		if pkt.Time -= start; pkt.Time < 0 {
			continue
		}
		if limit > 0 && pkt.Time >= limit {
			break
		}
		length = max(length, pkt.Time)
		if err := dst.WritePacket(pkt); err != nil {
			return 0, err
		}
	}
	return length, dst.WriteTrailer()
}
