package sys

import (
	"net"
	"sync"
)

// Holder is a connection that can be held. While it is held, its descriptor stays open, and
// no other connection can get the same one. So a caller can make many system calls in a row,
// for as many connections.
type Holder interface {
	// Hold returns the descriptor, or nil if the connection is closed or its descriptor
	// is just being given to another owner. Any goroutine may call it.
	Hold() *Descriptor
}

// Descriptor is a descriptor that is held until Release. Close waits for the holder, so the
// holder may only make system calls that do not wait.
type Descriptor struct {
	fd   uintptr
	lock sync.RWMutex // for reading: the descriptor is in use
	gone bool         // the descriptor is closed, or has another owner
}

// FD returns the descriptor.
func (d *Descriptor) FD() uintptr { return d.fd }

// Release ends a Hold.
func (d *Descriptor) Release() { d.lock.RUnlock() }

// hold reports whether the descriptor is now held. It does not wait: it also returns false
// while the owner changes.
func (d *Descriptor) hold() bool {
	if !d.lock.TryRLock() {
		return false
	}
	if d.gone {
		d.lock.RUnlock()
		return false
	}
	return true
}

// leave waits until nobody uses the descriptor. Then it calls f, which closes the
// descriptor or gives it to another owner.
func (d *Descriptor) leave(f func()) {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.gone = true
	f()
}

// HolderOf returns c as a Holder, or nil if c can't be held.
func HolderOf(c net.Conn) Holder {
	h, _ := c.(Holder)
	return h
}
