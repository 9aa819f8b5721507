package sys

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is a TCP connection that can leave Go's poller and return to it. A connection
// in Go's poller wakes a thread for each segment that arrives, even if nobody waits for
// it; one that is parked wakes nobody. Its Watcher alone learns what has arrived.
//
// All methods work at any time and from any goroutine, parked or not. Whatever must
// wait returns the connection to Go's poller first: Read, and Write if the socket is
// full. The descriptor has one owner at a time: the net.TCPConn that was accepted, then
// the Conn itself while it is parked, then an os.File. Close closes that of the owner,
// once nobody holds it (see Hold).
type Conn struct {
	at      atomic.Pointer[place]
	mu      sync.Mutex   // held while the place is exchanged or closed
	writers atomic.Int32 // goroutines that wait for the socket
	first   place
}

// place is the state of a Conn: in Go's poller, parked, or closed.
type place struct {
	Descriptor
	nc  inPoller
	raw syscall.RawConn // of nc

	parked *parked // nil if it is in Go's poller or closed
}

// inPoller is a connection in Go's poller, or a closed one.
type inPoller interface {
	net.Conn
	syscall.Conn
}

// parked is the state of a Conn that has left Go's poller.
type parked struct {
	watcher       Watcher
	local, remote net.Addr
	read, write   time.Time // deadlines; guarded by Conn.mu
}

// Watcher notices with its own poller that bytes have arrived for a parked Conn. Its
// methods must not block or call methods of the Conn.
type Watcher interface {
	// Parked gives it the descriptor. If it returns false, the Conn stays where it is.
	Parked(fd int) bool
	// Unparked takes the descriptor away, before another owner has it or it is
	// closed.
	Unparked(fd int)
	// Look is called after the read deadline has been set.
	Look()
}

// plain returns c if it is a plain TCP connection, or nil.
func plain(c net.Conn) syscall.Conn {
	switch c := c.(type) {
	case *net.TCPConn:
		return c
	case *Conn:
		return c
	}
	return nil
}

// Own returns c as a Conn, or c itself if that fails. Nothing else may use c, neither
// before nor after the call.
func Own(c *net.TCPConn) net.Conn {
	raw, err := c.SyscallConn()
	if err != nil {
		return c
	}
	o := new(Conn)
	o.first.nc, o.first.raw = c, raw
	if raw.Control(func(fd uintptr) { o.first.fd = fd }) != nil {
		return c
	}
	o.at.Store(&o.first)
	return o
}

// Hold implements Holder.
func (c *Conn) Hold() *Descriptor {
	if p := c.at.Load(); p.hold() {
		return &p.Descriptor
	}
	return nil
}

// Park takes the connection out of Go's poller and reports whether it is parked. It fails
// if a goroutine waits to write, if the process has no descriptor left, or if w refuses.
// The deadlines are lost.
func (c *Conn) Park(w Watcher) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.at.Load()
	if p.parked != nil {
		return true
	}
	if c.writers.Load() > 0 {
		return false
	}
	// A descriptor leaves Go's poller when it is closed; a duplicate stays. Those
	// below 3 may be standard output to package os.
	fd, errno := uintptr(0), syscall.Errno(0)
	if p.raw.Control(func(old uintptr) {
		fd, _, errno = syscall.RawSyscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 3)
	}) != nil || errno != 0 {
		return false
	}
	if !w.Parked(int(fd)) {
		syscall.Close(int(fd))
		return false
	}
	next := &place{parked: &parked{watcher: w, local: p.nc.LocalAddr(), remote: p.nc.RemoteAddr()}}
	next.fd = fd
	c.at.Store(next)
	p.leave(func() { p.nc.Close() }) // calls in progress continue at the new place
	return true
}

// Parked reports whether the connection is parked.
func (c *Conn) Parked() bool { return c.at.Load().parked != nil }

// Unpark returns the connection to Go's poller, if it is parked.
func (c *Conn) Unpark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unparkLocked(func(fd uintptr, k *parked) *place {
		f := os.NewFile(fd, "tcp "+k.local.String()+"->"+k.remote.String())
		f.SetReadDeadline(k.read)
		f.SetWriteDeadline(k.write)
		next := &place{nc: &file{f, k.addresses()}}
		next.fd = fd
		return next
	})
}

// unparkLocked gives the descriptor of a parked Conn to the owner that to returns. It
// returns false if the Conn is not parked. c.mu is held.
func (c *Conn) unparkLocked(to func(fd uintptr, k *parked) *place) bool {
	p := c.at.Load()
	k := p.parked
	if k == nil {
		return false
	}
	p.leave(func() {
		k.watcher.Unparked(int(p.fd))
		next := to(p.fd, k)
		next.raw, _ = next.nc.SyscallConn()
		c.at.Store(next)
	})
	return true
}

func (k *parked) addresses() addresses { return addresses{k.local, k.remote} }

// use calls f with the descriptor, unless another owner has it.
func (d *Descriptor) use(f func(fd uintptr)) bool {
	d.lock.RLock()
	defer d.lock.RUnlock()
	if d.gone {
		return false
	}
	f(d.fd)
	return true
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if c.unparkLocked(func(fd uintptr, k *parked) *place {
		err = os.NewSyscallError("close", syscall.Close(int(fd)))
		return closedPlace(k.addresses())
	}) {
		return err
	}
	p := c.at.Load()
	if f, ok := p.nc.(*file); ok {
		// Package os has errors of its own for closed files; callers expect net.ErrClosed.
		c.at.Store(closedPlace(f.addresses))
	}
	p.leave(func() { err = p.nc.Close() })
	return err
}

func closedPlace(a addresses) *place {
	p := &place{nc: gone{a}, raw: goneRaw{}}
	p.gone = true
	return p
}

// do calls f with the connection in Go's poller. It unparks the connection first if it is
// parked, and calls f again if the connection was parked or closed during a failed call.
func (c *Conn) do(f func(*place) error) error {
	for {
		p := c.at.Load()
		if p.parked != nil {
			c.Unpark()
			continue
		}
		if err := f(p); err == nil || c.at.Load() == p {
			return err
		}
	}
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (n int, err error) {
	err = c.do(func(p *place) (err error) {
		n, err = p.nc.Read(b)
		return err
	})
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (n int, err error) {
	err = c.do(func(p *place) error {
		c.writers.Add(1)
		defer c.writers.Add(-1)
		more, err := p.nc.Write(b[n:])
		n += more
		return err
	})
	return n, err
}

// CloseWrite closes the connection for writing.
func (c *Conn) CloseWrite() error {
	var err error
	if closed := (rawConn{c}).Control(func(fd uintptr) {
		err = os.NewSyscallError("shutdown", syscall.Shutdown(int(fd), syscall.SHUT_WR))
	}); closed != nil {
		return closed
	}
	return err
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr {
	p := c.at.Load()
	if p.parked != nil {
		return p.parked.local
	}
	return p.nc.LocalAddr()
}

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr {
	p := c.at.Load()
	if p.parked != nil {
		return p.parked.remote
	}
	return p.nc.RemoteAddr()
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.at.Load()
	if k := p.parked; k != nil {
		k.read = t
		k.watcher.Look()
		return nil
	}
	return p.nc.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.at.Load()
	if k := p.parked; k != nil {
		k.write = t
		return nil
	}
	return p.nc.SetWriteDeadline(t)
}

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c}, nil }

// rawConn is a Conn's descriptor. A parked one stays parked while nothing has to wait.
type rawConn struct{ *Conn }

func (c rawConn) Control(f func(fd uintptr)) error {
	for {
		p := c.at.Load()
		if p.parked != nil {
			if p.use(f) {
				return nil
			}
			continue
		}
		if err := p.raw.Control(f); err == nil || c.at.Load() == p {
			return err
		}
	}
}

func (c rawConn) Read(f func(fd uintptr) bool) error {
	return c.do(func(p *place) error { return p.raw.Read(f) })
}

func (c rawConn) Write(f func(fd uintptr) bool) error {
	if p := c.at.Load(); p.parked != nil {
		done := false
		if p.use(func(fd uintptr) { done = f(fd) }) && done {
			return nil
		}
	}
	return c.do(func(p *place) error {
		c.writers.Add(1)
		defer c.writers.Add(-1)
		return p.raw.Write(f)
	})
}

type addresses struct{ local, remote net.Addr }

func (a addresses) LocalAddr() net.Addr  { return a.local }
func (a addresses) RemoteAddr() net.Addr { return a.remote }

// file is a connection that has returned to Go's poller. It is not made with net.FileConn,
// which duplicates the descriptor: there may be no descriptor left.
type file struct {
	*os.File
	addresses
}

// gone is a connection that was closed while it was parked, or later.
type gone struct{ addresses }

func (gone) Read([]byte) (int, error)              { return 0, net.ErrClosed }
func (gone) Write([]byte) (int, error)             { return 0, net.ErrClosed }
func (gone) Close() error                          { return net.ErrClosed }
func (gone) SetDeadline(time.Time) error           { return net.ErrClosed }
func (gone) SetReadDeadline(time.Time) error       { return net.ErrClosed }
func (gone) SetWriteDeadline(time.Time) error      { return net.ErrClosed }
func (gone) SyscallConn() (syscall.RawConn, error) { return goneRaw{}, nil }

type goneRaw struct{}

func (goneRaw) Control(func(uintptr)) error    { return net.ErrClosed }
func (goneRaw) Read(func(uintptr) bool) error  { return net.ErrClosed }
func (goneRaw) Write(func(uintptr) bool) error { return net.ErrClosed }
