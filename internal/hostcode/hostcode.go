// Package hostcode calls the code of the library's host: hooks, resolvers, loggers,
// listeners and connections. Such code may call back into the library, on a goroutine for
// which the library waits. It may also fail often, or ask a backend that does: an Outage
// decides which of the failures are logged.
package hostcode

import (
	"fmt"
	"io"
	"reflect"
	"runtime"
)

// Call calls f, which calls the host's code. Until f returns, Within returns true on this
// goroutine.
//
//go:noinline
func Call(f func()) { f() }

var entry = reflect.ValueOf(Call).Pointer()

// Within reports whether this goroutine runs code that Call has called. It examines the
// whole stack.
func Within() bool {
	var pcs [64]uintptr
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		for _, pc := range pcs[:n] {
			if f := runtime.FuncForPC(pc - 1); f != nil && f.Entry() == entry {
				return true
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}

// Protect is like Call, but returns a panic of f as an error.
func Protect(f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	Call(f)
	return nil
}

// Close closes c, which may be the host's code. It returns a panic as an error.
func Close(c io.Closer) (err error) {
	if perr := Protect(func() { err = c.Close() }); perr != nil {
		return perr
	}
	return err
}
