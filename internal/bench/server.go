//go:build linux

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The first argument when this program is run as a child.
const (
	argServe = "-serve"
	argLimit = "-limit"
)

// server is a server under test: nginx-rtmp, nginx-rtmp-64k, forward or limit. The last
// two take options: -wN sets a merge window of N ms, -tls puts forward's destinations
// and players on TLS, -flv has its players use HTTP-FLV.
type server struct {
	name   string
	kind   string // nginx-rtmp, forward or limit
	chunk  int    // nginx-rtmp's chunk size
	window time.Duration
	tls    bool
	flv    bool
}

func parseServer(name string) (server, error) {
	s := server{name: name, kind: name, window: defaultWindow, chunk: 4096}
	switch name {
	case "nginx-rtmp":
		return s, nil
	case "nginx-rtmp-64k":
		s.kind, s.chunk = "nginx-rtmp", 65536
		return s, nil
	}
	parts := strings.Split(name, "-")
	s.kind = parts[0]
	ok := s.kind == "forward" || s.kind == "limit"
	for _, part := range parts[1:] {
		ms, isWindow := strings.CutPrefix(part, "w")
		n, err := strconv.ParseUint(ms, 10, 16)
		switch {
		case isWindow && err == nil:
			s.window = time.Duration(n) * time.Millisecond
		case part == "tls" && s.kind == "forward":
			s.tls = true
		case part == "flv" && s.kind == "forward":
			s.flv = true
		default:
			ok = false
		}
	}
	if !ok {
		return s, fmt.Errorf("unknown server %q", name)
	}
	return s, nil
}

// launch is what a scenario needs from a server.
type launch struct {
	destinations []int  // ports
	refusing     int    // number of further destinations
	refusingPort int    // their port; nothing listens on it
	cert         string // file, if receivers use TLS

	// For the limit, which has no protocol to tell it.
	streams   int
	receivers int // of each stream
	flat      bool
}

// start starts the server and waits until it listens. It calls cancel when the server
// exits.
func (s server) start(ctx context.Context, cpus placement, need launch, cancel context.CancelCauseFunc) (p *process, err error) {
	dir, err := os.MkdirTemp("", "forward-bench-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && p == nil {
			os.RemoveAll(dir)
		}
	}()
	fd, port, err := listenSocket(0)
	if err != nil {
		return nil, err
	}
	listener := os.NewFile(uintptr(fd), "listener")
	defer listener.Close()
	securePort := 0
	if s.tls || s.flv {
		if fd, securePort, err = listenSocket(0); err != nil {
			return nil, err
		}
		syscall.Close(fd)
	}
	if s.kind == "limit" {
		cmd, err := limitCommand(s, need, listener)
		if err != nil {
			return nil, err
		}
		return startProcess(cmd, port, dir, cpus, cancel)
	}
	listener.Close() // the server has taken over its port
	var cmd *exec.Cmd
	if s.kind == "nginx-rtmp" {
		cmd, err = nginxCommand(dir, port, s.chunk, need.destinations)
	} else {
		cmd, err = s.forwardCommand(port, securePort, need)
	}
	if err != nil {
		return nil, err
	}
	if p, err = startProcess(cmd, port, dir, cpus, cancel); err != nil {
		return nil, err
	}
	p.securePort = securePort
	if err := waitForPort(ctx, port); err != nil {
		p.stop()
		return nil, err
	}
	if s.flv {
		if err := waitForPort(ctx, securePort); err != nil {
			p.stop()
			return nil, err
		}
	}
	return p, nil
}

func waitForPort(ctx context.Context, port int) error {
	for end := now() + int64(5*time.Second); now() < end; {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		err = syscall.Connect(fd, loopback(port))
		syscall.Close(fd)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("nothing listens on port %d", port)
}

func (s server) forwardCommand(port, securePort int, need launch) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	scheme := "rtmp"
	if s.tls {
		scheme = "rtmps"
	}
	var urls []string
	for _, d := range need.destinations {
		urls = append(urls, fmt.Sprintf("%s://127.0.0.1:%d/[app]/[stream]", scheme, d))
	}
	for i := range need.refusing {
		urls = append(urls, fmt.Sprintf("rtmp://127.0.0.1:%d/[app]/[stream]-%d", need.refusingPort, i))
	}
	args := []string{argServe,
		"-addr", fmt.Sprintf("127.0.0.1:%d", port),
		"-destinations", strings.Join(urls, ","),
		"-window", s.window.String()}
	if s.tls {
		args = append(args, "-secure", fmt.Sprintf("127.0.0.1:%d", securePort), "-cert", need.cert)
	}
	if s.flv {
		args = append(args, "-http", fmt.Sprintf("127.0.0.1:%d", securePort))
	}
	return exec.Command(exe, args...), nil
}

// serveMain is the child that forwardCommand runs.
func serveMain(args []string) error {
	var c serveConfig
	flags := flag.NewFlagSet(argServe, flag.ExitOnError)
	flags.StringVar(&c.Addr, "addr", "", "")
	flags.DurationVar(&c.Window, "window", defaultWindow, "")
	flags.StringVar(&c.Secure, "secure", "", "")
	flags.StringVar(&c.HTTP, "http", "", "")
	flags.StringVar(&c.Cert, "cert", "", "")
	destinations := flags.String("destinations", "", "")
	flags.Parse(args)
	if *destinations != "" {
		c.Destinations = strings.Split(*destinations, ",")
	}
	return serve(c)
}
