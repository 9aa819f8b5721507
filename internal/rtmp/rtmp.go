// Package rtmp implements the handshake, the protocol's control messages, and the
// server's and the client's side of connect, publish and play. It does not know where
// media comes from or goes to.
package rtmp

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
)

// User control events (RTMP 1.0, 7.1.7).
const (
	eventStreamBegin  = 0
	eventStreamEOF    = 1
	eventPingRequest  = 6
	eventPingResponse = 7
)

// windowAckSize is the window, in bytes, that we announce. Until the peer announces its
// own, we also acknowledge by it: some encoders stop without acknowledgements.
const windowAckSize = 2_500_000

// A peer's window is limited to these bounds, in bytes. Below the first, two peers would
// answer each other's acknowledgements without end. Above the second, a peer that expects
// acknowledgements as a sign of life would consider us dead.
const (
	minPeerWindow = 4 << 10
	maxPeerWindow = windowAckSize
)

// StatusError is an onStatus or _error that was received, or that is to be sent.
type StatusError struct {
	Command     string // the command that it answers: connect, createStream, publish, play; or stream
	Level       string // as received; empty if it is to be sent, which means "error"
	Code        string // for example NetStream.Publish.BadName
	Description string
}

func (e *StatusError) Error() string {
	s := e.Command + " refused"
	if e.Code != "" {
		s += ": " + e.Code
	}
	if e.Description != "" {
		s += ": " + e.Description
	}
	return s
}

// Usual reports whether the code has the form NetStream.Publish.BadName.
func (e *StatusError) Usual() bool { return usualCode(e.Code) }

// Command is a command message (RTMP 1.0, 7.1.1).
type Command struct {
	Name     string
	Txn      float64
	Args     []any
	StreamID uint32
}

// String returns argument i, or "" if it is not a string.
func (c *Command) String(i int) string {
	if i < len(c.Args) {
		s, _ := c.Args[i].(string)
		return s
	}
	return ""
}

// Number returns argument i, and false if it is not a number.
func (c *Command) Number(i int) (float64, bool) {
	if i < len(c.Args) {
		n, ok := c.Args[i].(float64)
		return n, ok
	}
	return 0, false
}

// info returns the fields of the first argument that is an object with a code.
func (c *Command) info() (level, code, description string) {
	for _, a := range c.Args {
		if o, ok := amf.AsObject(a); ok {
			if code = text(o, "code"); code != "" {
				return text(o, "level"), code, text(o, "description")
			}
		}
	}
	return "", "", ""
}

// text returns a property, or "" if it is not a string.
func text(o amf.Object, key string) string {
	s, _ := o.GetString(key)
	return s
}

// Conn is one side of a connection after its handshake. One goroutine may read. Messages
// are sent with the function send, which must be safe for concurrent use.
type Conn struct {
	*chunk.Reader
	send func([]byte) error // gets whole chunks, and must not keep them
	size int                // our chunk size

	src    io.Reader
	count  uint64 // bytes read, including the handshake's
	acked  uint64
	window uint64 // at least minPeerWindow
}

// NewConn returns a Conn that reads from src and sends with send. bufSize is the size of
// its read buffer, in bytes. Once it has announced chunkSize, it sends chunks of that size.
func NewConn(src io.Reader, send func([]byte) error, bufSize, chunkSize int, lim chunk.Limits) *Conn {
	c := &Conn{src: src, send: send, size: chunkSize, window: windowAckSize, count: 1 + 2*handshakeSize}
	c.Reader = chunk.NewReader((*ackReader)(c), bufSize, lim)
	return c
}

// Received returns how many bytes were read, without the handshake. Only the goroutine
// that reads may call it.
func (c *Conn) Received() uint64 { return c.count - (1 + 2*handshakeSize) }

// ChunkSize returns our chunk size, in bytes.
func (c *Conn) ChunkSize() int { return c.size }

// SetChunkSize changes our chunk size. It must be called before the size is announced: by
// a client before Publish or Play, by a server's Handler in Connect.
func (c *Conn) SetChunkSize(n int) { c.size = n }

// ackReader acknowledges the bytes that are read, also in the middle of a message: a peer
// may wait for it there (RTMP 1.0, 5.4.3). It does so after half the window, because the
// acknowledgement takes time to arrive.
type ackReader Conn

func (r *ackReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	r.count += uint64(n)
	if r.count-r.acked >= r.window/2 {
		r.acked = r.count
		if err := r.send(chunk.AppendControl(nil, chunk.TypeAck, uint32(r.count))); err != nil {
			return n, err
		}
	}
	return n, err
}

// Next returns the next message that is not a control message of the connection. It
// carries those out.
func (c *Conn) Next() (chunk.Message, error) {
	for {
		m, own, err := c.next()
		if err != nil || !own {
			return m, err
		}
	}
}

// next returns the next message. own reports that it is a control message of the
// connection, which next has carried out.
func (c *Conn) next() (m chunk.Message, own bool, err error) {
	m, err = c.Reader.Next()
	if err != nil {
		return m, false, err
	}
	switch m.Type {
	case chunk.TypeSetChunkSize, chunk.TypeAbort, chunk.TypeAck:
	case chunk.TypeWindowAckSize:
		if len(m.Payload) >= 4 {
			c.window = min(max(uint64(binary.BigEndian.Uint32(m.Payload)), minPeerWindow), maxPeerWindow)
		}
	case chunk.TypeSetPeerBandwidth:
		err = c.send(chunk.AppendControl(nil, chunk.TypeWindowAckSize, windowAckSize))
	case chunk.TypeUserControl:
		if len(m.Payload) >= 6 && binary.BigEndian.Uint16(m.Payload) == eventPingRequest {
			err = c.send(chunk.AppendUserControl(nil, eventPingResponse, binary.BigEndian.Uint32(m.Payload[2:])))
		}
	default:
		return m, false, nil
	}
	return m, true, err
}

// parseCommand decodes a command message. ok is false for other messages.
func parseCommand(m chunk.Message) (cmd Command, ok bool, err error) {
	var args []any
	switch m.Type {
	case chunk.TypeCommand:
		args, err = amf.DecodeAll(m.Payload, amf.Limits{})
	case chunk.TypeCommandAMF3:
		args, err = amf.DecodeAMF3Command(m.Payload, amf.Limits{})
	default:
		return cmd, false, nil
	}
	if err != nil {
		return cmd, true, fmt.Errorf("command: %w", err)
	}
	cmd.StreamID = m.StreamID
	if len(args) == 0 {
		return cmd, true, fmt.Errorf("%w: empty command", chunk.ErrProtocol)
	}
	name, isString := args[0].(string)
	if !isString {
		return cmd, true, fmt.Errorf("%w: command name is not a string", chunk.ErrProtocol)
	}
	cmd.Name = name
	if args = args[1:]; len(args) > 0 {
		if txn, isNumber := args[0].(float64); isNumber {
			cmd.Txn, args = txn, args[1:]
		}
	}
	cmd.Args = args
	return cmd, true, nil
}

// appendCommand appends a command message.
func (c *Conn) appendCommand(b []byte, streamID uint32, values ...any) []byte {
	var p []byte
	for _, v := range values {
		p = amf.Append(p, v)
	}
	return chunk.Append(b, chunk.Header{Type: chunk.TypeCommand, StreamID: streamID}, p, c.size)
}

// appendStatus appends an onStatus (RTMP 1.0, 7.2.2).
func (c *Conn) appendStatus(b []byte, streamID uint32, level, code, description string) []byte {
	return c.appendCommand(b, streamID, "onStatus", 0, nil, statusInfo(level, code, description))
}

func statusInfo(level, code, description string) amf.Object {
	return amf.Object{
		{Key: "level", Value: level},
		{Key: "code", Value: code},
		{Key: "description", Value: description},
	}
}

// refusal reports whether a status refuses or ends what was asked for. Some servers do
// not set level to "error", so known codes count as well.
func refusal(level, code string) bool {
	if level == "error" {
		return true
	}
	for _, s := range []string{".BadName", ".Denied", ".Rejected", ".Failed", ".InvalidApp", ".StreamNotFound", ".AppShutdown"} {
		if strings.HasSuffix(code, s) {
			return true
		}
	}
	return false
}
