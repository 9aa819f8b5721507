package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/probe"
)

// Secrets that are better not in the command line, which other users may read.
const (
	keyVariable      = "FORWARDD_STREAM_KEY"
	passwordVariable = "FORWARDD_PASSWORD"
)

// maxSecret bounds a file with a secret, in bytes.
const maxSecret = 4096

// probeDestination tries a destination, prints the steps, and returns the exit status.
func probeDestination(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var d forward.Destination
	flags := flag.NewFlagSet("forwardd probe", flag.ContinueOnError)
	flags.SetOutput(stderr)
	keyFile := flags.String("key-file", "", "`file` with the stream key, or - for standard input (default the variable "+keyVariable+")")
	passwordFile := flags.String("password-file", "", "`file` with the password (default the variable "+passwordVariable+")")
	flags.StringVar(&d.User, "user", "", "`name` of the user")
	profile := flags.String("profile", "", "`kind` of server, such as nginx-rtmp (default by the host)")
	flags.StringVar(&d.Fingerprint, "fingerprint", "", "`SHA-256` of the server's public key in hex")
	flags.StringVar(&d.ServerName, "server-name", "", "`name` in the server's certificate (default the host)")
	flags.StringVar(&d.TcURL, "tc-url", "", "`URL` to send as tcUrl")
	verbose := flags.Bool("v", false, "also log protocol details")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: forwardd probe [flags] URL")
		flags.PrintDefaults()
	}
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 { // flags may also follow the URL
		d.URL = flags.Arg(0)
		err = flags.Parse(flags.Args()[1:])
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	}
	d.Profile = forward.Profile(*profile)
	fail := func(err error) int {
		fmt.Fprintln(stderr, "forwardd:", err)
		return exitUsage
	}
	switch {
	case d.URL == "":
		return fail(errors.New("no destination: give its URL, such as rtmp://host/app"))
	case flags.NArg() > 0:
		return fail(errors.New("more than one argument: expected one URL"))
	}
	if d.StreamKey, err = secretOf(*keyFile, keyVariable, stdin); err != nil {
		return fail(err)
	}
	if d.Password, err = secretOf(*passwordFile, passwordVariable, stdin); err != nil {
		return fail(err)
	}
	if err := d.Validate(); err != nil {
		if d.StreamKey == "" && strings.Contains(err.Error(), "no stream key") {
			err = fmt.Errorf("%w: give its file with -key-file", err)
		}
		return fail(err)
	}
	if d.StreamKey == "" {
		fmt.Fprintln(stderr, "note: the URL has the stream key, and other users of this machine can read it: -key-file hides it")
	}

	log := slog.New(slog.DiscardHandler)
	if *verbose {
		log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	srv := forward.NewServer(forward.Config{Logger: log})
	defer srv.Close()
	for _, w := range probe.Warnings(d) {
		fmt.Fprintln(stdout, "warning:", w)
	}
	report := probe.Run(ctx, srv, d, func(s probe.Step) { printStep(stdout, s) })
	if len(report.Steps) > 0 {
		fmt.Fprintln(stdout)
	}
	fmt.Fprintln(stdout, report.Verdict)
	if !report.Accepted {
		return exitServe
	}
	return 0
}

// secretOf reads a secret from a file, or from a variable if no file is named. It is
// empty if there is neither.
func secretOf(file, variable string, stdin io.Reader) (forward.Secret, error) {
	switch file {
	case "":
		return forward.Secret(os.Getenv(variable)), nil
	case "-":
		return readSecret("standard input", stdin)
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return readSecret(file, f)
}

func readSecret(name string, r io.Reader) (forward.Secret, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	secret := strings.TrimSpace(string(text))
	switch {
	case err != nil:
		return "", err
	case secret == "":
		return "", fmt.Errorf("%s: empty, expected a secret", name)
	case len(text) > maxSecret:
		return "", fmt.Errorf("%s: longer than %d bytes", name, maxSecret)
	}
	return forward.Secret(secret), nil
}

// printStep prints a step as a line, and what the server has said as another.
func printStep(w io.Writer, s probe.Step) {
	outcome := "ok"
	if !s.OK {
		outcome = "FAIL"
	}
	fmt.Fprintf(w, "%-4s  %-12s  %8s  %s\n", outcome, s.Op, milliseconds(s.Took), s.Text)
	if s.Said != "" {
		fmt.Fprintf(w, "%30sThe server says: %q\n", "", s.Said)
	}
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
