package forwardtest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// Network is an in-memory network. Its listeners are found by their address, without
// name resolution. The zero Network is empty. Its methods are safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	ports     int
}

// Listen returns a listener at addr, a host and a port of any name, such as
// "a.example:1935". It may be given to forward.Server's Serve.
func (n *Network) Listen(address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		return nil, &net.OpError{Op: "listen", Net: "memory", Addr: addr(address), Err: syscall.EADDRINUSE}
	}
	l := &listener{net: n, addr: addr(address)}
	if n.listeners == nil {
		n.listeners = make(map[string]*listener)
	}
	n.listeners[address] = l
	return l, nil
}

// Dial connects to the listener at address; forward.Config.Dial and Client.Dial accept
// it. Without a listener the connection is refused. The network's name is ignored.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, &net.OpError{Op: "dial", Net: "memory", Addr: addr(address), Err: err}
	}
	n.mu.Lock()
	l := n.listeners[address]
	n.ports++
	here := addr(fmt.Sprintf("192.0.2.1:%d", 1<<10+n.ports%(63<<10))) // RFC 5737
	n.mu.Unlock()
	if l != nil {
		if nc := l.connect(here); nc != nil {
			return nc, nil
		}
	}
	return nil, &net.OpError{Op: "dial", Net: "memory", Addr: addr(address), Err: syscall.ECONNREFUSED}
}

type listener struct {
	net  *Network
	addr addr

	mu      sync.Mutex
	changed signal
	queue   []net.Conn
	closed  bool
}

func (l *listener) connect(from addr) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	near, far := pipe(from, l.addr)
	l.queue = append(l.queue, far)
	l.changed.notify()
	return near
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return nil, &net.OpError{Op: "accept", Net: "memory", Addr: l.addr, Err: net.ErrClosed}
		}
		if len(l.queue) > 0 {
			nc := l.queue[0]
			l.queue = l.queue[1:]
			l.mu.Unlock()
			return nc, nil
		}
		changed := l.changed.wait()
		l.mu.Unlock()
		<-changed
	}
}

func (l *listener) Close() error {
	l.net.mu.Lock()
	if l.net.listeners[string(l.addr)] == l {
		delete(l.net.listeners, string(l.addr))
	}
	l.net.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, nc := range l.queue {
		reset(nc)
	}
	l.queue, l.closed = nil, true
	l.changed.notify()
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

// Direct returns a dialer whose connections lead directly to s, which is a
// *forward.Server, whatever the address. A connection's goroutine ends when ServeConn
// returns.
func Direct(s interface {
	ServeConn(ctx context.Context, nc net.Conn) error
}) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		near, far := pipe("192.0.2.1:1024", addr(address))
		go s.ServeConn(context.WithoutCancel(ctx), far)
		return near, nil
	}
}
