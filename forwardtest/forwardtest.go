// Package forwardtest provides tools for tests of RTMP forwarding: a Destination that
// follows a script, a Client that publishes and plays, connections with Faults, and a
// Recorder that checks a received stream.
//
// Everything works over loopback and without a network. Network and Pipe are in memory
// and have bounded buffers, like sockets. They work in a testing/synctest bubble, where
// delays and timeouts take no time.
//
// Nothing here sleeps or polls: methods that wait take a context. After Close no
// goroutine is left.
package forwardtest

import (
	"context"
	"sync"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
)

// The types of a Message (RTMP 1.0, 7.1).
const (
	TypeAudio = 8
	TypeVideo = 9
	TypeData  = 18
)

// Message is one audio, video or data message. It converts to and from
// forward.Message.
type Message struct {
	Type      uint8  // TypeAudio, TypeVideo or TypeData
	Timestamp uint32 // milliseconds, modulo 2^32
	Payload   []byte // the body of an FLV tag
}

// Command is a command message that was received (RTMP 1.0, 7.1.1).
type Command struct {
	Name          string  // such as connect
	TransactionID float64 // 0 if no answer is expected
	StreamID      uint32  // message stream id
	// Args are the arguments after the transaction id, as nil, bool, float64, string,
	// map[string]any or []any. Values without such a form are nil.
	Args []any
}

// String returns argument i, empty where it is no string.
func (c Command) String(i int) string {
	if i < len(c.Args) {
		s, _ := c.Args[i].(string)
		return s
	}
	return ""
}

// Code is the code of the status in c, such as NetStream.Publish.Start; empty
// where it has none.
func (c Command) Code() string {
	for _, a := range c.Args {
		if o, ok := a.(map[string]any); ok {
			if code, ok := o["code"].(string); ok {
				return code
			}
		}
	}
	return ""
}

// parseCommand decodes a command message; ok is false for what is none.
func parseCommand(m chunk.Message) (c Command, ok bool) {
	var values []any
	var err error
	switch m.Type {
	case chunk.TypeCommand:
		values, err = amf.DecodeAll(m.Payload, amf.Limits{})
	case chunk.TypeCommandAMF3:
		values, err = amf.DecodeAMF3Command(m.Payload, amf.Limits{})
	default:
		return c, false
	}
	if err != nil || len(values) == 0 {
		return c, false
	}
	c.StreamID = m.StreamID
	c.Name, ok = values[0].(string)
	values = values[1:]
	if len(values) > 0 {
		c.TransactionID, _ = values[0].(float64)
		values = values[1:]
	}
	for _, v := range values {
		c.Args = append(c.Args, plain(v))
	}
	return c, ok
}

// plain turns a value of AMF into one of Go.
func plain(v any) any {
	if o, ok := amf.AsObject(v); ok {
		m := make(map[string]any, len(o))
		for _, p := range o {
			m[p.Key] = plain(p.Value)
		}
		return m
	}
	switch v := v.(type) {
	case bool, float64, string:
		return v
	case amf.StrictArray:
		a := make([]any, len(v))
		for i := range v {
			a[i] = plain(v[i])
		}
		return a
	}
	return nil
}

// anyLimits are those of a peer that takes everything.
var anyLimits = chunk.Limits{
	Media: chunk.MaxMessage, Command: chunk.MaxMessage, Partial: 1 << 30, Streams: 1 << 10, TinySize: 1 << 30,
}

// signal wakes all goroutines that wait for a change. It is guarded by its owner's
// mutex. The waiting goroutines make its channels, and so in their bubble.
type signal struct{ ch chan struct{} }

func (s *signal) wait() <-chan struct{} {
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) notify() {
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// await waits until done, called with mu held, is true.
func await(ctx context.Context, mu *sync.Mutex, s *signal, done func() bool) error {
	for {
		mu.Lock()
		if done() {
			mu.Unlock()
			return nil
		}
		changed := s.wait()
		mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
