package forwardtest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
)

// peer is one end of an RTMP connection. It sends one message at a time and keeps what
// it has received.
type peer struct {
	nc      net.Conn
	writing chan struct{} // held while writing
	done    chan struct{} // closed when reading has ended
	rec     *Recorder

	mu       sync.Mutex
	changed  signal
	size     int // of the chunks it sends
	commands []Command
	err      error
	muted    bool
}

func newPeer(nc net.Conn, rec *Recorder) *peer {
	return &peer{nc: nc, writing: make(chan struct{}, 1), done: make(chan struct{}), rec: rec, size: chunk.DefaultSize}
}

// Commands returns the commands that were received, in order.
func (p *peer) Commands() []Command {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.commands)
}

// WaitCommand waits for the first command of that name and returns it.
func (p *peer) WaitCommand(ctx context.Context, name string) (c Command, err error) {
	var ended bool
	err = await(ctx, &p.mu, &p.changed, func() bool {
		i := slices.IndexFunc(p.commands, func(c Command) bool { return c.Name == name })
		if i >= 0 {
			c = p.commands[i]
		}
		ended = i < 0 && isClosed(p.done)
		return i >= 0 || ended
	})
	if ended {
		err = fmt.Errorf("the connection has ended: %w", p.Err())
	}
	if err != nil {
		err = fmt.Errorf("forwardtest: %s: %w", name, err)
	}
	return c, err
}

// Recorder has the audio, video and data messages that were received.
func (p *peer) Recorder() *Recorder { return p.rec }

// Done is closed when nothing more is received.
func (p *peer) Done() <-chan struct{} { return p.done }

// Err is the reason why nothing more is received, io.EOF if the other end has closed;
// nil before Done.
func (p *peer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Write sends raw bytes, normally whole chunks.
func (p *peer) Write(b []byte) (int, error) {
	select {
	case p.writing <- struct{}{}:
	case <-p.done:
		return 0, net.ErrClosed
	}
	defer func() { <-p.writing }()
	if p.isMuted() {
		return 0, net.ErrClosed
	}
	return p.nc.Write(b)
}

// Send sends a command: its name, transaction id and arguments, each a nil, a
// bool, a number, a string, a map[string]any or a []any.
func (p *peer) Send(streamID uint32, values ...any) error {
	return p.send(appendCommand(nil, p.chunkSize(), streamID, values...))
}

// Reset ends the connection with a TCP RST where that is possible.
func (p *peer) Reset() { reset(p.nc) }

func (p *peer) send(b []byte) error {
	_, err := p.Write(b)
	return err
}

// maxControl is the longest payload of the protocol's own messages.
const maxControl = 6

// sendControl sends one of the protocol's own messages, cut into chunks where
// they are smaller.
func (p *peer) sendControl(b []byte) error {
	const header = 12
	size := p.chunkSize()
	out := slices.Clone(b[:header])
	for i, c := range b[header:] {
		if i > 0 && i%size == 0 {
			out = append(out, 3<<6|chunk.StreamControl)
		}
		out = append(out, c)
	}
	return p.send(out)
}

func (p *peer) chunkSize() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

func (p *peer) setChunkSize(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size = n
}

func (p *peer) isMuted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.muted
}

// received notes a message.
func (p *peer) received(m chunk.Message) (c Command, isCommand bool) {
	switch m.Type {
	case TypeAudio, TypeVideo, TypeData:
		p.rec.Record(Message{Type: m.Type, Timestamp: m.Time, Payload: slices.Clone(m.Payload)})
		return c, false
	}
	if c, isCommand = parseCommand(m); isCommand {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.commands = append(p.commands, c)
		p.changed.notify()
	}
	return c, isCommand
}

// ended notes why reading has ended.
func (p *peer) ended(err error) {
	p.nc.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	close(p.done)
	p.changed.notify()
}

func appendCommand(b []byte, size int, streamID uint32, values ...any) []byte {
	var body []byte
	for _, v := range values {
		body = amf.Append(body, toAMF(v))
	}
	return chunk.Append(b, chunk.Header{Type: chunk.TypeCommand, StreamID: streamID}, body, size)
}

// toAMF turns a value of Go into one of AMF.
func toAMF(v any) any {
	switch v := v.(type) {
	case map[string]any:
		o := amf.Object{}
		for k, e := range v {
			o = append(o, amf.Property{Key: k, Value: toAMF(e)})
		}
		slices.SortFunc(o, func(a, b amf.Property) int { return strings.Compare(a.Key, b.Key) })
		return o
	case []any:
		a := amf.StrictArray{}
		for _, e := range v {
			a = append(a, toAMF(e))
		}
		return a
	}
	return v
}
