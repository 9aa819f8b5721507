package hosttest

import (
	"context"
	"maps"
	"sync"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// CommandNames returns the names of the commands that a peer has sent, in order.
func CommandNames(s interface{ Commands() []forwardtest.Command }) (out []string) {
	for _, c := range s.Commands() {
		out = append(out, c.Name)
	}
	return out
}

// Calls counts the calls of hooks by name.
type Calls struct {
	mu sync.Mutex
	n  map[string]int
}

// Add counts a call.
func (c *Calls) Add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[name]++
}

// Get returns a copy of the counts.
func (c *Calls) Get() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// Hooks returns hooks that accept everything and count their calls.
func (c *Calls) Hooks() forward.Hooks {
	return forward.Hooks{
		OnConnect:   func(context.Context, *forward.Request) error { c.Add("connect"); return nil },
		OnPublish:   func(context.Context, *forward.Request) error { c.Add("publish"); return nil },
		OnUnpublish: func(context.Context, *forward.Request) { c.Add("unpublish") },
		OnPlay:      func(context.Context, *forward.Request) error { c.Add("play"); return nil },
		OnStop:      func(context.Context, *forward.Request) { c.Add("stop") },
		OnClose:     func(context.Context, *forward.Request, uint64, uint64) { c.Add("close") },
	}
}
