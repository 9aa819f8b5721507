// Package status provides a page for people: the live streams of a forward.Server with
// their picture, their destinations, why one does not work and when it is tried again. An
// operator adds, replaces and ends destinations there.
//
// The page is plain HTML, CSS and JavaScript, embedded in the program. It loads nothing
// from elsewhere, and its Content-Security-Policy allows nothing else.
package status

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"net/http"
	"path"

	"github.com/rtmp-forward/forward"
)

// Options are the options of Handler.
type Options struct {
	// IsOperator reports whether a request has an operator's credential, as
	// control.Server.IsOperator does. Without it, nobody gets any data.
	IsOperator func(*http.Request) bool

	// Pictures shows the streams. Package live must serve sources/SOURCE/live.mp4 beside
	// the page, and accept what IsOperator does.
	Pictures bool

	// Names shows the names of streams. In many set-ups a name is the key that allows
	// publishing.
	Names bool
}

//go:embed page
var files embed.FS

// policy allows what the page needs: its own files, its own requests, and the picture,
// which is a blob to the browser. No text becomes HTML (Trusted Types).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"media-src blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// Handler returns a handler with the page of srv. It is safe for concurrent use. Add it
// to a control.Server, with control.HandlerDecides, for the patterns "GET /{$}" and
// "GET /page/":
//
//	GET /                   the page, without a credential: it has no data
//	GET /page/…             its files, as well
//	GET /page/status.json   its data, for an operator; anybody else is answered 401
//
// The page asks for a token and makes it a session of the browser. It uses /session and
// /control of the control.Server beside it.
//
// The handler keeps the last 50 events of srv that matter to people. It has one reader of Server.Events, until
// srv ends.
func Handler(srv *forward.Server, o Options) http.Handler {
	h := &handler{srv: srv, options: o, files: make(map[string]file)}
	names, err := fs.Glob(files, "page/*")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			panic(err) // it is embedded
		}
		h.files["/"+name] = newFile(name, text)
	}
	h.files["/"] = h.files["/page/index.html"]
	delete(h.files, "/page/index.html")
	go h.recent.keep(srv.Events(context.Background()))
	return h
}

// handler is not changed after it has been made.
type handler struct {
	srv     *forward.Server
	options Options
	files   map[string]file // by their path
	recent  recent
}

// file is a file of the page.
type file struct {
	typ, tag string
	text     []byte
}

// types are the media types of files by their extension: that of the system may differ.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

func newFile(name string, text []byte) file {
	sum := sha256.Sum256(text)
	return file{types[path.Ext(name)], `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, text}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range map[string]string{
		"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		w.Header().Set(name, value)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "This path takes GET, HEAD.", http.StatusMethodNotAllowed)
		return
	}
	if r.URL.Path == "/page/status.json" {
		h.serveData(w, r)
		return
	}
	f, ok := h.files[r.URL.Path]
	if !ok {
		http.Error(w, "There is nothing at this path.", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", f.typ)
	w.Header().Set("Cache-Control", "no-cache") // but with its tag
	w.Header().Set("ETag", f.tag)
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Write(f.text)
}

// serveData answers with the data of the page.
func (h *handler) serveData(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if h.options.IsOperator == nil || !h.options.IsOperator(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "An operator's token or session is needed.", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(h.show())
}
