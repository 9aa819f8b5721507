// Package leaktest finds leaks of tests: goroutines, descriptors, and values that
// something still refers to, for example a timer that was not stopped.
package leaktest

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"
)

// patience is the time for things to end by themselves, such as a goroutine on its last
// lines.
const patience = 15 * time.Second

// Run runs the tests of a package, like testing.M's Run, and returns the exit status:
// that of the tests or, if they pass but have leaked something, 1.
func Run(run func() int) int {
	before := descriptors()
	if code := run(); code != 0 {
		return code
	}
	http.DefaultClient.CloseIdleConnections()
	code := 0
	complain := func(what string, left []string) {
		if len(left) > 0 {
			fmt.Fprintf(os.Stderr, "left after the tests: %d %s:\n\n%s\n", len(left), what, strings.Join(left, "\n\n"))
			code = 1
		}
	}
	complain("goroutines", await(goroutines))
	complain("values in use", await(held))
	complain("descriptors", await(func() []string { return more(before, descriptors()) }))
	return code
}

// await returns what is left when patience has passed.
func await(left func() []string) []string {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if l := left(); len(l) == 0 || time.Now().After(end) {
			return l
		}
	}
}

// goroutines returns the stacks of all goroutines except the caller's and the testing
// package's.
func goroutines() (stacks []string) {
	buf := make([]byte, 1<<20)
	all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	for _, g := range all[1:] { // skip the caller's stack
		if !strings.Contains(g, "testing.runFuzzing") && !strings.Contains(g, "os/signal.loop") {
			stacks = append(stacks, g)
		}
	}
	return stacks
}

var tracked struct {
	sync.Mutex
	values []func() string // its description, while it is in use
}

// Track makes the tests fail if anything still refers to the value at the end of its
// test: a goroutine, or a timer that was not stopped. Functions passed to Cleanup after
// it may refer to it.
func Track[T any](t testing.TB, v *T) {
	w, name := weak.Make(v), t.Name()
	held := func() string {
		if w.Value() == nil {
			return ""
		}
		return fmt.Sprintf("%T of %s", w.Value(), name)
	}
	if time.Now().Year() > 2000 {
		// For Run: the runtime may keep a stopped timer, for example a context's, and
		// what it refers to until the timer's time.
		tracked.Lock()
		defer tracked.Unlock()
		tracked.values = append(tracked.values, held)
		return
	}
	// In virtual time the check is immediate and waits only for goroutines on their
	// last lines, because the bubble's timers would fire or disappear.
	t.Cleanup(func() {
		for range 100 {
			if runtime.GC(); held() == "" {
				return
			}
			runtime.Gosched()
		}
		t.Error("still in use: " + held())
	})
	// A T keeps the functions it has called until other functions replace them.
	t.Cleanup(func() {
		for range 100 {
			t.Cleanup(func() {})
		}
	})
}

// held returns the tracked values still in use.
func held() (left []string) {
	runtime.GC()
	tracked.Lock()
	defer tracked.Unlock()
	for _, of := range tracked.values {
		if name := of(); name != "" {
			left = append(left, name)
		}
	}
	return left
}

// descriptors are the files and sockets that the process has open; none if the system
// does not list them. Those of the runtime, such as its epoll, stay.
func descriptors() map[string]bool {
	open := make(map[string]bool)
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		to, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && !strings.HasPrefix(to, "anon_inode:") && !strings.HasPrefix(to, "/proc/") {
			open[to] = true
		}
	}
	return open
}

func more(before, now map[string]bool) (left []string) {
	for to := range now {
		if !before[to] {
			left = append(left, to)
		}
	}
	return left
}
