package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Reply makes standard JSON of a reply that SRS's reader accepts beyond the standard: a
// byte order mark before it (backends on Windows), a NUL after it (backends in C), a
// comma before the end of an object or array, and in strings unescaped control
// characters and a backslash before any character. Surrounding white space is removed.
// A reply that SRS does not accept stays invalid.
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

// ends reports whether a value has just ended.
func ends(b []byte) bool {
	b = bytes.TrimRight(b, " \t\r\n")
	return len(b) > 0 && bytes.IndexByte([]byte("[{,:"), b[len(b)-1]) < 0
}

// closes reports whether the end of an object or an array is next.
func closes(b []byte) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	return len(b) > 0 && (b[0] == '}' || b[0] == ']')
}
