package forward

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Secret is a stream key, password or token. It is printed, logged and marshalled as
// "***"; an empty Secret stays empty, so that a missing one is visible. string(s) is the
// value.
//
// fmt cannot call the methods of a Secret in an unexported field of another struct: if
// a type with such a field is printed, it needs a String method of its own.
//
// encoding/json writes the key of a map unchanged if it is a string: do not use a
// Secret as a key.
//
// All types of this package that contain or refer to secrets are printed without them
// by fmt, slog and encoding/json, by value and by pointer: a host that logs such a value
// does not log stream keys.
type Secret string

// shown is embedded in types that fmt, slog and encoding/json must print as a text, by
// value and by pointer. Methods of the pointer are not called for a value, and a type
// with a lock must not have methods of its value.
type shown struct{ text string }

// Format writes the text, for every verb.
func (s shown) Format(f fmt.State, _ rune) { io.WriteString(f, s.text) }

// MarshalText returns the text.
func (s shown) MarshalText() ([]byte, error) { return []byte(s.text), nil }

// hide masks secrets in an error of the host, because hosts often repeat the request in
// it. It replaces each secret, and the query of each URL and the values in it, with
// "***", except texts shorter than 4 bytes.
func hide(err error, secrets, urls []string) error {
	var queries []string
	for _, u := range urls {
		_, query, _ := strings.Cut(u, "?")
		queries = append(queries, query)
	}
	text := err.Error()
	for _, s := range slices.Concat(queries, secrets) {
		if len(s) >= 4 {
			text = strings.ReplaceAll(text, s, endpoint.Masked)
		}
	}
	return hidden{err, rtmp.MaskValues(text, queries...)}
}

// hidden is an error with another text.
type hidden struct {
	error
	text string
}

func (e hidden) Error() string { return e.text }

func (e hidden) Unwrap() error { return e.error }

// Format writes the text, for every verb.
func (e hidden) Format(f fmt.State, _ rune) { io.WriteString(f, e.text) }

// String is "***", or empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return endpoint.Masked
}

// GoString returns the result of String, for %#v.
func (s Secret) GoString() string { return s.String() }

// Format writes the result of String for every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText returns the result of String. A Secret cannot be unmarshalled.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue returns the result of String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
