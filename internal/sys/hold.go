package sys

import (
	"net"
	"sync"
)

// Holder is a connection that can be held: its descriptor stays open meanwhile, and
// belongs to no other connection. So a caller may make many system calls in a row, for
// as many connections.
type Holder interface {
	// Hold returns the descriptor, or nil if the connection is closed or its descriptor
	// is just being given to another owner. Any goroutine may call it.
	Hold() *Descriptor
}

// Descriptor is a descriptor that is held until Release. Whoever holds it delays Close,
// so that it may only make system calls that do not wait.
type Descriptor struct {
	fd   uintptr
	lock sync.RWMutex // for reading: the descriptor is in use
	gone bool         // it is closed, or has another owner
}

// FD returns the descriptor.
func (d *Descriptor) FD() uintptr { return d.fd }

// Release ends a Hold.
func (d *Descriptor) Release() { d.lock.RUnlock() }

// hold does not wait: it is false also while the owner changes.
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

// leave calls f, which closes the descriptor or gives it to another owner, once nobody
// uses it.
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
