package rtmp

import (
	"strings"
	"unicode"

	"github.com/rtmp-forward/forward/internal/amf"
)

// codeReconnect is the code of the onStatus with which a server asks its client to
// connect to another server, or again to itself (Enhanced RTMP v2, Reconnect Request).
const codeReconnect = "NetConnection.Connect.ReconnectRequest"

// Redirect is a refusal of connect that names where to connect instead. It is
// in no specification: Adobe's servers put an object ex with code 302 and
// redirect into the information object of the _error.
type Redirect struct {
	Refused *StatusError
	url     string
}

// URL is where to connect. It has MaxURL bytes at most and no control
// characters, and may hold secrets, which nothing prints.
func (e *Redirect) URL() string { return e.url }

// GoString is Error.
func (e *Redirect) GoString() string { return e.Error() }

func (e *Redirect) Error() string { return e.Refused.Error() }

// Unwrap returns the refusal.
func (e *Redirect) Unwrap() error { return e.Refused }

// redirect is where cmd, a refusal of connect, sends us, or empty.
func (c *Command) redirect() string {
	for _, a := range c.Args {
		o, _ := amf.AsObject(a)
		v, _ := o.Get("ex")
		ex, ok := amf.AsObject(v)
		if code, _ := ex.GetNumber("code"); ok && code == 302 {
			return reference(ex, "redirect")
		}
	}
	return ""
}

// reconnect is where a ReconnectRequest sends us: empty for the same tcUrl.
func (c *Command) reconnect() string {
	for _, a := range c.Args {
		if o, ok := amf.AsObject(a); ok {
			return reference(o, "tcUrl")
		}
	}
	return ""
}

// reference is a property that should be a URL, empty where it can't be one.
func reference(o amf.Object, key string) string {
	s := text(o, key)
	if len(s) > MaxURL || strings.ContainsFunc(s, unicode.IsControl) {
		return ""
	}
	return s
}
