package forward

import (
	"reflect"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// adopt applies the Server's current Config to a live stream.
func (s *Source) adopt() {
	cfg := s.srv.cfg.Load()
	if s.dropped(cfg) {
		s.srv.log.Info("vhost no longer served", "source", s.req.logName())
		s.beginClose()
		return
	}
	s.mu.Lock()
	cfg = s.srv.cfg.Load() // under the lock: the last caller to get it sees the newest
	if s.current == cfg {
		s.mu.Unlock()
		return
	}
	r := cfg.vhost(s.req.Vhost).Resolver
	another := !sameResolver(r, s.resolver)
	if another {
		s.resolver = r
		s.untried.Store(true)
	}
	name := s.req.Vhost
	refresh := another || cfg.vhost(name).RefreshInterval != s.current.vhost(name).RefreshInterval
	s.current = cfg
	s.mu.Unlock()
	if refresh {
		s.background(s.refreshSelf)
	}
}

// dropped reports whether the stream's vhost was served when the stream began, and is
// not served by cfg.
func (s *Source) dropped(cfg *Config) bool {
	return s.cfg.serves(s.req.Vhost, false) && !cfg.serves(s.req.Vhost, s.cfg.lists(s.req.Vhost))
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

func sameResolver(a, b DestinationResolver) bool {
	if a, ok := a.(static); ok {
		b, ok := b.(static)
		return ok && a.equal(b)
	}
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}
