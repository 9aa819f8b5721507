package forward

import (
	"cmp"
	"net/netip"
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

// vhost returns the settings for a vhost: those of the Config with what the
// vhost, or DefaultVhost where it is not listed, has of its own.
func (c *Config) vhost(name string) Vhost {
	listed, ok := rtmp.ListedVhost(c.Vhosts, name)
	if !ok {
		listed, _ = rtmp.ListedVhost(c.Vhosts, DefaultVhost)
	}
	v := c.Vhosts[listed]
	if v.Resolver == nil {
		v.Resolver = c.Resolver
	}
	def(&v.RefreshInterval, c.RefreshInterval)
	def(&v.ChunkSize, c.ChunkSize)
	v.NoGOPCache = v.NoGOPCache || c.NoGOPCache
	def(&v.MaxLatency, c.MaxLatency)
	def(&v.MergeWindow, c.MergeWindow)
	def(&v.FirstMediaTimeout, c.FirstMediaTimeout)
	def(&v.ReadTimeout, c.ReadTimeout)
	def(&v.PublishGrace, c.PublishGrace)
	v.GraceUnpublish = v.GraceUnpublish || c.GraceUnpublish
	v.Takeover = v.Takeover || c.Takeover
	v.EndPlayers = v.EndPlayers || c.EndPlayers
	def(&v.PlayerWait, c.PlayerWait)
	return v
}

// resolveVhost returns the vhost of a client that names one, or whose tcUrl has
// the given host. It is false where that vhost is not served.
func (c *Config) resolveVhost(named, host string) (string, bool) {
	if named == "" { // what is named counts alone
		named = c.vhostOf(host)
	}
	def(&named, DefaultVhost)
	listed, ok := rtmp.ListedVhost(c.Vhosts, named)
	if !ok {
		listed, ok = rtmp.ListedVhost(c.Vhosts, DefaultVhost)
	}
	if len(c.Vhosts) > 0 && (!ok || c.Vhosts[listed].Disabled) {
		return "", false
	}
	return c.vhostName(named), true
}

// vhostName is how requests name a vhost, in whatever case it is given.
func (c *Config) vhostName(vhost string) string {
	folded := rtmp.FoldVhost(vhost)
	if folded == "" {
		return DefaultVhost
	}
	if name, ok := rtmp.ListedVhost(c.Vhosts, vhost); ok {
		return name
	}
	return folded
}

// vhostOf is the vhost with the name of a tcUrl's host, which may end in the
// dot of the root, or be an address, however it is written.
func (c *Config) vhostOf(host string) string {
	if name, ok := rtmp.ListedVhost(c.Vhosts, host); ok {
		return name
	}
	host = plainHost(host)
	for name := range c.Vhosts {
		if strings.EqualFold(plainHost(name), host) {
			return name
		}
	}
	return ""
}

// plainHost is a host without the dot of the root and the brackets of IPv6, an
// address in its usual form.
func plainHost(host string) string {
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return host
}
