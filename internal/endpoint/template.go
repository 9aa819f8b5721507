package endpoint

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Replace replaces each placeholder of a text with its value.
type Replace func(text string, value func(name string) string) string

// Brackets replaces words of lower-case letters in brackets.
var Brackets Replace = brackets

func brackets(text string, value func(name string) string) string {
	var b strings.Builder
	for {
		open := strings.IndexByte(text, '[')
		if open < 0 {
			b.WriteString(text)
			return b.String()
		}
		end := open + 1
		for end < len(text) && 'a' <= text[end] && text[end] <= 'z' {
			end++
		}
		if end == open+1 || end == len(text) || text[end] != ']' {
			b.WriteString(text[:end])
			text = text[end:]
			continue
		}
		b.WriteString(text[:open])
		b.WriteString(value(text[open : end+1]))
		text = text[end+1:]
	}
}

// Template makes a URL and a key from the values of placeholders.
type Template struct {
	server     string   // scheme://[userinfo@]host[:port]
	app, key   string   // with placeholders; no key if the Spec has a StreamKey
	carryVhost bool     // add ?vhost= to the app
	replace    *Replace // a pointer, because functions are never equal for reflect.DeepEqual
}

// ParseTemplate parses a Spec whose URL has one of the forms of forward.Static. The
// placeholders in its app and key must be among names. A StreamKey is sent unchanged; with
// one the whole path is the app, and a platform's host needs neither scheme nor app.
func ParseTemplate(s Spec, replace *Replace, names ...string) (Template, error) {
	full := s.URL
	if !strings.Contains(full, "://") {
		if strings.ContainsAny(full, "/?") {
			return Template{}, errors.New("neither a host nor a URL: a path needs rtmp:// or rtmps:// before the host")
		}
		if s.StreamKey != "" {
			full = WithScheme(full)
		}
		if !strings.Contains(full, "://") {
			full = "rtmp://" + full
		}
	}
	scheme, rest, _ := strings.Cut(full, "://")
	authority, path, _ := strings.Cut(rest, "/")
	t := Template{server: scheme + "://" + authority, replace: replace}
	bare := strings.Trim(path, "/") == ""
	if !bare || s.StreamKey != "" {
		t.app, t.key = templatePath(s, authority, path)
	}
	if bare && t.app == "" {
		t.app, t.carryVhost = "[app]", true
		if s.StreamKey == "" {
			t.key = "[stream][param]"
		}
	}
	unknown := false
	for _, part := range []string{t.app, t.key} {
		(*replace)(part, func(name string) string {
			unknown = unknown || !slices.Contains(names, name)
			return name
		})
	}
	if unknown {
		return Template{}, fmt.Errorf("%s: unknown placeholder: expected one of %s",
			Redact(full, s.StreamKey != ""), strings.Join(names, " "))
	}
	return t, nil
}

// templatePath splits a path into app and key. Without a StreamKey the path is not empty;
// a single path element, and a path that ends in a slash, is the app.
func templatePath(s Spec, authority, path string) (app, key string) {
	var e Endpoint
	if s.StreamKey != "" {
		e.App, e.Key = JoinApp(strings.Cut(path, "?")), s.StreamKey
	} else {
		e.App, e.Key = SplitPath(path)
	}
	_, hostport, _ := CutLast(authority, "@")
	if host, _, err := SplitAuthority(hostport); err == nil {
		p, _ := ProfileOf(s.Profile, host)
		p.Complete(&e)
	}
	switch {
	case s.StreamKey != "":
		return e.App, ""
	case e.Key == "":
		return e.App, "[stream]"
	}
	return e.App, e.Key
}

// Placeholders returns app and key with their placeholders.
func (t Template) Placeholders() (app, key string) { return t.app, t.key }

// escapeVhost escapes the characters that would end a vhost in a query. Others stay
// unchanged: neither SRS nor a Server decodes them.
var escapeVhost = strings.NewReplacer("&", "%26", "?", "%3F", "#", "%23")

// Names are the placeholders of a Request.
var Names = []string{"[vhost]", "[app]", "[stream]", "[param]"}

// Request is what a client asks for.
type Request struct{ Vhost, App, Stream, Param string }

func (r Request) value(name string) string {
	switch name {
	case "[vhost]":
		return r.Vhost
	case "[app]":
		return r.App
	case "[stream]":
		return r.Stream
	case "[param]":
		return r.Param
	}
	return name
}

// Expand inserts the values of r and of more, which has them by placeholder. The URL ends
// with the app. The key is returned separately, so that nothing in it is taken for a part
// of the URL; it is empty if the Spec has a StreamKey.
func (t Template) Expand(r Request, more map[string]string) (url, key string) {
	value := func(name string) string {
		if v, ok := more[name]; ok {
			return v
		}
		return r.value(name)
	}
	app := (*t.replace)(t.app, value)
	if !t.carryVhost {
		return t.server + "/" + app, (*t.replace)(t.key, value)
	}
	if rtmp.FoldVhost(r.Vhost) != "" {
		app += "?vhost=" + escapeVhost.Replace(r.Vhost)
	}
	r.Param = withoutVhost(r.Param)
	return t.server + "/" + app, (*t.replace)(t.key, value)
}

// withoutVhost returns a param without the parameters that name a vhost.
func withoutVhost(param string) string {
	query := strings.TrimPrefix(param, "?")
	switch rest := rtmp.WithoutVhost(query); rest {
	case query:
		return param
	case "":
		return ""
	default:
		return "?" + rest
	}
}
