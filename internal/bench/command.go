//go:build linux

package main

import (
	"encoding/binary"
	"math"
)

// The part of AMF0 that commands need.

func appendNumber(dst []byte, v float64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, 0), math.Float64bits(v))
}

func appendString(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint16(append(dst, 2), uint16(len(s)))
	return append(dst, s...)
}

func appendNull(dst []byte) []byte { return append(dst, 5) }

// appendObject appends an object with the given keys and values. Values are strings or
// float64s.
func appendObject(dst []byte, pairs ...any) []byte {
	dst = append(dst, 3)
	for i := 0; i+1 < len(pairs); i += 2 {
		key := pairs[i].(string)
		dst = append(binary.BigEndian.AppendUint16(dst, uint16(len(key))), key...)
		switch v := pairs[i+1].(type) {
		case string:
			dst = appendString(dst, v)
		case float64:
			dst = appendNumber(dst, v)
		}
	}
	return append(dst, 0, 0, 9)
}

// parseCommand reads a command's name and transaction. rest starts at the
// command object.
func parseCommand(b []byte) (name string, transaction float64, rest []byte, ok bool) {
	if len(b) < 3 || b[0] != 2 {
		return "", 0, nil, false
	}
	n := 3 + int(binary.BigEndian.Uint16(b[1:]))
	if len(b) < n+9 || b[n] != 0 {
		return "", 0, nil, false
	}
	return string(b[3:n]), parseNumber(b[n:]), b[n+9:], true
}

func parseNumber(b []byte) float64 {
	return math.Float64frombits(binary.BigEndian.Uint64(b[1:]))
}
