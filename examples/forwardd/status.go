package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/srs"
)

const (
	statusTimeout = 10 * time.Second // for the whole answer
	statusSize    = 64 << 20         // bytes of the answer
)

// status prints what a running forwardd is doing, and returns the exit status.
func status(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("forwardd status", flag.ContinueOnError)
	flags.SetOutput(stderr)
	addr := flags.String("http", "", "`address` of its http block (default 127.0.0.1:8080, or as -c says)")
	tokenFile := flags.String("token-file", "", "`file` with the token")
	file := flags.String("c", "", "configuration `file` that has the address and the token")
	raw := flags.Bool("json", false, "print the answer of the control API")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	}
	fail := func(code int, err error) int {
		fmt.Fprintln(stderr, "forwardd:", err)
		return code
	}
	if flags.NArg() > 0 {
		return fail(exitUsage, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	at, token, cert, err := whom(*addr, *tokenFile, *file)
	if err != nil {
		return fail(exitUsage, err)
	}
	body, now, err := sources(ctx, at, token, cert)
	if err != nil {
		return fail(exitServe, err)
	}
	if *raw {
		stdout.Write(body)
		return 0
	}
	var answer struct {
		Sources []liveStream `json:"sources"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fail(exitServe, fmt.Errorf("the answer of %s is not that of a forwardd's control API", at))
	}
	printStatus(stdout, answer.Sources, now)
	return 0
}

// whom returns the address and the token of the forwardd to ask, and its certificate if
// the file has one.
func whom(addr, tokenFile, file string) (at string, token forward.Secret, cert *tls.Certificate, err error) {
	at = "127.0.0.1:8080"
	if file != "" {
		conf, err := srs.LoadConfig(file)
		switch {
		case err != nil:
			return "", "", nil, err
		case conf.HTTP == nil:
			return "", "", nil, fmt.Errorf("%s: no http block: without one a forwardd cannot be asked", file)
		}
		at, token = conf.HTTP.Listen[0], conf.HTTP.Token
		if conf.HTTP.TLS != nil {
			own, err := conf.HTTP.TLS.Certificate()
			if err != nil {
				return "", "", nil, err
			}
			cert = &own
		}
	}
	if tokenFile != "" {
		text, err := os.ReadFile(tokenFile)
		if err != nil {
			return "", "", nil, err
		}
		token = forward.Secret(strings.TrimSpace(string(text)))
	}
	if token == "" {
		return "", "", nil, errors.New("no token: give its file with -token-file, or the configuration file with -c")
	}
	if addr != "" {
		at = addr
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return "", "", nil, fmt.Errorf("-http %s: expected an address such as 127.0.0.1:8080", at)
	}
	switch ip, err := netip.ParseAddr(host); {
	case host == "", err == nil && ip.IsUnspecified() && ip.Is4():
		host = "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port), token, cert, nil
}

// sources asks a forwardd for its streams. now is the time of its clock.
func sources(ctx context.Context, at string, token forward.Secret, cert *tls.Certificate) (body []byte, now time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	// No proxy, which would see the token.
	transport, scheme := &http.Transport{DisableKeepAlives: true}, "http"
	if cert != nil {
		transport.TLSClientConfig, scheme = onlyWith(cert), "https"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+at+"/control/sources", nil)
	if err != nil {
		return nil, now, fmt.Errorf("-http %s: expected an address such as 127.0.0.1:8080", at)
	}
	r.Header.Set("Authorization", "Bearer "+string(token))
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(r)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) {
			err = of.Err
		}
		return nil, now, fmt.Errorf("no answer from %s: %w", at, err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, statusSize)); err != nil {
		return nil, now, fmt.Errorf("the answer of %s broke off: %w", at, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized:
		return nil, now, fmt.Errorf("%s does not accept this token", at)
	case http.StatusMisdirectedRequest:
		return nil, now, fmt.Errorf("%s does not go by this name: ask for its IP address, or add the name to host in its http block", at)
	default:
		return nil, now, fmt.Errorf("%s answers %s: it is not the http block of a forwardd", at, resp.Status)
	}
	if now, err = http.ParseTime(resp.Header.Get("Date")); err != nil {
		now = time.Now()
	}
	return body, now, nil
}

// onlyWith accepts a server with this certificate, by whatever address it is asked.
func onlyWith(cert *tls.Certificate) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, // VerifyConnection does more
		VerifyConnection: func(st tls.ConnectionState) error {
			if !bytes.Equal(st.PeerCertificates[0].Raw, cert.Certificate[0]) {
				return errors.New("its certificate is not the one in the file: another server, or it has not been reloaded")
			}
			return nil
		},
	}
}

// liveStream and destination are the parts of the control API's answer that are printed.
type (
	liveStream struct {
		Stream     string        `json:"stream"`
		Name       string        `json:"name"`
		Since      time.Time     `json:"since"`
		VideoCodec string        `json:"video_codec"`
		AudioCodec string        `json:"audio_codec"`
		Bitrate    float64       `json:"bitrate"`
		Players    int           `json:"players"`
		Forwarders []destination `json:"forwarders"`
	}
	destination struct {
		URL         string    `json:"url"`
		State       string    `json:"state"`
		Since       time.Time `json:"since"`
		NextAttempt time.Time `json:"next_attempt"`
		Bitrate     float64   `json:"bitrate"`
		LagMS       int64     `json:"lag_ms"`
		Warning     string    `json:"warning"`
		Error       *struct {
			Op      string `json:"op"`
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
)

// why is the reason that a destination is not publishing, or the warning about one that
// is.
func (d destination) why() string {
	if d.Error == nil || d.State == string(forward.StatePublishing) {
		return d.Warning
	}
	text := d.Error.Message
	for _, more := range []string{d.Error.Code, d.Error.Op} {
		if more != "" {
			text = more + ": " + text
		}
	}
	return text
}

// printStatus prints a table for streams and one for destinations.
func printStatus(w io.Writer, streams []liveStream, now time.Time) {
	if len(streams) == 0 {
		fmt.Fprintln(w, "There is no live stream.")
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...any) {
		for i, c := range cells {
			text := strings.Map(func(r rune) rune {
				if unicode.IsPrint(r) {
					return r
				}
				return '?' // peers word some of it, and a terminal would obey
			}, fmt.Sprint(c))
			if text == "" {
				text = "-"
			}
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, text)
		}
		fmt.Fprintln(t)
	}
	row("STREAM", "SINCE", "VIDEO", "AUDIO", "KBIT/S", "PLAYERS", "DESTINATIONS")
	for _, s := range streams {
		row(s.title(), span(now.Sub(s.Since)), s.VideoCodec, s.AudioCodec, kilobits(s.Bitrate), s.Players, len(s.Forwarders))
	}
	t.Flush()
	fmt.Fprintln(w)
	row("STREAM", "DESTINATION", "STATE", "SINCE", "KBIT/S", "LAG", "NEXT TRY", "WHY")
	for _, s := range streams {
		for _, d := range s.Forwarders {
			next := ""
			if !d.NextAttempt.IsZero() {
				next = "in " + span(d.NextAttempt.Sub(now))
			}
			lag := time.Duration(d.LagMS) * time.Millisecond
			row(s.title(), d.URL, d.State, span(now.Sub(d.Since)), kilobits(d.Bitrate), lag, next, d.why())
		}
	}
	t.Flush()
}

func (s liveStream) title() string {
	if s.Name != "" {
		return s.Name
	}
	return s.Stream
}

func kilobits(rate float64) string { return fmt.Sprintf("%.0f", rate/1000) }

// span is a duration in whole seconds.
func span(d time.Duration) string { return max(d, 0).Truncate(time.Second).String() }
