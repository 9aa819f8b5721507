package amf

import (
	"encoding/binary"
	"math"
)

// Append appends v in AMF0. Integers of any type are written as numbers. A value of an
// unknown type is written as undefined. So is a container within DefaultDepth others, so that
// a cycle ends. Keys and class names are cut to the 65535 bytes that AMF0 permits, arrays and
// strings to 2^32-1.
func Append(b []byte, v any) []byte { return appendValue(b, v, 1) }

// AppendNumber appends a number.
func AppendNumber(b []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(append(b, markerNumber), math.Float64bits(f))
}

// AppendBool appends a boolean.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, markerBool, 1)
	}
	return append(b, markerBool, 0)
}

// AppendString appends a string. If it has more than 65535 bytes, it is a long string.
func AppendString(b []byte, s string) []byte {
	if len(s) > math.MaxUint16 {
		return appendLong(append(b, markerLongString), s)
	}
	return appendShort(append(b, markerString), s)
}

// AppendNull appends null.
func AppendNull(b []byte) []byte { return append(b, markerNull) }

// AppendObject appends an object by the rules of Append.
func AppendObject(b []byte, o Object) []byte { return appendObject(b, o, 1) }

// AppendECMAArray appends an ECMA array by the rules of Append.
func AppendECMAArray(b []byte, a ECMAArray) []byte { return appendECMAArray(b, a, 1) }

// appendValue appends v. depth is that of v if it is a container.
func appendValue(b []byte, v any, depth int) []byte {
	switch v := v.(type) {
	case nil:
		return AppendNull(b)
	case bool:
		return AppendBool(b, v)
	case string:
		return AppendString(b, v)
	case XML:
		return appendLong(append(b, markerXML), string(v))
	case Date:
		b = binary.BigEndian.AppendUint64(append(b, markerDate), math.Float64bits(v.Ms))
		return binary.BigEndian.AppendUint16(b, uint16(v.TZ))
	case Unsupported:
		return append(b, markerUnsupported)
	}
	if f, ok := number(v); ok {
		return AppendNumber(b, f)
	}
	if depth <= DefaultDepth {
		switch v := v.(type) {
		case Object:
			return appendObject(b, v, depth)
		case ECMAArray:
			return appendECMAArray(b, v, depth)
		case StrictArray:
			return appendStrictArray(b, v, depth)
		case TypedObject:
			b = appendShort(append(b, markerTypedObject), v.Name)
			return appendProperties(b, v.Object, depth)
		}
	}
	return append(b, markerUndefined)
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case float32:
		return float64(v), true
	case int:
		return float64(v), true
	case int8:
		return float64(v), true
	case int16:
		return float64(v), true
	case int32:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint:
		return float64(v), true
	case uint8:
		return float64(v), true
	case uint16:
		return float64(v), true
	case uint32:
		return float64(v), true
	case uint64:
		return float64(v), true
	}
	return 0, false
}

func appendObject(b []byte, o Object, depth int) []byte {
	return appendProperties(append(b, markerObject), o, depth)
}

func appendECMAArray(b []byte, a ECMAArray, depth int) []byte {
	b = binary.BigEndian.AppendUint32(append(b, markerECMAArray), uint32(len(a)))
	return appendProperties(b, a, depth)
}

func appendStrictArray(b []byte, a StrictArray, depth int) []byte {
	a = a[:min(uint64(len(a)), math.MaxUint32)]
	b = binary.BigEndian.AppendUint32(append(b, markerStrictArray), uint32(len(a)))
	for _, v := range a {
		b = appendValue(b, v, depth+1)
	}
	return b
}

func appendProperties(b []byte, props []Property, depth int) []byte {
	for _, p := range props {
		b = appendShort(b, p.Key)
		b = appendValue(b, p.Value, depth+1)
	}
	return append(b, 0, 0, markerObjectEnd)
}

func appendShort(b []byte, s string) []byte {
	s = s[:min(len(s), math.MaxUint16)]
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendLong(b []byte, s string) []byte {
	s = s[:min(uint64(len(s)), math.MaxUint32)]
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
