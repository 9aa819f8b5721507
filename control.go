package forward

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxControlBody bounds what a request to the control handler may send.
const maxControlBody = 64 << 10

// ControlOptions are for Server.Handler.
type ControlOptions struct {
	// Tokens are what a request must bring one of, as "Authorization:
	// Bearer TOKEN". All are valid, so that they can be replaced one after
	// the other. At least one is needed, and none may be empty.
	Tokens []Secret

	// Names shows the names of streams. In many set-ups they are the keys
	// that allow publishing.
	Names bool

	// Untrusted has the destinations checked as if a publisher had named
	// them (see Destination.Untrusted), where the tokens are also with others
	// than the operator.
	Untrusted bool
}

// Format writes how many tokens it has, for every verb.
func (o ControlOptions) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "ControlOptions with %d tokens", len(o.Tokens))
}

// MarshalText gives the same as Format.
func (o ControlOptions) MarshalText() ([]byte, error) { return fmt.Append(nil, o), nil }

// Handler returns a handler that shows the live streams and changes them while
// they run. It is not mounted anywhere: the host does that, with TLS or on an
// address of its own, and with http.StripPrefix unless at the root.
//
//	GET    /sources                         the live streams
//	GET    /sources/SOURCE                  one of them
//	DELETE /sources/SOURCE                  ends it and disconnects its publisher
//	POST   /sources/SOURCE/refresh          Source.Refresh
//	POST   /sources/SOURCE/forwarders       Source.Forward
//	GET    /sources/SOURCE/forwarders/FORWARDER
//	PUT    /sources/SOURCE/forwarders/FORWARDER   Forwarder.Update
//	DELETE /sources/SOURCE/forwarders/FORWARDER   Forwarder.Close
//
// SOURCE is that of Source.ID, which callbacks bring as stream_id, FORWARDER
// that of ForwarderStats.ID. Neither tells anything about names and keys, and
// both are the same for the same stream and destination as long as the process
// lives.
//
// GET /sources answers {"sources":[…]}. A source is
//
//	{"id":"…","stream":"app/#…","client_id":"…","ip":"…","since":"…","bytes":0,
//	 "messages":0,"video_codec":"…","audio_codec":"…","forwarders":[…]}
//
// where stream is as in the log, and name comes with it under
// ControlOptions.Names. A forwarder is
//
//	{"id":"…","url":"rtmp://host/app/***","state":"publishing","since":"…",
//	 "connects":1,"accepted":1,"bytes":0,"messages":0,"dropped_late":0,
//	 "dropped_no_keyframe":0,"lag":0,
//	 "error":{"op":"publish","code":"NetStream.Publish.BadName","message":"…"}}
//
// with the fields of ForwarderStats, next_attempt and warning where there is
// one, and error as long as LastErr. A destination, the body of POST and PUT, is
//
//	{"url":"rtmp://host/app","profile":"…","stream_key":"…","user":"…",
//	 "password":"…","tc_url":"…","flash_ver":"…","chunk_size":4096,"server_name":"…",
//	 "fingerprint":"…","no_release_stream":false,"no_fc_publish":false,
//	 "plain_metadata":false,"no_metadata":false,"digest_handshake":false,
//	 "redirect":"same_host","merge_window_ms":0,"dial_timeout_ms":5000,
//	 "setup_timeout_ms":10000,"publish_timeout_ms":35000}
//
// of which only url is needed; redirect is same_host, never or anywhere. Its
// Content-Type is application/json, other fields are refused, and it has at
// most 64 KiB. It may lead to every address but link-local ones and those of
// metadata services, which Config.AllowNetworks must hold; see also
// ControlOptions.Untrusted.
//
// POST of a forwarder answers 201 and the forwarder at once, PUT 200 and the
// new one when it has taken over, refresh 200 and the source. DELETE answers
// 204: of a source at once, of a forwarder when it is gone. A request that is
// broken off breaks off what it waits for.
//
// All that fails answers {"code":"…","message":"A sentence."} with one of
//
//	400 bad_json, bad_destination   409 exists, limit, conflict
//	401 unauthorized                413 too_large
//	404 not_found                   415 unsupported_media_type
//	405 method_not_allowed          502 resolver_failed, destination_failed
func (s *Server) Handler(o ControlOptions) (http.Handler, error) {
	if len(o.Tokens) == 0 || slices.Contains(o.Tokens, "") {
		return nil, errors.New("forward: control handler without a token, or with an empty one")
	}
	c := &control{srv: s, tokens: slices.Clone(o.Tokens), names: o.Names, untrusted: o.Untrusted}
	mux := http.NewServeMux()
	for path, methods := range map[string]controlMethods{
		"/sources":                     {http.MethodGet: c.list},
		"/sources/{source}":            {http.MethodGet: c.source, http.MethodDelete: c.kick},
		"/sources/{source}/refresh":    {http.MethodPost: c.refresh},
		"/sources/{source}/forwarders": {http.MethodPost: c.add},
		"/sources/{source}/forwarders/{forwarder}": {
			http.MethodGet: c.forwarder, http.MethodPut: c.replace, http.MethodDelete: c.remove,
		},
		"/": nil,
	} {
		mux.Handle(path, c.authorized(methods))
	}
	return mux, nil
}

type control struct {
	srv    *Server
	tokens []Secret
	names  bool

	untrusted bool
}

// controlMethods are what a path takes. Each returns a status and what is sent
// with it, or an error, a *controlError.
type controlMethods map[string]func(*http.Request) (status int, body any, err error)

// controlError is an error as a client sees it.
type controlError struct {
	status  int
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *controlError) Error() string { return e.Message }

func (c *control) authorized(methods controlMethods) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, body, err := c.serve(methods, w, r)
		var ce *controlError
		if errors.As(err, &ce) {
			status, body = ce.status, ce
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if status == http.StatusNoContent {
			w.WriteHeader(status)
			return
		}
		h.Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(body)
	})
}

func (c *control) serve(methods controlMethods, w http.ResponseWriter, r *http.Request) (int, any, error) {
	if !c.knows(r.Header.Get("Authorization")) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return 0, nil, &controlError{http.StatusUnauthorized, "unauthorized", "A valid bearer token is needed."}
	}
	if methods == nil {
		return 0, nil, notFound("There is nothing at this path.")
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	f := methods[method]
	if f == nil {
		var allow []string
		for m := range methods {
			allow = append(allow, m)
		}
		slices.Sort(allow)
		w.Header().Set("Allow", strings.Join(allow, ", "))
		return 0, nil, &controlError{http.StatusMethodNotAllowed, "method_not_allowed",
			"This path takes " + strings.Join(allow, ", ") + "."}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxControlBody)
	return f(r)
}

// knows reports whether the header brings one of the tokens.
func (c *control) knows(header string) bool {
	scheme, given, _ := strings.Cut(header, " ")
	ok := 0
	for _, t := range c.tokens {
		ok |= constantTimeEqual(strings.TrimSpace(given), string(t))
	}
	return ok == 1 && strings.EqualFold(scheme, "Bearer")
}

func notFound(message string) error {
	return &controlError{http.StatusNotFound, "not_found", message}
}

func (c *control) list(*http.Request) (int, any, error) {
	sources := make([]controlSource, 0)
	for _, src := range c.srv.Sources() {
		sources = append(sources, c.show(src))
	}
	return http.StatusOK, map[string]any{"sources": sources}, nil
}

func (c *control) source(r *http.Request) (int, any, error) {
	src, err := c.findSource(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, c.show(src), nil
}

func (c *control) kick(r *http.Request) (int, any, error) {
	src, err := c.findSource(r)
	if err != nil {
		return 0, nil, err
	}
	c.log(src, "kick", "")
	src.Close()
	return http.StatusNoContent, nil, nil
}

func (c *control) refresh(r *http.Request) (int, any, error) {
	src, err := c.findSource(r)
	if err != nil {
		return 0, nil, err
	}
	c.log(src, "refresh", "")
	if err := src.Refresh(r.Context()); err != nil {
		return 0, nil, failure(err, "resolver_failed")
	}
	return http.StatusOK, c.show(src), nil
}

func (c *control) add(r *http.Request) (int, any, error) {
	src, err := c.findSource(r)
	if err != nil {
		return 0, nil, err
	}
	d, err := c.readDestination(r)
	if err != nil {
		return 0, nil, err
	}
	f, err := src.Forward(d)
	if err != nil {
		return 0, nil, failure(err, "destination_failed")
	}
	c.log(src, "add", f.id)
	return http.StatusCreated, showForwarder(f), nil
}

func (c *control) forwarder(r *http.Request) (int, any, error) {
	_, f, err := c.findForwarder(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, showForwarder(f), nil
}

func (c *control) replace(r *http.Request) (int, any, error) {
	src, f, err := c.findForwarder(r)
	if err != nil {
		return 0, nil, err
	}
	d, err := c.readDestination(r)
	if err != nil {
		return 0, nil, err
	}
	c.log(src, "replace", f.id)
	n, err := f.Update(r.Context(), d)
	if err != nil {
		return 0, nil, failure(err, "destination_failed")
	}
	return http.StatusOK, showForwarder(n), nil
}

func (c *control) remove(r *http.Request) (int, any, error) {
	src, f, err := c.findForwarder(r)
	if err != nil {
		return 0, nil, err
	}
	c.log(src, "remove", f.id)
	f.Close(r.Context()) // an error says no more than that nobody waits for the answer
	return http.StatusNoContent, nil, nil
}

// log notes who changes what: those who did not will want to know.
func (c *control) log(src *Source, action, forwarder string) {
	c.srv.log.Info("control", "action", action, "source", src.req.logName(), "id", forwarder)
}

func (c *control) findSource(r *http.Request) (*Source, error) {
	id := r.PathValue("source")
	for _, src := range c.srv.Sources() {
		if src.ID() == id {
			return src, nil
		}
	}
	return nil, notFound("There is no live stream with this id.")
}

func (c *control) findForwarder(r *http.Request) (*Source, *Forwarder, error) {
	src, err := c.findSource(r)
	if err != nil {
		return nil, nil, err
	}
	if f := find(src, r.PathValue("forwarder")); f != nil {
		return src, f, nil
	}
	return nil, nil, notFound("The stream has no forwarder with this id.")
}

// find returns a stream's forwarder that has not ended.
func find(src *Source, id string) *Forwarder {
	for _, f := range src.Forwarders() {
		if f.id == id && !f.isEnded() {
			return f
		}
	}
	return nil
}

// failure makes an error of the library's one of the handler's. code says what
// has failed where nothing else is known.
func failure(err error, code string) error {
	ce := &controlError{http.StatusBadGateway, code, sentence(err)}
	switch {
	case errors.Is(err, ErrDuplicate):
		return &controlError{http.StatusConflict, "exists", "The stream is pushed to this destination already."}
	case errors.Is(err, ErrLimit):
		ce.status, ce.Code = http.StatusConflict, "limit"
	case errors.Is(err, ErrStreamEnded), errors.Is(err, ErrUpdating):
		ce.status, ce.Code = http.StatusConflict, "conflict"
	}
	return ce
}

// sentence makes a sentence of an error.
func sentence(err error) string {
	s := strings.TrimPrefix(err.Error(), "forward: ")
	first, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(first)) + s[n:] + "."
}

// controlRedirects are the values of a destination's redirect.
var controlRedirects = map[string]Redirect{
	"": RedirectSameHost, "same_host": RedirectSameHost, "never": RedirectNever, "anywhere": RedirectAnywhere,
}

// readDestination reads the body of a request.
func (c *control) readDestination(r *http.Request) (Destination, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return Destination{}, &controlError{http.StatusUnsupportedMediaType, "unsupported_media_type",
			"The body must be application/json."}
	}
	var b struct {
		URL             string     `json:"url"`
		Profile         Profile    `json:"profile"`
		StreamKey       Secret     `json:"stream_key"`
		User            string     `json:"user"`
		Password        Secret     `json:"password"`
		TcURL           string     `json:"tc_url"`
		FlashVer        string     `json:"flash_ver"`
		ChunkSize       int        `json:"chunk_size"`
		ServerName      string     `json:"server_name"`
		Fingerprint     string     `json:"fingerprint"`
		NoReleaseStream bool       `json:"no_release_stream"`
		NoFCPublish     bool       `json:"no_fc_publish"`
		PlainMetadata   bool       `json:"plain_metadata"`
		NoMetadata      bool       `json:"no_metadata"`
		DigestHandshake bool       `json:"digest_handshake"`
		Redirect        string     `json:"redirect"`
		Timestamps      Timestamps `json:"timestamps"`
		MergeWindow     int32      `json:"merge_window_ms"`
		DialTimeout     int32      `json:"dial_timeout_ms"`
		SetupTimeout    int32      `json:"setup_timeout_ms"`
		PublishTimeout  int32      `json:"publish_timeout_ms"`
	}
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(&b)
	if err == nil {
		if _, more := dec.Token(); more == nil {
			err = errors.New("more than one value")
		} else if more != io.EOF {
			err = more
		}
	}
	if err != nil {
		return Destination{}, badJSON(err)
	}
	d := Destination{
		URL: b.URL, Profile: b.Profile, StreamKey: b.StreamKey, User: b.User, Password: b.Password,
		TcURL: b.TcURL, FlashVer: b.FlashVer, ChunkSize: b.ChunkSize,
		ServerName: b.ServerName, Fingerprint: b.Fingerprint,
		NoReleaseStream: b.NoReleaseStream, NoFCPublish: b.NoFCPublish,
		PlainMetadata: b.PlainMetadata, NoMetadata: b.NoMetadata,
		DigestHandshake: b.DigestHandshake, Timestamps: b.Timestamps,
		MergeWindow:    time.Duration(b.MergeWindow) * time.Millisecond,
		DialTimeout:    time.Duration(b.DialTimeout) * time.Millisecond,
		SetupTimeout:   time.Duration(b.SetupTimeout) * time.Millisecond,
		PublishTimeout: time.Duration(b.PublishTimeout) * time.Millisecond,
		Untrusted:      c.untrusted, NoLinkLocal: true,
	}
	var ok bool
	if d.Redirect, ok = controlRedirects[b.Redirect]; !ok {
		return Destination{}, &controlError{http.StatusBadRequest, "bad_destination",
			"The redirect is none of same_host, never and anywhere."}
	}
	if err := d.Validate(); err != nil {
		return Destination{}, &controlError{http.StatusBadRequest, "bad_destination", sentence(err)}
	}
	return d, nil
}

// badJSON words what the decoder says, which quotes nothing but field names.
func badJSON(err error) error {
	var tooLarge *http.MaxBytesError
	var typ *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	what := "The body is not the JSON object of a destination."
	switch {
	case errors.As(err, &tooLarge):
		return &controlError{http.StatusRequestEntityTooLarge, "too_large",
			fmt.Sprintf("The body is longer than %d bytes.", maxControlBody)}
	case errors.As(err, &syntax):
		what = fmt.Sprintf("The body is no JSON at byte %d.", syntax.Offset)
	case errors.As(err, &typ) && typ.Field != "":
		what = fmt.Sprintf("The field %s has the wrong type, a %s.", typ.Field, typ.Value)
	case strings.Contains(err.Error(), "unknown field"):
		what = "The body has a field that a destination does not have."
	}
	return &controlError{http.StatusBadRequest, "bad_json", what}
}

type (
	controlSource struct {
		ID         string             `json:"id"`
		Stream     string             `json:"stream"`
		Name       string             `json:"name,omitempty"`
		ClientID   string             `json:"client_id"`
		IP         string             `json:"ip"`
		Since      time.Time          `json:"since"`
		Bytes      uint64             `json:"bytes"`
		Messages   uint64             `json:"messages"`
		VideoCodec string             `json:"video_codec"`
		AudioCodec string             `json:"audio_codec"`
		Forwarders []controlForwarder `json:"forwarders"`
	}
	controlForwarder struct {
		ID                string       `json:"id"`
		URL               string       `json:"url"`
		State             string       `json:"state"`
		Since             time.Time    `json:"since"`
		NextAttempt       time.Time    `json:"next_attempt,omitzero"`
		Connects          uint64       `json:"connects"`
		Accepted          uint64       `json:"accepted"`
		Bytes             uint64       `json:"bytes"`
		Messages          uint64       `json:"messages"`
		DroppedLate       uint64       `json:"dropped_late"`
		DroppedNoKeyframe uint64       `json:"dropped_no_keyframe"`
		Lag               uint64       `json:"lag"`
		Warning           string       `json:"warning,omitempty"`
		Error             *controlLost `json:"error,omitempty"`
	}
	controlLost struct {
		Op      string `json:"op"`
		Code    string `json:"code,omitempty"`
		Message string `json:"message"`
	}
)

func (c *control) show(src *Source) controlSource {
	st := src.Stats()
	out := controlSource{
		ID: src.ID(), Stream: src.req.logName(), ClientID: src.Request().ClientID, IP: src.Request().IP(),
		Since: st.Since, Bytes: st.Bytes, Messages: st.Messages,
		VideoCodec: st.VideoCodec, AudioCodec: st.AudioCodec,
		Forwarders: make([]controlForwarder, 0),
	}
	if c.names {
		out.Name = src.Name()
	}
	for _, f := range src.Forwarders() {
		out.Forwarders = append(out.Forwarders, showForwarder(f))
	}
	return out
}

func showForwarder(f *Forwarder) controlForwarder {
	st := f.Stats()
	out := controlForwarder{
		ID: st.ID, URL: f.dst.String(), State: st.State.String(), Since: st.Since, NextAttempt: st.NextAttempt,
		Connects: st.Connects, Accepted: st.Accepted, Bytes: st.Bytes, Messages: st.Messages,
		DroppedLate: st.DroppedLate, DroppedNoKeyframe: st.DroppedNoKeyframe, Lag: st.Lag,
		Warning: st.Warning,
	}
	if st.LastErr != nil {
		out.Error = &controlLost{Message: sentence(st.LastErr)}
		var de *DestinationError
		if errors.As(st.LastErr, &de) {
			out.Error.Op, out.Error.Code = de.Op, de.Code
			out.Error.Message = sentence(de.Err)
		}
	}
	return out
}
