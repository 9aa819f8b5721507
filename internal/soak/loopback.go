package soak

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// Loopback is a Network on 127.0.0.1. It maps addresses such as "d1.example:1935" to
// the ports of their listeners. The zero Loopback has none. Its methods are safe for
// concurrent use.
type Loopback struct {
	mu    sync.Mutex
	ports map[string]string
}

// Dial connects to the listener at address. Without a listener the connection is
// refused.
func (l *Loopback) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	to := l.ports[address]
	l.mu.Unlock()
	if to == "" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

// Listen listens on a free port, which stands for address until it is closed.
func (l *Loopback) Listen(address string) (net.Listener, error) {
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ports == nil {
		l.ports = make(map[string]string)
	}
	l.ports[address] = nl.Addr().String()
	return &loopListener{nl, l, address}, nil
}

type loopListener struct {
	net.Listener
	net     *Loopback
	address string
}

func (l *loopListener) Close() error {
	l.net.mu.Lock()
	if l.net.ports[l.address] == l.Addr().String() {
		delete(l.net.ports, l.address)
	}
	l.net.mu.Unlock()
	return l.Listener.Close()
}
