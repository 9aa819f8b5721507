// Package table keeps named destinations, each with a switch. An entry is there before
// the streams that it is for: it is on, off, or held until it is told to go live. Changes
// reach live streams at once and disturb no other destination. A Table can be kept in a
// file, which survives a crash at any moment.
//
// The destinations of a Table come in addition to those of forward.Config.Resolver, and
// do not depend on its answers:
//
//	t, err := table.Open("destinations.json", table.Options{})
//	srv := forward.NewServer(forward.Config{
//		Resolver: backend,
//		Hooks:    forward.Hooks{OnSource: t.OnSource},
//	})
package table

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward"
)

var (
	// ErrNotFound says that a Table has no entry of a name.
	ErrNotFound = errors.New("forward: no such entry in the table")
	// ErrNotHeld says that GoLive was called for an entry that is off.
	ErrNotHeld = errors.New("forward: the entry is off")
	// ErrNotLive says that GoLive has found no live stream of an entry.
	ErrNotLive = errors.New("forward: no stream of the entry is live")
	// ErrClosed is returned by the methods of a Table after Close.
	ErrClosed = errors.New("forward: table closed")
)

// Options are the options of a Table. The zero Options work.
type Options struct {
	// Logger gets a line for each change, and for each entry that cannot be pushed.
	// Default: slog.Default.
	Logger *slog.Logger
}

// Table is a set of entries with different names. Its methods are safe for concurrent use,
// also from hooks, and with several Servers.
//
// The methods that change it take ctx, which ends the wait for other changes, and by, the
// name of the change's author for Entry.By and the log: at most 256 bytes, possibly empty.
// A change is complete when it is in the file, or not made at all: with an error nothing
// has changed. Live streams follow within microseconds, but the methods do not wait for
// destinations.
type Table struct {
	masked
	log  *slog.Logger
	file *file // nil: only in memory; used by the holder of turn

	turn  chan struct{} // held during a change
	done  chan struct{} // closed by Close
	items atomic.Pointer[map[string]*item]
	calls atomic.Uint64

	mu     sync.Mutex
	closed bool
	live   map[*forward.Source]*stream
	wg     sync.WaitGroup // of the goroutines of streams
}

// masked is what a Table looks like when it is printed.
type masked struct{}

// Format writes the name of the type, for every verb.
func (masked) Format(f fmt.State, _ rune) { io.WriteString(f, "table.Table") }

// MarshalText gives the same as Format.
func (masked) MarshalText() ([]byte, error) { return []byte("table.Table"), nil }

// New returns an empty Table that is only in memory.
func New(o Options) *Table {
	t := &Table{
		log:  o.Logger,
		turn: make(chan struct{}, 1), done: make(chan struct{}),
		live: make(map[*forward.Source]*stream),
	}
	if t.log == nil {
		t.log = slog.Default()
	}
	t.items.Store(&map[string]*item{})
	return t
}

// Close lets go of the file and of the live streams: their destinations stay until the
// streams end, but follow no more changes. It returns when no goroutine of the Table is
// left.
func (t *Table) Close() error {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	t.mu.Lock()
	first := !t.closed
	if first {
		t.closed = true
		close(t.done)
	}
	t.mu.Unlock()
	t.wg.Wait()
	if !first || t.file == nil {
		return nil
	}
	return t.file.close()
}

// Entries returns all entries, sorted by name.
func (t *Table) Entries() []Entry {
	items := *t.items.Load()
	out := make([]Entry, 0, len(items))
	for _, name := range slices.Sorted(maps.Keys(items)) {
		out = append(out, items[name].Entry)
	}
	return out
}

// Entry returns the entry of a name.
func (t *Table) Entry(name string) (Entry, bool) {
	i := (*t.items.Load())[name]
	if i == nil {
		return Entry{}, false
	}
	return i.Entry, true
}

// Put adds an entry or replaces the one of that name. A live stream whose entry has another
// Destination gets a new Forwarder, which begins at the last keyframe, while the old one
// ends; to change a destination without a gap use forward.Forwarder.Update. Put returns the
// error of an invalid entry, an error that wraps forward.ErrLimit if there are MaxEntries,
// or a *FileError.
func (t *Table) Put(ctx context.Context, e Entry, by string) error {
	action := "add"
	err := t.change(ctx, by, func(items map[string]*item) error {
		old := items[e.Name]
		if e.State == "" && old != nil {
			e.State = old.State
		} else if e.State == "" {
			e.State = Off
		}
		e.Changed, e.By = time.Now().UTC().Round(0), by
		i, err := compile(e)
		if err != nil {
			return err
		}
		if t.file != nil {
			if err := i.keep(); err != nil {
				return err
			}
		}
		if old == nil && len(items) >= MaxEntries {
			return fmt.Errorf("%w: %d entries of a table", forward.ErrLimit, MaxEntries)
		}
		i.put, i.turned = t.calls.Add(1), t.calls.Add(1)
		if old != nil && old.State == i.State {
			i.turned = old.turned
		}
		if old != nil {
			action = "replace"
		}
		items[e.Name] = i
		return nil
	})
	if err == nil {
		t.log.Info("destination table", "action", action, "name", e.Name, "state", string(e.State), "destination", e.Destination, "by", by)
	}
	return err
}

// Delete removes an entry and ends its destination. It returns ErrNotFound if there is none.
func (t *Table) Delete(ctx context.Context, name, by string) error {
	err := t.change(ctx, by, func(items map[string]*item) error {
		if items[name] == nil {
			return notFound(name)
		}
		delete(items, name)
		return nil
	})
	if err == nil {
		t.log.Info("destination table", "action", "delete", "name", name, "by", by)
	}
	return err
}

// Switch sets the State of an entry. On and Held start it again where its Forwarder was
// closed by others; Held ends it where it had gone live. It returns ErrNotFound if there is
// no such entry.
func (t *Table) Switch(ctx context.Context, name string, to State, by string) error {
	err := t.change(ctx, by, func(items map[string]*item) error {
		old := items[name]
		if old == nil {
			return notFound(name)
		}
		i := *old
		i.State, i.Changed, i.By = to, time.Now().UTC().Round(0), by
		if _, err := compile(i.Entry); err != nil {
			return err
		}
		if t.file != nil {
			if err := i.keep(); err != nil {
				return err
			}
		}
		i.turned = t.calls.Add(1)
		items[name] = &i
		return nil
	})
	if err == nil {
		t.log.Info("destination table", "action", string(to), "name", name, "by", by)
	}
	return err
}

// GoLive starts a held entry for the given streams, or for all live streams that it is for
// if there are none given. It ends with the stream, or when the entry is switched. If the
// entry is on, GoLive starts it again where its Forwarder was closed by others. It returns
// ErrNotFound, ErrNotHeld, or ErrNotLive. What it does is in no file: after a restart the
// entry is held.
func (t *Table) GoLive(name, by string, srcs ...*forward.Source) error {
	if err := checkBy(by); err != nil {
		return err
	}
	if err := t.goLive(name, srcs); err != nil {
		return err
	}
	t.log.Info("destination table", "action", "live", "name", name, "streams", len(srcs), "by", by)
	return nil
}

func (t *Table) goLive(name string, srcs []*forward.Source) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	i := (*t.items.Load())[name]
	if i == nil {
		return notFound(name)
	}
	if i.State == Off {
		return fmt.Errorf("%w: %s", ErrNotHeld, name)
	}
	found := false
	for src, s := range t.live {
		if i.covers(src.Name()) && (len(srcs) == 0 || slices.Contains(srcs, src)) {
			found = true
			s.begin(i, t.calls.Add(1))
		}
	}
	if !found {
		return fmt.Errorf("%w: %s", ErrNotLive, name)
	}
	return nil
}

func notFound(name string) error {
	if checkName(name) != nil {
		return ErrNotFound
	}
	return fmt.Errorf("%w: %s", ErrNotFound, name)
}

// change makes a change to the entries, in the file first.
func (t *Table) change(ctx context.Context, by string, edit func(map[string]*item) error) error {
	if err := checkBy(by); err != nil {
		return err
	}
	if ctx == nil {
		ctx = context.Background()
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return fmt.Errorf("change of the table: %w", ctx.Err())
	}
	if t.isClosed() {
		return ErrClosed
	}
	next := maps.Clone(*t.items.Load())
	if err := edit(next); err != nil {
		return err
	}
	if t.file != nil {
		if err := t.file.save(next); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.items.Store(&next)
	for _, s := range t.live {
		s.look()
	}
	return nil
}

func (t *Table) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// Row is an entry as a stream sees it.
type Row struct {
	Entry
	// Live reports whether the destination is to get the stream: the entry is on, or is
	// held and has gone live.
	Live bool
	// Forwarder pushes the stream to the destination. It is nil if there is none, and may
	// be ending.
	Forwarder *forward.Forwarder
	// Err is why there is no Forwarder although Live is true: an error that wraps
	// forward.ErrDuplicate or forward.ErrLimit, whose causes are looked at every second,
	// or that of a stream whose name makes no valid destination.
	Err error
}

// Rows returns the entries for a live stream, sorted by name.
func (t *Table) Rows(src *forward.Source) (rows []Row) {
	t.mu.Lock()
	s := t.live[src]
	t.mu.Unlock()
	for _, i := range sorted(*t.items.Load()) {
		if !i.covers(src.Name()) {
			continue
		}
		row := Row{Entry: i.Entry, Live: i.State == On}
		if s != nil {
			row.Live = s.wants(i)
			row.Forwarder, row.Err = s.pushed(i.Name)
		}
		rows = append(rows, row)
	}
	return rows
}

// sorted returns items by name.
func sorted(items map[string]*item) []*item {
	return slices.SortedFunc(maps.Values(items), func(a, b *item) int { return strings.Compare(a.Name, b.Name) })
}
