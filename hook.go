package forward

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// DefaultVhost is the vhost of a request that names none.
const DefaultVhost = rtmp.DefaultVhost

// DefaultApp is the app of a stream whose URL has one path segment, as in
// rtmp://host/stream: encoders send that as the app or as the name.
const DefaultApp = rtmp.DefaultApp

// PublishRequest says who asks to publish what, in the terms of SRS's HTTP
// callbacks. Once a publisher is accepted its request is frozen: neither the
// Server nor the host changes it.
type PublishRequest struct {
	// ServerID identifies the Server, ClientID the connection; both are
	// random and hold no secret.
	ServerID string
	ClientID string

	// User is whom Config.PublishAuth has let in, else empty.
	User string

	// RemoteAddr is the publisher's address, nil for a publisher inside
	// the process.
	RemoteAddr net.Addr
	// LocalAddr is the address of ours that the publisher has connected to,
	// nil inside the process.
	LocalAddr net.Addr

	// Vhost is DefaultVhost when the encoder names none. One in
	// Config.Vhosts is spelled as there, any other is in lower case.
	Vhost  string
	App    string // without vhost, query and trailing slash; DefaultApp where there is none
	Stream string // without query
	// Param is the query of the publish name (or, when that has none, of
	// the app) with its leading "?"; empty if there is none. It may hold
	// a token and is as secret as a stream key.
	Param string
	// TcURL is tcUrl as the encoder sent it. It may hold a secret.
	TcURL string
	// PageURL is pageUrl as the client sent it, mostly empty. It may hold
	// a secret.
	PageURL string

	// Hops are the ServerIDs of the Servers of this library that the stream
	// has passed on its way here, the nearest last, as the one before says.
	// A stream that has been here, or has passed more than 4, is refused
	// with ErrLoop before anybody is asked.
	Hops []string

	enhanced bool // connect tells that Enhanced RTMP will come
}

// IP is the host part of RemoteAddr, empty when there is none.
func (r *PublishRequest) IP() string { return addrIP(r.RemoteAddr) }

// Name is the stream's name: "app/stream" in DefaultVhost, and
// "//vhost/app/stream" in another one, which stands there in lower case. Two
// requests have the same name if and only if they are about the same stream.
// Of a path with several levels encoders send now more, now less as the app:
// App and Stream may differ then, Name does not. So decide by Name, or by Vhost
// and the joined path, and not by App alone.
func (r *PublishRequest) Name() string { return r.key().String() }

// Format writes the stream's name as in the log, for every verb.
func (r PublishRequest) Format(f fmt.State, _ rune) { io.WriteString(f, r.logName()) }

// MarshalText gives the stream's name as in the log.
func (r PublishRequest) MarshalText() ([]byte, error) { return []byte(r.logName()), nil }

// hide is the error of a host that was asked about r.
func (r *PublishRequest) hide(err error) error {
	return hide(err, []string{r.Stream, r.PageURL}, []string{r.Param, r.TcURL, r.PageURL})
}

// PlayRequest says who asks to play what. Its fields are those of
// PublishRequest.
type PlayRequest PublishRequest

// IP is the host part of RemoteAddr, empty when there is none.
func (r *PlayRequest) IP() string { return addrIP(r.RemoteAddr) }

// Name is the name of the stream to play, as PublishRequest.Name.
func (r *PlayRequest) Name() string { return (*PublishRequest)(r).Name() }

// Format writes the stream's name as in the log, for every verb.
func (r PlayRequest) Format(f fmt.State, v rune) { PublishRequest(r).Format(f, v) }

// MarshalText gives the stream's name as in the log.
func (r PlayRequest) MarshalText() ([]byte, error) { return PublishRequest(r).MarshalText() }

func addrIP(a net.Addr) string {
	if a == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// ConnectRequest says who connects. Vhost and App are what the connect
// command alone tells; publish or play may still change them. Vhost is
// DefaultVhost where the command tells none that is served.
type ConnectRequest struct {
	ServerID, ClientID string
	RemoteAddr         net.Addr
	Vhost, App         string
	TcURL              string // may hold a secret
	PageURL            string // may hold a secret
	FlashVer           string

	// Sent and Received are the bytes of the connection without its
	// handshake; OnClose alone is told.
	Sent, Received uint64
}

// Format writes "client" and the id, for every verb.
func (r ConnectRequest) Format(f fmt.State, _ rune) { io.WriteString(f, "client "+r.ClientID) }

// MarshalText gives the same as Format.
func (r ConnectRequest) MarshalText() ([]byte, error) { return []byte("client " + r.ClientID), nil }

// Hooks are asked and told what clients do. All are optional. Each call has a
// goroutine, for which the client or the destination that it is about waits. Calls
// for different ones are concurrent, and no lock is held. A hook that hangs holds
// up that client or destination, and the end of the Server. One that panics, or
// ends its goroutine, refuses what it was asked about.
//
// A hook may call every method of this package. Those that wait for something do
// not wait there: see ErrInHook.
//
// The context of OnConnect, OnPublish and OnPlay ends when the client leaves, with
// Server.Close, and with that of ServeConn or Publish. That a client leaves is seen
// unless it has sent more than 1 KiB since it has asked. A hook that goes on has the
// name of the stream for as long.
// That of OnUnpublish, OnStop and OnClose, which tell of what has ended, lasts for
// 30 s, and for 5 s after the beginning of Server.Close.
//
// An error refuses: the client is told the code and description of a
// *StatusError, else only that it is refused.
type Hooks struct {
	OnConnect func(ctx context.Context, req *ConnectRequest) error
	OnPublish func(ctx context.Context, req *PublishRequest) error
	// OnUnpublish follows each accepted OnPublish exactly once, with the
	// same req, also where the stream was refused for another reason then.
	// With Config.PublishGrace or Takeover the stream may go on behind it.
	OnUnpublish func(ctx context.Context, req *PublishRequest)
	OnPlay      func(ctx context.Context, req *PlayRequest) error
	// OnStop follows each accepted OnPlay exactly once.
	OnStop func(ctx context.Context, req *PlayRequest)
	// OnClose follows each accepted OnConnect exactly once, with a copy of
	// its request.
	OnClose func(ctx context.Context, req *ConnectRequest)
	// OnForward is told each change of a forwarder's state, in order, with the
	// error that caused it, if one did. That includes StateStalled, and
	// StatePublishing again when the destination takes something.
	OnForward func(f *Forwarder, state State, err error)
	// OnCodecChange is told that a live stream goes on with another sequence
	// header, and so with another codec, size or layout: some platforms
	// (Facebook) end such a broadcast. It is called from a goroutine of the
	// stream's, one call at a time, and once for what changes meanwhile.
	OnCodecChange func(src *Source)
}

// StatusError is a refusal that a hook or resolver words itself: Code and
// Description reach the client in onStatus.
type StatusError struct {
	Code        string // default NetStream.Publish.Denied or NetStream.Play.Failed
	Description string
}

func (e *StatusError) Error() string {
	if e.Code == "" {
		return e.Description
	}
	return e.Code + ": " + e.Description
}

// DestinationResolver says where a stream goes. It is asked once for each
// accepted publish, before the publisher is answered.
//
// ResolveDestinations is called concurrently for different streams and must
// not change req. ctx ends when the publisher leaves, as that of OnPublish, or the
// Server closes. No
// destinations and a nil error mean that the stream is not forwarded; an
// error refuses the publisher.
type DestinationResolver interface {
	ResolveDestinations(ctx context.Context, req *PublishRequest) ([]Destination, error)
}

// ResolverFunc makes a function a DestinationResolver.
type ResolverFunc func(ctx context.Context, req *PublishRequest) ([]Destination, error)

// ResolveDestinations calls f.
func (f ResolverFunc) ResolveDestinations(ctx context.Context, req *PublishRequest) ([]Destination, error) {
	return f(ctx, req)
}

// maxHops is how many Servers a stream may have passed before it comes to one.
const maxHops = 4

// hopsProperty is a property of our own in the connect command of a Forwarder:
// the ids of the Servers that the stream has passed, separated by commas.
// Other servers ignore it, as they ignore all properties that they do not know
// (RTMP 1.0, 7.2.1.1 leaves the set open). A text, since that is what every
// reader of AMF can skip.
const (
	hopsProperty = "forwardHops"
	maxHopsLen   = 256
)

// hops are the Servers that a stream has passed, as its connect says.
func hops(m *rtmp.Connect) []string {
	s, _ := m.Properties.GetString(hopsProperty)
	switch {
	case s == "":
		return nil
	case len(s) > maxHopsLen:
		return make([]string, maxHops+1)
	}
	// One more than allowed is enough to know.
	return strings.SplitN(s, ",", maxHops+2)
}

// checkHops refuses a stream that has been here, or has come too far.
func (s *Server) checkHops(hops []string) error {
	switch {
	case slices.Contains(hops, s.id):
		return fmt.Errorf("%w: it has been here", ErrLoop)
	case len(hops) > maxHops:
		return fmt.Errorf("%w: it has passed more than %d servers", ErrLoop, maxHops)
	}
	return nil
}

// onward is what a stream's Forwarders send as hopsProperty.
func (r *PublishRequest) onward() string {
	return strings.Join(append(slices.Clone(r.Hops), r.ServerID), ",")
}
