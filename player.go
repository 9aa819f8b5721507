package forward

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// player is a client that plays.
type player struct {
	conn     *conn
	key      streamKey
	vhost    string
	streamID uint32
	onStop   func(context.Context, *PlayRequest) // of the Hooks that have accepted
	req      *PlayRequest                        // for onStop

	src     atomic.Pointer[Source] // that it plays
	waited  atomic.Bool            // has been without a publisher since play
	stopped atomic.Bool            // paused, or stopped for good
}

// Play implements rtmp.Handler.
func (c *conn) Play(streamID uint32, name string) error {
	const notFound, failed = "NetStream.Play.StreamNotFound", "NetStream.Play.Failed"
	asked := time.Now()
	cfg := c.srv.cfg.Load()
	r, err := c.request(cfg, name)
	if err != nil {
		return c.refused("play", notFound, "The stream's name can't be used: "+err.Error()+".", err)
	}
	req := (*PlayRequest)(r)
	if f := cfg.Hooks.OnPlay; f != nil {
		if err := c.srv.guard("OnPlay", func() error { return f(c.ctx, req) }); err != nil {
			c.delayRefusal(asked)
			return c.refused("play", failed, "Playing is refused.", r.hide(err))
		}
	}
	c.srv.mu.Lock()
	c.player = &player{conn: c, key: r.key(), vhost: req.Vhost, streamID: streamID}
	if f := cfg.Hooks.OnStop; f != nil {
		c.player.req, c.player.onStop = req, f
	}
	c.srv.mu.Unlock()
	c.rt.Limits.Streams = cfg.mediaLimits().Streams
	c.rt.Resize(playBuffer)
	return nil
}

// Playing implements rtmp.Handler.
func (c *conn) Playing(uint32) {
	c.idle()
	c.player.join()
}

// Pause implements rtmp.Handler.
func (c *conn) Pause(_ uint32, pause bool) {
	p := c.player
	p.detach()
	if !pause || p.dropped(c.srv.cfg.Load()) {
		p.stopped.Store(false)
		p.join()
	}
}

// StopPlay implements rtmp.Handler.
func (c *conn) StopPlay(uint32) {
	p := c.player
	p.detach()
	c.srv.mu.Lock()
	c.player = nil
	c.srv.mu.Unlock()
	c.idle()
	if f := p.onStop; f != nil {
		c.srv.guard("OnStop", func() error { f(context.WithoutCancel(c.ctx), p.req); return nil })
	}
}

// join begins to play, now or when a publisher comes.
func (p *player) join() {
	switch src, err := p.conn.srv.join(p); {
	case errors.Is(err, errNoVhost):
		p.dismiss()
	case err != nil:
		p.conn.out.Shutdown()
	case src != nil:
		p.attach(src)
	default:
		p.waited.Store(true)
	}
}

// attach begins to play src.
func (p *player) attach(src *Source) {
	c := p.conn
	defer func() {
		if p.stopped.Load() { // meanwhile
			p.detach()
		}
	}()
	if p.waited.Swap(false) {
		c.out.Send(c.rt.AppendPlayBegin(nil, p.streamID))
	}
	p.src.Store(src)
	src.group.Add(c.out, src.cursorOptions(p.streamID, c.rt.ChunkSize()), func() ([]byte, bool) {
		src.group.Remove(c.out)
		c.out.Send(c.rt.AppendPlayEnd(nil, p.streamID))
		p.join()
		return nil, false
	})
}

// detach ends playing and waiting.
func (p *player) detach() {
	p.stopped.Store(true)
	p.conn.srv.leave(p)
	if src := p.src.Swap(nil); src != nil {
		src.group.Remove(p.conn.out)
	}
	p.conn.out.Detach()
}

// join returns the live stream a player wants; when there is none the player
// waits for it.
func (s *Server) join(p *player) (src *Source, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, ErrServerClosed
	}
	if p.dropped(s.cfg.Load()) {
		return nil, errNoVhost
	}
	if src := s.sources[p.key]; src != nil && src.live {
		return src, nil
	}
	if s.waiting[p.key] == nil {
		s.waiting[p.key] = make(map[*player]struct{})
	}
	s.waiting[p.key][p] = struct{}{}
	return nil, nil
}

// waits reports whether a player waits for a stream. s.mu is held.
func (s *Server) waits(p *player) bool {
	_, ok := s.waiting[p.key][p]
	return ok
}

// leave ends the waiting of a player.
func (s *Server) leave(p *player) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.waiting[p.key]; m != nil {
		delete(m, p)
		if len(m) == 0 {
			delete(s.waiting, p.key)
		}
	}
}
