package forward

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/hostcode"
)

// calls calls the host's code: hooks, resolvers, dialers. It counts the calls.
type calls struct {
	ctx     context.Context // ends with Server.Close
	notices *notices

	mu   sync.Mutex
	what map[string]*call
}

type call struct {
	took   fanout.Histogram
	failed atomic.Uint64
}

// do calls the host's code on a goroutine of its own, and waits for it. If the code
// panics or ends the goroutine, do returns an error.
func (c *calls) do(what string, f func() error) error {
	err := fmt.Errorf("%s ended its goroutine", what)
	done := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				c.notices.write(slog.LevelError, "panic in host code", what, "in", what, "panic", v, "stack", stack())
				err = fmt.Errorf("%s panicked", what)
			}
		}()
		hostcode.Call(func() { err = f() })
	}()
	<-done
	call := c.of(what)
	call.took.Observe(time.Since(began))
	if err != nil {
		call.failed.Add(1)
	}
	return err
}

const (
	// tellTimeout limits the context of a hook that only reports an end;
	// tellAfterClose does so after the beginning of Server.Close.
	tellTimeout    = 30 * time.Second
	tellAfterClose = 5 * time.Second
)

// tell calls a hook that only reports an end, with a context that has the values of ctx.
func (c *calls) tell(ctx context.Context, what string, f func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, func() {
		select {
		case <-ctx.Done():
		case <-time.After(tellAfterClose):
			cancel()
		}
	})()
	c.do(what, func() error { f(ctx); return nil })
}

// of returns the counters of one hook.
func (c *calls) of(what string) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.what[what] == nil {
		c.what[what] = new(call)
	}
	return c.what[what]
}

func (c *calls) stats() map[string]CallStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]CallStats, len(c.what))
	for name, n := range c.what {
		out[name] = CallStats{durations(&n.took), n.failed.Load()}
	}
	return out
}
