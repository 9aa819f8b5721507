package endpoint

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Spec holds the fields of a Destination that determine its place. They are documented at
// forward.Destination.
type Spec struct {
	URL, StreamKey, User, Password, TcURL, ServerName, Fingerprint string

	Profile string // empty: recognised by the host; see None
	Times   string // empty: those of the profile
}

// Endpoint is a parsed Spec.
type Endpoint struct {
	Scheme         string // "rtmp" or "rtmps"
	Host, Port     string // host without brackets; port never empty
	ServerName     string // for TLS
	App            string // as sent in connect, with its query, no slash at either end
	TcURL          string
	Key            string // as sent in publish, never parsed or encoded
	User, Password string
	Pin            []byte   // SHA-256 of the server's public key, or nil
	Profile        *Profile // of the platform or server, or nil
	Times          string
	Untrusted      bool // named by another server
}

// Place returns the same text for two endpoints that name the same stream of the same
// server, however their URLs are written.
func (e Endpoint) Place() string {
	return strings.Join([]string{strings.ToLower(e.Host), e.Port, e.App, e.Key}, "\x00")
}

// HostPort returns the host in lower case, with its port unless that is the scheme's
// default.
func (e Endpoint) HostPort() string {
	host := strings.ToLower(e.Host)
	if e.Port == DefaultPort(e.Scheme) {
		return host
	}
	return net.JoinHostPort(host, e.Port)
}

// Parse parses s. Its errors contain no secret.
func (s Spec) Parse() (e Endpoint, err error) {
	scheme, rest, ok := strings.Cut(WithScheme(s.URL), "://")
	if !ok {
		return e, errors.New("no URL: it begins with neither rtmp:// nor rtmps://")
	}
	e.Scheme = strings.ToLower(scheme)
	if e.Port = DefaultPort(e.Scheme); e.Port == "" {
		return e, errors.New("unknown scheme: expected rtmp or rtmps")
	}

	authority, path, _ := strings.Cut(rest, "/")
	userinfo, hostport, _ := CutLast(authority, "@")
	if e.User, e.Password, err = parseUserinfo(userinfo); err != nil {
		return e, err
	}
	if s.User != "" || s.Password != "" {
		e.User, e.Password = s.User, s.Password
	}
	typed, port, err := SplitAuthority(hostport)
	if err != nil {
		return e, err
	}
	e.Host = strings.Trim(typed, "[]")
	if e.ServerName = s.ServerName; e.ServerName == "" {
		e.ServerName = e.Host
	}
	e.TcURL = e.Scheme + "://" + withoutZone(typed)
	if port != "" {
		e.Port = port
		e.TcURL += ":" + port
	}

	if e.Profile, ok = ProfileOf(s.Profile, e.Host); !ok {
		return e, errors.New("unknown Profile")
	}
	if s.StreamKey != "" {
		e.App, e.Key = JoinApp(strings.Cut(path, "?")), s.StreamKey
	} else {
		e.App, e.Key = SplitPath(path)
	}
	if e.Times = s.Times; e.Profile != nil {
		e.Times = cmp.Or(e.Times, e.Profile.Times)
	}
	e.Profile.Complete(&e)
	switch {
	case e.Key == "" && (e.Profile == nil || !e.Profile.keyless):
		return e, errors.New("no stream key")
	case e.App == "":
		return e, errors.New("no app in the path")
	}
	e.TcURL += "/" + e.App
	if s.TcURL != "" {
		e.TcURL = s.TcURL
	}
	e.Pin, err = parseFingerprint(s.Fingerprint)
	return e, err
}

// DefaultPort returns the default port of a scheme, or "" for an unknown scheme.
func DefaultPort(scheme string) string {
	switch scheme {
	case "rtmp":
		return "1935"
	case "rtmps":
		return "443"
	}
	return ""
}

// SplitPath splits the path and query of a URL without its leading slash into
// app and key, as forward.Destination.URL says.
func SplitPath(path string) (app, key string) {
	p, query, hasQuery := strings.Cut(path, "?")
	p = strings.TrimLeft(p, "/")
	if i := strings.LastIndexByte(p, '/'); i >= 0 && strings.Trim(p[:i], "/") != "" && i < len(p)-1 {
		if key = p[i+1:]; hasQuery {
			key += "?" + query
		}
		return strings.Trim(p[:i], "/"), key
	}
	if !strings.Contains(strings.Trim(p, "/"), "/") {
		if before, after, ok := CutLast(query, "/"); ok {
			query, key = before, after
		}
	}
	return JoinApp(p, query, hasQuery), key
}

// JoinApp joins an app and its query, without slashes at either end.
func JoinApp(path, query string, hasQuery bool) string {
	app := strings.Trim(path, "/")
	if hasQuery && app != "" {
		app += "?" + strings.TrimRight(query, "/")
	}
	return app
}

// SplitAuthority splits host and port. The host keeps its brackets.
func SplitAuthority(s string) (host, port string, err error) {
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
		return "", "", errors.New("bad host: expected a name, an IPv4 address or an IPv6 address in brackets")
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

// withoutZone removes the zone from an IPv6 address in brackets, because it has a meaning
// only on this machine.
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
		// err is left out because it quotes its input.
		return "", "", errors.New("bad percent-encoding in user or password")
	}
	if HasControl(user) || HasControl(password) {
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
		return nil, errors.New("bad Fingerprint: expected 64 hex digits")
	}
	return pin, nil
}

// Masked replaces secrets.
const Masked = "***"

// Redact returns a URL with its secrets masked as documented at Destination.String. s may
// be any text. hasKey says that the stream key is given separately.
func Redact(s string, hasKey bool) string {
	scheme, rest, ok := strings.Cut(WithScheme(s), "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "rtmp" && scheme != "rtmps" {
		return Masked
	}
	authority, path, hasPath := strings.Cut(rest, "/")
	path, query, hasQuery := strings.Cut(path, "?")
	path = strings.Trim(path, "/")
	app, last, _ := CutLast(path, "/")
	if app == "" && hasKey {
		app, last = last, ""
	}
	userinfo, hostport, _ := CutLast(authority, "@")
	_, _, err := SplitAuthority(hostport)
	// If a password contains a "/", its end is in the path, and its beginning looks
	// like a bad port.
	if err != nil || strings.Contains(app, "@") || strings.Contains(query, "@") || !printable(app) {
		return scheme + "://" + Masked
	}

	b := scheme + "://"
	if userinfo != "" {
		b += Masked + "@"
	}
	b += hostport
	if app != "" {
		b += "/" + app
	}
	if hasQuery && (app == "" || last == "") {
		b += "?" + Masked
	}
	if last != "" || hasKey || hasPath && app == "" {
		b += "/" + Masked
	}
	return b
}

// HasControl reports whether s contains a control character.
func HasControl(s string) bool {
	return strings.ContainsFunc(s, unicode.IsControl)
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// CutLast splits s at its last sep. Without a sep, after is all of s.
func CutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

// Relative resolves a reference from e's server, without scheme and host, against the
// tcUrl (RFC 3986, 5.2.2, without dot segments, which a tcUrl does not have). It returns
// false if the result has no app.
func (e Endpoint) Relative(ref string) (Endpoint, bool) {
	if ref == "" {
		return e, true
	}
	app, _, _ := strings.Cut(e.App, "?")
	if !strings.HasPrefix(ref, "/") {
		above, _, _ := CutLast(app, "/")
		ref = above + "/" + ref
	}
	if app = JoinApp(strings.Cut(ref, "?")); app == "" {
		return e, false
	}
	scheme, rest, _ := strings.Cut(e.TcURL, "://")
	authority, _, _ := strings.Cut(rest, "/")
	e.App, e.TcURL = app, scheme+"://"+authority+"/"+app
	return e, true
}
