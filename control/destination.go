package control

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

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/option"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 64 << 10

// readDestination reads the body of a request.
func (h *handler) readDestination(r *http.Request) (forward.Destination, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return forward.Destination{}, &failure{"unsupported_media_type", "The body must be application/json."}
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
		return forward.Destination{}, badJSON(err)
	}
	d := forward.Destination{Untrusted: h.untrusted, NoLinkLocal: true}
	for _, o := range option.All {
		if err := set(&d, o, body[o.Name]); err != nil {
			return forward.Destination{}, err
		}
		delete(body, o.Name)
	}
	if len(body) > 0 {
		return forward.Destination{}, &failure{"bad_json", "The body has a field that a destination does not have."}
	}
	if err := d.Validate(); err != nil {
		return forward.Destination{}, &failure{"bad_destination", sentence(err)}
	}
	return d, nil
}

// set sets an option to a value in JSON. A value that is missing, null, empty or
// zero sets nothing.
func set(d *forward.Destination, o option.Option, value json.RawMessage) error {
	switch v := o.Value.(type) {
	case *option.Switch:
		return decode(o.Name, value, func(on bool) { v.Set(d, on) })
	case *option.Number:
		return decode(o.Name, value, func(n int) { v.Set(d, n) })
	case *option.Milliseconds:
		return decode(o.Name, value, func(ms int32) { v.Set(d, time.Duration(ms)*time.Millisecond) })
	case *option.Choice:
		known := true
		if err := decode(o.Name, value, func(word string) {
			known = slices.Contains(v.Words, word)
			v.Set(d, word)
		}); err != nil || known {
			return err
		}
		last := len(v.Words) - 1
		return &failure{"bad_destination", fmt.Sprintf("The field %s must be %s or %s.", o.Name, strings.Join(v.Words[:last], ", "), v.Words[last])}
	case option.Field[string]:
		return decode(o.Name, value, func(text string) { v.Set(d, text) })
	}
	return nil
}

// decode calls set with a value that is not the zero value of its type.
func decode[T comparable](name string, value json.RawMessage, set func(T)) error {
	if value == nil {
		return nil
	}
	var v, zero T
	if err := json.Unmarshal(value, &v); err != nil {
		message := fmt.Sprintf("The field %s has the wrong type.", name)
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) && strings.HasPrefix(typ.Value, "number ") {
			message = fmt.Sprintf("The field %s must be a whole number within its bounds.", name)
		}
		return &failure{"bad_json", message}
	}
	if v != zero {
		set(v)
	}
	return nil
}
