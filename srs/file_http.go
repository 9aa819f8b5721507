package srs

import (
	"fmt"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/conf"
)

// HTTPFile is the http block of a configuration file.
type HTTPFile struct {
	// Listen has the addresses to listen on. The default host is 127.0.0.1.
	Listen []string
	// Token is the token of operators.
	Token forward.Secret
	// Hosts are the names of this machine that are accepted as the host of a request.
	Hosts []string
	// TLS has the certificate and its key, nil without TLS. Its Listen is empty.
	TLS *RTMPSFile
}

// Format writes the number of addresses, for every verb.
func (h HTTPFile) Format(w fmt.State, _ rune) {
	fmt.Fprintf(w, "HTTPFile with %d addresses", len(h.Listen))
}

// MarshalText gives the same as Format.
func (h HTTPFile) MarshalText() ([]byte, error) { return fmt.Append(nil, h), nil }

// WebhooksFile is the webhooks block of a configuration file: who is told of the events of
// the Server, as package webhooks does.
type WebhooksFile struct {
	// URL takes the events.
	URL string
	// Secrets sign the requests; empty for none.
	Secrets []forward.Secret
	// Kinds are the kinds of events that are sent; empty for all.
	Kinds []forward.EventKind
	// Names says whether the requests have the names of streams.
	Names bool
	// Timeout limits each attempt; 0 for the default.
	Timeout time.Duration
}

// Format writes the number of secrets, for every verb: the URL may contain a token.
func (h WebhooksFile) Format(w fmt.State, _ rune) {
	fmt.Fprintf(w, "WebhooksFile with %d secrets", len(h.Secrets))
}

// MarshalText gives the same as Format.
func (h WebhooksFile) MarshalText() ([]byte, error) { return fmt.Append(nil, h), nil }

// http reads the http block. Listen and token are both required: without a token nobody
// could use the server.
func (f *File) http(block *conf.Directive) error {
	h, tls := &HTTPFile{}, &RTMPSFile{}
	for _, d := range block.Block {
		switch d.Name {
		case "listen":
			h.Listen = append(h.Listen, localAddresses(d.Args)...)
		case "token":
			h.Token = forward.Secret(d.Args[0])
		case "host":
			h.Hosts = append(h.Hosts, d.Args...)
		case "cert":
			tls.CertFile, tls.certFrom = d.Args[0], originOf(d)
		case "key":
			tls.KeyFile, tls.keyFrom = d.Args[0], originOf(d)
		}
	}
	if tls.CertFile != "" || tls.KeyFile != "" {
		h.TLS = tls
	}
	switch {
	case len(h.Listen) == 0:
		return fmt.Errorf("%s: http has no address to listen on: expected listen", block.Pos)
	case h.Token == "":
		return fmt.Errorf("%s: http has no token: expected token_file PATH, or token", block.Pos)
	case (tls.CertFile == "") != (tls.KeyFile == ""):
		return fmt.Errorf("%s: http has only one of cert and key: expected both, or none", block.Pos)
	}
	f.HTTP = h
	return nil
}

func (f *File) webhooks(block *conf.Directive) error {
	h := &WebhooksFile{}
	for _, d := range block.Block {
		switch d.Name {
		case "url":
			h.URL = d.Args[0]
		case "secret":
			for _, s := range d.Args {
				h.Secrets = append(h.Secrets, forward.Secret(s))
			}
		case "events":
			for _, k := range d.Args {
				h.Kinds = append(h.Kinds, forward.EventKind(k))
			}
		case "names":
			h.Names = on(d)
		case "timeout_ms":
			h.Timeout = time.Duration(number(d)) * time.Millisecond
		}
	}
	if h.URL == "" {
		return fmt.Errorf("%s: webhooks has no url: expected url, or url_file PATH", block.Pos)
	}
	f.Webhooks = h
	return nil
}
