package amf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
)

// values must be read and written with exactly these bytes.
var values = []struct {
	name  string
	value any
	bytes string
}{
	{"zero", 0.0, "\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	{"one", 1.0, "\x00\x3f\xf0\x00\x00\x00\x00\x00\x00"},
	{"minus 2.5", -2.5, "\x00\xc0\x04\x00\x00\x00\x00\x00\x00"},
	{"NaN", math.NaN(), "\x00\x7f\xf8\x00\x00\x00\x00\x00\x01"},
	{"false", false, "\x01\x00"},
	{"true", true, "\x01\x01"},
	{"empty string", "", "\x02\x00\x00"},
	{"string", "live", "\x02\x00\x04live"},
	{"longest short string", strings.Repeat("a", 65535), "\x02\xff\xff" + strings.Repeat("a", 65535)},
	{"long string", strings.Repeat("a", 65536), "\x0c\x00\x01\x00\x00" + strings.Repeat("a", 65536)},
	{"empty object", Object{}, "\x03\x00\x00\x09"},
	{"object", Object{{"app", "live"}, {"fpad", false}}, "\x03\x00\x03app\x02\x00\x04live\x00\x04fpad\x01\x00\x00\x00\x09"},
	{"object with an empty key", Object{{"", nil}}, "\x03\x00\x00\x05\x00\x00\x09"},
	{"object with equal keys", Object{{"a", true}, {"a", nil}}, "\x03\x00\x01a\x01\x01\x00\x01a\x05\x00\x00\x09"},
	{"null", nil, "\x05"},
	{"undefined", Undefined{}, "\x06"},
	{"empty ECMA array", ECMAArray{}, "\x08\x00\x00\x00\x00\x00\x00\x09"},
	{"ECMA array", ECMAArray{{"width", 0.0}}, "\x08\x00\x00\x00\x01\x00\x05width\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09"},
	{"empty strict array", StrictArray{}, "\x0a\x00\x00\x00\x00"},
	{"strict array", StrictArray{"av01", Object{}, nil}, "\x0a\x00\x00\x00\x03\x02\x00\x04av01\x03\x00\x00\x09\x05"},
	{"date", Date{1, -60}, "\x0b\x3f\xf0\x00\x00\x00\x00\x00\x00\xff\xc4"},
	{"unsupported", Unsupported{}, "\x0d"},
	{"XML", XML("<a/>"), "\x0f\x00\x00\x00\x04<a/>"},
	{"typed object", TypedObject{"C", Object{{"a", nil}}}, "\x10\x00\x01C\x00\x01a\x05\x00\x00\x09"},
}

// readOnly are encodings that are read but never written.
var readOnly = []struct {
	name  string
	bytes string
	value any
}{
	{"true is any but 0", "\x01\x80", true},
	{"short long string", "\x0c\x00\x00\x00\x01a", "a"},
	{"ECMA array counts too much", "\x08\xff\xff\xff\xff\x00\x01a\x05\x00\x00\x09", ECMAArray{{"a", nil}}},
	{"ECMA array counts too little", "\x08\x00\x00\x00\x00\x00\x01a\x05\x00\x01b\x05\x00\x00\x09", ECMAArray{{"a", nil}, {"b", nil}}},
	{"ECMA array without end", "\x08\x00\x00\x00\x01\x00\x01a\x05", ECMAArray{{"a", nil}}},
	{"object without end", "\x03\x00\x01a\x05", Object{{"a", nil}}},
	{"reference to itself", "\x03\x00\x01a\x07\x00\x00\x00\x00\x09", Object{{"a", Undefined{}}}},
	{"reference to nothing", "\x07\xff\xff", Undefined{}},

	{"AMF3 undefined", "\x11\x00", Undefined{}},
	{"AMF3 null", "\x11\x01", nil},
	{"AMF3 false", "\x11\x02", false},
	{"AMF3 true", "\x11\x03", true},
	{"AMF3 integer of 1 byte", "\x11\x04\x7f", 127.0},
	{"AMF3 integer of 2 bytes", "\x11\x04\x81\x00", 128.0},
	{"AMF3 integer of 3 bytes", "\x11\x04\x81\x80\x00", 16384.0},
	{"AMF3 integer of 4 bytes", "\x11\x04\x80\xc0\x80\x00", 2097152.0},
	{"AMF3 greatest integer", "\x11\x04\xbf\xff\xff\xff", 268435455.0},
	{"AMF3 least integer", "\x11\x04\xc0\x80\x80\x00", -268435456.0},
	{"AMF3 minus one", "\x11\x04\xff\xff\xff\xff", -1.0},
	{"AMF3 double", "\x11\x05\x3f\xf0\x00\x00\x00\x00\x00\x00", 1.0},
	{"AMF3 string", "\x11\x06\x09live", "live"},
	{"AMF3 empty string", "\x11\x06\x01", ""},
	{"AMF3 XML document", "\x11\x07\x09<a/>", XML("<a/>")},
	{"AMF3 XML", "\x11\x0b\x09<a/>", XML("<a/>")},
	{"AMF3 date", "\x11\x08\x01\x3f\xf0\x00\x00\x00\x00\x00\x00", Date{Ms: 1}},
	{"AMF3 empty array", "\x11\x09\x01\x01", StrictArray{}},
	{"AMF3 array", "\x11\x09\x05\x01\x03\x06\x03a", StrictArray{true, "a"}},
	{"AMF3 array with names", "\x11\x09\x03\x03a\x01\x01\x03", ECMAArray{{"a", nil}, {"0", true}}},
	{"AMF3 array with string references", "\x11\x09\x07\x01\x06\x03a\x06\x00\x06\x01", StrictArray{"a", "a", ""}},
	{"AMF3 reference to itself", "\x11\x09\x03\x01\x09\x00", StrictArray{Undefined{}}},
	{"AMF3 dynamic object", "\x11\x0a\x0b\x01\x07app\x06\x09live\x01", Object{{"app", "live"}}},
	{"AMF3 sealed object", "\x11\x0a\x23\x01\x03a\x03b\x02\x03", Object{{"a", false}, {"b", true}}},
	{"AMF3 typed object", "\x11\x0a\x1b\x03C\x03a\x02\x03b\x03\x01", TypedObject{"C", Object{{"a", false}, {"b", true}}}},
	{"AMF3 traits reference", "\x11\x09\x05\x01\x0a\x13\x01\x03a\x02\x0a\x01\x03", StrictArray{Object{{"a", false}}, Object{{"a", true}}}},
	{"AMF3 byte array", "\x11\x0c\x07abc", Undefined{}},
	{"AMF3 vector of int", "\x11\x0d\x03\x00\x00\x00\x00\x01", Undefined{}},
	{"AMF3 vector of uint", "\x11\x0e\x03\x00\x00\x00\x00\x01", Undefined{}},
	{"AMF3 vector of double", "\x11\x0f\x03\x00\x3f\xf0\x00\x00\x00\x00\x00\x00", Undefined{}},
	{"AMF3 vector of object", "\x11\x10\x05\x00\x01\x01\x03", StrictArray{nil, true}},
	{"AMF3 dictionary", "\x11\x11\x03\x00\x06\x03a\x01", Undefined{}},
	{"AMF3 value in an AMF0 object", "\x03\x00\x01a\x11\x04\x01\x00\x01b\x05\x00\x00\x09", Object{{"a", 1.0}, {"b", nil}}},
}

// hostile is malformed input, which must be refused.
var hostile = []struct {
	name  string
	bytes string
	err   error
}{
	{"no value behind the marker", "\x00", ErrMalformed},
	{"number cut", "\x00\x00\x00\x00\x00\x00\x00\x00", ErrMalformed},
	{"boolean cut", "\x01", ErrMalformed},
	{"string length cut", "\x02\x00", ErrMalformed},
	{"string beyond the input", "\x02\x00\x02a", ErrMalformed},
	{"long string beyond the input", "\x0c\xff\xff\xff\xff", ErrMalformed},
	{"long string of 2^31", "\x0c\x80\x00\x00\x00a", ErrMalformed},
	{"string above the limit", "\x0c\x00\x01\x00\x01" + strings.Repeat("a", 65537), ErrLimit},
	{"XML above the limit", "\x0f\x00\x01\x00\x01" + strings.Repeat("a", 65537), ErrLimit},
	{"date cut", "\x0b\x00\x00\x00\x00\x00\x00\x00\x00\x00", ErrMalformed},
	{"reference cut", "\x07\x00", ErrMalformed},
	{"movie clip", "\x04", ErrMalformed},
	{"record set", "\x0e", ErrMalformed},
	{"object end alone", "\x09", ErrMalformed},
	{"unknown marker", "\x12", ErrMalformed},
	{"key without value", "\x03\x00\x01a", ErrMalformed},
	{"end marker cut", "\x03\x00\x01a\x05\x00\x00", ErrMalformed},
	{"inner object without end", "\x03\x00\x01a\x03\x00\x01b\x05", ErrMalformed},
	{"object in an array without end", "\x0a\x00\x00\x00\x01\x03\x00\x01b\x05", ErrMalformed},
	{"strict array of 2^31", "\x0a\x80\x00\x00\x00\x05", ErrMalformed},
	{"strict array above the input", "\x0a\x00\x00\x00\x02\x05", ErrMalformed},
	{"17 objects deep", strings.Repeat("\x03\x00\x01a", 17), ErrTooDeep},
	{"17 strict arrays deep", strings.Repeat("\x0a\x00\x00\x00\x01", 17) + "\x05", ErrTooDeep},
	{"object bomb", strings.Repeat("\x03\x00\x01a", 1<<16), ErrTooDeep},
	{"strict array bomb", strings.Repeat("\x0a\x00\x00\x00\x01", 1<<16), ErrTooDeep},
	{"ECMA array bomb", strings.Repeat("\x08\x00\x00\x00\x01\x00\x00", 1<<16), ErrTooDeep},
	{"typed object bomb", strings.Repeat("\x10\x00\x00\x00\x00", 1<<16), ErrTooDeep},
	{"1025 values", strings.Repeat("\x05", 1025), ErrLimit},
	{"1025 nodes", "\x0a\x00\x00\x04\x00" + strings.Repeat("\x05", 1024), ErrLimit},
	{"257 equal keys", "\x03" + strings.Repeat("\x00\x01a\x05", 257) + "\x00\x00\x09", ErrLimit},

	{"AMF3 marker cut", "\x11", ErrMalformed},
	{"AMF3 unknown marker", "\x11\x12", ErrMalformed},
	{"AMF3 marker within AMF3", "\x11\x09\x03\x01\x12", ErrMalformed},
	{"AMF3 integer cut", "\x11\x04\xff\xff\xff", ErrMalformed},
	{"AMF3 string beyond the input", "\x11\x06\xff\xff\xff\xff", ErrMalformed},
	{"AMF3 string reference to nothing", "\x11\x06\x00", ErrMalformed},
	{"AMF3 empty string is not referred to", "\x11\x09\x05\x01\x06\x01\x06\x00", ErrMalformed},
	{"AMF3 traits reference to nothing", "\x11\x0a\x01", ErrMalformed},
	{"AMF3 traits referred to by their own members", "\x11\x0a\x13\x01\x03a\x0a\x05", ErrMalformed},
	{"AMF3 externalizable", "\x11\x0a\x07\x03C\x00", ErrMalformed},
	{"AMF3 2^25 members", "\x11\x0a\xff\xff\xff\xf3\x01", ErrMalformed},
	{"AMF3 array of 2^28", "\x11\x09\xff\xff\xff\xff\x01", ErrMalformed},
	{"AMF3 byte array of 2^28", "\x11\x0c\xff\xff\xff\xff", ErrMalformed},
	{"AMF3 vector of 2^28 int", "\x11\x0d\xff\xff\xff\xff\x00", ErrMalformed},
	{"AMF3 vector of 2^28 double", "\x11\x0f\xff\xff\xff\xff\x00", ErrMalformed},
	{"AMF3 vector of 2^28 object", "\x11\x10\xff\xff\xff\xff\x00\x01", ErrMalformed},
	{"AMF3 dictionary of 2^28", "\x11\x11\xff\xff\xff\xff\x00", ErrMalformed},
	{"AMF3 array bomb", "\x11" + strings.Repeat("\x09\x03\x01", 1<<16), ErrTooDeep},
	{"AMF3 object bomb", "\x11" + strings.Repeat("\x0a\x13\x01\x03a", 1<<16), ErrTooDeep},
	{"AMF3 recursive traits bomb", "\x11\x0a\x13\x01\x03a" + strings.Repeat("\x0a\x01", 1<<16), ErrTooDeep},
	{"AMF3 vector bomb", "\x11" + strings.Repeat("\x10\x03\x00\x01", 1<<16), ErrTooDeep},
	{"AMF3 dictionary bomb", "\x11" + strings.Repeat("\x11\x03\x00", 1<<16), ErrTooDeep},
	{"AMF0 and AMF3 bomb", strings.Repeat("\x03\x00\x01a", 16) + "\x11\x09\x03\x01\x01", ErrTooDeep},
	{"AMF3 1024 nulls", "\x11\x09\x90\x01\x01" + strings.Repeat("\x01", 1024), ErrLimit},
	{"AMF3 257 members", "\x11\x0a\xa0\x13\x01" + strings.Repeat("\x01", 257), ErrLimit},
	{"AMF3 257 names", "\x11\x0a\x0b\x01\x03a\x01" + strings.Repeat("\x00\x01", 256) + "\x01", ErrLimit},
	{"AMF3 key of 65536 bytes", "\x11\x0a\x0b\x01\x88\x80\x01" + strings.Repeat("a", 65536) + "\x01\x01", ErrLimit},
}

func TestValueReadAndWritten(t *testing.T) {
	for _, tt := range values {
		t.Run(tt.name, func(t *testing.T) {
			if got := Append([]byte("x"), tt.value); string(got) != "x"+tt.bytes {
				t.Errorf("Append = %.80q, want %.80q", got[1:], tt.bytes)
			}
			testDecode(t, tt.bytes, tt.value)
		})
	}
}

func TestValueRead(t *testing.T) {
	for _, tt := range readOnly {
		t.Run(tt.name, func(t *testing.T) { testDecode(t, tt.bytes, tt.value) })
	}
}

func testDecode(t *testing.T, b string, want any) {
	t.Helper()
	d := NewDecoder([]byte(b), Limits{})
	got, err := d.Decode()
	if err != nil || !equal(got, want) {
		t.Fatalf("Decode = %.80v, %v, want %.80v", got, err, want)
	}
	if d.Offset() != len(b) {
		t.Errorf("Offset = %d, want %d", d.Offset(), len(b))
	}
	if _, err := d.Decode(); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
}

func TestValueCutIsMalformed(t *testing.T) {
	check := func(b string, value any) {
		_, mayLackEnd := AsObject(value)
		for n := 1; n < len(b) && n < 256; n++ {
			got, err := DecodeAll([]byte(b[:n]), Limits{})
			if err == nil && mayLackEnd && len(got) == 1 {
				continue
			}
			if !errors.Is(err, ErrMalformed) || len(got) != 0 {
				t.Errorf("%.80q cut at %d = %v, %v", b, n, got, err)
			}
		}
	}
	for _, tt := range values {
		check(tt.bytes, tt.value)
	}
	for _, tt := range readOnly {
		check(tt.bytes, tt.value)
	}
}

func TestHostileInputIsRefusedCheaply(t *testing.T) {
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decodeBounded(t, []byte(tt.bytes), DecodeAll)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if errors.Unwrap(err) != tt.err {
				t.Errorf("error %q is wrapped more than once", err)
			}
		})
	}
}

// The input is accepted, and takes much memory for its size.
func TestCostlyInputIsBounded(t *testing.T) {
	nested := func(open string, n int, member, end string) string {
		var b strings.Builder
		for range n {
			b.WriteString(strings.Repeat(member, 254) + open)
		}
		return b.String() + strings.Repeat(end, n)
	}
	for _, tt := range []struct{ name, bytes string }{
		{"nulls", strings.Repeat("\x05", 1024)},
		{"strict array of nulls", "\x0a\x00\x00\x03\xff" + strings.Repeat("\x05", 1023)},
		{"objects of one empty key", strings.Repeat("\x03\x00\x00\x05\x00\x00\x09", 512)},
		{"objects of nine empty keys", strings.Repeat("\x03"+strings.Repeat("\x00\x00\x05", 9)+"\x00\x00\x09", 102)},
		{"nested full objects", "\x03" + nested("\x00\x00\x03", 4, "\x00\x00\x05", "\x00\x00\x09") + "\x00\x00\x09"},
		{"AMF3 array of empty objects", "\x11\x09\x8f\x7b\x01\x0a\x03\x01" + strings.Repeat("\x0a\x01", 1020)},
		{"AMF3 array of new traits", "\x11\x09\x87\x7f\x01" + strings.Repeat("\x0a\x03\x01", 511)},
		{"AMF3 array of strings", "\x11\x09\x87\x7f\x01" + strings.Repeat("\x06\x05ab", 511)},
		{"AMF3 array of string references", "\x11\x09\x8f\x73\x01\x06\x05ab" + strings.Repeat("\x06\x00", 1016)},
		{"AMF3 arrays with names", "\x11\x09\x83\x7f\x03a\x01\x01" + strings.Repeat("\x01", 255) +
			"\x11\x09\x83\x6f\x00\x01\x01" + strings.Repeat("\x01", 247)},
		{"AMF3 nested sealed objects", "\x11\x0a\x9f\x73\x01" + strings.Repeat("\x01", 255) +
			strings.Repeat(strings.Repeat("\x01", 254)+"\x0a\x01", 2) + strings.Repeat("\x01", 255)},
		{"AMF3 dictionary of dictionaries", "\x11\x11\x87\x7f\x00" + strings.Repeat("\x11\x01\x00", 1022)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := decodeBounded(t, []byte(tt.bytes), DecodeAll); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLimitsAreInclusive(t *testing.T) {
	deep := strings.Repeat("\x03\x00\x01a", 16) + "\x05" + strings.Repeat("\x00\x00\x09", 16)
	for name, b := range map[string]string{
		"16 deep":                    deep,
		"16 deep after 16 deep":      deep + deep,
		"1024 nodes":                 "\x0a\x00\x00\x03\xff" + strings.Repeat("\x05", 1023),
		"256 keys":                   "\x03" + strings.Repeat("\x00\x01a\x05", 256) + "\x00\x00\x09",
		"256 keys each in 2 objects": strings.Repeat("\x03"+strings.Repeat("\x00\x01a\x05", 256)+"\x00\x00\x09", 2),
	} {
		if _, err := DecodeAll([]byte(b), Limits{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimitsOfTheCaller(t *testing.T) {
	for name, tt := range map[string]struct {
		lim   Limits
		bytes string
		err   error
	}{
		"depth":  {Limits{Depth: 1}, "\x03\x00\x01a\x03\x00\x00\x09\x00\x00\x09", ErrTooDeep},
		"nodes":  {Limits{Nodes: 1}, "\x05\x05", ErrLimit},
		"keys":   {Limits{Keys: 1}, "\x03\x00\x01a\x05\x00\x01b\x05\x00\x00\x09", ErrLimit},
		"string": {Limits{String: 3}, "\x02\x00\x04live", ErrLimit},
	} {
		if _, err := DecodeAll([]byte(tt.bytes), tt.lim); !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", name, err, tt.err)
		}
		if _, err := DecodeAll([]byte(tt.bytes), Limits{}); err != nil {
			t.Errorf("%s by default: %v", name, err)
		}
	}
}

func TestErrorStaysAndKeepsValuesBefore(t *testing.T) {
	b := []byte("\x02\x00\x03key\x05\x04\x05")
	got, err := DecodeAll(b, Limits{})
	if !errors.Is(err, ErrMalformed) || !equal(StrictArray(got), StrictArray{"key", nil}) {
		t.Fatalf("DecodeAll = %v, %v", got, err)
	}
	if want := "amf: malformed: AMF0 marker at byte 7"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	d := NewDecoder(b[7:], Limits{})
	_, first := d.Decode()
	if _, second := d.Decode(); first == nil || second != first {
		t.Errorf("second error %v, want %v", second, first)
	}
}

func TestDecodedStringsAreCopies(t *testing.T) {
	b := []byte("\x03\x00\x01a\x02\x00\x04live\x00\x00\x09")
	got, err := DecodeAll(b, Limits{})
	clear(b)
	if want := (Object{{"a", "live"}}); err != nil || !equal(got[0], want) {
		t.Errorf("DecodeAll = %v, %v, want %v", got, err, want)
	}
}

func TestObjectWithoutEndOnlyInLastPlace(t *testing.T) {
	got, err := DecodeAll([]byte("\x02\x00\x0aonMetaData\x08\x00\x00\x00\x01\x00\x01a\x05"), Limits{})
	if want := (StrictArray{"onMetaData", ECMAArray{{"a", nil}}}); err != nil || !equal(StrictArray(got), want) {
		t.Errorf("last = %v, %v, want %v", got, err, want)
	}
	if _, err := DecodeAll([]byte("\x08\x00\x00\x00\x01\x00\x01a\x05\x02\x00\x01b"), Limits{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("not last: %v, want %v", err, ErrMalformed)
	}
}

func TestDecodeAMF3Messages(t *testing.T) {
	const command = "\x02\x00\x07connect\x00\x3f\xf0\x00\x00\x00\x00\x00\x00\x11\x0a\x0b\x01\x07app\x06\x09live\x01\x05"
	want := StrictArray{"connect", 1.0, Object{{"app", "live"}}, nil}
	for _, tt := range []struct {
		name   string
		decode func([]byte, Limits) ([]any, error)
		bytes  string
		want   StrictArray
		err    error
	}{
		{"command", DecodeAMF3Command, "\x00" + command, want, nil},
		{"command without format byte", DecodeAMF3Command, command, want, nil},
		{"command of another format", DecodeAMF3Command, "\x03" + command, nil, ErrMalformed},
		{"empty command", DecodeAMF3Command, "", nil, ErrMalformed},
		{"data", DecodeAMF3, "\x00" + command, want, nil},
		{"data without format byte", DecodeAMF3, command, nil, ErrMalformed},
		{"empty data", DecodeAMF3, "", nil, ErrMalformed},
		{"format byte alone", DecodeAMF3, "\x00", nil, nil},
		{"strings shared in the message", DecodeAMF3, "\x00\x11\x06\x03a\x11\x06\x00", StrictArray{"a", "a"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.decode([]byte(tt.bytes), Limits{})
			if !errors.Is(err, tt.err) || !equal(StrictArray(got), tt.want) {
				t.Errorf("= %v, %v, want %v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestFirstString(t *testing.T) {
	for _, tt := range []struct {
		bytes string
		s     string
		rest  int
		ok    bool
	}{
		{"\x02\x00\x0aonMetaData\x08", "onMetaData", 13, true},
		{"\x0c\x00\x00\x00\x0aonMetaData", "onMetaData", 15, true},
		{"\x02\x00\x00", "", 3, true},
		{"", "", 0, false},
		{"\x02", "", 0, false},
		{"\x02\x00\x02a", "", 0, false},
		{"\x0c\x00\x00\x00", "", 0, false},
		{"\x0c\xff\xff\xff\xffa", "", 0, false},
		{"\x05\x00\x01a", "", 0, false},
	} {
		s, rest, ok := FirstString([]byte(tt.bytes))
		if string(s) != tt.s || rest != tt.rest || ok != tt.ok {
			t.Errorf("FirstString(%q) = %q, %d, %v", tt.bytes, s, rest, ok)
		}
	}
}

func TestObjectGet(t *testing.T) {
	o := Object{{"TCURL", "folded"}, {"app", "first"}, {"app", "last"}, {"App", "other"}, {"capsEx", 3.0}, {"null", nil}}
	for key, want := range map[string]any{"tcUrl": "folded", "app": "last", "App": "other", "APP": "other", "capsex": 3.0, "null": nil} {
		if got, ok := o.Get(key); !ok || got != want {
			t.Errorf("Get(%q) = %v, %v, want %v", key, got, ok, want)
		}
	}
	if v, ok := o.Get("type"); ok {
		t.Errorf("Get of a missing key = %v", v)
	}
	if s, ok := o.GetString("app"); s != "last" || !ok {
		t.Errorf("GetString = %q, %v", s, ok)
	}
	if _, ok := o.GetString("capsEx"); ok {
		t.Error("GetString accepts a number")
	}
	if f, ok := o.GetNumber("capsEx"); f != 3 || !ok {
		t.Errorf("GetNumber = %v, %v", f, ok)
	}
	if _, ok := o.GetNumber("app"); ok {
		t.Error("GetNumber accepts a string")
	}
}

func TestAsObject(t *testing.T) {
	o := Object{{"app", "live"}}
	for _, v := range []any{o, ECMAArray(o), TypedObject{"C", o}} {
		if got, ok := AsObject(v); !ok || !equal(got, o) {
			t.Errorf("AsObject(%T) = %v, %v", v, got, ok)
		}
	}
	for _, v := range []any{nil, "app", StrictArray{}} {
		if _, ok := AsObject(v); ok {
			t.Errorf("AsObject accepts %T", v)
		}
	}
}

func TestAppendOfOtherTypes(t *testing.T) {
	seven := AppendNumber(nil, 7)
	for _, v := range []any{7, int8(7), int16(7), int32(7), int64(7), uint(7), uint8(7), uint16(7), uint32(7), uint64(7), float32(7)} {
		if got := Append(nil, v); !bytes.Equal(got, seven) {
			t.Errorf("Append(%T) = %q", v, got)
		}
	}
	for _, v := range []any{struct{}{}, map[string]any{}, new(int), complex(1, 1)} {
		if got := Append(nil, v); string(got) != "\x06" {
			t.Errorf("Append(%T) = %q, want undefined", v, got)
		}
	}
}

func TestAppendEndsACycle(t *testing.T) {
	cycle := Object{{Key: "a"}}
	cycle[0].Value = cycle
	want := strings.Repeat("\x03\x00\x01a", 16) + "\x06" + strings.Repeat("\x00\x00\x09", 16)
	if got := AppendObject(nil, cycle); string(got) != want {
		t.Errorf("AppendObject = %q", got)
	}
}

func TestAppendCutsKeys(t *testing.T) {
	long := strings.Repeat("k", 65536)
	got, err := DecodeAll(Append(nil, TypedObject{long, Object{{long, true}}}), Limits{})
	if want := (TypedObject{long[1:], Object{{long[1:], true}}}); err != nil || !equal(got[0], want) {
		t.Errorf("%v: key or class name is not cut", err)
	}
}

func TestNoAllocation(t *testing.T) {
	name := []byte("\x02\x00\x0aonMetaData\x08")
	if n := testing.AllocsPerRun(100, func() { FirstString(name) }); n != 0 {
		t.Errorf("FirstString allocates %v times", n)
	}
	buf := make([]byte, 0, 4096)
	object, array := connect[2].(Object), ECMAArray(connect[2].(Object))
	if n := testing.AllocsPerRun(100, func() {
		b := AppendString(buf, "connect")
		b = AppendNumber(b, 1)
		b = AppendBool(b, true)
		b = AppendNull(b)
		b = AppendObject(b, object)
		b = AppendECMAArray(b, array)
		Append(b, connect[2])
	}); n != 0 {
		t.Errorf("Append allocates %v times", n)
	}
}

func FuzzDecode(f *testing.F) {
	addSeeds(f, "")
	f.Add(appendAll(nil, connect))
	f.Fuzz(func(t *testing.T, b []byte) {
		values := checkDecode(t, b, DecodeAll)
		s, rest, ok := FirstString(b)
		if !ok || len(s) > DefaultString {
			return
		}
		d := NewDecoder(b, Limits{})
		if v, err := d.Decode(); err != nil || v != string(s) || d.Offset() != rest || v != values[0] {
			t.Fatalf("FirstString = %q, %d; Decode = %v, %v, %d", s, rest, v, err, d.Offset())
		}
	})
}

func FuzzAMF3(f *testing.F) {
	addSeeds(f, "\x00")
	f.Add(appendAll(nil, connect))
	f.Fuzz(func(t *testing.T, b []byte) {
		command := checkDecode(t, b, DecodeAMF3Command)
		if data := checkDecode(t, b, DecodeAMF3); len(b) > 0 && b[0] == 0 && !equal(StrictArray(data), StrictArray(command)) {
			t.Fatalf("data %v, command %v", data, command)
		}
	})
}

// FuzzRoundTrip encodes and decodes values that it generates from its input.
func FuzzRoundTrip(f *testing.F) {
	addSeeds(f, "")
	f.Add(bytes.Repeat([]byte{7, 3, 'a', 'b', 'c'}, 40))
	f.Add(bytes.Repeat([]byte{8, 2, 9, 10, 5}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &generator{b: b, nodes: DefaultNodes}
		want := g.value(1)
		encoded := Append(nil, want)
		got, err := decodeBounded(t, encoded, DecodeAll)
		if err != nil || len(got) != 1 || !equal(got[0], want) {
			t.Fatalf("wrote %v, read %v, %v", want, got, err)
		}
		if again := Append(nil, got[0]); !bytes.Equal(again, encoded) {
			t.Fatalf("wrote %q, then %q", encoded, again)
		}
	})
}

// addSeeds adds the tables, except large input, which is slow to mutate.
func addSeeds(f *testing.F, prefix string) {
	add := func(b string) {
		if len(b) < 4096 {
			f.Add([]byte(prefix + b))
		}
	}
	for _, tt := range values {
		add(tt.bytes)
	}
	for _, tt := range readOnly {
		add(tt.bytes)
	}
	for _, tt := range hostile {
		add(tt.bytes)
	}
}

func BenchmarkDecodeConnect(b *testing.B) {
	message := appendAll(nil, connect)
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeAll(message, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFirstString(b *testing.B) {
	message := []byte("\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x08")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, ok := FirstString(message); !ok {
			b.Fatal("no string")
		}
	}
}

var connect = []any{"connect", 1.0, Object{
	{"app", "live"},
	{"type", "nonprivate"},
	{"flashVer", "FMLE/3.0 (compatible; FMSc/1.0)"},
	{"tcUrl", "rtmp://localhost:1935/live"},
	{"capsEx", 3.0},
	{"fourCcList", StrictArray{"av01", "vp09", "hvc1"}},
	{"videoFourCcInfoMap", Object{{"*", 4.0}}},
}}

func appendAll(b []byte, values []any) []byte {
	for _, v := range values {
		b = Append(b, v)
	}
	return b
}

// decodeBounded fails if decode allocates more than 64 KiB and 8 times the size of its input.
// Other goroutines may allocate meanwhile, so the smallest of a few runs counts.
func decodeBounded(t *testing.T, b []byte, decode func([]byte, Limits) ([]any, error)) (values []any, err error) {
	t.Helper()
	limit := uint64(8*len(b) + 64<<10)
	least := uint64(math.MaxUint64)
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		values, err = decode(b, Limits{})
		runtime.ReadMemStats(&after)
		if least = min(least, after.TotalAlloc-before.TotalAlloc); least <= limit {
			return values, err
		}
	}
	t.Fatalf("%d bytes allocated for %d, limit %d", least, len(b), limit)
	return nil, nil
}

// checkDecode decodes b and checks the properties of any input.
func checkDecode(t *testing.T, b []byte, decode func([]byte, Limits) ([]any, error)) []any {
	t.Helper()
	values, err := decodeBounded(t, b, decode)
	if err != nil {
		sentinel := errors.Unwrap(err)
		if sentinel != ErrTooDeep && sentinel != ErrLimit && sentinel != ErrMalformed {
			t.Fatalf("error %v", err)
		}
	}
	nodes := 0
	for _, v := range values {
		n, depth := measure(v)
		if nodes += n; depth > DefaultDepth {
			t.Fatalf("depth %d", depth)
		}
	}
	if nodes > DefaultNodes {
		t.Fatalf("%d nodes", nodes)
	}
	again, err := DecodeAll(appendAll(nil, values), Limits{})
	if err != nil || !equal(StrictArray(again), StrictArray(values)) {
		t.Fatalf("read %v, written and read again %v, %v", values, again, err)
	}
	return values
}

func measure(v any) (nodes, depth int) {
	children, ok := v.(StrictArray)
	if o, isObject := AsObject(v); isObject {
		ok = true
		for _, p := range o {
			children = append(children, p.Value)
		}
	}
	if !ok {
		return 1, 0
	}
	for _, child := range children {
		n, d := measure(child)
		nodes, depth = nodes+n, max(depth, d)
	}
	return nodes + 1, depth + 1
}

// equal compares numbers bit by bit, so that NaN equals itself. Nil and empty containers are
// equal.
func equal(a, b any) bool {
	switch a := a.(type) {
	case float64:
		b, ok := b.(float64)
		return ok && math.Float64bits(a) == math.Float64bits(b)
	case Date:
		b, ok := b.(Date)
		return ok && a.TZ == b.TZ && equal(a.Ms, b.Ms)
	case StrictArray:
		b, ok := b.(StrictArray)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equal(a[i], b[i]) {
				return false
			}
		}
		return true
	case Object:
		b, ok := b.(Object)
		return ok && equalProperties(a, b)
	case ECMAArray:
		b, ok := b.(ECMAArray)
		return ok && equalProperties(a, b)
	case TypedObject:
		b, ok := b.(TypedObject)
		return ok && a.Name == b.Name && equalProperties(a.Object, b.Object)
	}
	switch b.(type) {
	case StrictArray, Object, ECMAArray, TypedObject:
		return false
	}
	return a == b
}

func equalProperties(a, b []Property) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Key != b[i].Key || !equal(a[i].Value, b[i].Value) {
			return false
		}
	}
	return true
}

// generator makes values from its bytes, within the default limits.
type generator struct {
	b     []byte
	nodes int
}

func (g *generator) value(depth int) any {
	g.nodes--
	switch kind := g.byte() % 12; kind {
	case 0:
		return nil
	case 1:
		return g.byte()&1 == 1
	case 2:
		return g.number()
	case 3:
		return g.string()
	case 4:
		return strings.Repeat("x", math.MaxUint16-1+int(g.byte()%3))
	case 5:
		return Date{g.number(), int16(g.byte()) << 8}
	case 6:
		return XML(g.string())
	case 7:
		return Unsupported{}
	default:
		if depth > DefaultDepth {
			return Undefined{}
		}
		switch kind {
		case 8:
			return Object(g.properties(depth))
		case 9:
			return ECMAArray(g.properties(depth))
		case 10:
			return TypedObject{g.string(), g.properties(depth)}
		}
		var a StrictArray
		for range g.byte() {
			if len(g.b) == 0 || g.nodes == 0 {
				break
			}
			a = append(a, g.value(depth+1))
		}
		return a
	}
}

func (g *generator) properties(depth int) []Property {
	var p []Property
	for range g.byte() {
		if len(g.b) == 0 || g.nodes == 0 {
			break
		}
		p = append(p, Property{g.string(), g.value(depth + 1)})
	}
	return p
}

func (g *generator) number() float64 {
	return math.Float64frombits(binary.BigEndian.Uint64(append(g.take(8), make([]byte, 8)...)))
}

func (g *generator) string() string { return string(g.take(int(g.byte() % 32))) }

func (g *generator) byte() byte {
	return append(g.take(1), 0)[0]
}

func (g *generator) take(n int) []byte {
	n = min(n, len(g.b))
	b := g.b[:n:n]
	g.b = g.b[n:]
	return b
}
