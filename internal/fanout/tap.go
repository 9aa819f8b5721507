package fanout

import (
	"context"
	"io"
	"slices"
	"sync/atomic"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flow"
	"github.com/rtmp-forward/forward/internal/gop"
)

// Tap reads a log inside the process. It is for one goroutine.
type Tap struct {
	group  *Group
	cursor gop.Cursor
	flow   flow.Receiver // guarded by the group's metering
	bytes  atomic.Uint64
	wake   chan struct{}
	cut    atomic.Pointer[error] // why the Tap was cut off, or nil
}

// Tap returns a new reader of the log. Close ends it.
func (g *Group) Tap() *Tap {
	t := &Tap{group: g, wake: make(chan struct{}, 1)}
	g.log.Start(&t.cursor, gop.Options{
		Layout: chunk.Layout{StreamID: chunk.MediaStreamID, Size: chunk.MaxMessage},
	})
	g.mu.Lock()
	taps := append(slices.Clone(*g.taps.Load()), t)
	g.taps.Store(&taps)
	g.mu.Unlock()
	return t
}

func (t *Tap) notify() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Next calls f for the next messages: headers, which have no sequence number, then one
// message. After the last message of a stream that has ended it returns io.EOF, and
// ErrMemory if the rest was dropped to free memory.
func (t *Tap) Next(ctx context.Context, f func(typ uint8, time uint32, payload []byte)) error {
	for {
		if err := t.cut.Load(); err != nil {
			return *err
		}
		m, set := t.cursor.Read()
		if m != nil {
			set.All(func(typ uint8, payload []byte) { f(typ, m.Time, slices.Clone(payload)) })
			// A copy, because the log's bytes are shared and keep their slab alive.
			t.bytes.Add(uint64(m.Frame.Len()))
			f(m.Type, m.Time, m.Frame.AppendPayload(make([]byte, 0, m.Frame.Length)))
			if t.group.log.Ended() && !t.lags() {
				t.group.settle()
			}
			return nil
		}
		if t.cursor.Done() {
			return io.EOF
		}
		select {
		case <-t.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lags reports whether there are messages to read.
func (t *Tap) lags() bool { return t.cut.Load() == nil && t.cursor.Lag() > 0 }

// fail cuts the reader off. Any goroutine may call it.
func (t *Tap) fail(err error) {
	t.cut.CompareAndSwap(nil, &err)
	t.notify()
	t.group.settle()
}

// Lag returns the number of messages to read. It is safe for concurrent use.
func (t *Tap) Lag() uint64 { return t.cursor.Lag() }

// Close ends the reader.
func (t *Tap) Close() {
	g := t.group
	defer g.settle()
	g.mu.Lock()
	defer g.mu.Unlock()
	taps := slices.DeleteFunc(slices.Clone(*g.taps.Load()), func(o *Tap) bool { return o == t })
	g.taps.Store(&taps)
}
