//go:build !linux

package sys

import "net"

func setLowWater(*net.TCPConn, int) {}

func outstanding(*net.TCPConn) int { return 0 }
