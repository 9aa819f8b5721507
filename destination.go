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
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/gop"
)

// Limits of a Destination.
const (
	maxURLLen       = 4096 // bytes of URL, StreamKey, User, Password and TcURL, each
	maxFlashVerLen  = 255
	minOutChunkSize = 128
	maxOutChunkSize = 65536 // above, some servers take the size for an attack
)

// Destination is where a stream is pushed, and how. The zero value of each
// option is its default, which suits the platforms known to us; where one wants
// something else, its Profile says so, and what is set here comes first. A
// Destination is a value: copies are independent, and the library never changes one.
//
// String, LogValue and everything else that prints a Destination masks its
// secrets: see String.
type Destination struct {
	// URL is where to push, in one of two forms.
	//
	// Without a StreamKey it holds all:
	//
	//	rtmp[s]://[user[:password]@]host[:port]/app[/more]/key[?query]
	//
	// The authority ends at the first "/"; user and password end at its last
	// "@", are separated by their first ":" and percent-decoded. The key is
	// what follows the last "/" before the first "?", with the query; the
	// app is what comes before. Where only one path element precedes the
	// "?" and the query holds a "/", as in
	// rtmps://b.rtmps.youtube.com/live2?backup=1/key, the query belongs to
	// the app and the key follows the last "/".
	//
	// With a StreamKey the whole path and query is the app, and a "/" at
	// its end does not count.
	//
	// App, query and key are sent as they stand: nothing in them is decoded,
	// "#" included. The port is 1935 for rtmp and 443 for rtmps unless
	// given. IPv6 addresses stand in brackets, with their zone if need be.
	// At most 4096 bytes, without control characters.
	//
	// Where the host is that of a platform (see Profile), the scheme may be
	// missing, and the app: then a single path element is the key.
	URL string

	// Profile is what server it is. By default it is known by the host of
	// URL, for the platforms that can be known so.
	Profile Profile

	// StreamKey is the name to publish, sent exactly as it is. Keys that
	// hold a "/" can be given in this way only.
	StreamKey Secret

	// User and Password answer a server that asks for authentication (Adobe
	// or Limelight). If either is set, both replace those of URL.
	User     string
	Password Secret

	// TcURL replaces tcUrl in connect. By default it is
	// scheme://host[:port]/app with the port as in URL, as OBS does.
	TcURL string

	// FlashVer replaces flashVer in connect, by default one that begins
	// with "FMLE/3.0": some servers ask only such clients to authenticate.
	// Servers cut off what is longer than 31 bytes.
	FlashVer string

	// ChunkSize is the size of the chunks sent, 128 to 65536 bytes, by
	// default that of the Server. A destination with its own does not share
	// its framing with the others and costs a little more.
	ChunkSize int

	// NoReleaseStream and NoFCPublish leave out these commands, and with
	// NoFCPublish also FCUnpublish.
	NoReleaseStream bool
	NoFCPublish     bool

	// PlainMetadata sends onMetaData without @setDataFrame in front of it, and
	// no @clearDataFrame.
	PlainMetadata bool
	// NoMetadata sends no onMetaData.
	NoMetadata bool

	// Timestamps says what times the destination gets. All but those of the
	// stream cost a little more, as they can't be shared.
	Timestamps Timestamps

	// DigestHandshake begins with the handshake that has digests, which some
	// old servers insist on; by default the plain one of RTMP 1.0, 5.2, comes
	// first. Until one has succeeded they take turns: where the server breaks
	// one off, the other follows at once, on a new connection within the same
	// SetupTimeout; where it answers nothing, or as TLS or HTTP do, with the
	// next attempt. The one that has succeeded stays. Where both fail in an
	// attempt, its error is that of the first.
	DigestHandshake bool

	// Redirect says where the destination may send us instead: with a 302 in
	// its answer to connect, or later with a ReconnectRequest.
	Redirect Redirect

	// MergeWindow is how long messages may be held back to send more of
	// them in one write, at most 10 s; by default that of the Server.
	// Negative sends at once. One that is shorter than the Server's has the
	// stream read as it comes, for all its receivers.
	MergeWindow time.Duration

	// DialTimeout limits name resolution, TCP and TLS together, by default
	// 5 s. SetupTimeout limits what follows TCP, from TLS and the handshake
	// to the answer to connect, by default 10 s, with ProfileSRS 20 s; each
	// of these steps may take half of it. PublishTimeout limits createStream
	// and publish together, by default 35 s: servers ask their own backends
	// before they answer, and SRS gives those 30 s.
	DialTimeout    time.Duration
	SetupTimeout   time.Duration
	PublishTimeout time.Duration

	// DialContext makes the TCP connection to host:port; TLS is put on top of
	// what it returns. It is called again at each reconnect, maybe
	// concurrently for several streams. By default the name is looked up and
	// its first 32 addresses are tried, the families in turn, each as soon as
	// the one before has failed or has not answered for 300 ms: the first
	// that answers is taken (RFC 8305).
	//
	// What a destination has not got yet counts in how far it lags (see
	// Config.MaxLatency). A connection that is not TCP below, or NetConn,
	// may tell how many bytes that are with a method Unsent() int. Options of
	// the socket are its own: by default TCP_NODELAY and keep-alive are on.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// ServerName replaces the URL's host in TLS, as SNI and as the name
	// that the certificate must have, for a URL with a bare address.
	ServerName string

	// TLSConfig is for rtmps. By default certificates are verified against
	// the system's roots and the URL's host, which is also the SNI, with
	// TLS 1.2 or later. Its own ServerName, if set, comes before the other.
	// Who reconnects resumes the session. InsecureSkipVerify is logged as a
	// warning, once for each destination of a stream. TLSConfig must not be
	// changed once it is in use.
	TLSConfig *tls.Config

	// Fingerprint is the SHA-256 of the server's public key
	// (SubjectPublicKeyInfo) in hex, which docs/routing.md shows how to
	// compute; colons and case do not matter. The error of another key has
	// its hash. If set, a certificate with this key is accepted, whoever
	// signed it, and no other is.
	Fingerprint string

	// Untrusted says that the URL comes from outside, such as from a
	// publisher: it may lead to public addresses and ports alone, and to
	// what Config.AllowNetworks and AllowPorts hold besides. That is checked
	// at each dial, behind the name resolution. FromParam sets it, and
	// HTTPResolver for a host that the publisher has named; a resolver of
	// the host's own sets it where it passes on what it was told.
	Untrusted bool

	// NoLinkLocal says that the URL came over the network, though from the
	// operator: it may lead to every address but link-local ones and those of
	// metadata services, unless Config.AllowNetworks holds them.
	// HTTPResolver and the control handler set it.
	NoLinkLocal bool
}

// Validate says what is wrong with d, or nil. The error names d as String
// does and holds no secret.
func (d Destination) Validate() error {
	_, err := d.endpoint()
	return err
}

// String is the URL with its secrets masked, such as rtmps://host/app/***.
// Masked are user and password, every query, the stream key, and the last
// path element except when it is the only one and StreamKey is set (a URL
// that holds a key by mistake must not show it either). What is no URL is
// masked altogether.
func (d Destination) String() string { return redactURL(d.URL, d.StreamKey != "") }

// GoString is as String, for %#v.
func (d Destination) GoString() string { return d.String() }

// Format writes String for every verb.
func (d Destination) Format(f fmt.State, _ rune) { io.WriteString(f, d.String()) }

// MarshalText gives String: there is no way back to the Destination.
func (d Destination) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// LogValue gives String.
func (d Destination) LogValue() slog.Value { return slog.StringValue(d.String()) }

// withDefaults fills in the defaults that are not the Server's.
func (d Destination) withDefaults() Destination {
	def(&d.DialTimeout, 5*time.Second)
	if d.Profile == ProfileSRS { // no host tells that it is one
		def(&d.SetupTimeout, 20*time.Second)
	}
	def(&d.SetupTimeout, 10*time.Second)
	def(&d.PublishTimeout, 35*time.Second)
	return d
}

// equal says whether d and o push to the same place in the same way.
// TLSConfig is compared as a pointer and DialContext by its function, not by
// what that has captured: two answers of a resolver that makes a closure each
// time are equal.
func (d Destination) equal(o Destination) bool {
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
// that nobody can try stream keys against it.
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

// endpoint is a Destination taken apart.
type endpoint struct {
	scheme         string // "rtmp" or "rtmps"
	host, port     string // host without brackets; port never empty
	serverName     string // for TLS
	app            string // as sent in connect, with its query, no slash at either end
	tcURL          string
	key            string // as sent in publish, never parsed or encoded
	user, password string
	pin            []byte   // SHA-256 of the server's public key, or nil
	profile        *profile // of the platform or server, or nil
	times          Timestamps
	untrusted      bool // named by another server; see Config.AllowNetworks
}

// place is the same for two endpoints that name the same stream of the same
// server, however their URLs are written.
func (e endpoint) place() string {
	return strings.Join([]string{strings.ToLower(e.host), e.port, e.app, e.key}, "\x00")
}

// endpoint parses and checks d. Its errors name d and hold no secret.
func (d Destination) endpoint() (endpoint, error) {
	e, err := d.parse()
	if err != nil {
		return endpoint{}, fmt.Errorf("destination %s: %w", d, err)
	}
	return e, nil
}

func (d Destination) parse() (e endpoint, err error) {
	if err := d.checkOptions(); err != nil {
		return e, err
	}
	scheme, rest, ok := strings.Cut(withScheme(d.URL), "://")
	if !ok {
		return e, errors.New("no URL: it begins with neither rtmp:// nor rtmps://")
	}
	e.scheme = strings.ToLower(scheme)
	if e.port = defaultPort(e.scheme); e.port == "" {
		return e, errors.New("unknown scheme: want rtmp or rtmps")
	}

	authority, path, _ := strings.Cut(rest, "/")
	userinfo, hostport, _ := cutLast(authority, "@")
	if e.user, e.password, err = parseUserinfo(userinfo); err != nil {
		return e, err
	}
	if d.User != "" || d.Password != "" {
		e.user, e.password = d.User, string(d.Password)
	}
	typed, port, err := splitAuthority(hostport)
	if err != nil {
		return e, err
	}
	e.host = strings.Trim(typed, "[]")
	if e.serverName = d.ServerName; e.serverName == "" {
		e.serverName = e.host
	}
	e.tcURL = e.scheme + "://" + withoutZone(typed)
	if port != "" {
		e.port = port
		e.tcURL += ":" + port
	}

	if e.profile, ok = profileOf(d.Profile, e.host); !ok {
		return e, errors.New("unknown Profile")
	}
	if d.StreamKey != "" {
		e.app, e.key = joinApp(strings.Cut(path, "?")), string(d.StreamKey)
	} else {
		e.app, e.key = splitPath(path)
	}
	if e.times = d.Timestamps; e.profile != nil {
		def(&e.times, e.profile.times)
	}
	e.profile.complete(&e)
	switch {
	case e.key == "" && (e.profile == nil || !e.profile.keyless):
		return e, errors.New("no stream key")
	case e.app == "":
		return e, errors.New("no app in the path")
	}
	e.tcURL += "/" + e.app
	if d.TcURL != "" {
		e.tcURL = d.TcURL
	}
	e.pin, err = parseFingerprint(d.Fingerprint)
	return e, err
}

// defaultPort is the port of a scheme, empty if the scheme is none of ours.
func defaultPort(scheme string) string {
	switch scheme {
	case "rtmp":
		return "1935"
	case "rtmps":
		return "443"
	}
	return ""
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
		if hasControl(f.value) {
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

// splitPath splits the path and query of a URL without its leading slash into
// app and key, as said at Destination.URL.
func splitPath(path string) (app, key string) {
	p, query, hasQuery := strings.Cut(path, "?")
	p = strings.TrimLeft(p, "/")
	if i := strings.LastIndexByte(p, '/'); i >= 0 && strings.Trim(p[:i], "/") != "" && i < len(p)-1 {
		if key = p[i+1:]; hasQuery {
			key += "?" + query
		}
		return strings.Trim(p[:i], "/"), key
	}
	if !strings.Contains(strings.Trim(p, "/"), "/") {
		if before, after, ok := cutLast(query, "/"); ok {
			query, key = before, after
		}
	}
	return joinApp(p, query, hasQuery), key
}

// joinApp puts an app and its query together, without slashes at either end.
func joinApp(path, query string, hasQuery bool) string {
	app := strings.Trim(path, "/")
	if hasQuery && app != "" {
		app += "?" + strings.TrimRight(query, "/")
	}
	return app
}

// splitAuthority splits host and port. The host keeps its brackets.
func splitAuthority(s string) (host, port string, err error) {
	host, port = s, ""
	bracket := strings.LastIndexByte(s, ']')
	if i := strings.LastIndexByte(s, ':'); i > bracket {
		host, port = s[:i], s[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", "", errors.New("bad port")
		}
	}
	switch {
	case host == "":
		return "", "", errors.New("no host")
	case !validHost(host):
		return "", "", errors.New("bad host: want a name, an IPv4 address or an IPv6 address in brackets")
	}
	return host, port, nil
}

func validHost(host string) bool {
	if strings.HasPrefix(host, "[") {
		addr, err := netip.ParseAddr(strings.TrimSuffix(host[1:], "]"))
		return err == nil && addr.Is6() && strings.HasSuffix(host, "]")
	}
	return len(host) <= 253 && utf8.ValidString(host) && !strings.ContainsFunc(host, func(r rune) bool {
		return !(unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r) || strings.ContainsRune(".-_", r))
	})
}

// withoutZone takes the zone out of an IPv6 address in brackets: it means
// nothing to anybody but this machine.
func withoutZone(host string) string {
	if i := strings.IndexByte(host, '%'); i >= 0 {
		return host[:i] + "]"
	}
	return host
}

func parseUserinfo(s string) (user, password string, err error) {
	user, password, _ = strings.Cut(s, ":")
	if user, err = url.PathUnescape(user); err == nil {
		password, err = url.PathUnescape(password)
	}
	if err != nil {
		// err quotes what it could not read.
		return "", "", errors.New("bad percent-encoding in user or password")
	}
	if hasControl(user) || hasControl(password) {
		return "", "", errors.New("control character in user or password")
	}
	return user, password, nil
}

func parseFingerprint(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	pin, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(pin) != sha256.Size {
		return nil, errors.New("bad Fingerprint: want 64 hex digits")
	}
	return pin, nil
}

// redactURL is Destination.String for any text, URL or not. hasKey says that
// the stream key is given apart.
func redactURL(s string, hasKey bool) string {
	scheme, rest, ok := strings.Cut(withScheme(s), "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "rtmp" && scheme != "rtmps" {
		return masked
	}
	authority, path, hasPath := strings.Cut(rest, "/")
	path, query, hasQuery := strings.Cut(path, "?")
	path = strings.Trim(path, "/")
	app, last, _ := cutLast(path, "/")
	if app == "" && hasKey {
		app, last = last, ""
	}
	userinfo, hostport, _ := cutLast(authority, "@")
	_, _, err := splitAuthority(hostport)
	// A password with a "/" in it moves part of itself into the path and
	// leaves a bad port behind.
	if err != nil || strings.Contains(app, "@") || strings.Contains(query, "@") || !printable(app) {
		return scheme + "://" + masked
	}

	b := scheme + "://"
	if userinfo != "" {
		b += masked + "@"
	}
	b += hostport
	if app != "" {
		b += "/" + app
	}
	if hasQuery && (app == "" || last == "") {
		b += "?" + masked
	}
	if last != "" || hasKey || hasPath && app == "" {
		b += "/" + masked
	}
	return b
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, unicode.IsControl)
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// cutLast splits s at its last sep; without one, all of s is after.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// Timestamps names what times a destination gets.
type Timestamps string

// The Timestamps. By default they are those of the Destination's Profile, or
// the stream's.
const (
	// TimestampsStream are those of the stream, which go on where they are when
	// the destination reconnects. Some servers fail when they pass 2^31 ms, after
	// 24.8 days.
	TimestampsStream Timestamps = "stream"
	// TimestampsZero begin with 0 on each connection, as archives want it, and
	// once more before they pass 2^31.
	TimestampsZero Timestamps = "zero"
	// TimestampsIncreasing are those of the stream, but audio and video go out
	// at least 1 ms later than the audio or video before: for destinations that
	// insist on it, and publishers whose times stand still or are out of order.
	TimestampsIncreasing Timestamps = "increasing"
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

// Profile names a kind of server, and with it what it wants.
type Profile string

// The profiles. The platforms among them are known by the host of
// Destination.URL; servers that people run themselves are what they are said to
// be, and never guessed. All are sent releaseStream and FCPublish, chunks of the
// Server's size, a flashVer of FMLE and metadata in @setDataFrame, unless the
// Destination says otherwise: that is what encoders send them, and none is known
// to refuse it.
const (
	// ProfileNone is that of a server of which nothing is known.
	ProfileNone Profile = "none"
	// ProfileYouTube: without a scheme rtmps:// at *.rtmps.youtube.com and
	// rtmp:// at *.rtmp.youtube.com, each refusing the other; app live2.
	ProfileYouTube Profile = "youtube"
	// ProfileFacebook: rtmps:// only; app rtmp.
	ProfileFacebook Profile = "facebook"
	// ProfileTwitch: app app.
	ProfileTwitch Profile = "twitch"
	// ProfileIVS is Amazon IVS, and with it Kick: rtmps:// where no scheme
	// is given; app app, which the URLs shown leave out.
	ProfileIVS Profile = "ivs"
	// ProfileAkamai asks for user and password, and gets TimestampsIncreasing.
	ProfileAkamai Profile = "akamai"
	// ProfileWowza asks clients with FMLE's flashVer for user and password.
	ProfileWowza Profile = "wowza"
	// ProfileSRS takes names of any length, and has longer for its on_connect:
	// see Destination.SetupTimeout.
	ProfileSRS Profile = "srs"
	// ProfileNginx is nginx-rtmp, which cuts names off; see
	// ForwarderStats.Warning.
	ProfileNginx Profile = "nginx-rtmp"
	// ProfileMediaMTX takes user and password as ?user=&pass= behind the
	// key, and an app without a key, which is its path.
	ProfileMediaMTX Profile = "mediamtx"
)

// profile is what a kind of server wants other than the defaults.
type profile struct {
	name    Profile
	title   string
	hosts   []string // domains; their subdomains are meant too
	scheme  string   // of a URL without
	app     string   // of a URL without
	tls     bool     // rtmp:// is refused, mostly without a word
	keyless bool     // the key may be empty
	login   bool     // user and password go behind the key
	maxName int      // bytes of app, tcUrl and key; 0: any
	times   Timestamps
	video   flv.Codec // the only one taken; 0: any
	audio   bool      // is needed
	plain   string    // what is wrong with rtmp://, mostly
	hint    string    // what else to look at when it does not work
}

// nginxName is what nginx-rtmp's buffers hold (NGX_RTMP_MAX_NAME), less the
// byte that ends them.
const nginxName = 255

var profiles = []profile{
	{
		name: ProfileYouTube, title: "YouTube", hosts: []string{"rtmps.youtube.com"},
		scheme: "rtmps", app: "live2", tls: true, audio: true,
		hint: "the stream needs an audio track",
	},
	{
		name: ProfileYouTube, title: "YouTube", hosts: []string{"rtmp.youtube.com"},
		scheme: "rtmp", app: "live2", audio: true,
		hint: "rtmps:// needs a host in rtmps.youtube.com; the stream needs an audio track",
	},
	{
		name: ProfileFacebook, title: "Facebook", hosts: []string{"facebook.com", "fbcdn.net"},
		scheme: "rtmps", app: "rtmp", tls: true,
		hint: "the key is used up about a day after it was given out",
	},
	{
		name: ProfileTwitch, title: "Twitch", hosts: []string{"twitch.tv"},
		scheme: "rtmp", app: "app", video: flv.CodecAVC,
		hint: "regular ingest takes H.264 only",
	},
	{
		name: ProfileIVS, title: "Amazon IVS (Kick, Twitch)", hosts: []string{"live-video.net"},
		scheme: "rtmps", app: "app", plain: "rtmp:// is refused where it is not enabled",
		hint: "a channel takes one publisher, whose media must be as it expects",
	},
	{
		name: ProfileAkamai, title: "Akamai", hosts: []string{"akamaientrypoint.net"},
		scheme: "rtmp", times: TimestampsIncreasing,
		hint: "user and password are needed",
	},
	{
		name: ProfileWowza, title: "Wowza", hosts: []string{"entrypoint.cloud.wowza.com"},
		scheme: "rtmp",
		hint:   "user and password are needed unless disabled for the stream",
	},
	{name: ProfileSRS, title: "SRS", hint: "a name that is published already is busy for a while after its publisher has gone"},
	{name: ProfileNginx, title: "nginx-rtmp", maxName: nginxName, hint: "an unknown app is closed without an answer"},
	{name: ProfileMediaMTX, title: "MediaMTX", keyless: true, login: true, hint: "app and key together are its path"},
}

// profileOf is the profile of that name, or where it is empty the one for a
// host. It is nil where there is none; ok is false for a name that none has.
func profileOf(name Profile, host string) (p *profile, ok bool) {
	if name == ProfileNone {
		return nil, true
	}
	host = "." + strings.ToLower(strings.TrimSuffix(host, "."))
	var named *profile
	for i := range profiles {
		p := &profiles[i]
		if name != "" && p.name != name {
			continue
		}
		if named == nil {
			named = p
		}
		for _, domain := range p.hosts {
			if strings.HasSuffix(host, "."+domain) {
				return p, true
			}
		}
	}
	if name == "" {
		return nil, true
	}
	return named, named != nil
}

// isPlatform says that it is no server that people run themselves.
func (p *profile) isPlatform() bool { return p != nil && len(p.hosts) > 0 }

// withScheme puts the scheme before a URL that has none where its host is a
// platform's.
func withScheme(s string) string {
	authority, _, _ := strings.Cut(s, "/")
	_, hostport, _ := cutLast(authority, "@")
	host, _, err := splitAuthority(hostport)
	if p, _ := profileOf("", host); err == nil && p != nil {
		return p.scheme + "://" + s
	}
	return s
}

// complete adds what the server wants and the URL does not show.
func (p *profile) complete(e *endpoint) {
	if p == nil {
		return
	}
	if p.app != "" {
		app, _, _ := strings.Cut(e.app, "?")
		if e.key == "" && app != p.app && !strings.Contains(app, "/") {
			e.app, e.key = "", e.app
		}
		def(&e.app, p.app)
	}
	if p.login && (e.user != "" || e.password != "") {
		to := &e.key
		if e.key == "" {
			to = &e.app
		}
		mark := "?"
		if strings.Contains(*to, "?") {
			mark = "&"
		}
		*to += mark + "user=" + url.QueryEscape(e.user) + "&pass=" + url.QueryEscape(e.password)
	}
}

// warning says what the server may not take, in one sentence without a secret,
// or nothing.
func (e *endpoint) warning() string {
	limit, title := nginxName, "nginx-rtmp and those made from it take"
	if e.profile != nil {
		limit, title = e.profile.maxName, e.profile.title+" takes"
	}
	for _, f := range []struct{ what, value string }{{"stream key", e.key}, {"app", e.app}, {"tcUrl", e.tcURL}} {
		if limit > 0 && len(f.value) > limit {
			return fmt.Sprintf("the %s is %d bytes long; %s %d, without what is behind", f.what, len(f.value), title, limit)
		}
	}
	return ""
}

// hint says what may be wrong when e cannot be reached or refuses, in one
// sentence, or nothing. It holds no secret.
func (e *endpoint) hint() string {
	app, _, _ := strings.Cut(e.app, "?")
	switch {
	case e.profile == nil:
		return ""
	case e.profile.tls && e.scheme == "rtmp":
		return e.profile.title + " wants rtmps://"
	case e.profile.app != "" && e.profile.app != app:
		return e.profile.title + ": its app is " + e.profile.app
	case e.profile.plain != "" && e.scheme == "rtmp":
		return e.profile.title + ": " + e.profile.plain
	default:
		return e.profile.title + ": " + e.profile.hint
	}
}

// hintAt is the hint for a connection that has ended at a step, in brackets
// with a space before, or nothing.
func (e *endpoint) hintAt(op string) string {
	hint := e.hint()
	switch {
	case hint != "":
	case op == "tls":
		hint = "is it rtmp://?"
	case op == "handshake" && e.scheme == "rtmp":
		hint = "is it rtmps://?"
	case op == "connect": // nginx-rtmp answers nothing
		hint = "does it know the app?"
	default:
		return ""
	}
	return " (" + hint + ")"
}
