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
