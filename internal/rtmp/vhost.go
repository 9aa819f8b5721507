package rtmp

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DefaultVhost is the vhost of clients that name none, as in SRS.
const DefaultVhost = "__defaultVhost__"

// FoldVhost returns the form of a vhost that is used to compare vhosts. It returns "" for
// DefaultVhost, as for a request that names no vhost. Vhosts are host names, which have no
// case (RFC 4343): two have the same form if strings.EqualFold reports them as equal.
func FoldVhost(vhost string) string {
	if vhost = strings.Map(foldRune, vhost); vhost == foldedDefault {
		return ""
	}
	return vhost
}

var foldedDefault = strings.Map(foldRune, DefaultVhost)

// foldRune returns the same rune for all runes of an orbit of unicode.SimpleFold: the
// smallest of them, or its lower-case form if that is in the orbit.
func foldRune(r rune) rune {
	if r < utf8.RuneSelf {
		return unicode.ToLower(r)
	}
	all := []rune{r}
	for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
		all = append(all, o)
	}
	first := slices.Min(all)
	if lower := unicode.ToLower(first); slices.Contains(all, lower) {
		return lower
	}
	return first
}

// ListedVhost returns the key of m that names vhost, regardless of case.
func ListedVhost[V any](m map[string]V, vhost string) (name string, ok bool) {
	if _, ok := m[vhost]; ok {
		return vhost, true
	}
	for name := range m {
		if strings.EqualFold(name, vhost) {
			return name, true
		}
	}
	return "", false
}

// SameVhosts returns two keys of m that name the same vhost, if there are any.
func SameVhosts[V any](m map[string]V) (a, b string, found bool) {
	by := make(map[string]string, len(m))
	for name := range m {
		if other, ok := by[FoldVhost(name)]; ok {
			return min(name, other), max(name, other), true
		}
		by[FoldVhost(name)] = name
	}
	return "", "", false
}
