package control

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/option"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 64 << 10

// readBody reads the JSON object in the body of a request.
func readBody(r *http.Request) (map[string]json.RawMessage, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, &failure{"unsupported_media_type", "The body must be application/json."}
	}
	dec := json.NewDecoder(r.Body)
	var body map[string]json.RawMessage
	err := dec.Decode(&body)
	if err == nil {
		if _, more := dec.Token(); more == nil {
			err = errors.New("more than one value")
		} else if more != io.EOF {
			err = more
		}
	}
	if err != nil {
		return nil, badJSON(err)
	}
	return body, nil
}

// named is a destination that a client names.
func (h *handler) named() forward.Destination {
	return forward.Destination{Untrusted: h.untrusted, NoLinkLocal: true}
}

// readDestination reads the body of a request.
func (h *handler) readDestination(r *http.Request) (forward.Destination, error) {
	body, err := readBody(r)
	if err != nil {
		return forward.Destination{}, err
	}
	d := h.named()
	if err := setOptions(&d, body); err != nil {
		return forward.Destination{}, err
	}
	if len(body) > 0 {
		return forward.Destination{}, &failure{"bad_json", "The body has a field that a destination does not have."}
	}
	if err := d.Validate(); err != nil {
		return forward.Destination{}, &failure{"bad_destination", sentence(err)}
	}
	return d, nil
}

// setOptions sets the options that a body has, and deletes their fields from it.
func setOptions(d *forward.Destination, body map[string]json.RawMessage) error {
	var ve *option.ValueError
	switch err := option.FromJSON(d, body); {
	case errors.As(err, &ve) && ve.Malformed:
		return &failure{"bad_json", ve.Message}
	case err != nil:
		return &failure{"bad_destination", err.Error()}
	}
	return nil
}
