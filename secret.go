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

// Secret is a stream key, password or token. However it is printed, logged or
// marshalled, it reads "***"; an empty Secret stays empty, so that a missing one is
// visible. string(s) is the value.
//
// fmt cannot call the methods of a Secret in an unexported field of another struct: a
// type that has one and is printed needs a String method of its own.
//
// encoding/json writes the key of a map unchanged if it is a string: do not use a
// Secret as a key.
//
// In this package, a type with secrets in its fields, or in values that they refer to,
// is printed by fmt, slog and encoding/json without them, by value and by pointer: a
// host that logs such a value does not log stream keys.
type Secret string

// shown is embedded in a type that fmt, slog and encoding/json must print as a text, as
// a value and as a pointer: methods of a pointer are not called for a value, and a
// value with a lock in it cannot have methods of its own.
type shown struct{ text string }

// Format writes the text, for every verb.
func (s shown) Format(f fmt.State, _ rune) { io.WriteString(f, s.text) }

// MarshalText gives the text.
func (s shown) MarshalText() ([]byte, error) { return []byte(s.text), nil }

// hide masks secrets in an error of a host that was asked about a client, because hosts
// often repeat the question: each secret, and the query of each URL and its values,
// read "***", except texts shorter than 4 bytes.
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

// GoString is as String, for %#v.
func (s Secret) GoString() string { return s.String() }

// Format writes String for every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText gives String. There is no way back: a Secret that was marshalled
// is lost.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue gives String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
