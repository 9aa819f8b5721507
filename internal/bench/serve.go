//go:build linux

package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/rtmp-forward/forward"
)

// defaultWindow as a serveConfig's Window selects the library's default.
const defaultWindow time.Duration = -1

// serveConfig is what a scenario sets on the server under test.
type serveConfig struct {
	Addr         string        // to listen on
	Destinations []string      // RTMP or RTMPS URLs with [app] and [stream]
	Window       time.Duration // merge window, or defaultWindow
	RootCA       string        // file with the certificate of RTMPS destinations, if any
}

// serve runs the library's server until the process is killed.
func serve(c serveConfig) error {
	config := forward.Config{
		Resolver: forward.MustStatic(c.Destinations...),
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	switch {
	case c.Window > 0:
		config.MergeWindow = c.Window
	case c.Window != defaultWindow:
		config.MergeWindow = -1
	}
	if c.RootCA != "" {
		pem, err := os.ReadFile(c.RootCA)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: no certificate", c.RootCA)
		}
		config.TLSConfig = &tls.Config{RootCAs: roots}
	}
	l, err := net.Listen("tcp4", c.Addr)
	if err != nil {
		return err
	}
	return forward.NewServer(config).Serve(l)
}
