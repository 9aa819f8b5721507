package forward

import (
	"cmp"
	"slices"
	"strings"

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
	return streamKey{rtmp.FoldVhost(r.Vhost), r.App + "/" + r.Stream}
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
	return streamKey{rtmp.FoldVhost(vhost), path}, ok && vhost != ""
}

// isValid reports whether a stream can have the key.
func (k streamKey) isValid() bool {
	return strings.Contains(k.path, "/") && !slices.ContainsFunc(strings.Split(k.path, "/"), func(s string) bool { return rtmp.CheckName(s) != nil }) &&
		(k.vhost == "" || rtmp.CheckVhost(k.vhost) == nil)
}

// compareNames orders keys by their names.
func compareNames(a, b streamKey) int { return cmp.Compare(a.String(), b.String()) }

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
		if other, ok := by[rtmp.FoldVhost(name)]; ok {
			return min(name, other), max(name, other), true
		}
		by[rtmp.FoldVhost(name)] = name
	}
	return "", "", false
}
