package forward

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// streamKey is the identity of a stream: by it streams are kept, compared,
// signed and named. Two requests are about the same stream if and only if their
// keys are equal.
type streamKey struct {
	vhost string // folded; empty for DefaultVhost
	path  string // app and stream, whichever of its slashes stands between them
}

func (r *PublishRequest) key() streamKey {
	return streamKey{foldVhost(r.Vhost), r.App + "/" + r.Stream}
}

// String is the stream's name; parseStreamName reads it. A path neither begins
// with a slash nor holds two in a row, and a vhost holds none, so that no two
// keys have one name.
func (k streamKey) String() string {
	if k.vhost == "" {
		return k.path
	}
	return "//" + k.vhost + "/" + k.path
}

// parseStreamName is the key of a stream's name. ok is false for what begins as
// a name with a vhost and is none.
func parseStreamName(name string) (k streamKey, ok bool) {
	rest, ok := strings.CutPrefix(name, "//")
	if !ok {
		return streamKey{path: name}, true
	}
	vhost, path, ok := strings.Cut(rest, "/")
	return streamKey{foldVhost(vhost), path}, ok && vhost != ""
}

// isValid reports whether a stream can have the key.
func (k streamKey) isValid() bool {
	return strings.Contains(k.path, "/") && !slices.ContainsFunc(strings.Split(k.path, "/"), func(s string) bool { return rtmp.CheckName(s) != nil }) &&
		(k.vhost == "" || rtmp.CheckVhost(k.vhost) == nil)
}

// compareNames orders keys by their names.
func compareNames(a, b streamKey) int { return cmp.Compare(a.String(), b.String()) }

// foldVhost is a vhost in the form in which vhosts are compared, and empty for
// DefaultVhost, which a request that names no vhost has. Vhosts are host names,
// which have no case (RFC 4343); two have the same form where strings.EqualFold
// says that they are equal.
func foldVhost(vhost string) string {
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

// listedVhost finds the name that a map has for a vhost, in whatever case.
func listedVhost[V any](m map[string]V, vhost string) (name string, ok bool) {
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

// sameVhosts returns two names of a map that are the same vhost, if it has such.
func sameVhosts[V any](m map[string]V) (a, b string, found bool) {
	by := make(map[string]string, len(m))
	for name := range m {
		if other, ok := by[foldVhost(name)]; ok {
			return min(name, other), max(name, other), true
		}
		by[foldVhost(name)] = name
	}
	return "", "", false
}
