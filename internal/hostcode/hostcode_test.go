package hostcode

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

type closer func() error

func (c closer) Close() error { return c() }

// deep calls f with n more frames on the stack.
func deep(n int, f func()) {
	if n == 0 {
		f()
		return
	}
	deep(n-1, f)
}

func TestWithin(t *testing.T) {
	require.False(t, Within())
	for _, depth := range []int{0, 1, 61, 62, 63, 64, 65, 200, 1000} {
		within, beside := false, make(chan bool)
		Call(func() {
			deep(depth, func() { within = Within() })
			go func() { beside <- Within() }()
		})
		require.True(t, within, depth)
		require.False(t, <-beside, "another goroutine is not waited for")
		deep(depth, func() { require.False(t, Within(), depth) })
	}
	Close(closer(func() error { require.True(t, Within()); return nil }))
	require.False(t, Within())
}

func TestProtect(t *testing.T) {
	require.NoError(t, Protect(func() {}))
	require.EqualError(t, Protect(func() { panic("at the disco") }), "panic: at the disco")
	broken := errors.New("broken")
	require.ErrorIs(t, Close(closer(func() error { return broken })), broken)
	require.EqualError(t, Close(closer(func() error { panic(broken) })), "panic: broken")
}

func BenchmarkWithin(b *testing.B) {
	for b.Loop() {
		Within()
	}
}
