// Package option has the one table of what text can say about a destination: the
// block of a destination in a configuration file, and the body of a request to the
// control handler. Both read it, and the documents are compared with it.
//
// It does not import the package that has the Destination: an option names its field
// there, and Set sets it by that name.
package option

import (
	"cmp"
	"reflect"
	"slices"

	"github.com/rtmp-forward/forward/internal/endpoint"
)

// Kind says what the values of an option are.
type Kind int

const (
	// Text is a string of Min to Max bytes without control characters.
	Text Kind = iota
	// URL is where to push: the value of the directive whose block has the
	// other options.
	URL
	// Hash is a SHA-256 in hex digits.
	Hash
	// Choice is one of Words.
	Choice
	// Switch is a bool: on or off in a file.
	Switch
	// Number is an int from Min to Max.
	Number
	// Milliseconds is a time.Duration of Min to Max ms. In JSON 0 is the default
	// of every option, in a file 0 ms is none.
	Milliseconds
)

// Option is an option of a destination.
type Option struct {
	Name  string // in a file and in JSON
	Field string // of a Destination
	Kind  Kind
	// What is what the errors of a file call a value that has bounds.
	What     string
	Min, Max int
	// Words are those of a Choice. If the field is an int, each stands for its
	// index.
	Words []string
	// Secret is set where a value may hold a key or a password, which no error
	// shows.
	Secret bool
	// After names the directive of a file that has the value as its last; empty
	// if it is that of Name.
	After string
}

const (
	maxText  = 4096
	maxInt32 = 1<<31 - 1
	millis   = "whole milliseconds"
)

// All are the options that there are.
var All = []Option{
	{Name: "url", Field: "URL", Kind: URL, Secret: true},
	{Name: "stream_key", Field: "StreamKey", What: "a stream key", Min: 1, Max: maxText, Secret: true},
	{Name: "profile", Field: "Profile", Kind: Choice, Words: endpoint.ProfileNames()},
	{Name: "user", Field: "User", What: "a user's name", Min: 1, Max: maxText, Secret: true},
	{Name: "password", Field: "Password", What: "a password", Min: 0, Max: maxText, Secret: true, After: "user"},
	{Name: "tc_url", Field: "TcURL", What: "a URL", Min: 1, Max: maxText, Secret: true},
	{Name: "flash_ver", Field: "FlashVer", What: "a flashVer", Min: 1, Max: 255},
	{Name: "chunk_size", Field: "ChunkSize", Kind: Number, What: "a chunk size in bytes", Min: 128, Max: 65536},
	{Name: "server_name", Field: "ServerName", What: "a server's name", Min: 1, Max: maxText},
	{Name: "fingerprint", Field: "Fingerprint", Kind: Hash},
	{Name: "redirect", Field: "Redirect", Kind: Choice, Words: []string{"same_host", "never", "anywhere"}},
	{Name: "timestamps", Field: "Timestamps", Kind: Choice, Words: []string{"stream", "zero", "increasing"}},
	{Name: "no_release_stream", Field: "NoReleaseStream", Kind: Switch},
	{Name: "no_fc_publish", Field: "NoFCPublish", Kind: Switch},
	{Name: "plain_metadata", Field: "PlainMetadata", Kind: Switch},
	{Name: "no_metadata", Field: "NoMetadata", Kind: Switch},
	{Name: "digest_handshake", Field: "DigestHandshake", Kind: Switch},
	{Name: "merge_window_ms", Field: "MergeWindow", Kind: Milliseconds, What: millis, Min: 0, Max: 10000},
	{Name: "dial_timeout_ms", Field: "DialTimeout", Kind: Milliseconds, What: millis, Min: 1, Max: maxInt32},
	{Name: "setup_timeout_ms", Field: "SetupTimeout", Kind: Milliseconds, What: millis, Min: 1, Max: maxInt32},
	{Name: "publish_timeout_ms", Field: "PublishTimeout", Kind: Milliseconds, What: millis, Min: 1, Max: maxInt32},
}

// OfDirective returns the options whose values follow the name of a directive in
// the block of a destination, in their order: none for a name that is no option.
func OfDirective(name string) (of []Option) {
	for _, o := range All {
		if o.Kind != URL && cmp.Or(o.After, o.Name) == name {
			of = append(of, o)
		}
	}
	return of
}

// Set sets the field of the Destination that to points to. The value is a bool for
// a Switch, an int for a Number, a time.Duration for Milliseconds, and a string for
// all others. It is not compared with the bounds. Set is false, and sets nothing,
// for a word that stands for no int.
func (o Option) Set(to, value any) bool {
	field := reflect.ValueOf(to).Elem().FieldByName(o.Field)
	if o.Kind == Choice && field.Kind() == reflect.Int {
		i := slices.Index(o.Words, value.(string))
		if i < 0 {
			return false
		}
		value = i
	}
	field.Set(reflect.ValueOf(value).Convert(field.Type()))
	return true
}
