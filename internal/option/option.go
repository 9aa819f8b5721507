// Package option has the table of the options of a forward.Destination that text can
// set: in the block of a destination in a configuration file, and in the body of a
// request to the control handler. Both read the table, and tests compare the documents
// with it.
package option

import (
	"cmp"
	"slices"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/endpoint"
)

// Option is an option of a destination.
type Option struct {
	Name  string // in a file and in JSON
	Field string // the name of the field of forward.Destination
	// Secret is set if the value may hold a key or a password, which no error
	// shows.
	Secret bool
	// After names the directive of a file whose last value is this option. If it
	// is empty, the directive has the name of the option.
	After string
	// Value is a *URL, *Text, *Hash, *Choice, *Switch, *Number or *Milliseconds.
	Value any
}

// Field sets and gets the field of an option. T is string for *URL, *Text, *Hash and
// *Choice, bool for *Switch, int for *Number and time.Duration for *Milliseconds.
type Field[T any] interface {
	Set(*dest, T)
	Get(dest) T
}

// The kinds of values. Set compares a value with Words only.
type (
	// URL is where to push: the value of the directive whose block has the other
	// options.
	URL struct{ Field[string] }

	// Text has Min to Max bytes and no control characters.
	Text struct {
		Field[string]
		What     string // in errors
		Min, Max int
	}

	// Hash is a SHA-256 in hex digits.
	Hash struct{ Field[string] }

	// Choice is one of Words. Set ignores any other word.
	Choice struct {
		Field[string]
		Words []string
	}

	// Switch is on or off in a file.
	Switch struct{ Field[bool] }

	// Number is from Min to Max.
	Number struct {
		Field[int]
		What     string // in errors
		Min, Max int
	}

	// Milliseconds is from Min to Max ms. In JSON 0 is the default of every
	// option; in a file 0 ms means none.
	Milliseconds struct {
		Field[time.Duration]
		Min, Max int
	}
)

// Set sets the field to one of Words.
func (c *Choice) Set(d *dest, word string) {
	if slices.Contains(c.Words, word) {
		c.Field.Set(d, word)
	}
}

type dest = forward.Destination

// of is a field of the type of its option's values.
func of[T any](at func(*dest) *T) Field[T] { return plain[T](at) }

// text is a field of a string type with a name of its own.
func text[T ~string](at func(*dest) *T) Field[string] { return named[T](at) }

type (
	plain[T any]     func(*dest) *T
	named[T ~string] func(*dest) *T
)

func (at plain[T]) Set(d *dest, v T) { *at(d) = v }
func (at plain[T]) Get(d dest) T     { return *at(&d) }

func (at named[T]) Set(d *dest, v string) { *at(d) = T(v) }
func (at named[T]) Get(d dest) string     { return string(*at(&d)) }

// redirects are the words of each forward.Redirect.
var redirects = words{
	forward.RedirectSameHost: "same_host",
	forward.RedirectNever:    "never",
	forward.RedirectAnywhere: "anywhere",
}

// words is the field Redirect, whose values are their indices.
type words []string

func (w words) Set(d *dest, v string) { d.Redirect = forward.Redirect(slices.Index(w, v)) }
func (w words) Get(d dest) string     { return w[d.Redirect] }

var timestamps = []string{
	string(forward.TimestampsStream), string(forward.TimestampsZero), string(forward.TimestampsIncreasing),
}

const (
	maxText  = 4096
	maxInt32 = 1<<31 - 1
)

// All are the options that there are.
var All = []Option{
	{Name: "url", Field: "URL", Secret: true,
		Value: &URL{of(func(d *dest) *string { return &d.URL })}},
	{Name: "stream_key", Field: "StreamKey", Secret: true,
		Value: &Text{text(func(d *dest) *forward.Secret { return &d.StreamKey }), "a stream key", 1, maxText}},
	{Name: "profile", Field: "Profile",
		Value: &Choice{text(func(d *dest) *forward.Profile { return &d.Profile }), endpoint.ProfileNames()}},
	{Name: "user", Field: "User", Secret: true,
		Value: &Text{of(func(d *dest) *string { return &d.User }), "a user's name", 1, maxText}},
	{Name: "password", Field: "Password", Secret: true, After: "user",
		Value: &Text{text(func(d *dest) *forward.Secret { return &d.Password }), "a password", 0, maxText}},
	{Name: "tc_url", Field: "TcURL", Secret: true,
		Value: &Text{of(func(d *dest) *string { return &d.TcURL }), "a URL", 1, maxText}},
	{Name: "flash_ver", Field: "FlashVer",
		Value: &Text{of(func(d *dest) *string { return &d.FlashVer }), "a flashVer", 1, 255}},
	{Name: "chunk_size", Field: "ChunkSize",
		Value: &Number{of(func(d *dest) *int { return &d.ChunkSize }), "a chunk size in bytes", 128, 65536}},
	{Name: "server_name", Field: "ServerName",
		Value: &Text{of(func(d *dest) *string { return &d.ServerName }), "a server's name", 1, maxText}},
	{Name: "fingerprint", Field: "Fingerprint",
		Value: &Hash{of(func(d *dest) *string { return &d.Fingerprint })}},
	{Name: "redirect", Field: "Redirect",
		Value: &Choice{redirects, redirects}},
	{Name: "timestamps", Field: "Timestamps",
		Value: &Choice{text(func(d *dest) *forward.Timestamps { return &d.Timestamps }), timestamps}},
	{Name: "no_release_stream", Field: "NoReleaseStream",
		Value: &Switch{of(func(d *dest) *bool { return &d.NoReleaseStream })}},
	{Name: "no_fc_publish", Field: "NoFCPublish",
		Value: &Switch{of(func(d *dest) *bool { return &d.NoFCPublish })}},
	{Name: "plain_metadata", Field: "PlainMetadata",
		Value: &Switch{of(func(d *dest) *bool { return &d.PlainMetadata })}},
	{Name: "no_metadata", Field: "NoMetadata",
		Value: &Switch{of(func(d *dest) *bool { return &d.NoMetadata })}},
	{Name: "digest_handshake", Field: "DigestHandshake",
		Value: &Switch{of(func(d *dest) *bool { return &d.DigestHandshake })}},
	{Name: "merge_window_ms", Field: "MergeWindow",
		Value: &Milliseconds{of(func(d *dest) *time.Duration { return &d.MergeWindow }), 0, 10000}},
	{Name: "dial_timeout_ms", Field: "DialTimeout",
		Value: &Milliseconds{of(func(d *dest) *time.Duration { return &d.DialTimeout }), 1, maxInt32}},
	{Name: "setup_timeout_ms", Field: "SetupTimeout",
		Value: &Milliseconds{of(func(d *dest) *time.Duration { return &d.SetupTimeout }), 1, maxInt32}},
	{Name: "publish_timeout_ms", Field: "PublishTimeout",
		Value: &Milliseconds{of(func(d *dest) *time.Duration { return &d.PublishTimeout }), 1, maxInt32}},
}

// OfDirective returns the options whose values follow the name of a directive in
// the block of a destination, in their order. It returns none for a name that is no
// option.
func OfDirective(name string) (of []Option) {
	for _, o := range All {
		if _, ok := o.Value.(*URL); !ok && cmp.Or(o.After, o.Name) == name {
			of = append(of, o)
		}
	}
	return of
}

// Endpoint takes a destination apart. Its error is that of Validate.
func Endpoint(d forward.Destination) (endpoint.Endpoint, error) {
	if err := d.Validate(); err != nil {
		return endpoint.Endpoint{}, err
	}
	return endpoint.Spec{
		URL: d.URL, StreamKey: string(d.StreamKey), User: d.User, Password: string(d.Password),
		TcURL: d.TcURL, ServerName: d.ServerName, Fingerprint: d.Fingerprint,
		Profile: string(d.Profile), Times: string(d.Timestamps),
	}.Parse()
}
