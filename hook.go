package forward

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// DefaultVhost is the vhost of a request that names none.
const DefaultVhost = rtmp.DefaultVhost

// Request describes what a client asks for: a connect, a publish or a play, in the
// terms of SRS's HTTP callbacks. Once a publisher or player is accepted its request is
// frozen: neither the Server nor the host may change it.
type Request struct {
	// ServerID identifies the Server, ClientID the connection; both are
	// random and hold no secret.
	ServerID string
	ClientID string

	// User is the user that Config.PublishAuth has authenticated, or empty.
	User string

	// RemoteAddr is the client's address, nil for a publisher inside
	// the process.
	RemoteAddr net.Addr
	// LocalAddr is the Server's address that the client has connected to,
	// nil inside the process.
	LocalAddr net.Addr

	// Vhost is DefaultVhost if the client names none. A vhost of Config.Vhosts
	// is spelled as there; any other is in lower case. In OnConnect, Vhost and App are
	// those of the connect command, which publish or play may still change, and Vhost is
	// DefaultVhost if the command names no vhost that is served.
	Vhost string
	// App has no vhost, query or trailing slash. It is "__defaultApp__" for a URL with
	// one path segment, as in rtmp://host/stream, which encoders send as the app or as
	// the name.
	App string
	// Stream is the name to publish or play, without its query. It is empty in
	// OnConnect and OnClose.
	Stream string
	// Param is the query of the name (or of the app if the name has
	// none) with its leading "?"; empty if there is none. It may contain a
	// token and is as secret as a stream key.
	Param string
	// TcURL is tcUrl as the client sent it. It may contain a secret.
	TcURL string
	// PageURL is pageUrl as the client sent it, usually empty. It may contain
	// a secret.
	PageURL string
	// FlashVer is flashVer: the client's program and version, as it reports them.
	FlashVer string

	// Hops are the ServerIDs of the Servers of this library that the stream has
	// passed through, the nearest last. The nearest Server reports them. A
	// stream that has already passed through this Server, or through more than
	// 4, is refused with ErrLoop before hooks are called.
	Hops []string

	// PublishID is random and the same for a publish on all Servers of this library
	// that it passes through: 16 hex digits, to find it in their logs. The first Server
	// makes it, each one sends it onward. A publisher that comes again has another one,
	// also if it continues a stream. Anyone who connects may choose it: it identifies
	// a publish, and proves nothing. It is empty for a connect and a play.
	PublishID string

	enhanced bool // connect announces Enhanced RTMP
	named    bool // Config.LogNames
}

// IP returns the host part of RemoteAddr, or "" if there is none.
func (r *Request) IP() string { return addrIP(r.RemoteAddr) }

// Name returns the stream's name: "app/stream" in DefaultVhost, and
// "//vhost/app/stream" in another, with the vhost in lower case. Two requests
// have the same name if and only if they are about the same stream. Encoders
// split multi-level paths differently between App and Stream; Name is the same
// either way. Decide by Name, or by Vhost and the joined path, not by App alone.
func (r *Request) Name() string { return r.key().String() }

// ID identifies the stream where its name, which may be a secret, must not be
// shown, as Source.ID does: 16 hex digits, the same for the same Name for as long
// as the process lives.
func (r *Request) ID() string { return hashID(r.Name()) }

// Format writes, for every verb, the stream's name in the form of the log, or, for a
// connect, "client" and the ClientID.
func (r Request) Format(f fmt.State, _ rune) { io.WriteString(f, r.shown()) }

// MarshalText returns the text that Format writes.
func (r Request) MarshalText() ([]byte, error) { return []byte(r.shown()), nil }

func (r *Request) shown() string {
	if r.Stream == "" {
		return "client " + r.ClientID
	}
	return r.logName()
}

// hide masks the secrets of r in an error of the host.
func (r *Request) hide(err error) error {
	secrets := []string{r.PageURL}
	if !r.named {
		secrets = append(secrets, r.Stream)
	}
	return hide(err, secrets, []string{r.Param, r.TcURL, r.PageURL})
}

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

// Hooks decide about clients and report what they do. All are optional. A hook is called
// without locks, concurrently for different clients and destinations. A hook that blocks
// delays only its own client or destination, and the end of the Server. A hook that
// panics, or ends its goroutine, refuses the request.
//
// A hook may call every method of this package. Methods that would wait return
// ErrInHook instead.
//
// The context of OnConnect, OnPublish and OnPlay ends when the client leaves, with
// Server.Close, and with the context of ServeConn or Publish. The Server does not
// notice that a client leaves if it has sent more than 1 KiB since its request. The
// name of the stream stays taken until OnPublish returns. OnUnpublish, OnStop and
// OnClose report an end. Their context lasts 30 s, or until 5 s after Server.Close has
// begun if that is earlier.
//
// An error refuses. The client gets the code and description of a *StatusError;
// with any other error it learns only that it is refused.
type Hooks struct {
	// OnConnect decides about a connect. It comes before OnPublish and OnPlay.
	OnConnect func(ctx context.Context, req *Request) error
	// OnPublish decides about a publish, before the Resolver is asked.
	OnPublish func(ctx context.Context, req *Request) error
	// OnUnpublish follows each accepted OnPublish exactly once, with the same
	// req, even if the publish was then refused for another reason. With
	// Config.PublishGrace or Takeover the stream may continue after it.
	OnUnpublish func(ctx context.Context, req *Request)
	// OnSource reports that a stream is live, before its publisher is answered:
	// a Subscription made here gets the stream from its first message.
	// Source.Done reports the end. OnSource is not called again when another
	// publisher continues the stream.
	OnSource func(src *Source)
	// OnPlay decides about a play. It is not asked again when the player continues
	// with the next publisher of the name.
	OnPlay func(ctx context.Context, req *Request) error
	// OnStop follows each accepted OnPlay exactly once.
	OnStop func(ctx context.Context, req *Request)
	// OnClose follows each accepted OnConnect exactly once, with the same req, and with
	// the bytes sent and received on the connection, without its handshake.
	OnClose func(ctx context.Context, req *Request, sent, received uint64)
	// OnForward reports each change of a Forwarder's state, in order, with the
	// error that caused it, if any. That includes StateStalled, and
	// StatePublishing again when the destination takes data again or
	// Forwarder.Update has changed the destination.
	OnForward func(f *Forwarder, state State, err error)
	// OnCodecChange reports that a live stream continues with another sequence
	// header, and so with another codec, size or layout. Some platforms
	// (Facebook) end such a broadcast. Calls for a stream are not concurrent;
	// changes during a call cause one more call.
	OnCodecChange func(src *Source)
}

// logName returns the stream's name for the log. In many set-ups the name is also the key
// that allows publishing, so the first 8 hex digits of ID replace it, unless the host has
// set Config.LogNames. They do not depend on how an encoder splits the path.
func (r *Request) logName() string {
	if r.named {
		return r.Name()
	}
	return streamKey{rtmp.FoldVhost(r.Vhost), r.App + "/#" + r.ID()[:8]}.String()
}

// hashID returns 16 hex digits that reveal nothing about s.
func hashID(s string) string {
	h := hmac.New(sha256.New, idKey())
	io.WriteString(h, s)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func (r *Request) key() streamKey {
	return streamKey{rtmp.FoldVhost(r.Vhost), r.App + "/" + r.Stream}
}

// onward returns the hopsProperty that a stream's Forwarders send.
func (r *Request) onward() string {
	return strings.Join(append(slices.Clone(r.Hops), r.ServerID), ",")
}
