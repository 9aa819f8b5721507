//go:build !linux

package sys

import (
	"net"
	"syscall"
)

// Own returns c, which stays in Go's poller on this system.
func Own(c *net.TCPConn) net.Conn { return c }

// plain returns c if it is a plain TCP connection, or nil.
func plain(c net.Conn) syscall.Conn {
	if tcp, ok := c.(*net.TCPConn); ok {
		return tcp
	}
	return nil
}
