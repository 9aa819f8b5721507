package forward

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a stream key, password or token. However it is printed, logged or
// marshalled it reads "***"; an empty Secret stays empty, so that what is
// missing can be seen. string(s) is the value.
//
// fmt cannot call the methods of a Secret in an unexported field of another
// struct: a type that keeps one there and is printed needs a String method of
// its own.
type Secret string

const masked = "***"

// String is "***", or empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// GoString is as String, for %#v.
func (s Secret) GoString() string { return s.String() }

// Format writes String for every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText gives String. There is no way back: a Secret that was marshalled
// is lost.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON gives String in quotes.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// LogValue gives String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
