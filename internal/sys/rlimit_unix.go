//go:build unix

package sys

import "syscall"

// MaxFiles is how many descriptors the process may open, 0 where the system
// does not tell.
func MaxFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(uint64(l.Cur), 1<<30))
}
