//go:build linux

package main

import (
	"errors"
	"time"
)

// defaultWindow as a serveConfig's Window leaves the library's default.
const defaultWindow time.Duration = -1

// serveConfig is what a scenario asks of the server under test.
type serveConfig struct {
	Addr         string        // to listen on
	Destinations []string      // RTMP or RTMPS URLs with [app] and [stream]
	Window       time.Duration // merge window, or defaultWindow
	RootCA       string        // file of the certificate that RTMPS destinations show, if any
}

// serve runs the library's server until the process is ended.
func serve(serveConfig) error {
	return errors.New("the server is not linked yet")
}
