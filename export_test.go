package forward

import (
	"net/http"
	"reflect"
)

// What packages beside this one have, for tests in this package, which cannot
// import them. The file packages_test.go, which can, sets these.
var (
	// ControlHandler is control.Handler with one token.
	ControlHandler func(s *Server, token Secret) http.Handler
	// TypesBeside are the exported types that have values.
	TypesBeside []reflect.Type
)

// Measured is for tests outside the package, of what imports it.
var Measured = measured

// WithDefaults is for the test that compares the documents with the code.
func (c Config) WithDefaults() Config { return c.withDefaults() }

// WithDefaults is as that of Config.
func (d Destination) WithDefaults() Destination { return d.withDefaults() }
