// Package amf reads and writes the values of RTMP commands and data messages: AMF0, and AMF3
// in an AMF0 message that switches to it.
//
// A decoded value is one of nil (null), bool, float64, string, Object,
// ECMAArray, StrictArray, Undefined, Unsupported, Date, XML or TypedObject.
// Sources: "Action Message Format -- AMF 0" (AMF0) and "-- AMF 3" (AMF3).
package amf

import (
	"errors"
	"strings"
)

// Defaults of Limits.
const (
	DefaultDepth  = 16      // nested containers
	DefaultNodes  = 1024    // values in one message
	DefaultKeys   = 256     // properties of one object or ECMA array
	DefaultString = 1 << 16 // bytes of one string, name or XML document
)

// Errors of a Decoder. They are wrapped with the kind of value and the offset, and never
// contain a part of the input, which may be secret.
var (
	ErrTooDeep   = errors.New("amf: nested too deep")
	ErrLimit     = errors.New("amf: limit exceeded")
	ErrMalformed = errors.New("amf: malformed")
)

// Limits are the limits of one Decoder. A field that is not positive means its default, so
// the zero value is ready to use.
type Limits struct {
	// Depth is how many containers may be open. Beyond it the error is ErrTooDeep.
	Depth int
	// Nodes is how many values a Decoder reads, including containers. In AMF3 each string
	// that can be referred to and each name of traits count as well. In an AMF3 array with
	// names, elements without a name count twice.
	Nodes int
	// Keys is how many properties one object or ECMA array may have.
	Keys int
	// String is the maximum length of a string, in bytes.
	String int
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{
		{&l.Depth, DefaultDepth},
		{&l.Nodes, DefaultNodes},
		{&l.Keys, DefaultKeys},
		{&l.String, DefaultString},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}

// Property is a named value of an Object or ECMAArray.
type Property struct {
	Key   string
	Value any
}

// Object is an anonymous object. It keeps the order of its properties. Several may have the
// same key.
type Object []Property

// Get returns the value of key. An exact match precedes one that differs in case (some
// encoders send "tcurl"). Of several equal matches the last one counts, as if they had been
// assigned in order.
func (o Object) Get(key string) (any, bool) {
	folded := -1
	for i := len(o) - 1; i >= 0; i-- {
		if o[i].Key == key {
			return o[i].Value, true
		}
		if folded < 0 && strings.EqualFold(o[i].Key, key) {
			folded = i
		}
	}
	if folded < 0 {
		return nil, false
	}
	return o[folded].Value, true
}

// GetString is Get for a string. It returns false for any other type.
func (o Object) GetString(key string) (string, bool) {
	v, _ := o.Get(key)
	s, ok := v.(string)
	return s, ok
}

// GetNumber is Get for a number. It returns false for any other type.
func (o Object) GetNumber(key string) (float64, bool) {
	v, _ := o.Get(key)
	f, ok := v.(float64)
	return f, ok
}

// AsObject returns the properties of an Object, ECMAArray or TypedObject, without copying
// them. Encoders use these types interchangeably.
func AsObject(v any) (Object, bool) {
	switch v := v.(type) {
	case Object:
		return v, true
	case ECMAArray:
		return Object(v), true
	case TypedObject:
		return v.Object, true
	}
	return nil, false
}

// ECMAArray is an associative array, the usual form of onMetaData.
type ECMAArray []Property

// StrictArray is an array without keys.
type StrictArray []any

// Undefined is the undefined value. A Decoder also returns it for values that it does not
// decode: references to objects, and AMF3's byte arrays, vectors of numbers and
// dictionaries.
type Undefined struct{}

// Unsupported stands for a value that the sender could not serialize.
type Unsupported struct{}

// Date is a point in time.
type Date struct {
	Ms float64 // milliseconds since 1970, UTC
	TZ int16   // minutes; reserved, should be 0 (AMF0, 2.13)
}

// XML is the text of an XML document.
type XML string

// TypedObject is an object with a class name.
type TypedObject struct {
	Name   string
	Object Object
}
