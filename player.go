package forward

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// player is a client that plays.
type player struct {
	conn     *conn
	key      streamKey
	vhost    string
	listed   bool // in Config.Vhosts, when play began
	named    bool // Config.LogNames, when play began
	streamID uint32
	onStop   func(context.Context, *Request) // of the Hooks that accepted the play
	req      *Request                        // for onStop

	// Settings of the Vhost when play began.
	endPlayers bool
	playerWait time.Duration

	// mu is held while the player enters or leaves the receivers of a stream. A player
	// is a receiver of one stream at most, and only once. No other lock of this package
	// is held together with mu.
	mu sync.Mutex
	at *playing // nil while the player waits or is stopped; guarded by mu

	stopped atomic.Bool // paused, or stopped for good
	played  atomic.Bool // has had a publisher
	notify  atomic.Bool // has to be told when the next publisher comes

	// Guarded by srv.mu.
	waitUntil time.Time // end of PlayerWait, while the player waits
	stopWait  func()    // stops the timer for waitUntil; nil without one
}

// playing is one stay of a player among the receivers of a stream.
type playing struct{ src *Source }

// audience holds the players of one name: those that play, wait for a publisher, or are
// paused. It exists while there are any.
type audience struct {
	players int
	waiting map[*player]struct{} // for a publisher
	ended   moment               // the end of the last stream's timestamps
}

// join begins to play, now or when a publisher comes.
func (p *player) join() {
	switch src, err := p.stream(); {
	case errors.Is(err, errNoVhost):
		p.dismiss()
	case err != nil:
		p.tellEnd()
		p.conn.out.Shutdown()
	case src != nil:
		p.attach(src)
	}
}

// attach begins to play src, unless the player has been stopped or is playing. It may be
// called concurrently.
func (p *player) attach(src *Source) {
	c := p.conn
	if p.notify.Swap(false) {
		c.out.Send(c.rt.AppendPlayBegin(nil, p.streamID))
	}
	p.mu.Lock()
	if p.stopped.Load() || p.at != nil {
		p.mu.Unlock()
		return
	}
	p.played.Store(true)
	at := &playing{src}
	p.at = at
	opt := flvOptions(src)
	if c.rt != nil {
		opt = src.cursorOptions(p.streamID, c.rt.ChunkSize())
	}
	opt.OnBlind = func() { go p.tellBlind(src) }
	src.group.Prepare(c.out, opt, func() ([]byte, bool) { return nil, p.ended(at) })
	p.mu.Unlock()
	c.out.Kick()
}

// tellBlind logs that the player began without a keyframe because none came in time. It
// may block, because the logger is the host's.
func (p *player) tellBlind(src *Source) {
	c := p.conn
	c.srv.notices.write(slog.LevelWarn, "a player began without a keyframe: none came within 5 s", "",
		"source", src.req.logName(), "client", c.id, "addr", c.peer)
}

// leaveReceiversLocked ends at. It returns false if at had already ended. p.mu is held.
func (p *player) leaveReceiversLocked(at *playing) bool {
	if at == nil || p.at != at {
		return false
	}
	p.at = nil
	at.src.group.Remove(p.conn.out)
	return true
}

// ended is called when the whole stream has been sent. The player then waits for the next
// publisher; its client is told of the end only if endPlayers is set. If the player does
// not use RTMP, its connection is over.
func (p *player) ended(at *playing) (over bool) {
	p.mu.Lock()
	left := p.leaveReceiversLocked(at)
	p.mu.Unlock()
	if !left { // the player was stopped meanwhile
		return false
	}
	if p.conn.rt == nil {
		p.conn.closeWithin(lingerTime)
		return true
	}
	if p.endPlayers {
		p.tellEnd()
	}
	p.join()
	return false
}

// tellEnd tells the player that its stream has ended, once for each end.
func (p *player) tellEnd() {
	if p.played.Load() && !p.notify.Swap(true) {
		p.conn.out.Send(p.conn.rt.AppendPlayEnd(nil, p.streamID))
	}
}

// waitOver disconnects the player if its PlayerWait is over.
func (p *player) waitOver() {
	c := p.conn
	c.srv.mu.Lock()
	over := p.waitsLocked() && !time.Now().Before(p.waitUntil)
	if over {
		p.endWaitLocked()
	}
	c.srv.mu.Unlock()
	if !over {
		return
	}
	if p.played.Load() {
		p.tellEnd()
	} else {
		c.out.Send(c.rt.AppendPlayFailed(nil, p.streamID, "No publisher has started in time."))
	}
	c.out.Shutdown()
	c.closeWithin(lingerTime)
}

// detach ends playing and waiting.
func (p *player) detach() {
	p.stopped.Store(true)
	p.conn.srv.mu.Lock()
	p.endWaitLocked()
	p.conn.srv.mu.Unlock()
	p.mu.Lock()
	p.leaveReceiversLocked(p.at)
	out := p.conn.out
	if out != nil {
		out.Drop()
	}
	p.mu.Unlock()
	if out != nil {
		out.Kick()
	}
}

// enterLocked adds the player to the audience of its name. srv.mu is held.
func (p *player) enterLocked() {
	s := p.conn.srv
	a := s.audiences[p.key]
	if a == nil {
		a = &audience{waiting: make(map[*player]struct{})}
		s.audiences[p.key] = a
	}
	a.players++
}

// exitLocked removes the player, which has been detached, from its audience. srv.mu is
// held.
func (p *player) exitLocked() {
	s := p.conn.srv
	if a := s.audiences[p.key]; a != nil {
		if a.players--; a.players == 0 {
			delete(s.audiences, p.key)
		}
	}
}

// stream returns the live stream of the player's name. If there is none, the player waits
// for it.
func (p *player) stream() (src *Source, err error) {
	s := p.conn.srv
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
	a := s.audiences[p.key]
	if a == nil || p.stopped.Load() { // stopped meanwhile
		return nil, nil
	}
	if !p.played.Load() {
		p.notify.Store(true)
	}
	a.waiting[p] = struct{}{}
	if p.playerWait > 0 {
		stopTimer(&p.stopWait)
		p.waitUntil = time.Now().Add(p.playerWait)
		p.stopWait = later(p.playerWait, p.waitOver)
	}
	return nil, nil
}

// waitsLocked reports whether the player waits for a stream. srv.mu is held.
func (p *player) waitsLocked() bool {
	if a := p.conn.srv.audiences[p.key]; a != nil {
		_, ok := a.waiting[p]
		return ok
	}
	return false
}

// endWaitLocked stops the player from waiting for a publisher. srv.mu is held.
func (p *player) endWaitLocked() {
	if a := p.conn.srv.audiences[p.key]; a != nil {
		delete(a.waiting, p)
	}
	stopTimer(&p.stopWait)
}

// dropped reports whether the player's vhost, which was served when play began, is not
// served by cfg.
func (p *player) dropped(cfg *Config) bool { return !cfg.serves(p.vhost, p.listed) }

// dismiss tells the player that its vhost is gone and disconnects it.
func (p *player) dismiss() {
	c := p.conn
	c.out.Send(c.rt.AppendPlayFailed(nil, p.streamID, "The vhost is no longer served."))
	c.out.Shutdown()
	c.closeWithin(lingerTime)
}
