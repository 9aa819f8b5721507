package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Op is a step of connecting and sending.
type Op string

// The steps, in order. They are untyped, so that they can be constants of a public type.
const (
	OpResolve      = "resolve"
	OpDial         = "dial"
	OpTLS          = "tls"
	OpHandshake    = "handshake"
	OpConnect      = "connect"
	OpCreateStream = "createStream"
	OpPublish      = "publish"
	OpWrite        = "write"
	OpRead         = "read"
)

// Error is why there is no connection.
type Error struct {
	Op   Op
	Err  error
	Code string // of a refusal
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Op, e.Err) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether the error is a timeout.
func (e *Error) Timeout() bool { return errors.Is(e.Err, os.ErrDeadlineExceeded) }

// ErrPin says that the server's key is not the one of the endpoint's Fingerprint.
var ErrPin = errors.New("the server's public key is not the one of Fingerprint")

var errNoConn = errors.New("dialling has returned neither a connection nor an error")

// noAnswer is a timeout with a clearer text than the system's.
type noAnswer struct {
	error
	limit time.Duration
	hint  string
}

func (e noAnswer) Error() string {
	return fmt.Sprintf("no answer within %v%s", e.limit.Round(time.Millisecond), e.hint)
}

func (e noAnswer) Unwrap() error { return e.error }

// Lost returns the error of a connection whose publish was accepted and that has ended
// during a read or write.
func (t *Target) Lost(op Op, err error) *Error { return t.error(op, err, 0) }

// error makes an Error; limit is how long the step might take.
func (t *Target) error(op Op, err error, limit time.Duration) *Error {
	if op == OpHandshake && IsAlert(err) {
		op = OpTLS // TLS 1.3 reports only now that our certificate is refused
	}
	e := &Error{Op: op, Err: err}
	var st *rtmp.StatusError
	var noTLS tls.RecordHeaderError
	hint := t.Endpoint.HintAt(string(op))
	switch {
	case errors.As(err, &st):
		e.Code = st.Code
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		e.Err = fmt.Errorf("closed by the destination%s: %w", hint, err)
	case errors.Is(err, os.ErrDeadlineExceeded) && op != OpWrite, isTimeout(err) && (op == OpTLS || op == OpDial || op == OpResolve):
		e.Err = noAnswer{err, limit, hint}
	case errors.As(err, &noTLS), errors.Is(err, rtmp.ErrVersion):
		e.Err = fmt.Errorf("%w%s", err, hint)
	}
	return e
}

// isTimeout reports whether err is a timeout, ours or the system's.
func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// cause returns the alert that the peer sent before it closed, if err is a failed write
// and there is one, else err.
func cause(nc net.Conn, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "write" {
		if _, rerr := nc.Read(make([]byte, 1)); IsAlert(rerr) {
			return rerr
		}
	}
	return err
}

// IsAlert reports whether the peer has ended TLS with an alert. crypto/tls has no type for
// alerts from the peer.
func IsAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
