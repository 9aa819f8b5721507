package forwardtest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Script is the behaviour of a Destination on one connection. The zero Script accepts
// everything and records it.
type Script struct {
	// Faults are the connection's faults, as seen from the Destination: with Read.Rate
	// it reads slowly, with Read.Stall it stops reading.
	Faults Faults
	// Steps changes the answers to commands, by their names: connect, releaseStream,
	// FCPublish, createStream, publish, FCUnpublish. The step "handshake" is the answer
	// to C0 and C1.
	Steps map[string]Step
	// StreamID is the answer to createStream. Default 1.
	StreamID uint32
	// ChunkSize is announced in the answer to connect, and used from then
	// on. Default: 128 bytes, which need not be announced.
	ChunkSize int
	// At maps a number of audio, video and data messages to a function, which is called
	// after that many, before more is read: for example (*Session).Stall. The functions
	// may block.
	At map[int]func(*Session)
	// Recorder makes the Recorder of a session. Default: the zero one.
	Recorder func() *Recorder
}

// Step changes one answer. The zero Step changes nothing.
type Step struct {
	// Delay is the time before the answer; nothing is read meanwhile.
	Delay time.Duration
	// Do, if not nil, replaces the answer.
	Do func(*Session)
	// Silent leaves out the answer.
	Silent bool
	// Refuse refuses with this code, such as NetStream.Publish.BadName: publish with
	// onStatus, other commands with _error. The Destination does not close.
	Refuse string
	// Description is the text of Refuse.
	Description string
	// After delays the answer until the command of this name has been answered, for
	// answers out of order.
	After string
	// ZeroTransaction answers with transaction id 0, as some servers do.
	ZeroTransaction bool
}

// Destination is a server that a stream is pushed to. It follows a Script for each
// connection and records what it receives. Its methods are safe for concurrent use.
type Destination struct {
	l       net.Listener
	scripts []Script
	wg      sync.WaitGroup

	mu       sync.Mutex
	changed  signal
	closed   bool
	sessions []*Session
}

// NewDestination returns a Destination on a free port of 127.0.0.1. The n-th connection
// has the n-th Script, later ones the last; without scripts all have the zero Script.
// It panics if it cannot listen.
func NewDestination(scripts ...Script) *Destination {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic("forwardtest: " + err.Error())
	}
	return NewDestinationAt(l, scripts...)
}

// NewDestination returns a Destination at address, such as "a.example:1935", in the
// network; see the function of this name. It panics if the address is in use.
func (n *Network) NewDestination(address string, scripts ...Script) *Destination {
	l, err := n.Listen(address)
	if err != nil {
		panic("forwardtest: " + err.Error())
	}
	return NewDestinationAt(l, scripts...)
}

// NewDestinationAt returns a Destination that accepts connections from l, for
// example with TLS; see NewDestination. It closes l.
func NewDestinationAt(l net.Listener, scripts ...Script) *Destination {
	if len(scripts) == 0 {
		scripts = []Script{{}}
	}
	d := &Destination{l: l, scripts: scripts}
	d.wg.Go(d.accept)
	return d
}

// URL is the address of path, an app and a key, at the Destination:
// rtmp://127.0.0.1:40001/live/key.
func (d *Destination) URL(path string) string {
	return "rtmp://" + d.l.Addr().String() + "/" + path
}

// Sessions returns all connections so far, in the order of their arrival.
func (d *Destination) Sessions() []*Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.sessions)
}

// WaitSession waits for the n-th connection, counted from 1, and returns it. The
// connection may still be setting up: see Session.WaitCommand.
func (d *Destination) WaitSession(ctx context.Context, n int) (*Session, error) {
	var s *Session
	err := await(ctx, &d.mu, &d.changed, func() bool {
		if len(d.sessions) < n {
			return false
		}
		s = d.sessions[n-1]
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("forwardtest: connection %d: %w, after %d", n, err, len(d.Sessions()))
	}
	return s, nil
}

// Close closes the listener and all connections and waits for their end.
func (d *Destination) Close() error {
	d.mu.Lock()
	d.closed = true
	sessions := slices.Clone(d.sessions)
	d.mu.Unlock()
	err := d.l.Close()
	for _, s := range sessions {
		s.Close()
	}
	d.wg.Wait()
	return err
}

func (d *Destination) accept() {
	for {
		nc, err := d.l.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		if d.closed {
			d.mu.Unlock()
			nc.Close()
			return
		}
		s := newSession(nc, len(d.sessions)+1, d.scripts[min(len(d.sessions), len(d.scripts)-1)])
		d.sessions = append(d.sessions, s)
		d.changed.notify()
		d.wg.Go(s.run)
		d.mu.Unlock()
	}
}

// Session is one connection of a Destination. Its methods are safe for
// concurrent use.
type Session struct {
	// N counts the Destination's connections, from 1.
	N int

	*peer
	script Script
	closed chan struct{}
	once   sync.Once

	// Owned by run.
	count    int // of messages
	answered map[string]bool
	held     map[string][]byte // answers, by the command they wait for
}

func newSession(nc net.Conn, n int, script Script) *Session {
	if script.Faults != (Faults{}) {
		nc = NewFaultConn(nc, script.Faults)
	}
	rec := new(Recorder)
	if script.Recorder != nil {
		rec = script.Recorder()
	}
	if script.StreamID == 0 {
		script.StreamID = 1
	}
	return &Session{
		N: n, peer: newPeer(nc, rec), script: script, closed: make(chan struct{}),
		answered: make(map[string]bool), held: make(map[string][]byte),
	}
}

// Status sends an onStatus of level error, with which a server ends a stream.
func (s *Session) Status(code, description string) error {
	return s.Send(s.script.StreamID, "onStatus", 0, nil, status("error", code, description))
}

// Stall stops reading until Close. It is for Script.At and Step.Do.
func (s *Session) Stall() { <-s.closed }

// Close closes the connection.
func (s *Session) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.nc.Close()
}

// Reset ends the connection with a TCP RST where that is possible.
func (s *Session) Reset() {
	s.once.Do(func() { close(s.closed) })
	s.peer.Reset()
}

// run serves the connection to its end.
func (s *Session) run() { s.ended(s.serve()) }

func (s *Session) serve() error {
	if err := s.handshake(); err != nil {
		return err
	}
	conn := rtmp.NewConn(s.nc, s.sendControl, 4<<10, chunk.DefaultSize, anyLimits)
	for {
		m, err := conn.Next()
		if err != nil {
			return err
		}
		if c, ok := s.received(m); ok {
			if err := s.command(c); err != nil {
				return err
			}
			continue
		}
		switch m.Type {
		case TypeAudio, TypeVideo, TypeData:
			s.count++
			if do := s.script.At[s.count]; do != nil {
				do(s)
			}
		}
	}
}

func (s *Session) handshake() error {
	step := s.script.Steps["handshake"]
	if err := s.sleep(step.Delay); err != nil {
		return err
	}
	if step.Do != nil {
		step.Do(s)
	}
	if step.Do != nil || step.Silent {
		_, err := io.Copy(io.Discard, s.nc)
		return err
	}
	return rtmp.ServerHandshake(s.nc)
}

func (s *Session) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.closed:
		return net.ErrClosed
	}
}

// command answers a command as the script says.
func (s *Session) command(c Command) error {
	step := s.script.Steps[c.Name]
	if err := s.sleep(step.Delay); err != nil {
		return err
	}
	if step.Do != nil {
		step.Do(s)
		return nil
	}
	if step.Silent {
		return nil
	}
	answer := s.answer(c, step)
	if step.After != "" && !s.answered[step.After] {
		s.held[step.After] = append(s.held[step.After], answer...)
		return nil
	}
	s.answered[c.Name] = true
	answer = append(answer, s.held[c.Name]...)
	delete(s.held, c.Name)
	if len(answer) == 0 {
		return nil
	}
	return s.send(answer)
}

// answer is the answer of a server to a command.
func (s *Session) answer(c Command, step Step) []byte {
	txn := c.TransactionID
	if step.ZeroTransaction {
		txn = 0
	}
	var b []byte
	command := func(streamID uint32, values ...any) []byte {
		return appendCommand(b, s.chunkSize(), streamID, values...)
	}
	refusal := status("error", step.Refuse, step.Description)
	switch {
	case step.Refuse != "" && c.Name == "publish":
		return command(c.StreamID, "onStatus", 0, nil, refusal)
	case step.Refuse != "":
		return command(0, "_error", txn, nil, refusal)
	}
	switch c.Name {
	case "connect":
		b = chunk.AppendControl(b, chunk.TypeWindowAckSize, 2500000)
		bandwidth := binary.BigEndian.AppendUint32(nil, 2500000)
		b = chunk.Append(b, chunk.Header{Type: chunk.TypeSetPeerBandwidth}, append(bandwidth, 2), chunk.DefaultSize)
		if n := s.script.ChunkSize; n > 0 {
			b = chunk.AppendControl(b, chunk.TypeSetChunkSize, uint32(n))
			s.setChunkSize(n)
		}
		return command(0, "_result", txn, map[string]any{"fmsVer": "FMS/3,0,1,123", "capabilities": 31},
			status("status", "NetConnection.Connect.Success", "Connection succeeded."))
	case "createStream":
		return command(0, "_result", txn, nil, s.script.StreamID)
	case "publish":
		return command(c.StreamID, "onStatus", 0, nil, status("status", "NetStream.Publish.Start", "Publishing."))
	case "releaseStream", "FCPublish", "FCUnpublish":
		return command(0, "_result", txn, nil, nil)
	}
	return nil
}

func status(level, code, description string) map[string]any {
	return map[string]any{"level": level, "code": code, "description": description}
}
