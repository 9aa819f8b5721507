package rtmp

import "strings"

// JoinName is the name of a stream: its path (app and stream, joined) in DefaultVhost, and
// //vhost/path in another vhost. vhost is folded (see FoldVhost). A path has no slash at
// its beginning and no two in a row, and a vhost has none, so no two streams have the
// same name.
func JoinName(vhost, path string) string {
	if vhost == "" {
		return path
	}
	return "//" + vhost + "/" + path
}

// SplitName reads what JoinName returns, with the vhost in any case. ok is false for a
// malformed name with a vhost.
func SplitName(name string) (vhost, path string, ok bool) {
	rest, ok := strings.CutPrefix(name, "//")
	if !ok {
		return "", name, true
	}
	vhost, path, ok = strings.Cut(rest, "/")
	return FoldVhost(vhost), path, ok && vhost != ""
}
