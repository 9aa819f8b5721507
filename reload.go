package forward

import (
	"reflect"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Reload replaces the Server's Config for connections, publishes and plays that begin
// from now on. If cfg is not valid, Reload returns the error of Validate and changes
// nothing.
//
// A live stream keeps the Config that it began with, and the end of a client is reported
// to the Hooks that have accepted it. Only the destinations of live streams change: if the
// RefreshInterval or the Resolver of its vhost differs, a stream is refreshed as by
// Source.Refresh. Reload does not wait for that. Destinations that are still in the
// answer are not disturbed. If the new Resolver returns an error, the error is logged,
// all destinations stay, and the Resolver is asked again after about a minute. A stream
// whose vhost is no longer served is closed as by Source.Shutdown; its players, and those
// that wait for it, are told and disconnected.
//
// Resolvers are the same if they are equal in Go. Resolvers that cannot be compared, such
// as a ResolverFunc, count as changed, which costs one call per stream.
//
// Addr and Logger need a restart; a warning names those that differ.
func (s *Server) Reload(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if s.err != nil {
		return s.err
	}
	live, gone, fixed, err := s.reload(cfg.withDefaults())
	if err != nil {
		return err
	}
	if len(fixed) > 0 {
		s.log.Warn("reload: needs a restart", "fields", fixed)
	}
	for _, src := range live {
		src.adopt()
	}
	for _, p := range gone {
		p.dismiss()
	}
	return nil
}

// reload applies cfg. It returns the streams and players that it may affect, and the
// names of fields that cannot change.
func (s *Server) reload(cfg Config) (live []*Source, gone []*player, fixed []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, nil, nil, ErrServerClosed
	}
	old := s.cfg.Load()
	if cfg.Addr != old.Addr {
		fixed = append(fixed, "Addr")
	}
	if cfg.Logger != old.Logger {
		fixed = append(fixed, "Logger")
	}
	cfg.Addr, cfg.Logger = old.Addr, old.Logger
	s.cfg.Store(&cfg)
	s.setBudget(cfg.MemoryBudget)
	for _, src := range s.sources {
		if src.live {
			live = append(live, src) // other streams check when they become live
		}
	}
	for c := range s.conns {
		if p := c.player; p != nil && p.dropped(&cfg) && (p.stopped.Load() || p.waitsLocked()) {
			gone = append(gone, p) // other players check when their stream ends
		}
	}
	return live, gone, fixed, nil
}

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
