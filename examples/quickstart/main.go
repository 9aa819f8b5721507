// Command quickstart is a small cluster in one process. It publishes a clip in a loop
// as a live stream to a master, which forwards it to two slaves over RTMP. It prints
// the URL of a page that shows this, the URLs to play, and the state of the destinations.
// It exits with status 0 only if
// both slaves have received media that can be decoded.
//
//	go run ./examples/quickstart [-for 10s]
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nareix/joy4/av"
	"github.com/nareix/joy4/format/flv"
	"golang.org/x/sync/errgroup"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/examples/internal/loop"
	"github.com/rtmp-forward/forward/testdata"
)

const (
	app, stream = "live", "livestream"
	slaves      = 2
	interval    = time.Second // of the table
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, isTerminal(os.Stdout))
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run runs the cluster until ctx ends. The table is redrawn in place on a
// terminal.
func run(ctx context.Context, args []string, out io.Writer, terminal bool) error {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	limit := flags.Duration("for", 0, "stop after this time; 0 is at Ctrl-C")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *limit)
		defer cancel()
	}

	var receivers []*receiver
	var urls []string
	for range slaves {
		slave, err := newReceiver()
		if err != nil {
			return err
		}
		defer slave.Close()
		receivers = append(receivers, slave)
		urls = append(urls, slave.addr)
	}
	resolver, err := forward.Static(urls...)
	if err != nil {
		return err
	}
	master, err := serve(forward.Config{Resolver: resolver})
	if err != nil {
		return err
	}
	defer master.Close()

	page, err := servePage(master.Server)
	if err != nil {
		return err
	}
	defer page.Close()

	fmt.Fprintf(out, "A clip in a loop is published to a master, which forwards it to %d slaves. Look:\n\n", slaves)
	fmt.Fprintf(out, "  page     %s  token %s\n\nPlay:\n\n", page.url, page.token)
	fmt.Fprintf(out, "  master   %s\n", master.url())
	for i, r := range receivers {
		fmt.Fprintf(out, "  slave %d  %s\n", i+1, r.url())
	}
	fmt.Fprint(out, "\nCtrl-C stops it.\n\n")

	pub, err := master.Publish(ctx, forward.Request{App: app, Stream: stream})
	if err != nil {
		return err
	}
	defer pub.Close()
	running, ended := errgroup.WithContext(ctx)
	running.Go(func() error { return loop.Play(ended, pub, openClip) })
	for _, r := range receivers {
		running.Go(func() error { r.watch(ended); return nil })
	}

	t := newTable(out, terminal, pub.Source().Forwarders(), receivers)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.draw()
		case <-ended.Done():
			if err := running.Wait(); ctx.Err() == nil {
				return err
			}
			return check(receivers)
		}
	}
}

func check(receivers []*receiver) error {
	var errs []error
	for i, r := range receivers {
		if _, err := r.received(); err != nil {
			errs = append(errs, fmt.Errorf("slave %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

func openClip() (av.DemuxCloser, error) {
	return clip{flv.NewDemuxer(bytes.NewReader(testdata.H264AAC))}, nil
}

type clip struct{ *flv.Demuxer }

func (clip) Close() error { return nil }

// node is a server on its own port.
type node struct {
	*forward.Server
	addr string
}

func serve(cfg forward.Config) (*node, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	cfg.Logger = slog.New(slog.DiscardHandler) // the table shows it
	n := &node{forward.NewServer(cfg), l.Addr().String()}
	go n.Serve(l)
	return n, nil
}

func (n *node) url() string { return fmt.Sprintf("rtmp://%s/%s/%s", n.addr, app, stream) }
