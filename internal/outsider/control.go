package outsider

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/rtmp-forward/forward"
)

// Control shows the live streams of a Server to operators, and changes where they go.
//
//	GET    /streams                      the streams and their destinations
//	POST   /streams/STREAM/refresh
//	POST   /streams/STREAM/destinations            {"url":"rtmp://…"}
//	PUT    /streams/STREAM/destinations/DESTINATION
//	DELETE /streams/STREAM/destinations/DESTINATION
//	GET    /events                       a line of JSON for each change
type Control struct {
	mu        sync.Mutex
	listeners map[chan event]bool
}

// event is a change of a stream or destination.
type event struct {
	Stream      string `json:"stream"`
	Destination string `json:"destination,omitempty"`
	State       any    `json:"state"`
	Error       string `json:"error,omitempty"`
}

// Hooks returns hooks that report events and then call those of next.
func (c *Control) Hooks(next forward.Hooks) forward.Hooks {
	hooks := next
	hooks.OnSource = func(src *forward.Source) {
		c.tell(event{Stream: src.ID(), State: "live"})
		go func() { // ends with the stream, before Server.Close returns
			<-src.Done()
			c.tell(event{Stream: src.ID(), State: "ended"})
		}()
		if next.OnSource != nil {
			next.OnSource(src)
		}
	}
	hooks.OnForward = func(f *forward.Forwarder, state forward.State, err error) {
		e := event{Stream: f.Source().ID(), Destination: f.ID(), State: state}
		var de *forward.DestinationError
		if errors.As(err, &de) {
			e.Error = fmt.Sprintf("%s %s", de.Op, de.Code)
		}
		c.tell(e)
		if next.OnForward != nil {
			next.OnForward(f, state, err)
		}
	}
	return hooks
}

// tell sends e to every listener that keeps up.
func (c *Control) tell(e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.listeners {
		select {
		case l <- e:
		default: // a hook must not block
		}
	}
}

// Handler returns the handler for a Server that uses Hooks.
func (c *Control) Handler(srv *forward.Server, token forward.Secret) http.Handler {
	h := &handler{c, srv}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /streams", h.list)
	mux.HandleFunc("POST /streams/{stream}/refresh", h.refresh)
	mux.HandleFunc("POST /streams/{stream}/destinations", h.add)
	mux.HandleFunc("PUT /streams/{stream}/destinations/{destination}", h.replace)
	mux.HandleFunc("DELETE /streams/{stream}/destinations/{destination}", h.remove)
	mux.HandleFunc("GET /events", h.events)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := r.Header.Get("Authorization")
		if subtle.ConstantTimeCompare([]byte(given), []byte("Bearer "+string(token))) != 1 {
			http.Error(w, "a token is needed", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

type handler struct {
	*Control
	srv *forward.Server
}

type shownStream struct {
	ID           string             `json:"id"`
	Stream       *forward.Source    `json:"stream"` // as in the log
	IP           string             `json:"ip"`
	Bytes        uint64             `json:"bytes"`
	Video        string             `json:"video"`
	Destinations []shownDestination `json:"destinations"`
}

type shownDestination struct {
	ID    string              `json:"id"`
	URL   forward.Destination `json:"url"` // masked
	State forward.State       `json:"state"`
	Bytes uint64              `json:"bytes"`
	Error string              `json:"error,omitempty"`
}

func (h *handler) list(w http.ResponseWriter, _ *http.Request) {
	streams := []shownStream{}
	for _, src := range h.srv.Sources() {
		st := src.Stats()
		s := shownStream{src.ID(), src, src.Request().IP(), st.Bytes, st.VideoCodec, []shownDestination{}}
		for _, f := range src.Forwarders() {
			s.Destinations = append(s.Destinations, showDestination(f))
		}
		streams = append(streams, s)
	}
	write(w, http.StatusOK, streams)
}

func showDestination(f *forward.Forwarder) shownDestination {
	st := f.Stats()
	d := shownDestination{f.ID(), f.Destination(), st.State, st.Bytes, ""}
	if st.LastErr != nil {
		d.Error = st.LastErr.Error()
	}
	return d
}

func (h *handler) refresh(w http.ResponseWriter, r *http.Request) {
	if src := h.source(w, r); src != nil {
		answer(w, http.StatusNoContent, nil, src.Refresh(r.Context()))
	}
}

func (h *handler) add(w http.ResponseWriter, r *http.Request) {
	src, d, ok := h.source(w, r), forward.Destination{}, false
	if src == nil {
		return
	}
	if d, ok = readDestination(w, r); !ok {
		return
	}
	f, err := src.Forward(d)
	if err != nil {
		answer(w, 0, nil, err)
		return
	}
	write(w, http.StatusCreated, showDestination(f))
}

func (h *handler) replace(w http.ResponseWriter, r *http.Request) {
	f := h.forwarder(w, r)
	if f == nil {
		return
	}
	d, ok := readDestination(w, r)
	if !ok {
		return
	}
	if err := f.Update(r.Context(), d); err != nil {
		answer(w, 0, nil, err)
		return
	}
	write(w, http.StatusOK, showDestination(f))
}

func (h *handler) remove(w http.ResponseWriter, r *http.Request) {
	if f := h.forwarder(w, r); f != nil {
		answer(w, http.StatusNoContent, nil, f.Shutdown(r.Context()))
	}
}

// events streams events until the client leaves.
func (h *handler) events(w http.ResponseWriter, r *http.Request) {
	l := make(chan event, 64)
	h.mu.Lock()
	if h.listeners == nil {
		h.listeners = make(map[chan event]bool)
	}
	h.listeners[l] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.listeners, l)
	}()
	out := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	for out.Flush() == nil {
		select {
		case e := <-l:
			json.NewEncoder(w).Encode(e)
		case <-r.Context().Done():
			return
		}
	}
}

// source returns the stream that the path names, or answers with an error.
func (h *handler) source(w http.ResponseWriter, r *http.Request) *forward.Source {
	for _, src := range h.srv.Sources() {
		if src.ID() == r.PathValue("stream") {
			return src
		}
	}
	http.Error(w, "no such stream", http.StatusNotFound)
	return nil
}

// forwarder returns the Forwarder that the path names, or answers with an error.
func (h *handler) forwarder(w http.ResponseWriter, r *http.Request) *forward.Forwarder {
	src := h.source(w, r)
	if src == nil {
		return nil
	}
	for _, f := range src.Forwarders() {
		if f.ID() == r.PathValue("destination") && !f.Ending() {
			return f
		}
	}
	http.Error(w, "no such destination", http.StatusNotFound)
	return nil
}

// readDestination returns the destination in the body, or answers with an error.
func readDestination(w http.ResponseWriter, r *http.Request) (forward.Destination, bool) {
	var body struct{ URL string }
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10)).Decode(&body)
	d := forward.Destination{URL: body.URL, NoLinkLocal: true}
	if err == nil {
		err = d.Validate()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return d, false
	}
	return d, true
}

// answer sends an error of the library's, or a body.
func answer(w http.ResponseWriter, status int, body any, err error) {
	var de *forward.DestinationError
	switch {
	case err == nil && body == nil:
		w.WriteHeader(status)
	case err == nil:
		write(w, status, body)
	case errors.Is(err, context.Canceled):
	case errors.Is(err, forward.ErrDuplicate), errors.Is(err, forward.ErrLimit),
		errors.Is(err, forward.ErrStreamEnded), errors.Is(err, forward.ErrUpdating):
		http.Error(w, err.Error(), http.StatusConflict)
	case errors.As(err, &de):
		http.Error(w, fmt.Sprintf("%s: %s", de.Op, de.Code), http.StatusBadGateway)
	default:
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
