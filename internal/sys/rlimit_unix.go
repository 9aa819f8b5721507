//go:build unix

package sys

import "syscall"

// MaxFiles returns how many descriptors the process may open, or 0 if the system does not
// report it.
func MaxFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(uint64(l.Cur), 1<<30))
}
