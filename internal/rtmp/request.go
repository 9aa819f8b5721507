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

// MaxName is the maximum length, in bytes, of an app or stream name. MaxURL is that of a
// tcUrl, and of an app or name as sent, with its query.
const (
	MaxName = 255
	MaxURL  = 4 << 10
)

// DefaultApp is the app of a stream whose URL has one path segment, as in SRS.
const DefaultApp = "__defaultApp__"

// ErrName is wrapped by every error about an app, stream or vhost name.
var ErrName = errors.New("malformed name")

// Request is the stream that a publish or play asks for.
type Request struct {
	TcURL  string // as sent
	Host   string // the host of tcUrl, without port
	Vhost  string // from ?vhost=, ?domain= or ...vhost...; else empty
	App    string
	Stream string
	Param  string // the query with a leading "?", or empty
}

// ParseRequest finds vhost, app, stream and param in the tcUrl and app of a connect and
// the name of a publish or play. It understands the forms that encoders send:
//
//   - The query is on the name, the app or tcUrl. Param is the first of them, in this
//     order, that contains more than a vhost.
//   - The vhost is in a query (vhost= or domain=), or after "...vhost...". Queries go
//     first, in the same order.
//   - The name is empty. The stream is the app's last path segment, or the text after
//     the last slash of the app's query.
//   - The query is cut in two, and its second part is sent as the name. The stream is
//     the app's last path segment. A cut at a slash in a value is recognised in a URL,
//     before another pair, and before the padding of base64.
//   - The app is empty. The path of tcUrl is the app.
//   - There is one path segment, as app or as name. It is the stream, in DefaultApp.
//   - There are several path levels. They belong to the app.
//   - Trailing slashes and a trailing "/_definst_" are removed.
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

// CheckVhost checks the name of a vhost. The rules are those of CheckName, and it must not
// contain a slash.
func CheckVhost(s string) error {
	if strings.ContainsRune(s, '/') {
		return fmt.Errorf("%w: holds a slash", ErrName)
	}
	return CheckName(s)
}

// CheckName checks the name of an app or a stream: 1 to MaxName bytes of valid UTF-8,
// without control characters, backslashes, and empty, "." or ".." segments. Its errors do
// not repeat the name, which may be a stream key.
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

// joinQuery joins a query that an encoder has cut in two. The end of the query was sent
// as the name. Its beginning, which may be no more than the "?", is in the app or in path,
// the path of tcUrl. cut is false if name is a name.
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

// isWhole reports whether an app, as sent, has two or more levels, so that it may contain
// the stream as well.
func isWhole(app string) bool { return strings.Contains(strings.Trim(app, "/"), "/") }

// cutInURL reports whether an app's query was cut within a URL that is a value: before the
// URL's host; after the host, if follows continues the path; or after the first level of
// the URL's path, if the app is whole.
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

// hasPadding reports whether s, or a value in it, ends with the padding of base64.
func hasPadding(s string) bool { return strings.HasSuffix(s, "=") || strings.Contains(s, "=&") }

// isQuery reports whether s is a query without its "?", and not a name.
func isQuery(s string) bool {
	key, _, ok := strings.Cut(s, "=")
	return ok && key != "" && !strings.ContainsAny(key, "/?")
}

// cutName cuts the stream off an app's query: the text after the last slash, unless that
// is a part of the query itself.
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

// queryVhost returns the vhost in a query, or "". Two different ones are an error,
// because a backend that decides about the stream may parse the query, too.
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

// onlyVhost reports whether a query contains nothing but the vhost.
func onlyVhost(query string) bool { return WithoutVhost(query) == "" }

// WithoutVhost returns a query without the pairs that name the vhost.
func WithoutVhost(query string) string {
	pairs := slices.DeleteFunc(strings.Split(query, "&"), namesVhost)
	return strings.Join(pairs, "&")
}

// dotsVhost cuts the vhost off an app of the form app...vhost...NAME, which encoders of
// the time of FMLE send.
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
