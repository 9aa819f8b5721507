package option

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ValueError says that a field of a JSON object is no value of its option. Its text is a
// sentence and contains no value.
type ValueError struct {
	Malformed bool // the value has the wrong type, or is no whole number within its bounds
	Message   string
}

func (e *ValueError) Error() string { return e.Message }

// FromJSON sets the options that a JSON object has, and deletes their fields from it. A
// value that is null, empty or zero sets nothing. Its error is a *ValueError.
func FromJSON(d *dest, fields map[string]json.RawMessage) error {
	for _, o := range All {
		if err := setJSON(d, o, fields[o.Name]); err != nil {
			return err
		}
		delete(fields, o.Name)
	}
	return nil
}

func setJSON(d *dest, o Option, value json.RawMessage) error {
	switch v := o.Value.(type) {
	case *Switch:
		return decode(o.Name, value, func(on bool) { v.Set(d, on) })
	case *Number:
		return decode(o.Name, value, func(n int) { v.Set(d, n) })
	case *Milliseconds:
		return decode(o.Name, value, func(ms int32) { v.Set(d, time.Duration(ms)*time.Millisecond) })
	case *Choice:
		known := true
		if err := decode(o.Name, value, func(word string) {
			known = slices.Contains(v.Words, word)
			v.Set(d, word)
		}); err != nil || known {
			return err
		}
		last := len(v.Words) - 1
		return &ValueError{Message: fmt.Sprintf("The field %s must be %s or %s.", o.Name, strings.Join(v.Words[:last], ", "), v.Words[last])}
	case Field[string]:
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
		return &ValueError{Malformed: true, Message: message}
	}
	if v != zero {
		set(v)
	}
	return nil
}

// ToJSON returns the fields of a JSON object with the options of d that are set,
// secrets included. FromJSON sets the same options, except those that only Go can set and
// parts of a millisecond.
func ToJSON(d dest) map[string]any {
	fields := make(map[string]any)
	for _, o := range All {
		switch v := o.Value.(type) {
		case *Switch:
			put(fields, o.Name, v.Get(d))
		case *Number:
			put(fields, o.Name, v.Get(d))
		case *Milliseconds:
			put(fields, o.Name, v.Get(d).Milliseconds())
		case Field[string]:
			put(fields, o.Name, v.Get(d))
		}
	}
	return fields
}

func put[T comparable](fields map[string]any, name string, v T) {
	var zero T
	if v != zero {
		fields[name] = v
	}
}
