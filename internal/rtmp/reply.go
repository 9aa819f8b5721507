package rtmp

import (
	"errors"
	"strings"
	"unicode"

	"github.com/rtmp-forward/forward/internal/chunk"
)

// fail answers a call that can't be carried out. No known client disconnects because of
// it, unless it needs the call.
func (s *Server) fail(cmd *Command, description string) error {
	if cmd.Txn == 0 {
		return nil
	}
	return s.send(s.appendCommand(nil, 0, "_error", cmd.Txn, nil, statusInfo("error", "NetConnection.Call.Failed", description)))
}

// result answers cmd. A command with transaction id 0 gets no answer (RTMP 1.0, 7.1.1).
func (s *Server) result(cmd *Command, values ...any) error {
	if b := s.appendResult(nil, cmd, values...); b != nil {
		return s.send(b)
	}
	return nil
}

func (s *Server) appendResult(b []byte, cmd *Command, values ...any) []byte {
	if cmd.Txn == 0 {
		return b
	}
	return s.appendCommand(b, 0, append([]any{"_result", cmd.Txn}, values...)...)
}

// AppendPlayEnd appends the messages that tell a player that the publisher has left.
func (s *Server) AppendPlayEnd(b []byte, streamID uint32) []byte {
	b = chunk.AppendUserControl(b, eventStreamEOF, streamID)
	return s.appendStatus(b, streamID, "status", "NetStream.Play.UnpublishNotify", "The publisher has left.")
}

// AppendPlayBegin appends the messages that tell a waiting player that a publisher has
// started.
func (s *Server) AppendPlayBegin(b []byte, streamID uint32) []byte {
	b = chunk.AppendUserControl(b, eventStreamBegin, streamID)
	return s.appendStatus(b, streamID, "status", "NetStream.Play.PublishNotify", "Another publisher has started.")
}

// AppendKick appends the status that tells a publisher that the server ends its stream.
func (s *Server) AppendKick(b []byte, streamID uint32, description string) []byte {
	return s.appendStatus(b, streamID, "error", "NetStream.Publish.Rejected", description)
}

// Reject ends an accepted publish and tells the client. Only the goroutine of Serve may
// call it.
func (s *Server) Reject(streamID uint32, description string) {
	s.send(s.AppendKick(nil, streamID, description))
	s.Stop(streamID)
}

// Stop ends an accepted publish or play without telling the client. Only the goroutine of
// Serve may call it.
func (s *Server) Stop(streamID uint32) {
	if st := s.stream(streamID); st != nil {
		s.stop(st, false)
	}
}

// AppendPlayFailed appends the status that tells a player that it gets no more media.
func (s *Server) AppendPlayFailed(b []byte, streamID uint32, description string) []byte {
	return s.appendStatus(b, streamID, "error", "NetStream.Play.Failed", description)
}

// refuse sends the *StatusError that err wraps, if any, and returns err, which ends the
// connection.
func (s *Server) refuse(streamID uint32, err error) error {
	var st *StatusError
	if errors.As(err, &st) {
		s.send(s.appendStatus(nil, streamID, "error", st.Code, st.Description))
	}
	return err
}

// clip returns a peer's text for use in an error: at most n bytes of it, valid UTF-8, and
// without control characters.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
