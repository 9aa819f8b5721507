package live

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/rtmp-forward/forward"
)

// mediaWait is how long a viewer waits for a stream's first media.
const mediaWait = 10 * time.Second

// serveMP4 answers with the stream as fragmented MP4.
func (h *Handlers) serveMP4(w http.ResponseWriter, r *http.Request, p *forward.Player) {
	m := h.muxers.acquire(p.Source())
	defer h.muxers.release(m)
	ctx, cancel := context.WithTimeout(p.Context(), mediaWait)
	defer cancel()
	init, mime, err := m.ready(ctx)
	switch {
	case errors.Is(err, errUnsupported):
		fail(w, http.StatusNotAcceptable, "The stream has no codec that is given as MP4.")
		return
	case p.Context().Err() != nil:
		fail(w, http.StatusServiceUnavailable, "The player has ended.")
		return
	case err != nil:
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, "No media of the stream has come yet.")
		return
	}
	w.Header().Set("Content-Type", mime)
	if r.Method == http.MethodHead {
		return
	}
	var at place
	m.place(&at)
	out := newOutput(w, p)
	defer out.end()
	if _, err := out.Write(init); err != nil {
		return
	}
	for {
		fragments, err := m.fragments(p.Context(), &at)
		if err != nil || out.writeAll(fragments) != nil {
			return
		}
	}
}
