package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/ingest"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// ErrNotLive is wrapped by the error of Server.Play if no stream of that name is live.
var ErrNotLive = errors.New("forward: the stream is not live")

// Player is a client that plays a stream over another protocol than RTMP, such as HTTP.
// The host speaks that protocol. It has the Server send the stream as FLV (ServeFLV), or
// sends what it reads from a Subscription, and then closes the Player. From Play on, the
// Player counts as a connection in Limits and as a player in the stats. Its methods are
// safe for concurrent use.
type Player struct {
	shown
	c   *conn
	src *Source

	unwatch func() bool // the context of Play no longer ends the Player

	mu   sync.Mutex
	over bool // closed, or served by ServeFLV
}

// nameStream checks the names of a play and finds its vhost.
func nameStream(c *Config, req *Request) error {
	if req.Vhost == "" {
		r, err := rtmp.ParseRequest(req.TcURL, req.App, req.Stream+req.Param)
		if err != nil {
			return err
		}
		vhost, ok := c.resolveVhost(r.Vhost, r.Host)
		if !ok {
			return errNoVhost
		}
		req.Vhost = vhost
	}
	req.Vhost, req.named = c.vhostName(req.Vhost), c.LogNames
	return checkRequest(req)
}

// newPlayer counts a connection.
func newPlayer(ctx context.Context, s *Server, req *Request) (*Player, error) {
	ctx = orBackground(ctx)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	elsewhere := &elsewhere{remote: req.RemoteAddr, local: req.LocalAddr}
	var cancel context.CancelFunc
	elsewhere.ctx, cancel = context.WithCancel(withLog(s.ctx, s.log))
	elsewhere.cancel = cancel
	c, err := s.admit(elsewhere)
	if err != nil {
		cancel()
		return nil, err
	}
	s.shaken(c)
	c.ctx, c.cancel, c.rare = elsewhere.ctx, cancel, new(rare)
	def(&req.ClientID, c.id)
	req.ServerID, c.id = s.id, req.ClientID
	p := &Player{shown: shown{"Player " + c.id}, c: c}
	p.unwatch = context.AfterFunc(ctx, cancel)
	return p, nil
}

// ask asks the host's hooks.
func (p *Player) ask(cfg *Config, req *Request) error {
	c, asked := p.c, time.Now()
	question := func(what string, req *Request, f func(context.Context, *Request) error) error {
		if f == nil {
			return nil
		}
		err := c.srv.calls.do(what, func() error { return f(c.ctx, req) })
		switch {
		case c.ctx.Err() != nil:
			return context.Cause(c.ctx)
		case err != nil:
			c.delayRefusal(asked)
			return fmt.Errorf("play of %s: %w", req.logName(), req.hide(err))
		}
		return nil
	}
	connect := *req
	connect.Stream, connect.Param = "", ""
	if err := question("OnConnect", &connect, cfg.Hooks.OnConnect); err != nil {
		return err
	}
	if f := cfg.Hooks.OnClose; f != nil {
		c.hooked, c.onClose = &connect, f
	}
	return question("OnPlay", req, cfg.Hooks.OnPlay)
}

// begin makes p a player of src.
func (p *Player) begin(cfg *Config, req *Request, src *Source) (*Player, error) {
	s := p.c.srv
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		p.end(nil)
		return nil, ErrServerClosed
	}
	p.src = src
	src.watching.Add(1)
	p.c.playsLocked(cfg, req, 0)
	s.mu.Unlock()
	context.AfterFunc(p.c.ctx, func() { p.end(nil) }) // until here, Play itself ends p
	return p, nil
}

// Source returns the stream that p plays.
func (p *Player) Source() *Source { return p.src }

// Context returns a context that ends with the Player. The host subscribes with it, and
// stops waiting for its client when it ends.
func (p *Player) Context() context.Context { return p.c.ctx }

// Deadline returns the time until which the client must take what the host begins to send
// now, by Config.WriteTimeout: zero if there is no limit.
func (p *Player) Deadline() time.Time { return deadline(p.c.srv.cfg.Load().WriteTimeout) }

// Wrote counts bytes that the host has sent to the client, for OnClose and Totals.
func (p *Player) Wrote(n int) {
	p.c.rare.elsewhere.Add(uint64(n))
	p.src.group.Wrote(n)
}

// ServeFLV sends the stream on a connection that the host gives away: head, which the
// protocol requires, then a file of FLV (Flash Video File Format 10.1, annex E; Enhanced
// RTMP v2) with the timestamps that players of RTMP get. The connection costs no more than
// that of such a player if it is plain TCP, or from ServeTLS's listener. ServeFLV returns
// immediately. The Server closes the connection when the stream has ended and all of it is
// sent, when the client closes it, sends no longer, or is too slow (WriteTimeout), or with
// the Server. The Player needs no Close.
//
// If the Player has ended, ServeFLV closes the connection and returns an error.
func (p *Player) ServeFLV(nc net.Conn, head []byte) error {
	c := p.c
	s := c.srv
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || !p.unwatch() || c.ctx.Err() != nil || !p.takes(nc) {
		hangUp(nc)
		return net.ErrClosed
	}
	p.over = true
	p.src.watching.Add(-1)
	nc.SetDeadline(time.Time{})
	c.out = fanout.NewSender(nc, orForever(s.cfg.Load().WriteTimeout))
	c.out.CloseWith(c.shut)
	c.out.SetPlayer()
	c.out.Send(append(head[:len(head):len(head)], flvHeader(p.src)...))
	c.player.attach(p.src)
	go c.run(discard)
	return nil
}

// takes replaces the connection of the host, and reports false if that is already being
// closed.
func (p *Player) takes(nc net.Conn) bool {
	c := p.c
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	if _, open := c.srv.conns[c]; !open {
		return false
	}
	c.nc, c.in = nc, ingest.NewReader(nc)
	return true
}

// Close ends the Player, and returns nil. OnStop and OnClose have returned then. After
// ServeFLV it has no effect.
func (p *Player) Close() error {
	p.end(nil)
	return nil
}

// end ends the Player, unless the Server sends to it. err is the reason for the log.
func (p *Player) end(err error) {
	p.mu.Lock()
	over := p.over
	p.over = true
	p.mu.Unlock()
	if over {
		return
	}
	p.unwatch()
	if p.src != nil {
		p.src.watching.Add(-1)
	}
	p.c.end(err)
}

// discard discards what the client of a Player sends, until it leaves.
func discard(c *conn) (stage, error) {
	c.in.Await()
	var b [128]byte
	if _, err := c.in.Read(b[:]); err != nil {
		if werr := c.out.Err(); werr != nil && !errors.Is(werr, fanout.ErrClosed) {
			err = werr
		}
		return nil, err
	}
	return discard, nil
}

// flvCertain is how long after the beginning of a stream it is certain that it has no
// video, or no audio.
const flvCertain = 3 * time.Second

// flvHeader is the beginning of a file of FLV. Some players wait for both audio and video
// if it promises them.
func flvHeader(s *Source) []byte {
	info := s.log.Info()
	unsure := time.Since(s.began) < flvCertain || info == gop.Info{}
	return flv.AppendHeader(nil, info.Audio != 0 || unsure, info.Video != 0 || unsure)
}

// elsewhere stands for the connection of a Player for as long as the host has it.
type elsewhere struct {
	remote, local net.Addr
	ctx           context.Context
	cancel        context.CancelFunc
}

func (e *elsewhere) Read([]byte) (int, error)         { return 0, net.ErrClosed }
func (e *elsewhere) Write([]byte) (int, error)        { return 0, net.ErrClosed }
func (e *elsewhere) Close() error                     { e.cancel(); return nil }
func (e *elsewhere) LocalAddr() net.Addr              { return e.local }
func (e *elsewhere) RemoteAddr() net.Addr             { return e.remote }
func (e *elsewhere) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (e *elsewhere) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (e *elsewhere) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// flvOptions are the options of the cursor of a player that gets FLV.
func flvOptions(s *Source) gop.Options {
	return gop.Options{Layout: chunk.Layout{Tags: true}, Live: s.vhost.NoGOPCache, All: &s.missed}
}
