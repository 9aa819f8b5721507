package rtmp

import (
	"math"
	"slices"

	"github.com/rtmp-forward/forward/internal/amf"
)

// has reports whether there is an argument i that is neither null nor undefined.
func (c *Command) has(i int) bool {
	if i >= len(c.Args) {
		return false
	}
	switch c.Args[i].(type) {
	case nil, amf.Undefined:
		return false
	}
	return true
}

// id returns argument i as the id of a message stream.
func (c *Command) id(i int) (id uint32, ok bool) {
	n, ok := c.Number(i)
	if !ok || !(n >= 0 && n < 1<<32) || n != math.Trunc(n) {
		return 0, false
	}
	return uint32(n), true
}

// isFalse reports whether argument i is false.
func (c *Command) isFalse(i int) bool {
	if i >= len(c.Args) {
		return false
	}
	v, ok := c.Args[i].(bool)
	return ok && !v
}

// noString is the description sent to a client whose publish or play has another type
// than a string in place of the name.
const noString = "The stream's name is not a string."

// streamName returns the name of a publish or play, which is argument 1. It is empty if
// the command has no argument 1. ok is false if argument 1 is not a string: no later
// argument is taken as the name.
func (c *Command) streamName() (name string, ok bool) {
	if len(c.Args) < 2 {
		return "", true
	}
	name, ok = c.Args[1].(string)
	return name, ok
}

// fillObject inserts a null for the command object, argument 0, if the client has
// omitted it: the arguments of a NetStream's commands follow it (RTMP 1.0, 7.2.2).
func (c *Command) fillObject() {
	if len(c.Args) == 0 {
		return
	}
	switch c.Args[0].(type) {
	case string, float64, bool:
		c.Args = slices.Insert(c.Args, 0, nil)
	}
}
