package amf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// AMF0 markers (AMF0, 2.1).
const (
	markerNumber      = 0x00
	markerBool        = 0x01
	markerString      = 0x02
	markerObject      = 0x03
	markerNull        = 0x05
	markerUndefined   = 0x06
	markerReference   = 0x07
	markerECMAArray   = 0x08
	markerObjectEnd   = 0x09
	markerStrictArray = 0x0a
	markerDate        = 0x0b
	markerLongString  = 0x0c
	markerUnsupported = 0x0d
	markerXML         = 0x0f
	markerTypedObject = 0x10
	markerAVMPlus     = 0x11
)

// Decoder reads the AMF0 values of one message. Values after the avmplus marker are
// read as AMF3. Memory use is bounded by the bytes that are present, never by a count
// that the peer announces; strings are copies. It is not safe for concurrent use.
type Decoder struct {
	b   []byte
	lim Limits
	off int
	err error

	depth int
	nodes int
	// stack contains the elements read so far of the open containers, innermost last. So
	// each container is allocated once, with its final size.
	stack []Property

	// AMF3's reference tables live as long as the message (AMF3, 4.1).
	strings []string
	traits  []*traits
}

// NewDecoder returns a Decoder of b. b must not change while the Decoder is used.
func NewDecoder(b []byte, lim Limits) *Decoder {
	return &Decoder{b: b, lim: lim.withDefaults()}
}

// Decode returns the next value, or io.EOF if the previous one ended exactly at the end of
// the input. Any other error wraps ErrTooDeep, ErrLimit or ErrMalformed, and all later calls
// return it.
//
// The count of an ECMA array is ignored. An object (typed or not) or ECMA array that is not
// within another value may lack its end marker, if the input ends where a property could
// begin: some encoders send such onMetaData. MovieClip and RecordSet, which the specification
// reserves, are malformed.
func (d *Decoder) Decode() (any, error) {
	if d.err != nil {
		return nil, d.err
	}
	if d.off == len(d.b) {
		return nil, io.EOF
	}
	v, err := d.value()
	if err != nil {
		d.err = err
		return nil, err
	}
	return v, nil
}

// Offset returns the number of bytes read. Unless Decode has returned an error, it is the
// end of the last value.
func (d *Decoder) Offset() int { return d.off }

// DecodeAll reads all values of b, a message of type 20 (command) or 18 (data). If there is
// an error, it also returns the values before it.
func DecodeAll(b []byte, lim Limits) ([]any, error) { return decodeAll(b, 0, lim) }

// FirstString returns the short or long string with which b begins, the name of a command or
// data message, and the offset after it. s is a part of b. The caller must skip the format
// byte of types 15 and 17.
func FirstString(b []byte) (s []byte, rest int, ok bool) {
	var start, n uint64
	switch {
	case len(b) >= 3 && b[0] == markerString:
		start, n = 3, uint64(binary.BigEndian.Uint16(b[1:]))
	case len(b) >= 5 && b[0] == markerLongString:
		start, n = 5, uint64(binary.BigEndian.Uint32(b[1:]))
	default:
		return nil, 0, false
	}
	if start+n > uint64(len(b)) {
		return nil, 0, false
	}
	return b[start : start+n : start+n], int(start + n), true
}

func decodeAll(b []byte, off int, lim Limits) ([]any, error) {
	d := NewDecoder(b, lim)
	d.off = off
	var values []any
	for {
		v, err := d.Decode()
		if errors.Is(err, io.EOF) {
			return values, nil
		}
		if err != nil {
			return values, err
		}
		values = append(values, v)
	}
}

func (d *Decoder) value() (any, error) {
	if err := d.node(); err != nil {
		return nil, err
	}
	marker, err := d.u8()
	if err != nil {
		return nil, err
	}
	switch marker {
	case markerNumber:
		return boxed(d.f64())
	case markerBool:
		b, err := d.u8()
		return b != 0, err
	case markerString:
		return boxed(d.shortString())
	case markerObject:
		p, err := d.properties()
		return Object(p), err
	case markerNull:
		return nil, nil
	case markerUndefined:
		return Undefined{}, nil
	case markerReference:
		_, err := d.u16()
		return Undefined{}, err
	case markerECMAArray:
		if _, err := d.u32(); err != nil {
			return nil, err
		}
		p, err := d.properties()
		return ECMAArray(p), err
	case markerStrictArray:
		return d.strictArray()
	case markerDate:
		return d.date()
	case markerLongString:
		return boxed(d.longString())
	case markerUnsupported:
		return Unsupported{}, nil
	case markerXML:
		s, err := d.longString()
		return XML(s), err
	case markerTypedObject:
		name, err := d.shortString()
		if err != nil {
			return nil, err
		}
		p, err := d.properties()
		return TypedObject{name, p}, err
	case markerAVMPlus:
		return d.value3()
	}
	d.off--
	return nil, d.fail(ErrMalformed, "AMF0 marker")
}

func (d *Decoder) properties() ([]Property, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	base := len(d.stack)
	for d.depth > 1 || d.off < len(d.b) {
		key, err := d.shortString()
		if err != nil {
			return nil, err
		}
		if key == "" && d.off < len(d.b) && d.b[d.off] == markerObjectEnd {
			d.off++
			break
		}
		v, err := d.value()
		if err != nil {
			return nil, err
		}
		if err := d.pushProperty(base, key, v); err != nil {
			return nil, err
		}
	}
	d.depth--
	return d.popProperties(base), nil
}

func (d *Decoder) strictArray() (any, error) {
	n, err := d.u32()
	if err != nil {
		return nil, err
	}
	return boxed(d.elements(n, d.value))
}

// elements reads an array of n values. It refuses n above the number of bytes left, because
// each value has at least one byte.
func (d *Decoder) elements(n uint32, value func() (any, error)) (StrictArray, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	if uint64(n) > uint64(d.remaining()) {
		return nil, d.fail(ErrMalformed, "array count")
	}
	base := len(d.stack)
	for range n {
		v, err := value()
		if err != nil {
			return nil, err
		}
		d.push(Property{Value: v})
	}
	d.depth--
	return d.popValues(base), nil
}

func (d *Decoder) date() (any, error) {
	ms, err := d.f64()
	if err != nil {
		return nil, err
	}
	tz, err := d.u16()
	return Date{ms, int16(tz)}, err
}

func (d *Decoder) shortString() (string, error) {
	n, err := d.u16()
	if err != nil {
		return "", err
	}
	return d.text(uint32(n))
}

func (d *Decoder) longString() (string, error) {
	n, err := d.u32()
	if err != nil {
		return "", err
	}
	return d.text(n)
}

func (d *Decoder) text(n uint32) (string, error) {
	if uint64(n) > uint64(d.remaining()) {
		return "", d.fail(ErrMalformed, "string length")
	}
	if uint64(n) > uint64(d.lim.String) {
		return "", d.fail(ErrLimit, "string length")
	}
	b, err := d.take(n)
	return string(b), err
}

func (d *Decoder) u8() (byte, error) {
	b, err := d.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

func (d *Decoder) u16() (uint16, error) {
	b, err := d.take(2)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint16(b), nil
}

func (d *Decoder) u32() (uint32, error) {
	b, err := d.take(4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

func (d *Decoder) f64() (float64, error) {
	b, err := d.take(8)
	if err != nil {
		return 0, err
	}
	return math.Float64frombits(binary.BigEndian.Uint64(b)), nil
}

func (d *Decoder) take(n uint32) ([]byte, error) {
	if uint64(n) > uint64(d.remaining()) {
		return nil, d.fail(ErrMalformed, "end of input")
	}
	b := d.b[d.off:][:n]
	d.off += int(n)
	return b, nil
}

func (d *Decoder) remaining() int { return len(d.b) - d.off }

func (d *Decoder) node() error {
	if d.nodes == d.lim.Nodes {
		return d.fail(ErrLimit, "number of values")
	}
	d.nodes++
	return nil
}

// enter opens a container. The caller decrements depth when the container ends.
func (d *Decoder) enter() error {
	if d.depth == d.lim.Depth {
		return d.fail(ErrTooDeep, "container")
	}
	d.depth++
	return nil
}

func (d *Decoder) pushProperty(base int, key string, v any) error {
	if len(d.stack)-base == d.lim.Keys {
		return d.fail(ErrLimit, "number of keys")
	}
	d.push(Property{key, v})
	return nil
}

// push pushes p. It grows the stack in a few large steps: with append's doubling, small
// hostile input would take more than 64 KiB and 8 times its size.
func (d *Decoder) push(p Property) {
	if n := len(d.stack); n == cap(d.stack) {
		grown := make([]Property, n, min(max(64, 16*n), d.lim.Nodes))
		copy(grown, d.stack)
		d.stack = grown
	}
	d.stack = append(d.stack, p)
}

func (d *Decoder) popProperties(base int) []Property {
	p := append([]Property(nil), d.stack[base:]...)
	d.stack = d.stack[:base]
	return p
}

func (d *Decoder) popValues(base int) StrictArray {
	if len(d.stack) == base {
		return nil
	}
	a := make(StrictArray, len(d.stack)-base)
	for i, p := range d.stack[base:] {
		a[i] = p.Value
	}
	d.stack = d.stack[:base]
	return a
}

func (d *Decoder) fail(err error, what string) error {
	return fmt.Errorf("%w: %s at byte %d", err, what, d.off)
}

func boxed[T any](v T, err error) (any, error) { return v, err }
