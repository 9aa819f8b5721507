package rtmp

import "strings"

// JoinName returns the name of a stream: its path (app and stream, joined) in
// DefaultVhost, and //vhost/path in another vhost. vhost must be folded (see FoldVhost).
// A path has no leading slash and no two in a row, and a vhost has no slash, so no two
// streams have the same name.
func JoinName(vhost, path string) string {
	if vhost == "" {
		return path
	}
	return "//" + vhost + "/" + path
}

// SplitName is the inverse of JoinName. It accepts the vhost in any case, and returns it
// folded. ok is false if name has a malformed vhost.
func SplitName(name string) (vhost, path string, ok bool) {
	rest, ok := strings.CutPrefix(name, "//")
	if !ok {
		return "", name, true
	}
	vhost, path, ok = strings.Cut(rest, "/")
	return FoldVhost(vhost), path, ok && vhost != ""
}
