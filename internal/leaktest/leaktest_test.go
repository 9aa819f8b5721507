package leaktest

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGoroutines(t *testing.T) {
	require.NotContains(t, stacks(), "leaktest.TestGoroutines.func")
	end := make(chan struct{})
	ended := make(chan struct{})
	go func() { <-end; close(ended) }()
	require.Contains(t, stacks(), "leaktest.TestGoroutines.func")
	close(end)
	<-ended
}

func stacks() (all string) {
	for _, g := range goroutines() {
		all += g
	}
	return all
}

func TestDescriptors(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		return // the system does not list descriptors
	}
	before := descriptors()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	require.Equal(t, []string{f.Name()}, more(before, descriptors()))
	require.NoError(t, f.Close())
	require.Empty(t, more(before, descriptors()))
}

// complaints is a testing.TB that records errors.
type complaints struct {
	*testing.T
	cleanups []func()
	errors   []any
}

func (c *complaints) Cleanup(f func())  { c.cleanups = append(c.cleanups, f) }
func (c *complaints) Error(args ...any) { c.errors = append(c.errors, args...) }

type big struct{ b [100]byte }

func TestTrackInVirtualTime(t *testing.T) {
	for _, stopped := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := &complaints{T: t}
			v := new(big)
			Track(c, v)
			timer := time.AfterFunc(time.Hour, func() { v.b[0]++ })
			if stopped {
				timer.Stop()
				time.Sleep(2 * time.Hour) // the runtime has released it
			}
			c.cleanups[0]()
			if stopped {
				require.Empty(t, c.errors)
			} else {
				require.Equal(t, []any{"still in use: *leaktest.big of " + t.Name()}, c.errors)
			}
		})
	}
}

func TestTrack(t *testing.T) {
	v := new(big)
	Track(t, v)
	timer := time.AfterFunc(time.Hour, func() { v.b[0]++ })
	require.Equal(t, []string{"*leaktest.big of TestTrack"}, held())
	timer.Reset(0)
	require.Empty(t, await(held))
}
