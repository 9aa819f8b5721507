package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/flow"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Connect implements rtmp.Handler.
func (c *conn) Connect(m *rtmp.Connect) error {
	asked := time.Now()
	if passed, id := hops(m), publishID(m); len(passed) > 0 || id != "" {
		c.rare = &rare{hops: passed, publishID: id}
	}
	if err := checkHops(c.hops(), c.srv.id); err != nil {
		return c.refused("connect", "NetConnection.Connect.Rejected", passedBefore, err)
	}
	if err := c.authenticate(m); err != nil {
		return err
	}
	c.tcURL, c.app, c.caps = m.TcURL, m.App, m.Enhanced()
	c.rt.Limits = setupLimits
	c.page, _ = m.Properties.GetString("pageUrl")
	c.flashVer = m.FlashVer
	cfg := c.srv.cfg.Load()
	req := &Request{
		ServerID: c.srv.id, ClientID: c.id, User: c.user, RemoteAddr: c.remote, LocalAddr: c.nc.LocalAddr(),
		Vhost: DefaultVhost, App: m.App, TcURL: m.TcURL, PageURL: c.page, FlashVer: m.FlashVer, Hops: c.hops(), named: cfg.LogNames,
	}
	// The name is not known yet; any name gives the vhost and the app. The vhost is
	// checked later, because the name may select another one.
	if r, err := rtmp.ParseRequest(c.tcURL, c.app, "stream"); err == nil {
		req.App = r.App
		if vhost, ok := cfg.resolveVhost(r.Vhost, r.Host); ok {
			req.Vhost = vhost
		}
	}
	if f := cfg.Hooks.OnConnect; f != nil {
		began := time.Now()
		err := c.ask("OnConnect", func(ctx context.Context) error { return f(ctx, req) })
		switch {
		case errors.As(err, new(goneError)):
			return err
		case err != nil:
			c.delayRefusal(asked)
			return c.refused("connect", "NetConnection.Connect.Rejected", "The connection is refused.", hide(err, []string{c.page}, []string{m.TcURL, m.App, c.page}))
		}
		c.setup += int64(time.Since(began))
		c.in.SetDeadline(atClock(c.setup))
	}
	if f := cfg.Hooks.OnClose; f != nil {
		c.hooked, c.onClose = req, f
	}
	if req.Vhost != "" {
		c.rt.SetChunkSize(cfg.vhost(req.Vhost).ChunkSize)
	}
	return nil
}

// authenticate challenges a publisher for user and password, if PublishAuth is set,
// and removes the answer from m. Clients that look like players are not challenged,
// and cannot publish.
func (c *conn) authenticate(m *rtmp.Connect) error {
	asked := time.Now()
	if c.srv.cfg.Load().PublishAuth == nil {
		return nil
	}
	var auth, tcAuth string
	m.App, auth = rtmp.CutAuth(m.App)
	m.TcURL, tcAuth = rtmp.CutAuth(m.TcURL)
	def(&auth, tcAuth)
	// Encoders send a flashVer such as "FMLE/3.0 (compatible; FMSc/1.0)", by which
	// Flash Media Server distinguishes them from players.
	if auth == "" && !strings.HasPrefix(m.FlashVer, "FMLE/") && !strings.Contains(m.FlashVer, "FMSc/") {
		return nil
	}
	method := string(c.srv.cfg.Load().PublishAuthMethod)
	err := c.srv.calls.do("PublishAuth", func() (err error) {
		c.user, err = c.srv.auth.Check(method, m.App, auth)
		return err
	})
	if errors.Is(err, rtmp.ErrWrong) {
		c.delayRefusal(asked)
	}
	return err
}

var errNoUser = errors.New("not authenticated")

// Publish implements rtmp.Handler.
func (c *conn) Publish(streamID uint32, name string) error {
	const badName, denied = "NetStream.Publish.BadName", "NetStream.Publish.Denied"
	c.tellStop()
	asked := time.Now()
	cfg := c.srv.cfg.Load()
	if cfg.PublishAuth != nil && c.user == "" {
		return c.refused("publish", denied, "User and password are needed.", errNoUser)
	}
	req, err := c.request(cfg, name)
	if err != nil {
		return c.refused("publish", badName, "The stream's name can't be used: "+err.Error()+".", err)
	}
	req.PublishID = c.newPublishID()
	p, err := c.askPublish(cfg, req)
	switch {
	case errors.As(err, new(goneError)):
		return err
	case errors.Is(err, ErrStreamBusy):
		return c.refused("publish", badName, "A stream of this name is being published.", err)
	case errors.Is(err, errMemory):
		return c.refused("publish", denied, "The server is short of memory, try again later.", err)
	case errors.Is(err, ErrBusy):
		return c.refused("publish", denied, "The server is busy, try again later.", err)
	case errors.Is(err, ErrLimit):
		return c.refused("publish", denied, "The server has no room for another stream.", err)
	case errors.Is(err, ErrServerClosed):
		return c.refused("publish", denied, "The server is shutting down.", err)
	case err != nil:
		if errors.As(err, new(refusedError)) || errors.Is(err, ErrRefused) {
			c.delayRefusal(asked)
		}
		return c.refused("publish", denied, "Publishing is refused.", err)
	}
	c.srv.mu.Lock()
	c.publishes++
	c.srv.mu.Unlock()
	p.begin(published{p, c, streamID})
	if c.pubs == nil {
		c.pubs = make(map[uint32]*publication)
	}
	c.excuse(time.Since(asked))
	p.heard = fanout.Clock()
	c.rejectSilent(p.heard)
	c.pubs[streamID] = p
	c.rt.Limits = cfg.mediaLimits()
	c.held.Accept()
	c.rt.Resize(publishBuffer)
	c.in.SetWindow(p.src.vhost.MergeWindow)
	c.in.Coalesce(c.srv.reads)
	c.in.SetDeadline(deadline(p.src.vhost.FirstMediaTimeout))
	// In the past, so that the first media always moves the deadline: see flush.
	c.limit = p.heard - 2*int64(time.Second)
	return nil
}

// request parses the name of a publish or play.
func (c *conn) request(cfg *Config, name string) (*Request, error) {
	r, err := rtmp.ParseRequest(c.tcURL, c.app, name)
	if err != nil {
		return nil, err
	}
	vhost, ok := cfg.resolveVhost(r.Vhost, r.Host)
	if !ok {
		named := r.Vhost
		def(&named, r.Host)
		return nil, fmt.Errorf("%w: %.100q", errNoVhost, named)
	}
	return &Request{
		ServerID: c.srv.id, ClientID: c.id, RemoteAddr: c.remote, LocalAddr: c.nc.LocalAddr(),
		Vhost: vhost, App: r.App, Stream: r.Stream, Param: r.Param, TcURL: r.TcURL,
		PageURL: c.page, FlashVer: c.flashVer, User: c.user, Hops: c.hops(), enhanced: c.caps, named: cfg.LogNames,
	}, nil
}

// newPublishID returns the id of the connection's next publish: the first has the one that
// a Server before this one has reported.
func (c *conn) newPublishID() string {
	id := randomID()
	if c.rare != nil && c.rare.publishID != "" {
		id, c.rare.publishID = c.rare.publishID, ""
	}
	return id
}

// askPublish asks the host whether to accept a publish.
func (c *conn) askPublish(cfg *Config, req *Request) (*publication, error) {
	ctx, done := c.asking()
	defer done()
	c.srv.awaitName(ctx, req)
	p, err := c.srv.publish(ctx, cfg, req)
	return p, orGone(ctx, err)
}

// Unpublish implements rtmp.Handler.
func (c *conn) Unpublish(streamID uint32, lost bool) {
	p := c.pubs[streamID]
	delete(c.pubs, streamID)
	c.srv.mu.Lock()
	if !p.gone {
		p.gone = true
		c.publishes--
	}
	c.srv.mu.Unlock()
	if lost {
		if c.lost = p.src.vhost.FirstMediaTimeout; p.begun {
			c.lost = p.src.vhost.ReadTimeout
		}
	}
	if c.last == p {
		c.last = nil
	}
	if len(c.pubs) == 0 {
		c.in.SetWindow(0)
		c.in.Coalesce(nil)
		c.idle()
	}
	if p.leave(lost) {
		c.mayLeave = true
		c.ended = append(slices.DeleteFunc(c.ended, (*Source).isDone), p.src)
	}
}

// Message implements rtmp.Handler.
func (c *conn) Message(m chunk.Message) error {
	p := c.publication(m.StreamID)
	now := fanout.Clock()
	p.heard, p.begun = now, true
	if p != c.last {
		c.flush()
		c.last, c.lastID = p, m.StreamID
	}
	c.touched = true
	c.media = now
	err := p.message(m, now)
	switch {
	case p.pace.tight:
		c.flush()
	case p.pace.due():
		c.holdBack(p)
	}
	return err
}

// publication returns the publication on a message stream, or nil.
func (c *conn) publication(streamID uint32) *publication {
	if c.last != nil && c.lastID == streamID {
		return c.last
	}
	return c.pubs[streamID]
}

// framer returns the Framer for the media of a message stream, or nil.
func (c *conn) framer(streamID uint32) *chunk.Framer {
	if p := c.publication(streamID); p != nil {
		return p.framer.Load()
	}
	return nil
}

// flush passes on the messages that were read.
func (c *conn) flush() {
	if !c.touched {
		return
	}
	c.touched = false
	p := c.last
	if p == nil {
		return
	}
	src := p.src
	// Moving the deadline costs more than a message, so it is moved only sometimes.
	if limit := src.vhost.ReadTimeout; c.media-c.limit >= int64(min(orForever(limit)/10, time.Second)) {
		c.limit = c.media
		c.in.SetDeadline(deadline(limit))
		c.rejectSilent(c.media)
	}
	if src.group.Early() {
		c.in.SetWindow(0)
	} else {
		c.in.SetWindow(src.vhost.MergeWindow)
	}
	switch window := src.vhost.MergeWindow; {
	case c.in.Merging():
		src.group.Wake()
	case window <= 0 && src.group.Few():
		c.in.Later(src.group)
	default:
		src.group.WakeWithin(window)
	}
	c.holdBack(p)
}

// holdBack makes the connection wait for the receivers of the stream that was read
// last. The connection is not read meanwhile. That time does not count as silence of its
// publishers, and its other streams limit the wait.
func (c *conn) holdBack(p *publication) {
	within := time.Duration(math.MaxInt64)
	if len(c.pubs) > 1 { // going through a map costs more than the rest
		for _, o := range c.pubs {
			if o != p && c.media-o.heard < int64(flow.Window) {
				within = min(within, o.pace.Room(c.media))
			}
		}
	}
	waited := p.pace.holdBack(c.ctx, p.src.group, c.media, within)
	if waited <= 0 {
		return
	}
	now := fanout.Clock()
	p.pace.Waited(waited, now)
	for _, o := range c.pubs {
		if o != p {
			o.pace.Waited(waited, now)
		}
	}
	c.excuse(waited)
}

// excuse subtracts a time in which the connection was not read from the silence of its
// publishers: see ReadTimeout.
func (c *conn) excuse(d time.Duration) {
	for _, p := range c.pubs {
		p.heard += int64(d)
	}
	c.limit += int64(d)
	c.in.Extend(d)
}

// rejectSilent ends the publishes of a connection that send no media while others do. If
// none sends media, the read deadline ends the connection.
func (c *conn) rejectSilent(now int64) {
	if len(c.pubs) < 2 {
		return
	}
	for id, p := range c.pubs {
		if limit, silent := p.silent(now); silent {
			c.srv.notices.write(slog.LevelInfo, "publish without media", "", "source", p.req.logName(), "limit", limit)
			c.rt.Reject(id, fmt.Sprintf("No media for %v.", limit))
		}
	}
}

// settle closes the message streams of publishes that are over. Their client has been
// told.
func (c *conn) settle() {
	if !c.over.Load() {
		return
	}
	var over []uint32
	c.srv.mu.Lock()
	c.over.Store(false)
	for id, p := range c.pubs {
		if p.gone {
			over = append(over, id)
		}
	}
	c.srv.mu.Unlock()
	for _, id := range over {
		c.rt.Stop(id)
	}
}

// Play implements rtmp.Handler.
func (c *conn) Play(streamID uint32, name string) error {
	const notFound, failed = "NetStream.Play.StreamNotFound", "NetStream.Play.Failed"
	c.tellStop()
	asked := time.Now()
	cfg := c.srv.cfg.Load()
	req, err := c.request(cfg, name)
	if err != nil {
		return c.refused("play", notFound, "The stream's name can't be used: "+err.Error()+".", err)
	}
	if f := cfg.Hooks.OnPlay; f != nil {
		err := c.ask("OnPlay", func(ctx context.Context) error { return f(ctx, req) })
		switch {
		case errors.As(err, new(goneError)):
			return err
		case err != nil:
			c.delayRefusal(asked)
			return c.refused("play", failed, "Playing is refused.", req.hide(err))
		}
	}
	c.srv.mu.Lock()
	c.playsLocked(cfg, req, streamID)
	c.srv.mu.Unlock()
	c.out.SetPlayer()
	c.excuse(time.Since(asked)) // the client may publish, too
	c.rt.Limits.Streams = cfg.mediaLimits().Streams
	c.rt.Resize(playBuffer)
	return nil
}

// playsLocked makes the client a player. srv.mu is held.
func (c *conn) playsLocked(cfg *Config, req *Request, streamID uint32) {
	vhost := cfg.vhost(req.Vhost)
	c.player = &player{
		conn: c, key: req.key(), vhost: req.Vhost, listed: cfg.lists(req.Vhost), named: req.named, streamID: streamID,
		endPlayers: vhost.EndPlayers, playerWait: vhost.PlayerWait,
	}
	if f := cfg.Hooks.OnStop; f != nil {
		c.player.req, c.player.onStop = req, f
	}
	c.mayLeave = true
	c.srv.plays++
	c.player.emit(EventPlay)
	c.player.enterLocked()
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
	p.exitLocked()
	c.srv.mu.Unlock()
	p.emit(EventStop)
	c.idle()
	if p.onStop != nil {
		c.stopped = p
	}
}

// tellStop calls OnStop for a play that has ended, if there is one. It is called after the
// client has been answered, so that the answer does not wait for the host, and before the
// host decides about the client's next request.
func (c *conn) tellStop() {
	p := c.stopped
	if p == nil {
		return
	}
	c.stopped = nil
	began := time.Now()
	c.srv.calls.tell(c.ctx, "OnStop", func(ctx context.Context) { p.onStop(ctx, p.req) })
	c.excuse(time.Since(began))
}

// ask calls a hook that decides about the client.
func (c *conn) ask(what string, f func(context.Context) error) error {
	ctx, done := c.asking()
	defer done()
	return orGone(ctx, c.srv.calls.do(what, func() error { return f(ctx) }))
}

// asking returns a context for a question to the host about the client. The context ends
// when the client leaves. done must be called before the connection is read again.
func (c *conn) asking() (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(c.ctx)
	stop := c.in.Watch(func(err error) { cancel(goneError{err}) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// goneError says that a client left while the host was deciding about it, and why.
type goneError struct{ error }

func (e goneError) Unwrap() error { return e.error }

// orGone returns the goneError that has ended ctx, a context of asking, or else err: a
// client that has left was not refused.
func orGone(ctx context.Context, err error) error {
	var gone goneError
	if err != nil && errors.As(context.Cause(ctx), &gone) {
		return gone
	}
	return err
}

// refused returns the error for the client and the log. The text of a host's StatusError
// replaces code and description for the client; the log has it in cause.
func (c *conn) refused(command, code, description string, cause error) error {
	var st *StatusError
	if !errors.As(cause, &st) {
		told := &rtmp.StatusError{Command: command, Code: code, Description: description}
		both := fmt.Errorf("%w (%w)", told, cause)
		if strings.Contains(description, cause.Error()) { // log the cause only once
			return hidden{both, told.Error()}
		}
		return both
	}
	told := &rtmp.StatusError{Command: command, Code: st.Code, Description: st.Description}
	def(&told.Code, code)
	return hidden{fmt.Errorf("%w (%w)", told, cause), fmt.Sprintf("%s refused: %v", command, cause)}
}
