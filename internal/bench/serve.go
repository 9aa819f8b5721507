//go:build linux

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/metrics"
	"time"

	"github.com/rtmp-forward/forward"
	overhttp "github.com/rtmp-forward/forward/live"
)

// defaultWindow as a serveConfig's Window selects the library's default.
const defaultWindow time.Duration = -1

// serveConfig is what a scenario sets on the server under test.
type serveConfig struct {
	Addr         string        // to listen on
	Secure       string        // to listen on over TLS, if not empty
	HTTP         string        // to serve HTTP-FLV on, if not empty
	Destinations []string      // RTMP or RTMPS URLs with [app] and [stream]
	Window       time.Duration // merge window, or defaultWindow
	Cert         string        // file with the certificate to present and to trust over TLS
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
	var own tls.Certificate
	if c.Secure != "" {
		pem, err := os.ReadFile(c.Cert)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: no certificate", c.Cert)
		}
		config.TLSConfig = &tls.Config{RootCAs: roots}
		if own, err = tls.X509KeyPair(pem, pem); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp4", c.Addr)
	if err != nil {
		return err
	}
	srv := forward.NewServer(config)
	go answer(srv)
	if c.HTTP != "" {
		flv, err := net.Listen("tcp4", c.HTTP)
		if err != nil {
			return err
		}
		go http.Serve(flv, overhttp.New(srv, overhttp.Options{}).Players())
	}
	if c.Secure == "" {
		return srv.Serve(l)
	}
	secure, err := net.Listen("tcp4", c.Secure)
	if err != nil {
		return err
	}
	ended := make(chan error)
	go func() { ended <- srv.Serve(l) }()
	go func() { ended <- srv.ServeTLS(secure, &tls.Config{Certificates: []tls.Certificate{own}}) }()
	return errors.Join(<-ended, srv.Close(), <-ended)
}

// held is the state of a server's memory.
type held struct {
	Heap   uint64  // bytes of objects, including garbage
	Logs   uint64  // bytes of the logs, as counted for MemoryBudget
	Frames uint64  // bytes of the frames in the logs
	GC     float64 // CPU seconds of the collector
	Pauses []pauses
}

// pauses counts the collector's pauses of one bucket since the start.
type pauses struct {
	Number uint64
	UpTo   float64 // ms
}

// answer serves process.ask until the bench exits.
func answer(srv *forward.Server) {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var collect bool
		if in.Decode(&collect) != nil {
			return
		}
		if collect {
			runtime.GC()
		}
		out.Encode(holding(srv))
	}
}

func holding(srv *forward.Server) held {
	m := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/sched/pauses/total/gc:seconds"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
	}
	metrics.Read(m)
	h := held{Heap: m[0].Value.Uint64(), Logs: uint64(srv.Stats().Buffered), GC: m[2].Value.Float64()}
	all := m[1].Value.Float64Histogram()
	for i, n := range all.Counts {
		if n > 0 {
			h.Pauses = append(h.Pauses, pauses{n, 1e3 * all.Buckets[i+1]})
		}
	}
	for _, s := range srv.Sources() {
		const each = 200 // SourceStats counts this much more for each message
		st := s.Stats()
		h.Frames += uint64(st.LogBytes - each*st.LogMessages)
	}
	return h
}
