// Package sys asks the system what it allows and tells it how to treat our
// sockets.
package sys

import (
	"net"
	"time"
)

const (
	// UserTimeout is after how long without an acknowledgement the system
	// gives a connection up.
	UserTimeout = 15 * time.Second
	// LowWater is how many bytes the system takes ahead of what it can send:
	// what waits longer waits in the stream's log, where it is shared.
	LowWater = 128 << 10
)

// Tune sets what the platform has of TCP_USER_TIMEOUT and TCP_NOTSENT_LOWAT,
// under whatever name.
// Keep-alive and TCP_NODELAY are Go's defaults.
func Tune(c net.Conn) {
	for {
		switch on := c.(type) {
		case *net.TCPConn:
			tune(on)
			return
		case interface{ NetConn() net.Conn }: // TLS
			c = on.NetConn()
		default:
			return
		}
	}
}
