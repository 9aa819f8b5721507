// Command forwardd serves and forwards as a configuration file says, which is
// in SRS's format: a thin main for a small cluster.
//
//	forwardd -c forward.conf
//
// It logs to the standard error. SIGTERM and Ctrl-C end it: what has been
// received is sent, the destinations are told that the streams have ended, and
// it exits with status 0; a second one ends it at once. The status is 2 if the
// command line or the file is wrong, 1 if it can't serve.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the next one kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

const (
	exitServe = 1
	exitUsage = 2
)

type options struct {
	file    string
	test    bool
	grace   time.Duration
	log     string
	verbose bool
	allow   []netip.Prefix
}

// run serves until ctx ends, and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := options{allow: forward.PrivateNetworks()}
	flags := flag.NewFlagSet("forwardd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.file, "c", "", "configuration `file`")
	flags.BoolVar(&o.test, "t", false, "check the configuration file and exit")
	flags.DurationVar(&o.grace, "grace", 5*time.Second, "how long the streams may take to end at the end")
	flags.StringVar(&o.log, "log", "text", "log as `text or json`")
	flags.Func("allow", "`networks` a backend may forward to besides public ones (Config.AllowNetworks):\n"+
		"private, loopback, none or prefixes, separated by commas (default private)",
		func(s string) (err error) {
			o.allow, err = networks(s)
			return err
		})
	flags.BoolVar(&o.verbose, "v", false, "log protocol detail too")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	}
	log, err := logger(stderr, o)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err == nil && o.file == "" {
		err = errors.New("no configuration file: give one with -c")
	}
	var conf *forward.File
	if err == nil {
		conf, err = load(o.file)
	}
	if err != nil {
		fmt.Fprintln(stderr, "forwardd:", err)
		return exitUsage
	}
	if o.test {
		for _, s := range conf.Ignored {
			fmt.Fprintln(stdout, "ignored:", s)
		}
		fmt.Fprintln(stdout, o.file+": ok")
		return 0
	}
	conf.Config.AllowNetworks = o.allow
	slog.SetDefault(log) // what hooks and resolvers log to
	if err := serve(ctx, conf, log, o.grace); err != nil {
		log.Error("forwardd", "err", err)
		return exitServe
	}
	return 0
}

// networks reads -allow.
func networks(s string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for word := range strings.SplitSeq(s, ",") {
		switch word {
		case "private":
			out = append(out, forward.PrivateNetworks()...)
		case "loopback":
			out = append(out, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
		case "none":
		default:
			p, err := netip.ParsePrefix(word)
			if err != nil {
				return nil, fmt.Errorf("%q: expected private, loopback, none or a prefix such as 10.0.0.0/8", word)
			}
			out = append(out, p)
		}
	}
	return out, nil
}

func logger(w io.Writer, o options) (*slog.Logger, error) {
	h := &slog.HandlerOptions{Level: slog.LevelInfo}
	if o.verbose {
		h.Level = slog.LevelDebug
	}
	switch o.log {
	case "text":
		return slog.New(slog.NewTextHandler(w, h)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, h)), nil
	}
	return nil, fmt.Errorf("-log %s: expected text or json", o.log)
}

// load reads the file and checks all that can be checked without serving.
func load(path string) (*forward.File, error) {
	conf, err := forward.LoadConfig(path)
	if err != nil {
		return nil, err
	}
	if err := conf.Config.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if conf.RTMPS != nil {
		if _, err := tlsConfig(conf.RTMPS); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return conf, nil
}

func tlsConfig(r *forward.RTMPSFile) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(r.CertFile, r.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("rtmps: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}, nil
}

// serve serves until ctx ends or a listener fails.
func serve(ctx context.Context, conf *forward.File, log *slog.Logger, grace time.Duration) error {
	for _, s := range conf.Ignored {
		log.Warn("configuration ignored", "directive", s)
	}
	listeners, err := listen(conf)
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	if err != nil {
		return err
	}
	if err := writePID(conf.PID); err != nil {
		return err
	}
	if conf.PID != "" {
		defer os.Remove(conf.PID)
	}

	srv := forward.NewServer(conf.Config)
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		log.Info("listening", "addr", l.Addr().String(), "tls", l.tls)
		if open := openVhosts(conf); len(open) > 0 && !loopback(l.Addr()) {
			log.Warn("whoever reaches this address can publish: there is no on_publish in http_hooks that asks who it is",
				"addr", l.Addr().String(), "vhosts", open)
		}
		go func() { failed <- srv.Serve(l) }()
	}
	select {
	case <-ctx.Done():
		log.Info("shutting down", "grace", grace)
	case err = <-failed:
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if srv.Shutdown(end) != nil {
		log.Warn("cut off what has not ended in time")
	}
	srv.Close()
	return err
}

// listener is what the file says to listen on.
type listener struct {
	net.Listener
	tls bool
}

// listen returns the listeners, and with an error those there are.
func listen(conf *forward.File) (ls []listener, err error) {
	for _, addr := range conf.Listen {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return ls, err
		}
		ls = append(ls, listener{l, false})
	}
	if conf.RTMPS == nil {
		return ls, nil
	}
	tc, err := tlsConfig(conf.RTMPS)
	if err != nil {
		return ls, err
	}
	for _, addr := range conf.RTMPS.Listen {
		l, err := tls.Listen("tcp", addr, tc)
		if err != nil {
			return ls, err
		}
		ls = append(ls, listener{l, true})
	}
	return ls, nil
}

// writePID writes the process id to a file, in a directory that need not
// exist.
func writePID(path string) error {
	if path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644)
}

// openVhosts returns the vhosts that anybody may publish to.
func openVhosts(conf *forward.File) (open []string) {
	vhosts := conf.Config.Vhosts
	if len(vhosts) == 0 {
		vhosts = map[string]forward.Vhost{forward.DefaultVhost: {}}
	}
	for name, v := range vhosts {
		asked := conf.HTTPHooks != nil && len(conf.HTTPHooks.Vhosts[name].OnPublish) > 0
		if !v.Disabled && !asked {
			open = append(open, name)
		}
	}
	slices.Sort(open)
	return open
}

// loopback reports whether only this machine reaches the address.
func loopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}
