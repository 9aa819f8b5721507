//go:build !linux && !darwin && !freebsd

package sys

import "syscall"

func tune(syscall.Conn) {}
