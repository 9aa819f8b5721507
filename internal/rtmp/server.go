package rtmp

import (
	"errors"
	"fmt"
	"slices"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
)

const (
	// MaxCommands is how many commands a client may send before its publish or play is
	// accepted.
	MaxCommands = 32
	// MaxStreams is how many message streams a connection may have, not counting those
	// that the client has closed.
	MaxStreams = 8

	fmsVersion = "FMS/3,0,1,123"
)

// Capability bits of Enhanced RTMP v2, "Enhancing NetConnection connect
// Command".
const (
	capsReconnect  = 1
	capsMultitrack = 2
	capsModEx      = 4
	capsNanoOffset = 8
)

// Connect is a client's connect command.
type Connect struct {
	TcURL, App, FlashVer string
	// Properties is the complete command object.
	Properties amf.Object
}

// Enhanced reports whether the client announces Enhanced RTMP. Encoders may send enhanced
// messages without announcing them.
func (c *Connect) Enhanced() bool {
	for _, p := range c.Properties {
		switch p.Key {
		case "fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx":
			return true
		}
	}
	return false
}

// Enhanced returns the properties by which a peer announces that it forwards all of
// Enhanced RTMP (Enhanced RTMP v2, Enhancing NetConnection connect Command). They are for
// the client's connect and the server's answer. reconnect is for a client that follows
// ReconnectRequest.
func Enhanced(reconnect bool) amf.Object {
	caps := capsMultitrack | capsModEx | capsNanoOffset
	if reconnect {
		caps |= capsReconnect
	}
	all := amf.Object{{Key: "*", Value: canForward}}
	return amf.Object{
		{Key: "capsEx", Value: caps},
		{Key: "fourCcList", Value: amf.StrictArray{"*"}},
		{Key: "videoFourCcInfoMap", Value: all},
		{Key: "audioFourCcInfoMap", Value: all},
	}
}

// Handler decides what a client may do, and receives its messages. Serve calls its
// methods, one at a time. An error of Connect, Publish or Play ends the connection. If it
// wraps a *StatusError, that is sent to the client first.
type Handler interface {
	Connect(c *Connect) error

	// Publish decides about a publish. No message is read until it has returned.
	Publish(streamID uint32, name string) error
	// Unpublish ends an accepted publish. lost is true if the connection has ended
	// without a request of the client to end it.
	Unpublish(streamID uint32, lost bool)
	// Message receives an audio, video, data or aggregate message of a stream that is
	// publishing.
	Message(m chunk.Message) error

	// Play decides about a play. Then the client gets the answer, and Playing is called.
	// From that call on media may be sent.
	Play(streamID uint32, name string) error
	Playing(streamID uint32)
	Pause(streamID uint32, pause bool)
	// StopPlay ends an accepted play.
	StopPlay(streamID uint32)
}

// Server is the server's side of a connection.
type Server struct {
	*Conn
	// Before, if not nil, is called before each message is handled.
	Before func()

	h Handler

	connected bool
	accepted  bool
	commands  int
	nextID    uint32          // the last id that createStream has assigned
	streams   []*serverStream // at most MaxStreams
	closed    uint64          // how many streams were closed
}

// serverStream is a message stream. A closed one can be used again until it is deleted,
// or until its place is needed.
type serverStream struct {
	id                  uint32
	publishing, playing bool
	name                string
	closed              uint64 // Server.closed when it was closed; 0 if it is open
}

// NewServer returns the server's side of c.
func NewServer(c *Conn, h Handler) *Server {
	return &Server{Conn: c, h: h}
}

// Serve reads until the connection ends, and returns the cause. It ends the streams that
// are still publishing or playing then.
func (s *Server) Serve() error {
	return s.ServeUntil(func() bool { return false })
}

// ServeUntil is like Serve, but returns nil if pause returns true after a message. It
// then ends no streams, and the next call continues.
func (s *Server) ServeUntil(pause func() bool) error {
	paused := false
	defer func() {
		if !paused {
			s.end()
		}
	}()
	for {
		m, own, err := s.next()
		if s.Before != nil {
			s.Before()
		}
		if err == nil && !own {
			err = s.message(m)
		}
		if err != nil {
			return err
		}
		if paused = pause(); paused {
			return nil
		}
	}
}

func (s *Server) message(m chunk.Message) error {
	switch m.Type {
	case chunk.TypeCommand, chunk.TypeCommandAMF3:
		return s.command(m)
	case chunk.TypeAudio, chunk.TypeVideo, chunk.TypeData, chunk.TypeDataAMF3, chunk.TypeAggregate:
		if st := s.stream(m.StreamID); st != nil && st.publishing {
			return s.h.Message(m)
		}
	}
	return nil
}

func (s *Server) end() {
	for _, st := range s.streams {
		s.stop(st, true)
	}
}

func (s *Server) stop(st *serverStream, lost bool) {
	if st.publishing {
		st.publishing = false
		s.h.Unpublish(st.id, lost)
	}
	if st.playing {
		st.playing = false
		s.h.StopPlay(st.id)
	}
	s.closed++
	st.closed = s.closed
}

// halt ends the publish or play of a stream at the client's request, and confirms it.
func (s *Server) halt(st *serverStream) error {
	publishing, playing := st.publishing, st.playing
	s.stop(st, false)
	switch {
	case publishing:
		return s.send(s.appendStatus(nil, st.id, "status", "NetStream.Unpublish.Success", "Stopped publishing."))
	case playing:
		return s.send(s.appendStatus(nil, st.id, "status", "NetStream.Play.Stop", "Stopped playing."))
	}
	return nil
}

// command carries out a client's command. A call is answered with _result or _error,
// unless its transaction id is 0. A command that changes a NetStream is answered with
// onStatus.
//
// receiveAudio and receiveVideo (RTMP 1.0, 7.2.2.4 and 7.2.2.5) are not carried out, and
// are answered with _error: all receivers of a stream share its bytes. The client still
// gets the audio or video that it has turned off, and can drop it. Clients send these with
// transaction id 0 and do not wait for an answer.
func (s *Server) command(m chunk.Message) error {
	cmd, _, err := parseCommand(m)
	if err != nil {
		return err
	}
	if s.commands++; !s.accepted && s.commands > MaxCommands {
		return fmt.Errorf("%w: more than %d commands before publish or play", chunk.ErrLimit, MaxCommands)
	}
	if cmd.Name == "connect" {
		return s.connect(&cmd)
	}
	if !s.connected {
		return fmt.Errorf("%w: %q before connect", chunk.ErrProtocol, clip(cmd.Name, 32))
	}
	cmd.fillObject()
	switch cmd.Name {
	case "releaseStream", "_checkbw":
		return s.result(&cmd, nil, amf.Undefined{})
	case "getStreamLength":
		return s.result(&cmd, nil, 0)
	case "FCPublish":
		b := s.appendResult(nil, &cmd, nil, amf.Undefined{})
		return s.send(s.appendCommand(b, 0, "onFCPublish", 0, nil,
			statusInfo("status", "NetStream.Publish.Start", "Publishing may begin.")))
	case "FCUnpublish":
		if err := s.unpublishName(cmd.String(1)); err != nil {
			return err
		}
		b := s.appendResult(nil, &cmd, nil, amf.Undefined{})
		return s.send(s.appendCommand(b, 0, "onFCUnpublish", 0, nil,
			statusInfo("status", "NetStream.Unpublish.Success", "Stopped publishing.")))
	case "FCSubscribe":
		b := s.appendResult(nil, &cmd, nil, amf.Undefined{})
		return s.send(s.appendCommand(b, 0, "onFCSubscribe", 0, nil,
			statusInfo("status", "NetStream.Play.Start", "Playing may begin.")))
	case "FCUnsubscribe":
		b := s.appendResult(nil, &cmd, nil, amf.Undefined{})
		return s.send(s.appendCommand(b, 0, "onFCUnsubscribe", 0, nil,
			statusInfo("status", "NetStream.Play.Stop", "Stopped playing.")))
	case "createStream":
		return s.createStream(&cmd)
	case "publish":
		return s.publish(&cmd)
	case "play":
		return s.play(&cmd)
	case "pause", "pauseRaw":
		return s.pause(&cmd)
	case "closeStream":
		if st := s.closing(&cmd); st != nil {
			if err := s.halt(st); err != nil {
				return err
			}
		}
		return s.result(&cmd, nil, amf.Undefined{})
	case "deleteStream":
		if st := s.deleting(&cmd); st != nil {
			if err := s.halt(st); err != nil {
				return err
			}
			s.forget(st)
		}
		return s.result(&cmd, nil, amf.Undefined{})
	case "seek":
		return s.send(s.appendStatus(nil, cmd.StreamID, "error", "NetStream.Seek.Failed", "Seeking is not possible in a live stream."))
	case "_result", "_error", "onStatus": // no calls
		return nil
	}
	return s.fail(&cmd, fmt.Sprintf("Method not found (%s).", clip(cmd.Name, 32)))
}

// closing returns the stream that a closeStream closes: the stream of the message. If
// that is stream 0, as older versions of HaishinKit send it, or does not exist, it is the
// stream whose id is argument 1. It is nil if there is none.
func (s *Server) closing(cmd *Command) *serverStream {
	st := s.stream(cmd.StreamID)
	if id, ok := cmd.id(1); ok && (st == nil || st.id == 0) {
		return s.stream(id)
	}
	return st
}

// deleting returns the stream that a deleteStream deletes: the one whose id is argument 1.
// If that is missing or null, it is the stream of the message. It is nil if there is none.
func (s *Server) deleting(cmd *Command) *serverStream {
	if !cmd.has(1) && cmd.StreamID != 0 {
		return s.stream(cmd.StreamID)
	}
	if id, ok := cmd.id(1); ok {
		return s.stream(id)
	}
	return nil
}

func (s *Server) connect(cmd *Command) error {
	if s.connected {
		return fmt.Errorf("%w: second connect", chunk.ErrProtocol)
	}
	var props amf.Object
	if len(cmd.Args) > 0 {
		props, _ = amf.AsObject(cmd.Args[0])
	}
	err := s.h.Connect(&Connect{
		TcURL:      text(props, "tcUrl"),
		App:        text(props, "app"),
		FlashVer:   text(props, "flashVer"),
		Properties: props,
	})
	// The chunk size goes first: librtmp does not reassemble a message that is longer
	// than its default chunk size of 128 bytes.
	b := chunk.AppendControl(nil, chunk.TypeWindowAckSize, windowAckSize)
	b = chunk.Append(b, chunk.Header{Type: chunk.TypeSetPeerBandwidth}, []byte{0, 0x26, 0x25, 0xa0, 2}, s.size)
	b = chunk.AppendControl(b, chunk.TypeSetChunkSize, uint32(s.size))
	if err != nil {
		var st *StatusError
		if errors.As(err, &st) {
			s.send(s.appendCommand(b, 0, "_error", cmd.Txn, nil, statusInfo("error", st.Code, st.Description)))
		}
		return err
	}
	s.connected = true
	info := statusInfo("status", "NetConnection.Connect.Success", "Connection succeeded.")
	info = append(info, amf.Property{Key: "objectEncoding", Value: 0})
	info = append(info, Enhanced(false)...)
	return s.send(s.appendCommand(b, 0, "_result", cmd.Txn, amf.Object{
		{Key: "fmsVer", Value: fmsVersion},
		{Key: "capabilities", Value: 31},
	}, info))
}

func (s *Server) createStream(cmd *Command) error {
	if !s.room() {
		return s.fail(cmd, fmt.Sprintf("A connection has at most %d streams.", MaxStreams))
	}
	s.nextID++
	for s.stream(s.nextID) != nil {
		s.nextID++
	}
	s.streams = append(s.streams, &serverStream{id: s.nextID})
	return s.result(cmd, nil, s.nextID)
}

// room reports whether there is a place for one more stream. If there is no free place, it
// forgets the stream that was closed first.
func (s *Server) room() bool {
	if len(s.streams) < MaxStreams {
		return true
	}
	var oldest *serverStream
	for _, st := range s.streams {
		if st.closed > 0 && (oldest == nil || st.closed < oldest.closed) {
			oldest = st
		}
	}
	s.forget(oldest)
	return oldest != nil
}

func (s *Server) forget(st *serverStream) {
	s.streams = slices.DeleteFunc(s.streams, func(o *serverStream) bool { return o == st })
}

// stream returns the stream with this id, or nil if there is none.
func (s *Server) stream(id uint32) *serverStream {
	for _, st := range s.streams {
		if st.id == id {
			return st
		}
	}
	return nil
}

// wanted returns the stream that a publish or play names. If there is none, it creates
// one, because some clients send no createStream.
func (s *Server) wanted(id uint32) (*serverStream, error) {
	st := s.stream(id)
	if st == nil {
		if !s.room() {
			return nil, fmt.Errorf("%w: more than %d message streams", chunk.ErrLimit, MaxStreams)
		}
		st = &serverStream{id: id}
		s.streams = append(s.streams, st)
	}
	return st, nil
}

// publish begins to publish, and ends the stream's previous publish or play.
// publish(false) only ends it (RTMP 1.0, 7.2.2.6; Flash, NetStream.publish).
func (s *Server) publish(cmd *Command) error {
	if cmd.isFalse(1) {
		return s.cease(cmd, func(st *serverStream) bool { return st.publishing })
	}
	st, err := s.wanted(cmd.StreamID)
	if err != nil {
		return err
	}
	name, ok := cmd.streamName()
	switch {
	case !ok:
		err = &StatusError{Command: "publish", Code: "NetStream.Publish.BadName", Description: noString}
	case st.publishing && st.name == name: // already
	default:
		if err := s.halt(st); err != nil {
			return err
		}
		err = s.h.Publish(cmd.StreamID, name)
	}
	if err != nil {
		return s.refuse(cmd.StreamID, err)
	}
	s.accepted = true
	st.publishing, st.name, st.closed = true, name, 0
	return s.send(s.appendStatus(nil, cmd.StreamID, "status", "NetStream.Publish.Start", "Publishing."))
}

// play begins to play, and ends the stream's previous publish or play. play(false) only
// ends it (RTMP 1.0, 7.2.2.1; Flash, NetStream.play).
func (s *Server) play(cmd *Command) error {
	if cmd.isFalse(1) {
		return s.cease(cmd, func(st *serverStream) bool { return st.playing })
	}
	st, err := s.wanted(cmd.StreamID)
	if err != nil {
		return err
	}
	name, ok := cmd.streamName()
	if !ok {
		return s.refuse(cmd.StreamID, &StatusError{Command: "play", Code: "NetStream.Play.StreamNotFound", Description: noString})
	}
	for _, other := range s.streams {
		if other.playing && other != st {
			return s.send(s.AppendPlayFailed(nil, cmd.StreamID, "A connection plays one stream at a time."))
		}
	}
	if st.playing {
		s.stop(st, false) // NetStream.Play.Reset confirms it
	} else if err := s.halt(st); err != nil {
		return err
	}
	if err := s.h.Play(cmd.StreamID, name); err != nil {
		return s.refuse(cmd.StreamID, err)
	}
	s.accepted = true
	st.playing, st.name, st.closed = true, name, 0
	b := chunk.AppendUserControl(nil, eventStreamBegin, cmd.StreamID)
	b = s.appendStatus(b, cmd.StreamID, "status", "NetStream.Play.Reset", "Playing and resetting.")
	b = s.appendStatus(b, cmd.StreamID, "status", "NetStream.Play.Start", "Playing.")
	if err := s.send(b); err != nil {
		return err
	}
	s.h.Playing(cmd.StreamID)
	return nil
}

// cease ends the publish or play of a command's stream, if does reports true for it.
func (s *Server) cease(cmd *Command, does func(*serverStream) bool) error {
	if st := s.stream(cmd.StreamID); st != nil && does(st) {
		if err := s.halt(st); err != nil {
			return err
		}
	}
	return s.result(cmd, nil, amf.Undefined{})
}

func (s *Server) pause(cmd *Command) error {
	st := s.stream(cmd.StreamID)
	if st == nil || !st.playing {
		return s.fail(cmd, "The stream does not play.")
	}
	pause, ok := false, false
	if len(cmd.Args) > 1 {
		pause, ok = cmd.Args[1].(bool)
	}
	if !ok {
		return s.fail(cmd, "The pause command has no flag.")
	}
	code, text := "NetStream.Unpause.Notify", "Playing."
	if pause {
		s.h.Pause(cmd.StreamID, true)
		code, text = "NetStream.Pause.Notify", "Paused."
	}
	if err := s.send(s.appendStatus(nil, cmd.StreamID, "status", code, text)); err != nil {
		return err
	}
	if !pause {
		s.h.Pause(cmd.StreamID, false)
	}
	return nil
}

// unpublishName ends the publish of a name. If no stream has exactly that name, the query
// is ignored: some clients send it with only one of the two commands.
func (s *Server) unpublishName(name string) error {
	same := func(other string) bool { return other == name }
	if !slices.ContainsFunc(s.streams, func(st *serverStream) bool { return st.publishing && same(st.name) }) {
		path, _ := splitQuery(name)
		same = func(other string) bool {
			other, _ = splitQuery(other)
			return other == path && path != ""
		}
	}
	for _, st := range s.streams {
		if st.publishing && same(st.name) {
			if err := s.halt(st); err != nil {
				return err
			}
		}
	}
	return nil
}
