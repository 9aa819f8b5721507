// Package control provides an HTTP handler for operators, which shows the live streams of
// a forward.Server and changes their destinations, and an HTTP server with this handler,
// health checks and the host's own handlers.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/table"
)

// Options are the options of Handler.
type Options struct {
	// Tokens are the valid bearer tokens: a request must have one of them, as
	// "Authorization: Bearer TOKEN". Several allow rotation. At least one is required,
	// and none may be empty.
	Tokens []forward.Secret

	// Names shows the names of streams. In many set-ups a name is the key that allows
	// publishing.
	Names bool

	// Untrusted checks destinations as if a publisher had named them (see
	// forward.Destination.Untrusted). Set it if people other than the operator have
	// tokens.
	Untrusted bool

	// Table is shown and changed under /destinations. Without one these paths are
	// answered 404. Its method OnSource must be the Server's Hooks.OnSource, or be
	// called by that.
	Table *table.Table

	// Logger gets a line for each change. Default: the logger of the Server.
	Logger *slog.Logger
}

// Format writes the number of tokens, for every verb.
func (o Options) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "Options with %d tokens", len(o.Tokens))
}

// MarshalText gives the same as Format.
func (o Options) MarshalText() ([]byte, error) { return fmt.Append(nil, o), nil }

// Handler returns a handler for the live streams of srv. The host mounts it, over TLS
// or on a private address, and with http.StripPrefix unless it is at the root. The
// returned handler is safe for concurrent use. Handler returns an error if Tokens is
// invalid.
//
//	GET    /openapi.json                    the OpenAPI description of what follows
//	GET    /sources                         the live streams
//	GET    /sources/SOURCE                  one of them
//	DELETE /sources/SOURCE                  ends it and disconnects its publisher
//	POST   /sources/SOURCE/refresh          Source.Refresh
//	POST   /sources/SOURCE/forwarders       Source.Forward
//	GET    /sources/SOURCE/forwarders/FORWARDER
//	PUT    /sources/SOURCE/forwarders/FORWARDER   Forwarder.Update
//	DELETE /sources/SOURCE/forwarders/FORWARDER   Forwarder.Shutdown
//	GET    /sources/SOURCE/destinations     the entries of Options.Table for a stream
//	POST   /sources/SOURCE/destinations/NAME/live   Table.GoLive on this stream
//	GET    /destinations                    all entries of Options.Table
//	GET    /destinations/NAME               one of them
//	PUT    /destinations/NAME               Table.Put
//	DELETE /destinations/NAME               Table.Delete
//	POST   /destinations/NAME/enable        Table.Switch to table.On
//	POST   /destinations/NAME/disable       Table.Switch to table.Off
//	POST   /destinations/NAME/hold          Table.Switch to table.Held
//	POST   /destinations/NAME/live          Table.GoLive on all streams
//	POST   /probe                           probe.Run, whose body is a destination
//
// SOURCE is Source.ID, which callbacks have as stream_id; FORWARDER is Forwarder.ID.
// Neither reveals names or keys. Both are the same for the same stream and destination
// for as long as the process lives.
//
// GET /sources answers {"sources":[…]}. A source is
//
//	{"id":"…","stream":"app/#…","client_id":"…","ip":"…","since":"…","bytes":0,
//	 "messages":0,"video_codec":"…","audio_codec":"…","bitrate":0,"players":0,
//	 "forwarders":[…]}
//
// where stream is the name in the log. With Options.Names it also has name. A forwarder
// is
//
//	{"id":"…","url":"rtmp://host/app/***","state":"publishing","since":"…",
//	 "connects":1,"accepted":1,"bytes":0,"messages":0,"dropped_late":0,
//	 "dropped_no_keyframe":0,"bitrate":0,"lag":0,"lag_ms":0,
//	 "error":{"op":"publish","code":"NetStream.Publish.BadName","message":"…"}}
//
// with the fields of forward.ForwarderStats; lag_ms is LagAge, and bitrate is in bits a
// second. next_attempt and warning are omitted if
// empty, and error if LastErr is nil. A destination, the body of POST and PUT, is
//
//	{"url":"rtmp://host/app","profile":"…","stream_key":"…","user":"…",
//	 "password":"…","tc_url":"…","flash_ver":"…","chunk_size":4096,"server_name":"…",
//	 "fingerprint":"…","no_release_stream":false,"no_fc_publish":false,
//	 "plain_metadata":false,"no_metadata":false,"digest_handshake":false,
//	 "redirect":"same_host","timestamps":"stream","merge_window_ms":0,
//	 "dial_timeout_ms":5000,"setup_timeout_ms":10000,"publish_timeout_ms":35000}
//
// Only url is required. redirect is same_host, never or anywhere; timestamps is stream,
// zero or increasing; a time of 0 is the default. The Content-Type is application/json,
// other fields are refused, and a body has at most 64 KiB. A destination may lead to
// any address except link-local ones and those of metadata services, unless they are in
// forward.Config.AllowNetworks; see also Options.Untrusted.
//
// GET /destinations and /sources/SOURCE/destinations answer {"destinations":[…]}. An
// entry is
//
//	{"name":"…","stream":"app/#…","state":"on","url":"rtmp://host/app/***",
//	 "changed":"…","by":"…","pushes":[{"source":"…","live":true,"forwarder":{…}}]}
//
// with the state off, on or held, and a push for each live stream of the entry: live
// says that it is to be pushed, and message why there is no forwarder nevertheless.
// Names of streams in stream are masked; with Options.Names pattern has it unmasked. The
// body of PUT is
//
//	{"stream":"live/*","state":"held","destination":{"url":"…","stream_key":"…"}}
//
// as in table.Entry. Without state a new entry is off, and another keeps its state. PUT
// answers 201 with a new entry, else 200. Keys are in no answer.
//
// POST of a forwarder answers 201 with the forwarder immediately. PUT answers 200 with
// the forwarder after the new connection has taken over. refresh answers 200 with the
// source. DELETE answers 204: for a source immediately, for a forwarder when it has ended.
// If the client cancels a request, the handler stops waiting; a PUT is then undone.
//
// POST /probe answers 200 when the probe has ended, whatever it has found:
//
//	{"destination":"rtmp://host/app/***","accepted":false,"verdict":"…","warnings":["…"],
//	 "steps":[{"op":"dial","ok":true,"text":"…","said":"…","took_ms":0}],"took_ms":0}
//
// with the fields of probe.Report. said has the destination's own words, and is omitted if
// there are none. At most 2 probes are in progress, and at most 10 begin in a row and then
// one every 6 s; others are answered 429. A destination that a stream is pushed to is
// answered 409.
//
// Every failure answers {"code":"…","message":"A sentence."} with one of
//
//	400 bad_json, bad_destination
//	401 unauthorized
//	404 not_found
//	405 method_not_allowed
//	409 exists, limit, conflict
//	413 too_large
//	415 unsupported_media_type
//	429 too_many
//	500 table_failed
//	502 resolver_failed, destination_failed
func Handler(srv *forward.Server, o Options) (http.Handler, error) {
	if err := checkTokens(o.Tokens); err != nil {
		return nil, err
	}
	k := new(keys)
	k.set(o.Tokens)
	return newHandler(srv, o, k), nil
}

func newHandler(srv *forward.Server, o Options, k *keys) http.Handler {
	h := &handler{srv: srv, keys: k, names: o.Names, untrusted: o.Untrusted, table: o.Table, logger: o.Logger}
	if h.logger == nil {
		h.logger = srv.Logger()
	}
	mux := http.NewServeMux()
	for path, m := range h.paths() {
		mux.Handle(path, h.authorized(m))
	}
	mux.Handle("/", h.authorized(nil))
	return mux
}

// paths returns the methods of each path.
func (h *handler) paths() map[string]methods {
	all := map[string]methods{
		"/openapi.json":                {http.MethodGet: h.describe},
		"/sources":                     {http.MethodGet: h.list},
		"/sources/{source}":            {http.MethodGet: h.source, http.MethodDelete: h.kick},
		"/sources/{source}/refresh":    {http.MethodPost: h.refresh},
		"/sources/{source}/forwarders": {http.MethodPost: h.add},
		"/sources/{source}/forwarders/{forwarder}": {
			http.MethodGet: h.forwarder, http.MethodPut: h.replace, http.MethodDelete: h.remove,
		},
		"/probe": {http.MethodPost: h.probe},
	}
	maps.Copy(all, h.tablePaths())
	return all
}

// handler is not changed after it has been made, except probes.
type handler struct {
	srv       *forward.Server
	keys      *keys
	names     bool
	untrusted bool
	table     *table.Table // may be nil
	logger    *slog.Logger
	probes    probes
}

// methods are the HTTP methods of a path. Each returns a status and the body of the
// answer, or an error, which is a *failure.
type methods map[string]func(*http.Request) (status int, body any, err error)

func (h *handler) authorized(m methods) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, body, err := h.serve(m, w, r)
		var ce *failure
		if errors.As(err, &ce) {
			ce.write(w)
			return
		}
		write(w, status, body)
	})
}

func (h *handler) serve(of methods, w http.ResponseWriter, r *http.Request) (int, any, error) {
	if err := h.keys.admit(w, r); err != nil {
		return 0, nil, err
	}
	if of == nil {
		return 0, nil, notFound("There is nothing at this path.")
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	f := of[method]
	if f == nil {
		return 0, nil, notAllowed(w, slices.Sorted(maps.Keys(of)))
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	return f(r)
}

func (h *handler) list(*http.Request) (int, any, error) {
	sources := make([]shownSource, 0)
	for _, src := range h.srv.Sources() {
		sources = append(sources, h.show(src))
	}
	return http.StatusOK, map[string]any{"sources": sources}, nil
}

func (h *handler) source(r *http.Request) (int, any, error) {
	src, err := h.findSource(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, h.show(src), nil
}

func (h *handler) kick(r *http.Request) (int, any, error) {
	src, err := h.findSource(r)
	if err != nil {
		return 0, nil, err
	}
	h.log(src, "kick", "")
	go src.Shutdown(context.WithoutCancel(r.Context())) // limited by Config.DrainTimeout
	return http.StatusNoContent, nil, nil
}

func (h *handler) refresh(r *http.Request) (int, any, error) {
	src, err := h.findSource(r)
	if err != nil {
		return 0, nil, err
	}
	h.log(src, "refresh", "")
	if err := src.Refresh(r.Context()); err != nil {
		return 0, nil, failed(err, "resolver_failed")
	}
	return http.StatusOK, h.show(src), nil
}

func (h *handler) add(r *http.Request) (int, any, error) {
	src, err := h.findSource(r)
	if err != nil {
		return 0, nil, err
	}
	d, err := h.readDestination(r)
	if err != nil {
		return 0, nil, err
	}
	f, err := src.Forward(d)
	if err != nil {
		return 0, nil, failed(err, "destination_failed")
	}
	h.log(src, "add", f.ID())
	return http.StatusCreated, showForwarder(f), nil
}

func (h *handler) forwarder(r *http.Request) (int, any, error) {
	_, f, err := h.findForwarder(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, showForwarder(f), nil
}

func (h *handler) replace(r *http.Request) (int, any, error) {
	src, f, err := h.findForwarder(r)
	if err != nil {
		return 0, nil, err
	}
	d, err := h.readDestination(r)
	if err != nil {
		return 0, nil, err
	}
	h.log(src, "replace", f.ID())
	if err := f.Update(r.Context(), d); err != nil {
		return 0, nil, failed(err, "destination_failed")
	}
	return http.StatusOK, showForwarder(f), nil
}

func (h *handler) remove(r *http.Request) (int, any, error) {
	src, f, err := h.findForwarder(r)
	if err != nil {
		return 0, nil, err
	}
	h.log(src, "remove", f.ID())
	f.Shutdown(r.Context()) // an error means only that the client has left
	return http.StatusNoContent, nil, nil
}

// log logs a change to a stream.
func (h *handler) log(src *forward.Source, action, forwarder string) {
	h.logger.Info("control", "action", action, "source", fmt.Sprint(src), "id", forwarder)
}

func (h *handler) findSource(r *http.Request) (*forward.Source, error) {
	id := r.PathValue("source")
	for _, src := range h.srv.Sources() {
		if src.ID() == id {
			return src, nil
		}
	}
	return nil, notFound("There is no live stream with this id.")
}

func (h *handler) findForwarder(r *http.Request) (*forward.Source, *forward.Forwarder, error) {
	src, err := h.findSource(r)
	if err != nil {
		return nil, nil, err
	}
	if f := find(src, r.PathValue("forwarder")); f != nil {
		return src, f, nil
	}
	return nil, nil, notFound("The stream has no forwarder with this id.")
}

// find returns a stream's forwarder that has not ended.
func find(src *forward.Source, id string) *forward.Forwarder {
	for _, f := range src.Forwarders() {
		if f.ID() == id && !f.Ending() {
			return f
		}
	}
	return nil
}
