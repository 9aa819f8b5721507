// Command transcode has each stream transcoded before it is forwarded. A publish
// starts a transcoder, which plays the stream from this server and publishes
// what it makes of it to a second vhost of the same server. Only that vhost is
// forwarded.
//
//	go run ./examples/transcode -to 10.0.0.6
//	go run ./examples/transcode -to 10.0.0.6 ffmpeg -nostdin -i {in} -c:v libx265 -c:a copy -f flv {out}
//	ffmpeg -re -i clip.mp4 -c copy -f flv rtmp://127.0.0.1/live/livestream
//
// The words after the flags are the transcoder's command, in which {in} and
// {out} stand for the URLs to play and to publish. No shell has a part in it.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/auth"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the next one kills
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "transcode:", err)
		os.Exit(1)
	}
}

var defaultCommand = strings.Fields("ffmpeg -nostdin -loglevel warning -i {in}" +
	" -c:v libx264 -preset veryfast -vf scale=-2:360 -b:v 800k -g 50 -c:a aac -b:a 96k -f flv {out}")

// transcoded is the vhost that transcoders publish to.
const transcoded = "transcoded"

// run serves until ctx ends.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("transcode", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: transcode [flags] [COMMAND…]")
		flags.PrintDefaults()
	}
	listen := flags.String("listen", "127.0.0.1:1935", "serve at this `address`")
	to := flags.String("to", "127.0.0.1:1936", "forward the transcoded stream to this `host or URL`")
	pause := flags.Duration("pause", time.Second, "wait so long at first until a transcoder that has ended is started again")
	if err := flags.Parse(args); err != nil {
		return err
	}
	command := flags.Args()
	if len(command) == 0 {
		command = defaultCommand
	}
	if all := strings.Join(command, " "); !strings.Contains(all, "{in}") || !strings.Contains(all, "{out}") {
		return errors.New("expected {in} and {out} in the command")
	}
	destinations, err := forward.Static(*to)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	t := &transcoders{
		command: command, stderr: stderr, log: log,
		server: reachable(l.Addr()),
		token:  forward.Secret(rand.Text()),
		min:    *pause, max: 30 * time.Second,
	}
	srv := forward.NewServer(forward.Config{
		Logger: log,
		Hooks:  forward.Hooks{OnPublish: t.onPublish, OnUnpublish: t.onUnpublish},
		Vhosts: map[string]forward.Vhost{
			forward.DefaultVhost: {},
			transcoded:           {Resolver: asPublished(destinations)},
		},
	})
	log.Info("listening", "addr", t.server)
	serving, ended := errgroup.WithContext(ctx)
	serving.Go(func() error { return srv.Serve(l) })
	<-ended.Done()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	srv.Shutdown(end)
	srv.Close() // returns when all transcoders have exited
	if err := serving.Wait(); !errors.Is(err, forward.ErrServerClosed) {
		return err
	}
	return nil
}

// asPublished forwards a transcoded stream as if it had been published without
// the vhost and the token.
func asPublished(to forward.DestinationResolver) forward.DestinationResolver {
	return forward.ResolverFunc(func(ctx context.Context, req *forward.Request) ([]forward.Destination, error) {
		original := *req
		original.Vhost, original.Param = forward.DefaultVhost, ""
		return to.ResolveDestinations(ctx, &original)
	})
}

// reachable is the address at which a transcoder on this machine reaches the listener.
func reachable(a net.Addr) string {
	host, port, _ := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// plain are the names that may become part of a command: programs interpret URLs in
// their own ways.
var plain = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

func (t *transcoders) onPublish(_ context.Context, req *forward.Request) error {
	if req.Vhost == transcoded {
		if (auth.Token{Secrets: []forward.Secret{t.token}}).Check(req) != nil {
			return &forward.StatusError{Description: "This vhost is for the transcoders."}
		}
		return nil
	}
	if !plain.MatchString(req.App) || !plain.MatchString(req.Stream) {
		return &forward.StatusError{
			Code:        "NetStream.Publish.BadName",
			Description: "App and stream may have letters, digits and . _ - in them.",
		}
	}
	t.start(req)
	return nil
}

func (t *transcoders) onUnpublish(_ context.Context, req *forward.Request) {
	if req.Vhost != transcoded {
		t.stop(req)
	}
}
