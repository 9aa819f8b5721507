package rtmp

import (
	"strings"
	"unicode"

	"github.com/rtmp-forward/forward/internal/amf"
)

// codeReconnect is the code of the onStatus that asks a client to connect to another
// server, or to the same one again (Enhanced RTMP v2, Reconnect Request).
const codeReconnect = "NetConnection.Connect.ReconnectRequest"

// Redirect is a refusal of connect that names another URL. It is not part of a
// specification: Adobe's servers put an object ex, with code 302 and redirect, into the
// information object of the _error.
type Redirect struct {
	Refused *StatusError
	url     string
}

// URL returns the URL to connect to. It has at most MaxURL bytes and no control
// characters. It may contain secrets; e does not print it.
func (e *Redirect) URL() string { return e.url }

// GoString returns Error, so that %#v does not print the URL.
func (e *Redirect) GoString() string { return e.Error() }

func (e *Redirect) Error() string { return e.Refused.Error() }

// Unwrap returns the refusal.
func (e *Redirect) Unwrap() error { return e.Refused }

// redirect returns the URL to which c, a refusal of connect, redirects, or "".
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

// reconnect returns the tcUrl of a ReconnectRequest, or "" for the current one.
func (c *Command) reconnect() string {
	for _, a := range c.Args {
		if o, ok := amf.AsObject(a); ok {
			return reference(o, "tcUrl")
		}
	}
	return ""
}

// reference returns a property that should be a URL, or "" if it can't be one.
func reference(o amf.Object, key string) string {
	s := text(o, key)
	if len(s) > MaxURL || strings.ContainsFunc(s, unicode.IsControl) {
		return ""
	}
	return s
}
