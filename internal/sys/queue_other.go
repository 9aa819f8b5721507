//go:build !linux

package sys

import "syscall"

func setLowWater(syscall.Conn, int) {}

func outstanding(syscall.Conn) int { return 0 }
