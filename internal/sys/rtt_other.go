//go:build !linux || 386 || s390x

package sys

import (
	"syscall"
	"time"
)

func rtt(syscall.Conn) time.Duration { return 0 }
