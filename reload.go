package forward

import (
	"reflect"

	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Reload puts another Config in the place of the Server's, for the connections,
// publishes and plays that begin from now on. When it is not valid, Reload
// returns why, and nothing changes.
//
// A live stream keeps the Config that it began with, and a client's end is told
// to the Hooks that have accepted it. What does change of a live stream is
// where it goes: when the RefreshInterval or the Resolver of its vhost is
// another one, it is refreshed as by Source.Refresh, for which Reload does not
// wait. Destinations that are given as before are not disturbed. While the new
// Resolver returns an error, which is logged, they all stay, and it is asked
// again within little more than a minute. A stream whose vhost is not served
// any more is closed, as by Source.Shutdown; its players, and those that wait for
// one there, are told and disconnected.
//
// Resolvers are the same if they are equal in Go. Those that cannot be compared,
// such as a ResolverFunc, count as changed, which costs no more than one call.
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

// reload puts cfg into force. It returns the streams and the players that it may
// be news for, and the fields that stay as they were.
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
			live = append(live, src) // others look themselves when they are
		}
	}
	for c := range s.conns {
		if p := c.player; p != nil && p.dropped(&cfg) && (p.stopped.Load() || s.waits(p)) {
			gone = append(gone, p) // others look themselves when their stream ends
		}
	}
	return live, gone, fixed, nil
}

// adopt takes over what the Server's Config changes of a live stream.
func (s *Source) adopt() {
	cfg := s.srv.cfg.Load()
	if s.dropped(cfg) {
		s.srv.log.Info("vhost is gone", "source", s.req.logName())
		s.beginClose()
		return
	}
	s.mu.Lock()
	cfg = s.srv.cfg.Load() // whoever gets the lock last sees the newest
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

// dropped reports whether the stream's vhost was served when it began, and is
// not by cfg.
func (s *Source) dropped(cfg *Config) bool {
	return s.cfg.serves(s.req.Vhost, false) && !cfg.serves(s.req.Vhost, s.cfg.lists(s.req.Vhost))
}

// dropped is as that of Source. The vhost of a player was always served.
func (p *player) dropped(cfg *Config) bool { return !cfg.serves(p.vhost, p.listed) }

// dismiss tells a player that its vhost is gone and disconnects it.
func (p *player) dismiss() {
	c := p.conn
	c.out.Send(c.rt.AppendPlayFailed(nil, p.streamID, "The vhost is not served any more."))
	c.out.Shutdown()
	c.closeWithin(lingerTime)
}

// serves reports whether c serves the clients of a vhost. listed: they were let in
// by the vhost's own settings, which those of DefaultVhost do not stand in for.
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
