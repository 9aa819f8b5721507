package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/ingest"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/sys"
)

// conn is a client's connection. Its fields belong to the goroutine that reads from it,
// unless their comments say otherwise.
type conn struct {
	srv      *Server
	nc       net.Conn
	remote   net.Addr   // nc.RemoteAddr, called once: nc may be the host's
	peer     string     // remote as text, for the log
	addr     netip.Addr // see clientAddr
	id       string
	ctx      context.Context
	cancel   context.CancelFunc // of ctx; nil until the first byte
	in       *ingest.Reader
	out      *fanout.Sender // nil until the handshake is done
	rt       *rtmp.Server   // nil until the handshake is done
	held     *gop.Account   // the memory of its unfinished messages; set with rt
	tcURL    string
	page     string
	flashVer string
	app      string
	rare     *rare    // nil for most
	user     string   // authenticated by PublishAuth
	hooked   *Request // accepted by OnConnect, for onClose
	shake    int64    // when the handshake must be done, on fanout's Clock
	setup    int64    // when publish or play must be accepted
	// onClose is OnClose of the Hooks that have accepted the connect, nil before.
	onClose func(ctx context.Context, req *Request, sent, received uint64)
	result  chan error // of ServeConn, nil for others

	pubs  map[uint32]*publication
	ended []*Source    // to wait for
	last  *publication // of the last message
	media int64        // when the last message came
	limit int64        // value of media from which the read deadline counts
	// stopped is a play that has ended and has not been reported to the host.
	stopped *player
	// lost is the media timeout of a publish that was active when the connection
	// ended.
	lost time.Duration

	// Small fields are grouped to save memory: there are many connections.

	lastID   uint32      // the message stream of last
	touched  bool        // since the last flush
	caps     bool        // the client supports Enhanced RTMP
	mayLeave bool        // it has unpublished or played, so that its end is not logged as lost
	shutting closing     // guarded by srv.mu
	evicted  atomic.Bool // by evict, for its memory
	over     atomic.Bool // one of pubs is: see settle

	publishes int           // publishes that are not over; guarded by srv.mu
	closed    chan struct{} // closed with nc; nil if no goroutine waits; guarded by srv.mu

	// Guarded by srv.mu, and written only by the reading goroutine.
	player    *player
	stopDrain func() // stops the timer of closeWithin
	readAll   func() // tells readRest that reading has ended
}

// start begins to serve the connection. When the connection has ended, it releases srv.wg
// and sends to result.
func (c *conn) start(ctx context.Context) {
	c.ctx = ctx
	cfg, now := c.srv.cfg.Load(), fanout.Clock()
	c.shake, c.setup = now+int64(orForever(cfg.HandshakeTimeout)), now+int64(orForever(cfg.SetupTimeout))
	go c.run((*conn).pend)
}

// run runs one stage and starts the next. A grown stack does not shrink, and most
// connections only wait. So each stage has a goroutine of its own, and stages that wait
// have such shallow calls that the smallest stack is enough.
func (c *conn) run(st stage) {
	err := errGoexit
	var next stage
	defer func() {
		if v := recover(); v != nil {
			next, err = nil, c.panicked(v)
		}
		if next != nil {
			go c.run(next)
			return
		}
		c.end(err)
	}()
	// The connection may be the host's code.
	hostcode.Call(func() { next, err = st(c) })
}

// evict ends the connection to free its memory: of the connections without an accepted
// publish, the guests, it holds the most. A hook that is deciding about it is cancelled.
func (c *conn) evict() {
	c.evicted.Store(true)
	c.cancel()
	s := c.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.conns[c]; open {
		s.closeLocked(c) // does not wait, as closing TLS may
	}
}

func (c *conn) panicked(v any) error {
	c.logger().Error("panic", "panic", v, "stack", stack())
	return errors.New("forward: internal error")
}

// pend waits for the first byte. Many clients never send one.
func (c *conn) pend() (stage, error) {
	c.in.SetDeadline(atClock(c.shake))
	c.in.Await()
	return (*conn).open, nil
}

// open performs the handshake and begins to read.
func (c *conn) open() (stage, error) {
	s := c.srv
	c.ctx, c.cancel = context.WithCancel(c.ctx)
	c.nc.SetWriteDeadline(atClock(c.shake))
	err := rtmp.ServerHandshake(struct {
		io.Reader
		io.Writer
	}{c.in, c.nc})
	s.shaken(c)
	if err != nil {
		return nil, inTime(err, "no handshake", s.cfg.Load().HandshakeTimeout)
	}
	c.nc.SetWriteDeadline(time.Time{})
	cfg := s.cfg.Load()
	c.in.Flush = c.flush
	c.in.SetDeadline(atClock(c.setup))
	c.out = fanout.NewSender(c.nc, orForever(cfg.WriteTimeout))
	c.out.CloseWith(c.shut)
	rc := rtmp.NewConn(c.in, c.out.Send, setupBuffer, cfg.ChunkSize, connectLimits)
	rc.Framer = c.framer
	c.held = s.memory.Load().Account(c.evict)
	rc.Charge = c.held.Charge
	c.rt = rtmp.NewServer(rc, c)
	c.rt.Before = c.settle
	if s.isClosing() {
		return nil, ErrServerClosed
	}
	return c.read()
}

// read serves the client until the connection ends, or until a player has nothing more
// to send.
func (c *conn) read() (stage, error) {
	err := c.rt.ServeUntil(c.handled)
	if err == nil {
		return (*conn).rest, nil
	}
	c.tellStop()
	if werr := c.out.Err(); werr != nil && !errors.Is(werr, fanout.ErrClosed) {
		err = werr
	}
	var refused *rtmp.StatusError
	if errors.As(err, &refused) {
		c.linger()
	}
	what, limit := "neither publish nor play", c.srv.cfg.Load().SetupTimeout
	if c.lost > 0 {
		what, limit = "no media", c.lost
	}
	return nil, inTime(err, what, limit)
}

// handled is called after each message. It reports whether reading pauses.
func (c *conn) handled() (pause bool) {
	c.tellStop()
	return c.quiet()
}

// quiet reports whether the client only plays and has sent nothing that is unread.
func (c *conn) quiet() bool {
	return c.player != nil && len(c.pubs) == 0 && c.rt.Buffered() == 0
}

// rest waits until a player sends something, which happens rarely.
func (c *conn) rest() (stage, error) {
	c.in.Await()
	return (*conn).read, nil
}

// linger waits until the client has closed the connection: closing first would discard
// data that it has not read yet.
func (c *conn) linger() {
	c.out.Shutdown()
	c.in.SetDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.in, 1<<20)
}

// end releases everything that the connection holds and logs why it has ended.
func (c *conn) end(err error) {
	s := c.srv
	defer func() {
		if c.cancel != nil {
			c.cancel()
		}
		c.shut() // it may take a while
		if c.out != nil {
			c.out.Wait()
		}
		s.mu.Lock()
		s.countLocked(c.addr, tally{closing: -1})
		s.mu.Unlock()
		s.wg.Done()
		if c.result != nil {
			c.result <- err
		}
	}()
	s.mu.Lock()
	read := c.readAll
	c.readAll = func() {}
	s.mu.Unlock()
	if read != nil {
		read()
	}
	if c.closesAtOnce() {
		c.shut()
	} else {
		s.wg.Go(c.shut)
	}
	if c.out != nil {
		c.out.Close()
	}
	switch {
	case c.rt != nil:
		c.rt.Release()
	case c.player != nil:
		c.StopPlay(0)
	}
	c.tellStop()
	if f := c.onClose; f != nil {
		var sent, received uint64
		if c.rare != nil {
			sent = c.rare.elsewhere.Load()
		}
		if c.out != nil {
			sent += c.out.Counters().Bytes
		}
		if c.rt != nil {
			received = c.rt.Received()
		}
		s.calls.tell(c.ctx, "OnClose", func(ctx context.Context) { f(ctx, c.hooked, sent, received) })
	}
	for _, src := range c.ended {
		<-src.done
	}
	evicted := c.evicted.Load()
	if evicted {
		err = errEvicted
	}
	switch {
	case evicted:
		s.notices.write(slog.LevelInfo, "connection ended", "evicted", "client", c.id, "addr", c.peer, "err", err)
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, ingest.ErrFinished), errors.Is(err, rtmp.ErrAsked), c.ctx.Err() != nil,
		c.mayLeave && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)): // FFmpeg leaves this way
		c.logger().Debug("connection ended", "err", err)
		err = nil
	default:
		s.notices.write(slog.LevelInfo, "connection ended", c.causeOf(err), "client", c.id, "addr", c.peer, "err", err)
	}
}

// leaveLocked moves the connection, which is about to be closed, from the open to the
// closing ones, because closing may take long. srv.mu is held.
func (c *conn) leaveLocked() {
	s := c.srv
	if _, open := s.conns[c]; !open {
		return
	}
	if i := slices.Index(s.pending, c); i >= 0 {
		s.pending = slices.Delete(s.pending, i, i+1)
	}
	delete(s.conns, c)
	s.countLocked(c.addr, tally{open: -1, closing: 1})
	if c.stopDrain != nil {
		c.stopDrain()
	}
}

// closesAtOnce reports whether the connection's Close returns without waiting.
func (c *conn) closesAtOnce() bool { return sys.Plain(c.nc) }

// shut closes the connection on its first call, and returns when it is closed. This may
// take long: TLS waits up to 5 s for a peer that does not read to take the close_notify,
// and a host's connection may take any time. Meanwhile the connection counts as closing
// and is not read.
func (c *conn) shut() {
	s := c.srv
	s.mu.Lock()
	if c.shutting != notClosing {
		var done chan struct{}
		if c.shutting == closingNow {
			def(&c.closed, make(chan struct{}))
			done = c.closed
		}
		s.mu.Unlock()
		if done != nil {
			<-done
		}
		return
	}
	c.shutting = closingNow
	c.leaveLocked()
	s.mu.Unlock()
	if !c.closesAtOnce() {
		hostcode.Protect(c.in.Finish)
	}
	hostcode.Close(c.nc)
	s.mu.Lock()
	c.shutting = closedNow
	done := c.closed
	s.mu.Unlock()
	if done != nil {
		close(done)
	}
}

// closing is how far the closing of a connection has come.
type closing uint8

const (
	notClosing closing = iota
	closingNow
	closedNow
)

func (c *conn) logger() *slog.Logger {
	return c.srv.log.With("client", c.id, "addr", c.peer)
}

// finish ends the connection for Shutdown: a player once it has received everything,
// any other immediately.
func (c *conn) finish() {
	s := c.srv
	s.mu.Lock()
	p := c.player
	waits := p != nil && p.waitsLocked()
	idle := p == nil || p.stopped.Load() || waits
	told := waits && p.played.Load()
	if _, open := s.conns[c]; open && idle && !told {
		s.closeLocked(c)
	}
	s.mu.Unlock()
	switch {
	case told:
		p.tellEnd()
		c.out.Shutdown()
		c.closeWithin(lingerTime)
	case !idle:
		c.closeWithin(orForever(s.cfg.Load().DrainTimeout))
	}
}

// closeWithin closes the connection if it has not ended after d.
func (c *conn) closeWithin(d time.Duration) {
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	if _, open := c.srv.conns[c]; open && c.stopDrain == nil {
		c.stopDrain = later(d, c.shut)
	}
}

// idle sets the read deadline of a connection that has stopped publishing or playing. A
// player sends nothing; the system's keep-alive and our writes notice when it has gone.
func (c *conn) idle() {
	switch {
	case len(c.pubs) > 0: // flush sets the deadline, from its media
	case c.player != nil:
		c.in.SetDeadline(time.Time{})
	default:
		c.in.SetDeadline(deadline(c.srv.cfg.Load().SetupTimeout))
	}
}

// rare is what few connections have.
type rare struct {
	hops      []string      // Servers that the stream has passed through
	publishID string        // Request.PublishID of the next publish, if the client has reported it
	elsewhere atomic.Uint64 // bytes that the host has sent to a Player
}

// hops returns the Servers that the stream has passed through.
func (c *conn) hops() []string {
	if c.rare == nil {
		return nil
	}
	return c.rare.hops
}

// stage is a part of a connection's life. It returns the next stage; the last stage
// returns nil and the reason for the end.
type stage func(*conn) (stage, error)

// causeOf returns one of a few texts for why a connection has ended: its stage and the
// kind of the error.
func (c *conn) causeOf(err error) string {
	stage := "publisher or player"
	switch {
	case c.rt == nil:
		stage = "handshake"
	case len(c.ended) == 0 && c.player == nil:
		stage = "set-up"
	}
	var refused *rtmp.StatusError
	if errors.As(err, &refused) {
		return stage + " refused " + refused.Command + " " + refused.Code
	}
	for _, known := range []error{
		os.ErrDeadlineExceeded, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, rtmp.ErrVersion, rtmp.ErrWrong, ErrLimit,
		ErrServerClosed, chunk.ErrLimit, chunk.ErrProtocol, amf.ErrLimit, amf.ErrMalformed, amf.ErrTooDeep,
	} {
		if errors.Is(err, known) {
			return stage + " " + known.Error()
		}
	}
	return stage
}

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

// inTime gives a deadline error a text that says what has not come in time.
func inTime(err error, what string, limit time.Duration) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return hidden{err, fmt.Sprintf("%s within %v", what, limit)}
}

// errGoexit is the error of a connection whose code, the host's, ended its goroutine.
var errGoexit = errors.New("forward: the connection has ended its goroutine")

// errEvicted is the error of a connection that was ended by evict.
var errEvicted = fmt.Errorf("%w: of the connections without an accepted publish it held the most memory for unfinished messages", ErrLimit)

// lingerTime is how long a client has to read why it was refused.
const lingerTime = time.Second
