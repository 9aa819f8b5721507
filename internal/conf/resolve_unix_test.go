//go:build unix

package conf

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A pipe without a writer and a device are not read, because they do not end.
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

// A secret that every user may read or replace causes a note, at the position of its path.
func TestLoadNotesFilesThatAreOpen(t *testing.T) {
	dir := files(t, map[string]string{"token": "0123456789abcdef", "srs.conf": "listen 1;\nhttp { listen 2; token_file token; }\npublish_auth { user_file jo token; }"})
	for mode, noted := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o660: false, 0o604: true, 0o644: true, 0o602: true} {
		require.NoError(t, os.Chmod(filepath.Join(dir, "token"), mode))
		_, notes, err := load(t, dir, environ())
		require.NoError(t, err)
		if !noted {
			require.Empty(t, notes, "%o", mode)
			continue
		}
		require.Len(t, notes, 2)
		require.Equal(t, fmt.Sprintf("the mode %#o of this file lets every user of the machine read or write the token", mode), notes[0].Text)
		require.Equal(t, 2, notes[0].Pos.Line)
		require.Equal(t, 29, notes[0].Pos.Column)
		require.Equal(t, 3, notes[1].Pos.Line)
	}
}
