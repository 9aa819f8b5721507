package rtmp

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DefaultVhost is the vhost of clients that name none, in SRS's terms.
const DefaultVhost = "__defaultVhost__"

// FoldVhost is a vhost in the form in which vhosts are compared, and empty for
// DefaultVhost, which a request that names no vhost has. Vhosts are host names,
// which have no case (RFC 4343); two have the same form where strings.EqualFold
// says that they are equal.
func FoldVhost(vhost string) string {
	if vhost = strings.Map(foldRune, vhost); vhost == foldedDefault {
		return ""
	}
	return vhost
}

var foldedDefault = strings.Map(foldRune, DefaultVhost)

// foldRune is the same for all runes that unicode.SimpleFold goes round: the
// lower-case form of the first of them, where that is one of them.
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

// ListedVhost finds the name that a map has for a vhost, in whatever case.
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

// SameVhosts returns two names of a map that are the same vhost, if it has such.
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
