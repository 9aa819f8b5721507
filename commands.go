package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// delayRefusal counts a refusal and waits until refusalDelay after its request, which
// came at asked.
func (c *conn) delayRefusal(asked time.Time) {
	limit := c.srv.cfg.Load().Limits.RefusalsPerAddress
	c.srv.mu.Lock()
	shut := c.srv.refusals.note(c.addr, time.Now(), limit)
	c.srv.mu.Unlock()
	if shut {
		c.srv.notices.write(slog.LevelWarn, "address shut out", "", "client", c.id, "addr", c.peer, "refusals", limit)
	}
	ctx, cancel := context.WithDeadline(c.ctx, asked.Add(refusalDelay))
	defer cancel()
	<-ctx.Done()
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
		PageURL: c.page, FlashVer: c.flashVer, User: c.user, Hops: c.hops, enhanced: c.caps,
	}, nil
}

// Connect implements rtmp.Handler.
func (c *conn) Connect(m *rtmp.Connect) error {
	asked := time.Now()
	c.hops = hops(m)
	if err := checkHops(c.hops, c.srv.id); err != nil {
		return c.refused("connect", "NetConnection.Connect.Rejected", "The stream has already passed through this server.", err)
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
		Vhost: DefaultVhost, App: m.App, TcURL: m.TcURL, PageURL: c.page, FlashVer: m.FlashVer, Hops: c.hops,
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

// ask calls a hook that decides about the client.
func (c *conn) ask(what string, f func(context.Context) error) error {
	ctx, done := c.asking()
	defer done()
	return orGone(ctx, c.srv.calls.do(what, func() error { return f(ctx) }))
}

// askPublish asks the host whether to accept a publish.
func (c *conn) askPublish(cfg *Config, req *Request) (*publication, error) {
	ctx, done := c.asking()
	defer done()
	c.srv.awaitName(ctx, req)
	p, err := c.srv.publish(ctx, cfg, req)
	return p, orGone(ctx, err)
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

var errNoUser = errors.New("not authenticated")
