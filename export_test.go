package forward

import (
	"log/slog"
	"net/http"
	"reflect"
	"time"
)

// What packages beside this one have, for tests in this package, which cannot
// import them. The file packages_test.go, which can, sets these.
var (
	// ControlHandler is control.Handler with one token.
	ControlHandler func(s *Server, token Secret) http.Handler
	// ResolveHTTP is a resolve.HTTP.
	ResolveHTTP func(b HTTPBackend) DestinationResolver
	// ResolveCached is resolve.Cached.
	ResolveCached func(r DestinationResolver, ttl time.Duration) DestinationResolver
	// SRSHooks are srs.Hooks that ask one backend about publishers.
	SRSHooks func(b HTTPBackend) Hooks
	// TypesBeside are the exported types that have values.
	TypesBeside []reflect.Type
	// ValuesBeside returns values that hold the URLs of a destination and of a
	// backend.
	ValuesBeside func(url, backend string) []any
	// ErrorsBeside returns what is said of a URL that is malformed.
	ErrorsBeside func(url string) []error
)

// HTTPBackend is what a test says of a backend.
type HTTPBackend struct {
	URL          string
	Client       *http.Client
	OnFailure    string // "FailOpen" …; empty is the default
	Fallback     DestinationResolver
	Secret       Secret
	MaxQuestions int
	Timeout      time.Duration
	Logger       *slog.Logger
}

// Measured is for tests outside the package, of what imports it.
var Measured = measured

// WithDefaults is for the test that compares the documents with the code.
func (c Config) WithDefaults() Config { return c.withDefaults() }

// WithDefaults is as that of Config.
func (d Destination) WithDefaults() Destination { return d.withDefaults() }
