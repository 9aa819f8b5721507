//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package table

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// lock locks a file, which it creates, for as long as the process lives or until Close.
func lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, err
	}
	return f, nil
}

// syncDir makes the renames in a directory survive a crash of the system.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) { // a file system that cannot
		err = nil
	}
	return errors.Join(err, d.Close())
}
