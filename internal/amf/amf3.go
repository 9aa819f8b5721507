package amf

import "strconv"

// AMF3 markers (AMF3, 3.1).
const (
	marker3Undefined    = 0x00
	marker3Null         = 0x01
	marker3False        = 0x02
	marker3True         = 0x03
	marker3Integer      = 0x04
	marker3Double       = 0x05
	marker3String       = 0x06
	marker3XMLDocument  = 0x07
	marker3Date         = 0x08
	marker3Array        = 0x09
	marker3Object       = 0x0a
	marker3XML          = 0x0b
	marker3ByteArray    = 0x0c
	marker3VectorInt    = 0x0d
	marker3VectorUint   = 0x0e
	marker3VectorDouble = 0x0f
	marker3VectorObject = 0x10
	marker3Dictionary   = 0x11
)

const maxKey = 1<<16 - 1 // bytes of an AMF0 key

// traits are the class name and the member names that AMF3 objects have in common.
type traits struct {
	name    string
	sealed  []string
	dynamic bool
}

// DecodeAMF3 reads a message of type 15 (data): a format byte 0, then AMF0 values; AMF3
// values follow the avmplus marker (RTMP 1.0, 7.1.2; Enhanced RTMP v2, AMF
// clarifications). Limits and errors are those of DecodeAll; offsets count from b's
// first byte.
func DecodeAMF3(b []byte, lim Limits) ([]any, error) {
	if len(b) == 0 || b[0] != 0 {
		return nil, NewDecoder(b, lim).fail(ErrMalformed, "format byte")
	}
	return decodeAll(b, 1, lim)
}

// DecodeAMF3Command is DecodeAMF3 for a message of type 17 (command). The
// format byte may be missing if the command's name, a string, comes first.
func DecodeAMF3Command(b []byte, lim Limits) ([]any, error) {
	if len(b) > 0 && b[0] == markerString {
		return decodeAll(b, 0, lim)
	}
	return DecodeAMF3(b, lim)
}

// value3 reads an AMF3 value: the one after an avmplus marker, or a part of it. The caller
// has counted it as a node. Arrays become StrictArray, or ECMAArray if they have named
// elements. Integers become float64.
func (d *Decoder) value3() (any, error) {
	marker, err := d.u8()
	if err != nil {
		return nil, err
	}
	switch marker {
	case marker3Undefined:
		return Undefined{}, nil
	case marker3Null:
		return nil, nil
	case marker3False:
		return false, nil
	case marker3True:
		return true, nil
	case marker3Integer:
		u, err := d.u29()
		return float64(int32(u<<3) >> 3), err
	case marker3Double:
		return boxed(d.f64())
	case marker3String:
		return boxed(d.string3())
	case marker3XMLDocument, marker3XML, marker3Date, marker3Array, marker3Object, marker3ByteArray,
		marker3VectorInt, marker3VectorUint, marker3VectorDouble, marker3VectorObject, marker3Dictionary:
	default:
		d.off--
		return nil, d.fail(ErrMalformed, "AMF3 marker")
	}

	header, err := d.u29()
	if err != nil {
		return nil, err
	}
	if header&1 == 0 {
		// A reference to an object is not resolved: it may form a cycle, and a few bytes
		// could stand for a tree of any size.
		return Undefined{}, nil
	}
	switch n := header >> 1; marker {
	case marker3XMLDocument, marker3XML:
		s, err := d.text(n)
		return XML(s), err
	case marker3Date:
		ms, err := d.f64()
		return Date{Ms: ms}, err
	case marker3Array:
		return d.array3(n)
	case marker3Object:
		return d.object3(header)
	case marker3ByteArray:
		_, err := d.take(n)
		return Undefined{}, err
	case marker3VectorInt, marker3VectorUint:
		_, err := d.take(1 + 4*n) // n < 2^28
		return Undefined{}, err
	case marker3VectorDouble:
		_, err := d.take(1 + 8*n)
		return Undefined{}, err
	case marker3VectorObject:
		if _, err := d.u8(); err != nil { // fixed length
			return nil, err
		}
		if _, err := d.string3(); err != nil { // class name
			return nil, err
		}
		return boxed(d.elements(n, d.node3))
	default: // marker3Dictionary
		if _, err := d.u8(); err != nil { // weak keys
			return nil, err
		}
		_, err := d.elements(2*n, d.node3)
		return Undefined{}, err
	}
}

// node3 is value3 for a part of an AMF3 value.
func (d *Decoder) node3() (any, error) {
	if err := d.node(); err != nil {
		return nil, err
	}
	return d.value3()
}

// array3 reads the named elements of an array, then n elements without names.
func (d *Decoder) array3(n uint32) (any, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	base := len(d.stack)
	if err := d.dynamic3(base); err != nil {
		return nil, err
	}
	if len(d.stack) == base {
		d.depth--
		return boxed(d.elements(n, d.node3))
	}
	for i := range n {
		if err := d.node(); err != nil { // for the key that is invented
			return nil, err
		}
		v, err := d.node3()
		if err != nil {
			return nil, err
		}
		if err := d.pushProperty(base, strconv.Itoa(int(i)), v); err != nil {
			return nil, err
		}
	}
	d.depth--
	return ECMAArray(d.popProperties(base)), nil
}

func (d *Decoder) object3(header uint32) (any, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	t, err := d.traits3(header)
	if err != nil {
		return nil, err
	}
	base := len(d.stack)
	for _, key := range t.sealed {
		v, err := d.node3()
		if err != nil {
			return nil, err
		}
		if err := d.pushProperty(base, key, v); err != nil {
			return nil, err
		}
	}
	if t.dynamic {
		if err := d.dynamic3(base); err != nil {
			return nil, err
		}
	}
	d.depth--
	p := d.popProperties(base)
	if t.name != "" {
		return TypedObject{t.name, p}, nil
	}
	return Object(p), nil
}

// traits3 reads the traits that an object's header announces (AMF3, 3.12).
func (d *Decoder) traits3(header uint32) (*traits, error) {
	if header&2 == 0 {
		i := int(header >> 2)
		if i >= len(d.traits) {
			return nil, d.fail(ErrMalformed, "traits reference")
		}
		return d.traits[i], nil
	}
	if header&4 != 0 {
		// Only the class itself knows the format of the bytes that follow.
		return nil, d.fail(ErrMalformed, "externalizable object")
	}
	t := &traits{dynamic: header&8 != 0}
	var err error
	if t.name, err = d.name3(); err != nil {
		return nil, err
	}
	base := len(d.stack)
	for range header >> 4 {
		name, err := d.name3()
		if err != nil {
			return nil, err
		}
		if err := d.pushProperty(base, name, nil); err != nil {
			return nil, err
		}
	}
	t.sealed = make([]string, len(d.stack)-base)
	for i, p := range d.stack[base:] {
		t.sealed[i] = p.Key
	}
	d.stack = d.stack[:base]
	d.traits = append(d.traits, t)
	return t, nil
}

// name3 reads a class or member name of traits. It counts as a node, because it takes memory
// even if it is a single byte.
func (d *Decoder) name3() (string, error) {
	if err := d.node(); err != nil {
		return "", err
	}
	return d.key3()
}

// dynamic3 reads names and values up to an empty name, and pushes them.
func (d *Decoder) dynamic3(base int) error {
	for {
		key, err := d.key3()
		if err != nil {
			return err
		}
		if key == "" {
			return nil
		}
		v, err := d.node3()
		if err != nil {
			return err
		}
		if err := d.pushProperty(base, key, v); err != nil {
			return err
		}
	}
}

func (d *Decoder) key3() (string, error) {
	key, err := d.string3()
	if err == nil && len(key) > maxKey {
		return "", d.fail(ErrLimit, "key length")
	}
	return key, err
}

// string3 reads a string or a reference to an earlier one (AMF3, 1.3.2).
func (d *Decoder) string3() (string, error) {
	u, err := d.u29()
	if err != nil {
		return "", err
	}
	if u&1 == 0 {
		i := int(u >> 1)
		if i >= len(d.strings) {
			return "", d.fail(ErrMalformed, "string reference")
		}
		return d.strings[i], nil
	}
	if u == 1 {
		return "", nil // there are no references to the empty string
	}
	if err := d.node(); err != nil {
		return "", err
	}
	s, err := d.text(u >> 1)
	if err != nil {
		return "", err
	}
	d.strings = append(d.strings, s)
	return s, nil
}

// u29 reads an integer of 29 bits in one to four bytes (AMF3, 1.3.1).
func (d *Decoder) u29() (uint32, error) {
	var u uint32
	for range 3 {
		b, err := d.u8()
		if err != nil {
			return 0, err
		}
		u = u<<7 | uint32(b&0x7f)
		if b < 0x80 {
			return u, nil
		}
	}
	b, err := d.u8()
	return u<<8 | uint32(b), err
}
