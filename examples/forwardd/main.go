// Command forwardd is a server for a small cluster: it serves and forwards as a
// configuration file in SRS's format says.
//
//	forwardd -c forward.conf
//
//	forwardd status -c forward.conf
//	forwardd probe -key-file key.txt rtmps://ingest.example/app
//
// The second prints what a running one is doing, and the third tries a destination
// without a stream. It logs to standard error. SIGTERM and Ctrl-C end it: everything received is sent,
// the destinations are told that the streams have ended, and it exits with status 0. A
// second signal ends it at once. The status is 2 if the command line or the file is
// wrong, and 1 if it cannot serve.
//
// A backend may send streams to any address except link-local ones and those of
// metadata services. A destination that a publisher names, by way of a backend that
// passes on its parameters, may lead to public addresses, private networks and this
// machine; -allow changes that. The server's own listeners are always refused.
//
// If GOMEMLIMIT is not set, it becomes seven eighths of the memory limit of the
// process's cgroup, if there is one. AUTOMEMLIMIT sets another fraction, or "off".
//
// With destination_table it also pushes to the destinations of a table in a file, which the
// control API switches while it runs.
//
// With an http block it serves a page for people, the control API, metrics, health
// checks and profiles over HTTP.
//
// On SIGHUP it reads the file again. Streams that the new file treats as the old one
// are not disturbed; a file with an error changes nothing. Certificates and the token of
// http are read again too. The table of destinations stays as it is. Changes of listen, the
// listen of rtmps and http, whether http uses TLS, pid, and destination_table need a
// restart.
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
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"golang.org/x/sync/errgroup"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/resolve"
	"github.com/rtmp-forward/forward/srs"
	"github.com/rtmp-forward/forward/table"
	"github.com/rtmp-forward/forward/webhooks"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the next one kills
	limitMemory(memlimit.FromCgroup)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

const (
	exitServe = 1
	exitUsage = 2
)

// versionOf is the version of a build, and that of Go.
func versionOf(info *debug.BuildInfo) string {
	if info == nil {
		return "(unknown)"
	}
	version := info.Main.Version
	if version == "" {
		version = "(devel)"
	}
	return version + " " + info.GoVersion
}

type options struct {
	file    string
	test    bool
	grace   time.Duration
	log     string
	verbose bool
	allow   []netip.Prefix
	ports   []uint16
	strict  bool

	allowed string // allow as it was given
}

// run serves until ctx ends, and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "status":
			return status(ctx, args[1:], stdout, stderr)
		case "probe":
			return probeDestination(ctx, args[1:], os.Stdin, stdout, stderr)
		}
	}
	o := options{allow: append(forward.PrivateNetworks(), thisMachine...), allowed: "private,loopback"}
	flags := flag.NewFlagSet("forwardd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.file, "c", "", "configuration `file`")
	flags.BoolVar(&o.test, "t", false, "check the configuration file and exit")
	flags.DurationVar(&o.grace, "grace", 5*time.Second, "how long streams may take to end on shutdown")
	flags.StringVar(&o.log, "log", "text", "log as `text or json`")
	flags.Func("allow", "`networks` that publishers may name besides public ones, by way of a backend:\n"+
		"private, loopback, none or prefixes, separated by commas (default private,loopback);\n"+
		"a prefix of link-local or metadata addresses allows it to a backend too",
		func(s string) (err error) {
			o.allow, err = networks(s)
			o.allowed = s
			return err
		})
	flags.Func("allow-ports", "`ports` below 1024 that publishers may name besides 443, separated by commas",
		func(s string) (err error) {
			o.ports, err = ports(s)
			return err
		})
	flags.BoolVar(&o.strict, "untrusted-backend", false, "allow a backend only the addresses that publishers may name")
	flags.BoolVar(&o.verbose, "v", false, "also log protocol details")
	version := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	case *version:
		info, _ := debug.ReadBuildInfo()
		fmt.Fprintln(stdout, "forwardd", versionOf(info))
		return 0
	}
	log, err := logger(stderr, o)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err == nil && o.file == "" {
		err = errors.New("no configuration file: give one with -c")
	}
	var conf *config
	if err == nil {
		conf, err = load(o)
	}
	if err == nil {
		err = checkTable(conf)
	}
	if err != nil {
		fmt.Fprintln(stderr, "forwardd:", err)
		return exitUsage
	}
	if o.test {
		for _, s := range conf.Ignored {
			fmt.Fprintln(stdout, "ignored:", s)
		}
		for _, s := range conf.Warnings {
			fmt.Fprintln(stdout, "warning:", s)
		}
		fmt.Fprintln(stdout, o.file+": ok")
		return 0
	}
	slog.SetDefault(log) // what hooks and resolvers log to
	if err := serve(ctx, conf, log, o); err != nil {
		log.Error("forwardd", "err", err)
		return exitServe
	}
	return 0
}

// limitMemory sets the soft limit of Go's runtime to seven eighths of the system's
// limit. The rest is for memory that the runtime does not count. A system without a
// limit, or one that cannot be read, leaves the runtime as it is.
func limitMemory(system memlimit.Provider) {
	memlimit.Set(memlimit.WithProvider(system), memlimit.WithRatio(7.0/8))
}

var thisMachine = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// networks reads -allow.
func networks(s string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for word := range strings.SplitSeq(s, ",") {
		switch word {
		case "private":
			out = append(out, forward.PrivateNetworks()...)
		case "loopback":
			out = append(out, thisMachine...)
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

// ports reads -allow-ports.
func ports(s string) ([]uint16, error) {
	var out []uint16
	for word := range strings.SplitSeq(s, ",") {
		p, err := strconv.ParseUint(word, 10, 16)
		if err != nil || p == 0 {
			return nil, fmt.Errorf("%q: expected a port such as 80", word)
		}
		out = append(out, uint16(p))
	}
	return out, nil
}

func logger(w io.Writer, o options) (*slog.Logger, error) {
	h := &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: inOurWords}
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

// inOurWords replaces the names of fields in errors of the library with flags.
func inOurWords(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		a.Value = slog.StringValue(flagNames.Replace(err.Error()))
	}
	return a
}

var flagNames = strings.NewReplacer("Config.AllowNetworks holds", "-allow has", "Config.AllowPorts holds", "-allow-ports has",
	"Config.AllowNetworks", "-allow", "Config.AllowPorts", "-allow-ports")

// config is a file that has been checked, with what it refers to.
type config struct {
	*srs.File
	cert *tls.Certificate // of rtmps
	web  *tls.Certificate // of http
}

// load reads the file and checks everything that can be checked before serving.
func load(o options) (*config, error) {
	file, err := srs.LoadConfig(o.file)
	if err != nil {
		return nil, err
	}
	if err := file.Config.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.file, err)
	}
	if len(file.Listen) == 0 && (file.RTMPS == nil || len(file.RTMPS.Listen) == 0) {
		return nil, fmt.Errorf("%s: no address to listen on: expected listen, or rtmps that is on and has one", o.file)
	}
	// The file has no words for these.
	file.Config.AllowNetworks, file.Config.AllowPorts = o.allow, o.ports
	for _, v := range file.Config.Vhosts {
		if backend, ok := v.Resolver.(*resolve.HTTP); ok {
			backend.Untrusted = o.strict
		}
	}
	file.Config.Hooks.OnForward = o.hintAllow
	conf := &config{File: file}
	if r := file.RTMPS; r != nil {
		cert, err := r.Certificate()
		if err != nil {
			return nil, fmt.Errorf("%s: rtmps: %w", o.file, err)
		}
		conf.cert = &cert
	}
	if h := file.HTTP; h != nil && h.TLS != nil {
		cert, err := h.TLS.Certificate()
		if err != nil {
			return nil, fmt.Errorf("%s: http: %w", o.file, err)
		}
		conf.web = &cert
	}
	if h := file.Webhooks; h != nil {
		if _, err := webhooks.New(webhookOptions(h, nil)); err != nil {
			return nil, fmt.Errorf("%s: %w", o.file, err)
		}
	}
	return conf, nil
}

// hintAllow logs which flag allows a destination that was refused, once for each
// forwarder.
func (o options) hintAllow(f *forward.Forwarder, _ forward.State, err error) {
	var refused *forward.AddressError
	if errors.As(err, &refused) && refused.Allow.IsValid() && f.Stats().Connects == 1 {
		slog.Warn("destination not allowed", "addr", refused.Addr, "allow", refused.Allow, "hint", "-allow "+o.allowing(refused.Allow))
	}
}

// allowing is the value of -allow that also allows a prefix.
func (o options) allowing(p netip.Prefix) string {
	word := p.String()
	for name, networks := range map[string][]netip.Prefix{"private": forward.PrivateNetworks(), "loopback": thisMachine} {
		if slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(p.Addr()) }) {
			word = name
		}
	}
	if o.allowed == "" || o.allowed == "none" {
		return word
	}
	return o.allowed + "," + word
}

// daemon runs a server from a configuration file.
type daemon struct {
	log   *slog.Logger
	opts  options
	first *config // of the start, for settings that only a restart changes
	conf  *config // the last one read
	srv   *forward.Server
	http  *control.Server // nil if the file of the start has no http
	table *table.Table    // nil if the file of the start has none
	cert  atomic.Pointer[tls.Certificate]
	web   atomic.Pointer[tls.Certificate]

	teller *teller // nil if the file has no webhooks
}

// serve serves until ctx ends or a listener fails.
func serve(ctx context.Context, conf *config, log *slog.Logger, o options) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	d := &daemon{log: log, opts: o, first: conf, conf: conf}
	d.cert.Store(conf.cert)
	d.web.Store(conf.web)
	d.warn()
	listeners, err := d.listen()
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

	if err := d.openTable(); err != nil {
		return err
	}
	if d.table != nil {
		defer d.table.Close()
	}
	d.srv = forward.NewServer(d.withTable(conf.Config))
	defer d.srv.Close() // first
	if conf.HTTP != nil {
		if d.http, err = newOperators(d.srv, d.table, conf.HTTP, log, len(listeners)-len(conf.HTTP.Listen)); err != nil {
			return err
		}
	}
	if conf.Webhooks != nil {
		if d.teller, err = startTelling(d.srv, conf.Webhooks, log); err != nil {
			return err
		}
	}
	serving, ended := errgroup.WithContext(ctx)
	for _, l := range listeners {
		log.Info("listening", "addr", l.Addr().String(), "tls", l.tls != nil, "http", l.http)
		serving.Go(func() error {
			switch {
			case l.http && l.tls != nil:
				return d.http.Serve(tls.NewListener(l, l.tls))
			case l.http:
				return d.http.Serve(l)
			case l.tls != nil:
				return d.srv.ServeTLS(l, l.tls)
			}
			return d.srv.Serve(l)
		})
	}
	d.warnOpen(listeners)
	for ended.Err() == nil {
		select {
		case <-hup:
			d.reload(listeners)
		case <-ended.Done():
		}
	}
	log.Info("shutting down", "grace", o.grace)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.grace)
	defer cancel()
	if d.srv.Shutdown(end) != nil {
		log.Warn("connections cut off: they have not ended in time")
	}
	d.srv.Close()
	if d.teller != nil {
		d.teller.finish(log)
	}
	if d.http != nil {
		endOperators(end, d.http) // last: until then /readyz says that this one is ending
	}
	if err := serving.Wait(); !errors.Is(err, forward.ErrServerClosed) {
		return err
	}
	return nil
}

// warn logs directives of the file that have no effect or are likely mistakes.
func (d *daemon) warn() {
	for _, s := range d.conf.Ignored {
		d.log.Warn("configuration ignored", "directive", s)
	}
	for _, s := range d.conf.Warnings {
		d.log.Warn("configuration", "warning", s)
	}
}

// warnOpen warns of listeners and vhosts to which anyone may publish.
func (d *daemon) warnOpen(listeners []listener) {
	open := openVhosts(d.conf.File)
	for _, l := range listeners {
		if len(open) > 0 && !l.http && !loopback(l.Addr()) {
			d.log.Warn("anyone who can reach this address can publish: enable publish_auth, or http_hooks with on_publish",
				"addr", l.Addr().String(), "vhosts", open)
		}
	}
}

// listener is a listener of the file.
type listener struct {
	net.Listener
	tls  *tls.Config // nil: without TLS
	http bool        // else RTMP
}

// listen returns the listeners. With an error it returns those opened before.
func (d *daemon) listen() (ls []listener, err error) {
	open := func(addrs []string, as listener) {
		for _, addr := range addrs {
			if err != nil {
				return
			}
			if as.Listener, err = net.Listen("tcp", addr); err == nil {
				ls = append(ls, as)
			}
		}
	}
	open(d.conf.Listen, listener{})
	if d.conf.RTMPS != nil {
		open(d.conf.RTMPS.Listen, listener{tls: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return d.cert.Load(), nil },
			// GnuTLS builds of librtmp mistake a TLS 1.3 ticket for the end of the
			// connection, and RTMP clients do not resume sessions.
			SessionTicketsDisabled: true,
		}})
	}
	http := listener{http: true}
	if d.conf.web != nil {
		http.tls = &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return d.web.Load(), nil },
			NextProtos:     []string{"http/1.1"}, // the server limits connections, not requests
		}
	}
	open(web(d.conf.File).Listen, http)
	return ls, err
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

// openVhosts returns the vhosts to which anyone may publish.
func openVhosts(conf *srs.File) (open []string) {
	if conf.Config.PublishAuth != nil {
		return nil
	}
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
