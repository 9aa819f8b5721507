package forward

import (
	"cmp"
	"net/netip"
	"strings"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// streamKey is the identity of a stream, by which streams are stored, compared, signed
// and named. Two requests are about the same stream if and only if their keys are
// equal.
type streamKey struct {
	vhost string // folded; empty for DefaultVhost
	path  string // app and stream, joined
}

// String returns the stream's name, which parseStreamName parses.
func (k streamKey) String() string { return rtmp.JoinName(k.vhost, k.path) }

// parseStreamName returns the key of a stream's name. ok is false if the name begins with
// a malformed vhost.
func parseStreamName(name string) (k streamKey, ok bool) {
	vhost, path, ok := rtmp.SplitName(name)
	return streamKey{vhost, path}, ok
}

// compareNames orders keys by their names.
func compareNames(a, b streamKey) int { return cmp.Compare(a.String(), b.String()) }

// vhost returns the settings of a vhost: those of the Config, overridden by those of
// the vhost, or of DefaultVhost if it is not listed.
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
	if v.Standby == nil {
		v.Standby = c.Standby
	}
	v.Standby = v.Standby.withDefaults()
	v.EndPlayers = v.EndPlayers || c.EndPlayers
	def(&v.PlayerWait, c.PlayerWait)
	return v
}

// resolveVhost returns the vhost of a client that names one, or whose tcUrl has the
// given host. It is false if that vhost is not served.
func (c *Config) resolveVhost(named, host string) (string, bool) {
	if named == "" { // a named vhost takes precedence
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

// vhostName returns a vhost as it is spelled in requests: see Request.Vhost.
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

// vhostOf returns the listed vhost with the name of a tcUrl's host, or "". The host may
// end with a dot, or be an address in any notation.
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

// plainHost returns a host without a final dot and the brackets of IPv6, and an address
// in its canonical form.
func plainHost(host string) string {
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return host
}

// serves reports whether c serves the clients of a vhost. listed says that they were
// accepted with the vhost's own settings, which those of DefaultVhost must not replace.
func (c *Config) serves(vhost string, listed bool) bool {
	_, ok := c.resolveVhost(vhost, "")
	return ok && (!listed || len(c.Vhosts) == 0 || c.lists(vhost))
}

func (c *Config) lists(vhost string) bool {
	_, ok := rtmp.ListedVhost(c.Vhosts, vhost)
	return ok
}
