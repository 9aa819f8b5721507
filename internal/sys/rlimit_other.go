//go:build !unix

package sys

// MaxFiles is 0: the system does not tell.
func MaxFiles() int { return 0 }
