package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Reply converts a reply to standard JSON. It repairs the faults that SRS's reader accepts:
// a byte order mark before the reply (backends on Windows), a NUL after it (backends in C),
// a comma before the end of an object or array, and in strings unescaped control characters
// and a backslash before any character. It removes surrounding white space. A reply that
// SRS does not accept stays invalid.
func Reply(b []byte) []byte {
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	b = bytes.TrimSpace(b)
	if json.Valid(b) {
		return b
	}
	out := make([]byte, 0, len(b)+16)
	text := false
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case !text && c == 0:
			return bytes.TrimSpace(out)
		case !text && c == ',' && closes(b[i+1:]) && ends(out):
			continue
		case text && c == '\\' && i+1 < len(b):
			if i++; bytes.IndexByte([]byte(`"\/bfnrtu`), b[i]) >= 0 {
				out = append(out, c)
			} else if b[i] < ' ' {
				out = fmt.Appendf(out, `\u%04x`, b[i])
				continue
			}
			c = b[i]
		case text && c < ' ' && c != 0:
			out = fmt.Appendf(out, `\u%04x`, c)
			continue
		case c == '"':
			text = !text
		}
		out = append(out, c)
	}
	return out
}

// ends reports whether b ends with a value.
func ends(b []byte) bool {
	b = bytes.TrimRight(b, " \t\r\n")
	return len(b) > 0 && bytes.IndexByte([]byte("[{,:"), b[len(b)-1]) < 0
}

// closes reports whether b begins with the end of an object or an array.
func closes(b []byte) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	return len(b) > 0 && (b[0] == '}' || b[0] == ']')
}
