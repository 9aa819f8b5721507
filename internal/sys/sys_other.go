//go:build !linux

package sys

import "net"

func tune(*net.TCPConn) {}
