package forward

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"

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

// ID names the stream where its name, which may be a secret, must not be shown, as
// Source.ID does: 16 hex digits, the same for the same Name as long as the process
// lives.
func (r *PublishRequest) ID() string { return hashID(r.Name()) }

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

// ID is that of the stream to play, as PublishRequest.ID.
func (r *PlayRequest) ID() string { return (*PublishRequest)(r).ID() }

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

// IP is the host part of RemoteAddr, empty when there is none.
func (r *ConnectRequest) IP() string { return addrIP(r.RemoteAddr) }

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
	// OnSource is told that a stream is live, before its publisher is answered:
	// what subscribes here gets the stream from its first message. Source.Done
	// tells its end. A publisher that goes on with a stream is no new one.
	OnSource func(src *Source)
	OnPlay   func(ctx context.Context, req *PlayRequest) error
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

// DestinationResolver says where a stream goes. It is asked once for each
// accepted publish, before the publisher is answered.
//
// ResolveDestinations is called concurrently for different streams and must
// not change req. ctx ends when the publisher leaves, as that of OnPublish, or the
// Server closes. No
// destinations and a nil error mean that the stream is not forwarded; an
// error refuses the publisher.
//
// A resolver that logs its failures itself returns them as errors with a method
// Logged() bool that is true: where the Server asks again about a live stream, it
// does not log such an error a second time.
type DestinationResolver interface {
	ResolveDestinations(ctx context.Context, req *PublishRequest) ([]Destination, error)
}

// ResolverFunc makes a function a DestinationResolver.
type ResolverFunc func(ctx context.Context, req *PublishRequest) ([]Destination, error)

// ResolveDestinations calls f.
func (f ResolverFunc) ResolveDestinations(ctx context.Context, req *PublishRequest) ([]Destination, error) {
	return f(ctx, req)
}

// logName names the stream for the log. In many set-ups the stream's name is
// the key that allows publishing, so an id takes its place: the first 8 hex
// digits of ID, which are the same however an encoder splits the path.
func (r *PublishRequest) logName() string {
	return streamKey{rtmp.FoldVhost(r.Vhost), r.App + "/#" + r.ID()[:8]}.String()
}

// hashID is 16 hex digits that tell nothing about s.
func hashID(s string) string {
	h := hmac.New(sha256.New, idKey())
	io.WriteString(h, s)
	return hex.EncodeToString(h.Sum(nil)[:8])
}
