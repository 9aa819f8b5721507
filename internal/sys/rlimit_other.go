//go:build !unix

package sys

// MaxFiles returns 0, because this system does not report the limit.
func MaxFiles() int { return 0 }
