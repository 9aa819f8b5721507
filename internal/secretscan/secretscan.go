// Package secretscan makes a package's tests fail if one of them prints, logs or
// returns a secret. All stream keys, passwords and tokens of the tests contain Canary,
// and all outputs that must not show them are searched for it. Only tests import it.
package secretscan

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rtmp-forward/forward/internal/leaktest"
)

// Canary must appear in no output.
const Canary = "c4nary5ecret"

// all collects the findings so far.
var all tally

type tally struct {
	mu      sync.Mutex
	lines   int // of stdout and stderr
	records int // of logs
	values  int // errors, statistics, answers
	found   []string
}

// Main runs the tests, for TestMain, and returns the exit code. It searches everything
// written to the default loggers of slog and log, and to os.Stdout and os.Stderr except
// the testing package's lines about a test, whose name may contain anything. A run
// fails if it has found a leak, or if a run of all tests has searched no log. Failing
// tests may print anything.
//
// Leaks of goroutines and the like also fail the tests: see package leaktest.
func Main(m *testing.M) int {
	return leaktest.Run(func() int { return run(m) })
}

func run(m *testing.M) (code int) {
	if f := flag.Lookup("test.fuzzworker"); f != nil && f.Value.String() == "true" {
		return m.Run() // a fuzz worker: the main process searches its output
	}
	old := slog.Default()
	slog.SetDefault(Logger(slog.NewTextHandler(dynamicStderr{}, nil)))
	defer slog.SetDefault(old)
	out, err := watch(&os.Stdout)
	if err == nil {
		var errs func()
		if errs, err = watch(&os.Stderr); err == nil {
			code = m.Run()
			errs()
		}
		out()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "leaks:", err)
		return 1
	}
	return all.verdict(os.Stderr, code, flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == "" &&
		flag.Lookup("test.list").Value.String() == "")
}

// verdict is the exit code, given that of the tests.
func (t *tally) verdict(w io.Writer, code int, whole bool) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if testing.Verbose() {
		fmt.Fprintf(w, "leaks: %d lines, %d log records and %d values looked at\n", t.lines, t.records, t.values)
	}
	if code != 0 {
		return code
	}
	for _, s := range t.found {
		fmt.Fprintln(w, "leaked:", s)
	}
	if len(t.found) > 0 {
		return 1
	}
	if whole && t.records+t.values == 0 {
		fmt.Fprintln(w, "leaks: nothing was looked at")
		return 1
	}
	return 0
}

// dynamicStderr writes to the current value of os.Stderr.
type dynamicStderr struct{}

func (dynamicStderr) Write(p []byte) (int, error) { return os.Stderr.Write(p) }

// watch replaces a standard stream by a pipe, until stop.
func watch(stream **os.File) (stop func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	to := *stream
	*stream = w
	done := make(chan struct{})
	go func() {
		defer close(done)
		all.lineByLine(to, r)
	}()
	return func() {
		*stream = to
		w.Close()
		<-done
		r.Close()
	}, nil
}

// lineByLine copies r to w.
func (t *tally) lineByLine(w io.Writer, r io.Reader) {
	for b := bufio.NewReader(r); ; {
		line, err := b.ReadBytes('\n')
		w.Write(line)
		if len(line) > 0 && !aboutTest(line) {
			t.look(&t.lines, "a line", line)
		}
		if err != nil {
			return
		}
	}
}

// aboutTest reports whether testing prints a line about the state of a test: "=== RUN
// Name", " --- PASS: Name (0.00s)". With -test.v=test2json a mark precedes "===".
func aboutTest(line []byte) bool {
	line = bytes.TrimLeft(line, " \x16")
	return bytes.HasPrefix(line, []byte("=== ")) || bytes.HasPrefix(line, []byte("--- "))
}

// look searches p.
func (t *tally) look(count *int, where string, p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*count++
	for _, form := range forms {
		if at := bytes.Index(p, form); at >= 0 {
			t.found = append(t.found, fmt.Sprintf("%s: %.400q", where, p[max(at-200, 0):]))
			return
		}
	}
}

// forms are Canary in plain text and as %x writes it.
var forms = [][]byte{[]byte(Canary), fmt.Appendf(nil, "%x", Canary), fmt.Appendf(nil, "%X", Canary)}

// Reader returns a reader of r that searches its lines.
func Reader(r io.Reader) io.Reader { return io.TeeReader(r, new(lines)) }

// lines collects a line.
type lines struct{ line []byte }

func (l *lines) Write(p []byte) (int, error) {
	for part := range bytes.Lines(p) {
		l.line = append(l.line, part...)
		all.look(&all.values, "a line", l.line)
		if part[len(part)-1] == '\n' {
			l.line = l.line[:0]
		}
	}
	return len(p), nil
}

// Quiet is a logger whose output only this package reads.
var Quiet = Logger(slog.DiscardHandler)

// Logger returns a logger to h that searches its records of all levels.
func Logger(h slog.Handler) *slog.Logger {
	w := records{&all}
	o := &slog.HandlerOptions{Level: slog.LevelDebug}
	return slog.New(handler{next: h, text: slog.NewTextHandler(w, o), json: slog.NewJSONHandler(w, o)})
}

type records struct{ *tally }

func (r records) Write(p []byte) (int, error) {
	r.look(&r.tally.records, "a log", p)
	return len(p), nil
}

// handler searches records in the format of slog's text handler, and as JSON where that
// may differ.
type handler struct {
	next, text, json slog.Handler
	odd              bool // set by With
}

func (h handler) Enabled(context.Context, slog.Level) bool { return true }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	h.text.Handle(ctx, r)
	both := h.odd
	r.Attrs(func(a slog.Attr) bool {
		both = both || odd(a)
		return !both
	})
	if both {
		h.json.Handle(ctx, r)
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

func (h handler) WithAttrs(a []slog.Attr) slog.Handler {
	return handler{h.next.WithAttrs(a), h.text.WithAttrs(a), h.json.WithAttrs(a), h.odd || slices.ContainsFunc(a, odd)}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.next.WithGroup(name), h.text.WithGroup(name), h.json.WithGroup(name), h.odd}
}

// odd reports whether JSON may show more of an attribute than text does. Both show the
// text of an error.
func odd(a slog.Attr) bool {
	switch a.Value.Kind() {
	case slog.KindAny:
		_, ok := a.Value.Any().(error)
		return !ok
	case slog.KindGroup, slog.KindLogValuer:
		return true
	}
	return false
}

// Check searches values as fmt and encoding/json print them, and all errors that an
// error wraps. where is for the report, mostly a test's name.
func Check(where string, values ...any) {
	var out bytes.Buffer
	for _, v := range values {
		out.Reset()
		for _, e := range chain(v) {
			fmt.Fprintf(&out, "%v %+v %#v\n", e, e, e)
			json.NewEncoder(&out).Encode(e) // not everything can be marshalled
		}
		all.look(&all.values, where, out.Bytes())
	}
}

// Prints returns v in every form that fmt, slog and encoding/json print, and for an
// error those of all errors it wraps.
func Prints(v any) string {
	var out strings.Builder
	for _, e := range chain(v) {
		_, formatter := e.(fmt.Formatter)
		for i, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", e)
			if formatter || i < 3 { // a wrong verb for a slice shows what its pointers point to
				fmt.Fprintf(&out, verb+"\n", []any{e})
			}
		}
		text, _ := json.Marshal([]any{e})
		out.Write(text)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", e)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", e, "group", []any{e})
	}
	return out.String()
}

// chain returns v and the errors it wraps.
func chain(v any) []any {
	out := []any{v}
	err, ok := v.(error)
	if !ok {
		return out
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			out = append(out, chain(e)...)
		}
	} else if e := errors.Unwrap(err); e != nil {
		out = append(out, chain(e)...)
	}
	return out
}
