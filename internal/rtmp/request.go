package rtmp

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxName is the longest app or stream name taken, MaxURL the longest tcUrl
// or query, in bytes.
const (
	MaxName = 255
	MaxURL  = 4 << 10
)

// DefaultApp is the app of a stream whose URL has one path segment, as SRS
// calls it.
const DefaultApp = "__defaultApp__"

// ErrName is wrapped by every error about an app, stream or vhost name.
var ErrName = errors.New("malformed name")

// Request is what a publish or play asks for.
type Request struct {
	TcURL  string // as sent
	Host   string // the host of tcUrl, without port
	Vhost  string // named explicitly: ?vhost= or ...vhost...; else empty
	App    string
	Stream string
	Param  string // the query with its leading "?", or empty
}

// ParseRequest finds vhost, app, stream and param in the tcUrl and app of a
// connect and the name of a publish or play, in the ways the encoders use:
//
//   - the query on the name, the app or tcUrl (the first of them is Param);
//   - the vhost in a query (vhost=, or domain=), that of the name before the
//     others, or after "...vhost...";
//   - an empty name, when the stream is the app's last path segment, or what
//     follows the last slash of the app's query;
//   - a query that is cut in two, also at a slash in a value where that shows: in
//     a URL, before another pair, or before the padding of base64. Its second part
//     is sent as the name, and the stream is the app's last path segment as well;
//   - no app, when tcUrl's path is the app;
//   - a single path segment, as app or as name: the stream's, in DefaultApp;
//   - several path levels, which belong to the app; trailing slashes and a
//     trailing "/_definst_", which belong to nothing.
func ParseRequest(tcURL, app, name string) (Request, error) {
	r := Request{TcURL: tcURL}
	if len(tcURL) > MaxURL || len(app) > MaxURL || len(name) > MaxURL {
		return r, fmt.Errorf("%w: longer than %d bytes", ErrName, MaxURL)
	}
	tcURL = strings.Trim(tcURL, `'" `)
	host, path := splitTcURL(tcURL)
	r.Host = host
	if app == "" {
		app = path
	}
	_, tcQuery := splitQuery(path)
	whole, cut := joinQuery(path, app, name)
	app, appQuery := splitQuery(app)
	name, nameQuery := splitQuery(name)
	if cut {
		name, nameQuery, appQuery = "", whole, ""
	}

	var dots string // the vhost in dots of a name that stands in the app
	if name == "" {
		appQuery = strings.TrimRight(appQuery, "/")
		if before, behind, ok := cutName(appQuery); ok {
			var query string
			name, query = splitQuery(behind)
			if nameQuery == "" {
				nameQuery = query
			}
			appQuery = before
		} else {
			app = cleanApp(app)
			at := strings.LastIndexByte(app, '/')
			app, name = app[:max(at, 0)], app[at+1:]
			name, dots = dotsVhost(name)
		}
	}
	name = strings.TrimPrefix(strings.TrimSuffix(name, "/"), "/")

	for _, q := range []string{nameQuery, appQuery, tcQuery} {
		v, err := queryVhost(q)
		if err != nil {
			return r, err
		}
		if r.Vhost == "" {
			r.Vhost = v
		}
		if r.Param == "" && q != "" && !onlyVhost(q) {
			r.Param = "?" + q
		}
	}
	app, v := dotsVhost(app)
	for _, v := range []string{v, dots} {
		if r.Vhost == "" {
			r.Vhost = v
		}
	}
	r.App, r.Stream = cleanApp(app), name
	if r.App == "" {
		r.App = DefaultApp
	}

	for _, n := range []struct{ what, name string }{{"app", r.App}, {"stream", r.Stream}} {
		if err := CheckName(n.name); err != nil {
			return r, fmt.Errorf("%s: %w", n.what, err)
		}
	}
	if r.Vhost != "" {
		if err := CheckVhost(r.Vhost); err != nil {
			return r, fmt.Errorf("vhost: %w", err)
		}
	}
	return r, nil
}

// CheckVhost checks a vhost's name: that of an app or stream without a slash.
func CheckVhost(s string) error {
	if strings.ContainsRune(s, '/') {
		return fmt.Errorf("%w: holds a slash", ErrName)
	}
	return CheckName(s)
}

// CheckName checks the name of an app or a stream: 1 to MaxName bytes of valid
// UTF-8 without control characters, backslashes, empty, "." or ".." segments.
// Its errors do not repeat the name, which may be a stream key.
func CheckName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: empty", ErrName)
	case len(s) > MaxName:
		return fmt.Errorf("%w: longer than %d bytes", ErrName, MaxName)
	case !utf8.ValidString(s):
		return fmt.Errorf("%w: not UTF-8", ErrName)
	case strings.ContainsRune(s, '\\'):
		return fmt.Errorf("%w: holds a backslash", ErrName)
	case strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("%w: holds a control character", ErrName)
	}
	for seg := range strings.SplitSeq(s, "/") {
		if seg == "" || seg == "." || seg == ".." {
			return fmt.Errorf("%w: holds an empty, \".\" or \"..\" path segment", ErrName)
		}
	}
	return nil
}

// splitTcURL returns the host and the path, with its query, of a tcUrl.
func splitTcURL(u string) (host, path string) {
	_, rest, ok := strings.Cut(u, "://")
	if !ok {
		return "", ""
	}
	authority := rest
	if at := strings.IndexAny(rest, "/?"); at >= 0 {
		authority, path = rest[:at], strings.TrimPrefix(rest[at:], "/")
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		authority = authority[at+1:]
	}
	if h, _, err := net.SplitHostPort(authority); err == nil {
		return h, path
	}
	return strings.Trim(authority, "[]"), path
}

// joinQuery puts a URL's query together that an encoder has cut: its end is the
// name, its beginning, if only its "?", stands in the app or in path, that of
// tcUrl. cut is false where the name is one.
func joinQuery(path, app, name string) (query string, cut bool) {
	app, appQuery, begun := strings.Cut(app, "?")
	path, tcQuery, there := strings.Cut(path, "?")
	if there && strings.Trim(path, "/") == strings.Trim(app, "/") {
		if !begun {
			appQuery, begun = tcQuery, true
		}
	} else {
		tcQuery = ""
	}
	switch {
	case !begun || name == "":
		return "", false
	case strings.HasPrefix(name, "&"):
		return appQuery + name, true
	case cutInURL(app, appQuery, name),
		isWhole(app) && strings.Contains(appQuery, "=") && hasPadding(name):
		return appQuery + "/" + name, true
	case !isQuery(name):
		return "", false
	}
	for _, whole := range []string{appQuery, tcQuery} {
		if whole == name || strings.HasSuffix(whole, "&"+name) {
			return whole, true
		}
	}
	switch {
	case appQuery == "", strings.HasSuffix(appQuery, "&"):
		return appQuery + name, true
	case strings.Contains(name, "&"):
		return appQuery + "/" + name, true // at a slash in a value
	}
	return "", false
}

// isWhole reports whether what is sent as the app names a stream as well, as far
// as its levels say.
func isWhole(app string) bool { return strings.Contains(strings.Trim(app, "/"), "/") }

// cutInURL reports whether an app's query ends within a URL: before its host; or
// behind that, where a path follows; or behind the URL's app, where the app is
// whole.
func cutInURL(app, query, follows string) bool {
	value := query[strings.LastIndexAny(query, "=&")+1:]
	scheme, rest, ok := strings.Cut(value, ":/")
	if !ok || scheme == "" || strings.ContainsAny(scheme, "/?:") {
		return false
	}
	rest, ok = strings.CutPrefix(rest, "/")
	switch levels := strings.Count(rest, "/"); {
	case !ok:
		return true
	case levels == 0:
		return strings.Contains(follows, "/")
	default:
		return levels == 1 && isWhole(app)
	}
}

// hasPadding reports whether the end of a value in base64 is the end of s, or
// of a value in it.
func hasPadding(s string) bool { return strings.HasSuffix(s, "=") || strings.Contains(s, "=&") }

// isQuery reports whether what may be a name, or a query without its "?", is
// that.
func isQuery(s string) bool {
	key, _, ok := strings.Cut(s, "=")
	return ok && key != "" && !strings.ContainsAny(key, "/?")
}

// cutName cuts a stream off an app's query: what follows the last slash, unless
// that is a part of the query itself.
func cutName(appQuery string) (query, name string, ok bool) {
	path, _ := splitQuery(appQuery)
	at := strings.LastIndexByte(path, '/')
	if at < 0 || strings.ContainsAny(path[at:], "=&") {
		return appQuery, "", false
	}
	return appQuery[:at], appQuery[at+1:], true
}

func splitQuery(s string) (path, query string) {
	path, query, _ = strings.Cut(s, "?")
	return path, query
}

func cleanApp(app string) string {
	app = strings.Trim(app, "/")
	return strings.TrimSuffix(app, "/_definst_")
}

// queryVhost finds the vhost in a query. The result must be unambiguous, because a
// backend that decides about the stream may parse the query, too.
func queryVhost(query string) (vhost string, err error) {
	for pair := range strings.SplitSeq(query, "&") {
		if !namesVhost(pair) {
			continue
		}
		_, v, _ := strings.Cut(pair, "=")
		v = strings.TrimSuffix(v, "/")
		if vhost != "" && v != "" && !strings.EqualFold(v, vhost) {
			return "", fmt.Errorf("vhost: %w: two of them in one query", ErrName)
		}
		if vhost == "" {
			vhost = v
		}
	}
	return vhost, nil
}

// namesVhost reports whether a pair of a query names the vhost.
func namesVhost(pair string) bool {
	k, _, ok := strings.Cut(pair, "=")
	return ok && (k == "vhost" || k == "domain")
}

// onlyVhost reports whether a query says nothing besides the vhost.
func onlyVhost(query string) bool { return WithoutVhost(query) == "" }

// WithoutVhost is a query without what names the vhost in it.
func WithoutVhost(query string) string {
	pairs := slices.DeleteFunc(strings.Split(query, "&"), namesVhost)
	return strings.Join(pairs, "&")
}

// dotsVhost cuts the vhost in the form of FMLE's time, app...vhost...NAME,
// off an app.
func dotsVhost(app string) (rest, vhost string) {
	rest, after, ok := strings.Cut(app, "...")
	if !ok {
		return app, ""
	}
	words := strings.Split(after, "...")
	for i := 0; i+1 < len(words); i += 2 {
		if words[i] == "vhost" {
			vhost = strings.Trim(words[i+1], "/")
		}
	}
	if vhost == "" {
		return app, ""
	}
	return rest, vhost
}
