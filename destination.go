package forward

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"sync"
	"time"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/gop"
)

// Limits of a Destination.
const (
	maxURLLen       = 4096 // bytes of URL, StreamKey, User, Password and TcURL, each
	maxFlashVerLen  = 255
	minOutChunkSize = 128
	maxOutChunkSize = 65536 // some servers treat a larger size as an attack
)

// Destination is where a stream is pushed, and how. The zero value of each option
// is its default, which suits all platforms known to us. The Profile of a kind of
// server changes the defaults that do not suit it; an option that is set here takes
// precedence. A Destination is a value: copies are independent, and the library never
// changes one.
//
// All methods and packages that print a Destination mask its secrets: see String.
type Destination struct {
	// URL is where to push, in one of two forms.
	//
	// Without a StreamKey it holds everything:
	//
	//	rtmp[s]://[user[:password]@]host[:port]/app[/more]/key[?query]
	//
	// The authority ends at the first "/". User and password end at the last "@"
	// of the authority, are separated by their first ":" and are percent-decoded.
	// The last "/" before the first "?" separates the app from the key; the query
	// belongs to the key. If only one path element precedes the "?" and the query
	// contains a "/", as in rtmps://b.rtmps.youtube.com/live2?backup=1/key, the
	// query belongs to the app and the key follows the last "/".
	//
	// With a StreamKey the whole path and query is the app; a "/" at its end is
	// ignored.
	//
	// App, query and key are sent unchanged: nothing in them is decoded, and "#"
	// has no special meaning. The default port is 1935 for rtmp and 443 for rtmps.
	// IPv6 addresses stand in brackets, with their zone if they have one. A URL has
	// at most 4096 bytes and no control characters.
	//
	// If the host is that of a platform (see Profile), scheme and app may be
	// missing: a single path element is then the key.
	URL string

	// Profile is the kind of server. By default platforms are recognised by
	// the host of URL.
	Profile Profile

	// StreamKey is the name to publish, sent exactly as given. A key that
	// contains a "/" can be given only here.
	StreamKey Secret

	// User and Password answer a server that requires authentication (Adobe or
	// Limelight). If either is set, both replace those of URL.
	User     string
	Password Secret

	// TcURL replaces tcUrl in connect. By default it is
	// scheme://host[:port]/app with the port as in URL, as OBS does.
	TcURL string

	// FlashVer replaces flashVer in connect. The default begins with
	// "FMLE/3.0", because some servers challenge only such clients. Some
	// servers keep only the first 31 bytes.
	FlashVer string

	// ChunkSize is the size of the chunks sent, 128 to 65536 bytes, by default
	// that of the Server. A destination with a different size costs a little
	// more, because it does not share the chunks of the others.
	ChunkSize int

	// NoReleaseStream and NoFCPublish omit these commands; NoFCPublish also
	// omits FCUnpublish.
	NoReleaseStream bool
	NoFCPublish     bool

	// PlainMetadata sends onMetaData without @setDataFrame, and no
	// @clearDataFrame.
	PlainMetadata bool
	// NoMetadata sends no onMetaData.
	NoMetadata bool

	// Timestamps selects the timestamps that the destination gets. Any other than
	// TimestampsStream costs a little more, because it cannot be shared.
	Timestamps Timestamps

	// DigestHandshake tries the handshake with digests first, which some old
	// servers require. By default the plain handshake (RTMP 1.0, 5.2) is first.
	// Until one succeeds the two alternate. If the server breaks one off, the
	// other follows immediately, on a new connection within the same SetupTimeout.
	// If the server does not answer, or answers like TLS or HTTP, the other
	// follows with the next attempt. The one that has succeeded is kept. If both
	// fail in one attempt, the error is that of the first.
	DigestHandshake bool

	// Redirect sets which redirects are followed: a 302 in the answer to connect,
	// or a later ReconnectRequest.
	Redirect Redirect

	// MergeWindow is how long messages may be held back to send more of them in
	// one write, at most 10 s; by default that of the Server. A negative window
	// sends every message immediately. If the window is shorter than the Server's,
	// the stream is read as it arrives, for all its receivers.
	MergeWindow time.Duration

	// DialTimeout limits name resolution, TCP and TLS together, by default 5 s.
	// SetupTimeout limits the steps after TCP, from TLS and the handshake to the
	// answer to connect, by default 10 s, with ProfileSRS 20 s; each step may
	// take half of it. PublishTimeout limits createStream and publish together,
	// by default 35 s: servers call their own backends before they answer, and
	// SRS allows its backends 30 s.
	DialTimeout    time.Duration
	SetupTimeout   time.Duration
	PublishTimeout time.Duration

	// DialContext makes the TCP connection to host:port; TLS is put on top of it.
	// It is called at each attempt, possibly concurrently for several streams.
	// By default the name is looked up and its first 32 addresses are tried,
	// the address families in turn, each as soon as the previous one has failed
	// or has not answered for 300 ms. The first that answers is used (RFC 8305).
	//
	// Bytes that a destination has not received yet count in its lag (see
	// Config.MaxLatency). A connection that neither is nor wraps a TCP connection
	// (with a method NetConn) can report them with a method Unsent() int. A custom
	// DialContext sets the socket's options; the default one switches TCP_NODELAY
	// and keep-alive on.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// ServerName replaces the URL's host in TLS, as SNI and as the name in the
	// certificate. It is for a URL with an IP address.
	ServerName string

	// TLSConfig is for rtmps. By default certificates are verified against the
	// system's roots and the URL's host, which is also the SNI, with TLS 1.2 or
	// later. TLSConfig.ServerName, if set, takes precedence over ServerName.
	// Reconnects resume the TLS session. InsecureSkipVerify is logged as a
	// warning, once for each destination of a stream. TLSConfig must not be
	// changed once it is in use.
	TLSConfig *tls.Config

	// Fingerprint is the SHA-256 of the server's public key
	// (SubjectPublicKeyInfo) in hex; colons and case do not matter.
	// docs/routing.md shows how to compute it. If set, only a certificate with
	// this key is accepted, no matter who signed it. If the key differs, the error
	// contains its hash.
	Fingerprint string

	// Untrusted says that the URL comes from outside, for example from a
	// publisher. It may then lead only to public addresses and to ports 443 and
	// 1024 upwards, besides those in Config.AllowNetworks and AllowPorts. This
	// is checked at each dial, after the name is resolved. resolve.FromParam sets
	// it, and resolve.HTTP for a host that the publisher has named. A resolver of
	// your own must set it for a URL that contains input from a client.
	Untrusted bool

	// NoLinkLocal says that the URL came from the operator over the network. It
	// may lead to any address except link-local ones and those of metadata
	// services, unless they are in Config.AllowNetworks. resolve.HTTP and the
	// handler of package control set it.
	NoLinkLocal bool
}

// Validate reports what is wrong with d, or nil. The error names d as String does
// and contains no secret.
func (d Destination) Validate() error {
	_, err := d.endpoint()
	return err
}

// String returns the URL with its secrets masked, such as rtmps://host/app/***:
// user and password, every query, the stream key, and the last path element unless
// it is the only one and StreamKey is set (a URL that contains a key by mistake
// must not show it either). Text that is not a URL is masked altogether.
func (d Destination) String() string { return endpoint.Redact(d.URL, d.StreamKey != "") }

// GoString returns the result of String, for %#v.
func (d Destination) GoString() string { return d.String() }

// Format writes the result of String for every verb.
func (d Destination) Format(f fmt.State, _ rune) { io.WriteString(f, d.String()) }

// MarshalText returns the result of String, which cannot be unmarshalled.
func (d Destination) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// LogValue returns the result of String.
func (d Destination) LogValue() slog.Value { return slog.StringValue(d.String()) }

// withDefaults fills in the defaults that are not the Server's.
func (d Destination) withDefaults() Destination {
	def(&d.DialTimeout, 5*time.Second)
	if d.Profile == ProfileSRS { // never recognised by its host
		def(&d.SetupTimeout, 20*time.Second)
	}
	def(&d.SetupTimeout, 10*time.Second)
	def(&d.PublishTimeout, 35*time.Second)
	return d
}

// Equal reports whether d and o push to the same place in the same way.
// TLSConfig is compared as a pointer and DialContext by its function, not by
// its captured variables: two answers of a resolver that makes a new closure each
// time are equal.
func (d Destination) Equal(o Destination) bool {
	if reflect.ValueOf(d.DialContext).Pointer() != reflect.ValueOf(o.DialContext).Pointer() ||
		d.TLSConfig != o.TLSConfig {
		return false
	}
	d.DialContext, o.DialContext = nil, nil
	d.TLSConfig, o.TLSConfig = nil, nil
	return reflect.DeepEqual(d, o)
}

// id names d in metrics and lists: 8 hex digits, the same for the same URL,
// key and user as long as the process lives. The key of the hash is random, so
// that stream keys cannot be guessed from it.
func (d Destination) id() string {
	h := hmac.New(sha256.New, idKey())
	for _, s := range []string{d.URL, string(d.StreamKey), d.User} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
		io.WriteString(h, s)
	}
	return hex.EncodeToString(h.Sum(nil)[:4])
}

var idKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	rand.Read(key)
	return key
})

// endpoint parses and checks d. Its errors name d and contain no secret.
func (d Destination) endpoint() (endpoint.Endpoint, error) {
	e, err := d.parse()
	if err != nil {
		return endpoint.Endpoint{}, fmt.Errorf("destination %s: %w", d, err)
	}
	return e, nil
}

func (d Destination) parse() (endpoint.Endpoint, error) {
	if err := d.checkOptions(); err != nil {
		return endpoint.Endpoint{}, err
	}
	return d.spec().Parse()
}

func (d Destination) spec() endpoint.Spec {
	return endpoint.Spec{
		URL: d.URL, StreamKey: string(d.StreamKey), User: d.User, Password: string(d.Password),
		TcURL: d.TcURL, ServerName: d.ServerName, Fingerprint: d.Fingerprint,
		Profile: string(d.Profile), Times: string(d.Timestamps),
	}
}

func (d Destination) checkOptions() error {
	for _, f := range []struct{ name, value string }{
		{"URL", d.URL}, {"stream key", string(d.StreamKey)},
		{"user", d.User}, {"password", string(d.Password)},
		{"TcURL", d.TcURL}, {"FlashVer", d.FlashVer}, {"ServerName", d.ServerName},
	} {
		if len(f.value) > maxURLLen {
			return fmt.Errorf("%s longer than %d bytes", f.name, maxURLLen)
		}
		if endpoint.HasControl(f.value) {
			return fmt.Errorf("control character in the %s", f.name)
		}
	}
	switch {
	case len(d.FlashVer) > maxFlashVerLen:
		return fmt.Errorf("FlashVer longer than %d bytes", maxFlashVerLen)
	case d.Redirect < RedirectSameHost || d.Redirect > RedirectAnywhere:
		return errors.New("unknown Redirect")
	case !d.Timestamps.valid():
		return errors.New("unknown Timestamps")
	case d.ChunkSize != 0 && (d.ChunkSize < minOutChunkSize || d.ChunkSize > maxOutChunkSize):
		return fmt.Errorf("ChunkSize %d is not within %d and %d", d.ChunkSize, minOutChunkSize, maxOutChunkSize)
	case d.DialTimeout < 0, d.SetupTimeout < 0, d.PublishTimeout < 0:
		return errors.New("negative duration")
	case d.MergeWindow > maxMergeWindow:
		return fmt.Errorf("MergeWindow %v is longer than %v", d.MergeWindow, maxMergeWindow)
	}
	return nil
}

// Timestamps selects the timestamps that a destination gets.
type Timestamps string

// The Timestamps. By default they are those of the Destination's Profile, or
// the stream's.
const (
	// TimestampsStream are those of the stream, which continue when the
	// destination reconnects. Some servers fail when timestamps pass 2^31 ms,
	// after 24.8 days.
	TimestampsStream Timestamps = "stream"
	// TimestampsZero start at 0 on each connection, for recordings, and start
	// again before they pass 2^31 ms.
	TimestampsZero Timestamps = endpoint.Zero
	// TimestampsIncreasing are those of the stream, but each audio or video
	// message is at least 1 ms later than the previous one: for destinations that
	// require it, and publishers whose timestamps repeat or are out of order.
	TimestampsIncreasing Timestamps = endpoint.Increasing
)

func (t Timestamps) valid() bool {
	switch t {
	case "", TimestampsStream, TimestampsZero, TimestampsIncreasing:
		return true
	}
	return false
}

// times is nil for those of the stream.
func (t Timestamps) times() *gop.Times {
	switch t {
	case TimestampsZero:
		return &gop.Times{Zero: true}
	case TimestampsIncreasing:
		return &gop.Times{Increasing: true}
	}
	return nil
}

// Profile is a kind of server with particular needs.
type Profile string

// The profiles. Platforms are recognised by the host of Destination.URL; the profile of
// any other server must be set. Every server gets releaseStream and FCPublish, chunks of
// the Server's size, a flashVer of FMLE and metadata in @setDataFrame, as from an
// encoder, unless the options of the Destination say otherwise.
const (
	// ProfileNone is for a server without known needs.
	ProfileNone Profile = endpoint.None
	// ProfileYouTube: the scheme defaults to rtmps:// at *.rtmps.youtube.com and
	// to rtmp:// at *.rtmp.youtube.com, each of which refuses the other; the app
	// defaults to live2.
	ProfileYouTube Profile = endpoint.YouTube
	// ProfileFacebook: only rtmps://; the app defaults to rtmp.
	ProfileFacebook Profile = endpoint.Facebook
	// ProfileTwitch: the app defaults to "app".
	ProfileTwitch Profile = endpoint.Twitch
	// ProfileIVS is Amazon IVS, which Kick also uses: the scheme defaults to
	// rtmps://, and the app to "app", which the URLs in its console omit.
	ProfileIVS Profile = endpoint.IVS
	// ProfileAkamai asks for user and password, and gets TimestampsIncreasing.
	ProfileAkamai Profile = endpoint.Akamai
	// ProfileWowza asks clients with FMLE's flashVer for user and password.
	ProfileWowza Profile = endpoint.Wowza
	// ProfileSRS allows more time for on_connect: see Destination.SetupTimeout.
	ProfileSRS Profile = endpoint.SRS
	// ProfileNginx is nginx-rtmp, which truncates long names; see
	// ForwarderStats.Warning.
	ProfileNginx Profile = endpoint.Nginx
	// ProfileMediaMTX gets user and password as ?user=&pass= after the key. The key
	// may be empty: app and key together are its path.
	ProfileMediaMTX Profile = endpoint.MediaMTX
)

func (d Destination) origin() origin {
	switch {
	case d.Untrusted:
		return fromOutside
	case d.NoLinkLocal:
		return fromOperator
	}
	return fromHost
}

// at returns d with another URL, and with the given key if d has none.
func (d Destination) at(url, key string) (Destination, error) {
	d.URL = url
	def(&d.StreamKey, Secret(key))
	if d.StreamKey == "" {
		return d, fmt.Errorf("destination %s: no stream key", endpoint.Redact(d.URL, true))
	}
	return d, d.Validate()
}
