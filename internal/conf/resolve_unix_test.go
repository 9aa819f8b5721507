//go:build unix

package conf

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What does not end is not read: a pipe that nobody writes to, and a device.
func TestLoadOnlyRegularFiles(t *testing.T) {
	dir := files(t, map[string]string{"srs.conf": "include pipe;"})
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	done := make(chan error, 1)
	go func() {
		_, _, err := load(t, dir, environ())
		done <- err
	}()
	select {
	case err := <-done:
		require.ErrorContains(t, err, "expected a regular file")
	case <-time.After(10 * time.Second):
		require.Fail(t, "it waits for the pipe")
	}
	for _, path := range []string{"include /dev/zero;", "vhost v { forward { destination a { stream_key_file /dev/zero; } } }"} {
		dir = files(t, map[string]string{"srs.conf": path})
		_, _, err := load(t, dir, environ())
		require.ErrorContains(t, err, "expected a regular file")
	}
	b, err := ReadFile("/dev/zero")
	require.NoError(t, err)
	require.Len(t, b, MaxFileSize+1)
}
