// Package live gives the live streams of a forward.Server over HTTP: as HTTP-FLV, for
// players such as ffplay, VLC and flv.js, and as fragmented MP4, for the browser's own
// video element through Media Source Extensions.
package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rtmp-forward/forward"
)

// Options are the options of New.
type Options struct {
	// Operator reports whether a request comes from an operator of the server, by a
	// token or a session. It is called concurrently. Default: there are no operators.
	Operator func(*http.Request) bool

	// Origins are the origins, such as "https://player.example", whose pages may read
	// what Players answers (CORS); "*" allows all. The origin of the server itself is
	// always allowed. Default: no other.
	Origins []string
}

// Format writes the number of origins, for every verb.
func (o Options) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "Options with %d origins", len(o.Origins))
}

// MarshalText gives the same as Format.
func (o Options) MarshalText() ([]byte, error) { return fmt.Append(nil, o), nil }

// Handlers serves the live streams of a forward.Server. Its methods are safe for
// concurrent use.
//
// A stream is given from its last keyframe on, and ends with the stream: clients ask again
// for the next one. A client that falls behind skips to the newest keyframe, and is
// disconnected if it takes less than 16 KiB within forward.Config.WriteTimeout. It counts
// as a connection in forward.Limits, and as a player in the stats and events of the
// forward.Server, whose Close disconnects it.
//
// Methods are GET and HEAD, which answers what GET would, without a stream. An answer
// other than a stream is a sentence, with the status
//
//	401, 403  the request is not authorized
//	404       no such stream is live
//	405       another method
//	406       MP4 of a stream whose codecs it cannot hold
//	503       a limit is reached, or the server is shutting down
type Handlers struct {
	masked
	srv    *forward.Server
	o      Options
	muxers muxers
}

// masked is what Handlers look like when they are printed, as a value and as a pointer.
type masked struct{}

// Format writes the name of the type, for every verb.
func (masked) Format(f fmt.State, _ rune) { io.WriteString(f, "live.Handlers") }

// MarshalText gives the same as Format.
func (masked) MarshalText() ([]byte, error) { return []byte("live.Handlers"), nil }

// New returns handlers for the streams of srv.
func New(srv *forward.Server, o Options) *Handlers {
	o.Origins = slices.Clone(o.Origins)
	return &Handlers{srv: srv, o: o, muxers: muxers{log: srv.Logger()}}
}

// Players returns the handler for players, who ask by name. Its paths are
//
//	/APP/STREAM.flv   HTTP-FLV
//	/APP/STREAM.mp4   fragmented MP4
//
// as in SRS; APP may have several segments. Mount it at the root, or elsewhere with
// http.StripPrefix. The vhost is that of the query (vhost=) or the Host header, as for a
// player over RTMP. A request is authorized as such a player, too: forward.Limits, OnConnect
// and OnPlay. Request.Param is the query, so that a URL signed by auth.Token is checked by
// the same hook. Request.TcURL is the URL up to APP, and PageURL the Referer.
func (h *Handlers) Players() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.allowOrigin(w, r)
		name, format := cutFormat(r.URL.Path)
		app, stream, ok := cutLast(strings.TrimPrefix(name, "/"))
		if format == "" || !ok {
			fail(w, http.StatusNotFound, "There is nothing at this path.")
			return
		}
		req := requestOf(r)
		req.App, req.Stream = app, stream
		if r.URL.RawQuery != "" {
			req.Param = "?" + r.URL.RawQuery
		}
		scheme := "http://"
		if r.TLS != nil {
			scheme = "https://"
		}
		req.TcURL = scheme + r.Host + "/" + (&url.URL{Path: app}).EscapedPath()
		h.serve(w, r, format, func(ctx context.Context) (*forward.Player, error) { return h.srv.Play(ctx, req) })
	})
}

// Operators returns the handler for operators, who ask by forward.Source.ID. Its paths
// are
//
//	/sources/SOURCE/live.flv
//	/sources/SOURCE/live.mp4
//
// and a request is authorized by Options.Operator alone. A request that a page of another
// site makes a browser send is refused, because it may carry the operator's cookie.
func (h *Handlers) Operators() http.Handler {
	mux := http.NewServeMux()
	for _, format := range []string{flvFormat, mp4Format} {
		mux.HandleFunc("/sources/{source}/live."+format, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case isCrossSite(r):
				fail(w, http.StatusForbidden, "The request comes from a page of another site.")
				return
			case h.o.Operator == nil || !h.o.Operator(r):
				fail(w, http.StatusUnauthorized, "The credential of an operator is needed.")
				return
			}
			id := r.PathValue("source")
			sources := h.srv.Sources()
			at := slices.IndexFunc(sources, func(s *forward.Source) bool { return s.ID() == id })
			if at < 0 {
				fail(w, http.StatusNotFound, "There is no live stream with this id.")
				return
			}
			req := requestOf(r)
			h.serve(w, r, format, func(ctx context.Context) (*forward.Player, error) { return sources[at].Play(ctx, req) })
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusNotFound, "There is nothing at this path.")
	})
	return mux
}

const (
	flvFormat = "flv"
	mp4Format = "mp4"
)

// cutFormat cuts the format off a path; it is empty if it is no format of ours.
func cutFormat(path string) (name, format string) {
	for _, f := range []string{flvFormat, mp4Format} {
		if name, ok := strings.CutSuffix(path, "."+f); ok {
			return name, f
		}
	}
	return path, ""
}

func cutLast(path string) (app, stream string, ok bool) {
	at := strings.LastIndexByte(path, '/')
	if at < 0 {
		return "", path, false
	}
	return path[:at], path[at+1:], true
}

// requestOf returns what a request tells of its client.
func requestOf(r *http.Request) forward.Request {
	req := forward.Request{RemoteAddr: address(r.RemoteAddr), PageURL: r.Referer()}
	req.LocalAddr, _ = r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return req
}

// address returns an address in net/http's notation.
func address(text string) net.Addr {
	tcp, err := net.ResolveTCPAddr("tcp", text) // an address needs no resolver
	if err != nil || tcp.IP == nil {
		return nil
	}
	return tcp
}

// isCrossSite reports whether a page of another site has made a browser send r. Browsers
// without Sec-Fetch-Site send Origin, at least with requests of scripts.
func isCrossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return false
	case "":
		origin := r.Header.Get("Origin")
		u, err := url.Parse(origin)
		return origin != "" && (err != nil || u.Host != r.Host)
	}
	return true
}

// allowOrigin lets the page that has sent r read the answer, if its origin is allowed.
func (h *Handlers) allowOrigin(w http.ResponseWriter, r *http.Request) {
	if len(h.o.Origins) == 0 {
		return
	}
	all := slices.Contains(h.o.Origins, "*")
	switch origin := r.Header.Get("Origin"); {
	case all:
		w.Header().Set("Access-Control-Allow-Origin", "*")
	case slices.Contains(h.o.Origins, origin):
		w.Header().Set("Access-Control-Allow-Origin", origin)
		fallthrough
	default:
		w.Header().Add("Vary", "Origin")
	}
}

// serve answers with a stream.
func (h *Handlers) serve(w http.ResponseWriter, r *http.Request, format string, play func(context.Context) (*forward.Player, error)) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "This path takes GET, HEAD.")
		return
	}
	p, err := play(r.Context())
	if err != nil {
		refuse(w, r, err)
		return
	}
	defer p.Close()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if format == mp4Format {
		h.serveMP4(w, r, p)
		return
	}
	serveFLV(w, r, p)
}

// refuse answers a request whose player was not accepted. The error may tell more than its
// client may know, so it is not shown.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	var status *forward.StatusError
	switch {
	case r.Context().Err() != nil: // the client has left
	case errors.Is(err, forward.ErrNotLive):
		fail(w, http.StatusNotFound, "No stream of this name is live.")
	case errors.Is(err, forward.ErrServerClosed):
		fail(w, http.StatusServiceUnavailable, "The server is shutting down.")
	case errors.Is(err, forward.ErrLimit), errors.Is(err, forward.ErrBusy):
		w.Header().Set("Retry-After", "5")
		fail(w, http.StatusServiceUnavailable, "The server has no room for another player.")
	case errors.As(err, &status) && status.Description != "":
		fail(w, http.StatusForbidden, status.Description)
	default:
		fail(w, http.StatusForbidden, "Playing is refused.")
	}
}

// fail answers with a sentence.
func fail(w http.ResponseWriter, status int, sentence string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, sentence, status)
}
