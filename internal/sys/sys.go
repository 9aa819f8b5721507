// Package sys queries the system's limits and sets the options of our sockets.
package sys

import (
	"net"
	"syscall"
	"time"
)

const (
	// UserTimeout is the time without an acknowledgement after which the system
	// ends a connection.
	UserTimeout = 15 * time.Second
	// LowWater is how many bytes the system accepts beyond those that it can send.
	// Further bytes wait in the stream's log, where they are shared.
	LowWater = 128 << 10
)

// Tune sets TCP_USER_TIMEOUT to UserTimeout and TCP_NOTSENT_LOWAT to LowWater, or the
// platform's equivalents, if it has them. It leaves keep-alive and TCP_NODELAY at Go's
// defaults.
func Tune(c net.Conn) {
	if tcp := tcpOf(c); tcp != nil {
		tune(tcp)
	}
}

// SetLowWater replaces LowWater for one connection. It has an effect only on Linux.
func SetLowWater(c net.Conn, bytes int) {
	if tcp := tcpOf(c); tcp != nil {
		setLowWater(tcp, bytes)
	}
}

// Outstanding returns how many of the bytes written the peer has not received: those that
// are not acknowledged, or the result of the connection's method Unsent. It is 0 if unknown.
func Outstanding(c net.Conn) int {
	if own, ok := c.(interface{ Unsent() int }); ok {
		return max(own.Unsent(), 0)
	}
	if tcp := tcpOf(c); tcp != nil {
		return outstanding(tcp)
	}
	return 0
}

// Path returns Outstanding, and the round-trip time that the system has measured, or 0 if
// the system does not report it. On Linux it makes one system call if nothing is
// outstanding, or else two.
func Path(c net.Conn) (bytes int, rtt time.Duration) {
	idle := false
	if tcp := tcpOf(c); tcp != nil {
		rtt, idle = info(tcp)
	}
	if _, own := c.(interface{ Unsent() int }); idle && !own {
		return 0, rtt
	}
	return Outstanding(c), rtt
}

// RawConn returns the descriptor of a plain TCP connection, which can be read and written
// without blocking. It returns nil for another kind of connection.
func RawConn(c net.Conn) syscall.RawConn {
	if tcp := plain(c); tcp != nil {
		if raw, err := tcp.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// Plain reports whether c is a plain TCP connection, whose Close does not wait.
func Plain(c net.Conn) bool { return plain(c) != nil }

// tcpOf returns the TCP connection below c, or nil if there is none.
func tcpOf(c net.Conn) syscall.Conn {
	for {
		if tcp := plain(c); tcp != nil {
			return tcp
		}
		switch on := c.(type) {
		case interface{ NetConn() net.Conn }: // TLS
			c = on.NetConn()
		default:
			return nil
		}
	}
}
