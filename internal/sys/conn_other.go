//go:build !linux

package sys

import (
	"net"
	"syscall"
)

// Own returns c, which here stays in Go's poller.
func Own(c *net.TCPConn) net.Conn { return c }

// plain is c, if it is a plain TCP connection.
func plain(c net.Conn) syscall.Conn {
	if tcp, ok := c.(*net.TCPConn); ok {
		return tcp
	}
	return nil
}
