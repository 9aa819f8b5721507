package forward

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/upstream"
)

var (
	// ErrServerClosed is returned by Serve, ServeConn, ListenAndServe and Publish
	// after Shutdown or Close.
	ErrServerClosed = errors.New("forward: server closed")
	// ErrStreamBusy says that a stream of this name is already being published. A
	// publish over the network waits up to 200 ms for the name before it is refused.
	ErrStreamBusy = errors.New("forward: stream is being published")
	// ErrLimit is wrapped by errors which say that a limit of Config is reached.
	ErrLimit = errors.New("forward: limit reached")
	// ErrDuplicate says that a stream is already pushed to a destination.
	ErrDuplicate = errors.New("forward: the stream is pushed to this destination already")
	// ErrInHook is returned by methods that would wait, when they are called from
	// a hook or from other code that a Server calls: a resolver, a dialer, a
	// logger, a listener or a connection. The Server waits for that code, so the
	// code must not wait for the Server. The method has begun its work, which
	// continues in the background. A goroutine started by such code may wait for
	// the Server, but the code must not wait for the goroutine.
	ErrInHook = errors.New("forward: called from a hook: begun, but not waited for")
	// ErrLoop says that a stream has returned to a Server that it has already passed
	// through, or has passed through too many Servers. Its publisher is refused.
	ErrLoop = errors.New("forward: the stream loops")
)

// StatusError is a refusal whose text a hook or resolver chooses: the client gets Code
// and Description in onStatus.
type StatusError struct {
	Code        string // default NetStream.Publish.Denied or NetStream.Play.Failed
	Description string // a sentence for the user of the client
}

func (e *StatusError) Error() string {
	if e.Code == "" {
		return e.Description
	}
	return e.Code + ": " + e.Description
}

// ErrTakenOver is returned to a Publisher after another publisher has taken over its
// stream (Config.Takeover).
var ErrTakenOver = errors.New("forward: another publisher has taken the stream over")

// ErrFormat is returned to a Publisher that waited with another format than that of the
// stream (Standby.SameFormat).
var ErrFormat = errors.New("forward: the format differs from that of the stream")

// ErrNoKeyframe is returned to a Publisher that was accepted to continue a stream
// (Config.Takeover, PublishGrace) and has sent no keyframe within FirstMediaTimeout.
var ErrNoKeyframe = errors.New("forward: no keyframe has come in time")

// ErrKicked is returned to a Publisher after Source.Close or Shutdown.
var ErrKicked = errors.New("forward: the stream was closed by the host")

// ErrStreamEnded says that the stream has ended. It is returned by methods of its
// Source, to a Publisher after Close, and to one that was accepted to continue the
// stream (Config.Takeover, PublishGrace).
var ErrStreamEnded = errors.New("forward: the stream has ended")

// ErrUpdating says that a Forwarder is already being updated or closed.
var ErrUpdating = errors.New("forward: the destination is being updated or closed")

// ErrBusy is wrapped by the error of a resolver or hook that has too many requests in
// progress. The client is told that the server is busy.
var ErrBusy = hostcode.ErrBusy

// Op is the step of pushing to a destination that has failed.
type Op string

// The steps, in order: name resolution, the TCP connection, TLS, the RTMP handshake, the
// commands, and writing media. OpRead stands for a connection that the destination ends
// during the publish, OpPanic for a panic in a connection or other code of the host.
const (
	OpResolve      Op = upstream.OpResolve
	OpDial         Op = upstream.OpDial
	OpTLS          Op = upstream.OpTLS
	OpHandshake    Op = upstream.OpHandshake
	OpConnect      Op = upstream.OpConnect
	OpCreateStream Op = upstream.OpCreateStream
	OpPublish      Op = upstream.OpPublish
	OpWrite        Op = upstream.OpWrite
	OpRead         Op = upstream.OpRead
	OpPanic        Op = "panic"
)

// DestinationError says why an attempt to push to a destination has failed or ended.
type DestinationError struct {
	Op          Op          // the step that failed
	Destination Destination // where the attempt went; printed without secrets
	Err         error       // the cause
	// Code is the code of a refusal, for example
	// NetStream.Publish.BadName; empty for other errors.
	Code string
}

func (e *DestinationError) Error() string {
	return fmt.Sprintf("destination %s: %s: %v", e.Destination, e.Op, e.Err)
}

// Unwrap returns Err.
func (e *DestinationError) Unwrap() error { return e.Err }

// Temporary reports whether the next attempt may succeed. It is false for refusals, an
// AddressError, an UnsupportedCodecError, and certificates or TLS parameters that one
// side does not accept. These are also retried, but after Backoff.RefusedMin at the
// earliest, unless Config.Retry decides otherwise.
func (e *DestinationError) Temporary() bool {
	if e.Code != "" {
		return false
	}
	var cert *tls.CertificateVerificationError
	var addr *AddressError
	var codec *UnsupportedCodecError
	return !errors.As(e.Err, &cert) && !errors.As(e.Err, &addr) && !errors.As(e.Err, &codec) && !errors.Is(e.Err, upstream.ErrPin) && !(e.Op == OpTLS && upstream.IsAlert(e.Err))
}
