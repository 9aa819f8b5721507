// Package fanout writes the bytes of cursors to sockets.
//
// A Sender writes to one connection. A goroutine that has data for it, usually the one
// that has appended to the log, takes the Sender, writes everything that is pending to
// the socket in one write that does not block, and releases the Sender. Only if the
// socket is full, a goroutine is started that waits for it; the other sockets are not
// affected. Connections from TLSClient and TLSServer are encrypted in the same way.
// Connections without such writes (pipes, wrapped connections, other TLS) have a
// goroutine of their own while there is something to send.
package fanout

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward/internal/flow"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/sys"
)

const (
	// turn is how many bytes are written to a socket before the next one: more
	// would not fit in the cache, fewer would cost more writes.
	turn = 128 << 10
	// catchUp is how many bytes are written at a time to a socket that has
	// been full.
	catchUp = 64 << 10
	// firstPiece replaces catchUp until the peer's rate is known, for a connection
	// that cannot accept a part of a write: two records of TLS.
	firstPiece = 32 << 10
	// maxControl bounds the control messages queued for a peer that does not
	// read them.
	maxControl = 64 << 10
)

var (
	// ErrStalled says that a peer has made no progress within the write timeout.
	ErrStalled = errors.New("write stalled")
	// ErrControl says that a peer causes answers and does not read them.
	ErrControl = errors.New("answers are not read")
	// ErrMemory says that a peer was cut off to free memory.
	ErrMemory = errors.New("too slow while memory is short")
	// ErrClosed is returned for messages sent after Close.
	ErrClosed = errors.New("sender closed")
)

// The states of a Sender. Only the goroutine that moves the Sender out of idle, or the
// one that park starts, may access the fields that state guards.
const (
	idle    = iota
	running // a goroutine is in run
	again   // a goroutine is in run and must check for more
	parked  // a goroutine is in catchUp and checks for more before it ends
)

// Sender sends to one connection: control messages, and the messages of a log from its
// cursor on. All methods are safe for concurrent use.
type Sender struct {
	conn    net.Conn
	raw     syscall.RawConn // nil if the connection has no writes that do not block
	holder  sys.Holder      // nil if its writes can't be those of a round
	records *records        // below TLS, if the TCP connection has such writes
	timeout time.Duration
	piece   int           // bytes written at a time at the beginning of catchUp
	window  time.Duration // merge window of its own, beyond the group's
	early   bool          // does not wait for the group's merge window
	player  bool

	state    atomic.Int32
	closed   atomic.Bool
	stalled  atomic.Bool  // see OnStall
	blocked  atomic.Int64 // when catchUp began
	asked    atomic.Bool  // there is something for take
	progress atomic.Int64 // when bytes were last accepted, nanoseconds on Clock
	bytes    atomic.Uint64
	messages atomic.Uint64
	skipped  gop.Skipped // by all cursors

	wg sync.WaitGroup // goroutines in catchUp

	held atomic.Bool // waits for timer

	mu       sync.Mutex
	control  []byte
	attach   *attachment // begin to send this log
	detach   bool        // end sending the log before that
	shutdown bool        // close for writing when all is sent
	timer    *time.Timer
	err      error

	// Guarded by state.
	active *attachment
	rest   [][]byte // rest of a message that was sent in part
	out    []byte   // control messages being sent
	sealed []byte   // TLS records being sent
	taken  int      // bytes of sealed that were sent
	try    attempt

	// Static after OnStall; stall is nil without it.
	stallAfter time.Duration
	onStall    func()
	stall      *time.Timer
	stalls     *atomic.Pointer[Sender] // for stall: a stopped timer must not keep the Sender
	measure    *measure                // nil without Measure
	closes     func()                  // closes conn if that may wait

	current atomic.Pointer[attachment] // active, or the attachment that will replace it
	group   atomic.Pointer[Group]      // of the last log
}

// attachment is the sending of a log by a Sender.
type attachment struct {
	cursor gop.Cursor
	flow   flow.Receiver // guarded by its group's metering
	log    *gop.Log
	form   form
	end    func() (control []byte, shutdown bool)
}

var start = time.Now()

// Clock returns the time of a monotonic clock, in nanoseconds.
func Clock() int64 { return int64(time.Since(start)) }

// NewSender returns a Sender for conn. If a peer takes less than leastProgress bytes
// within timeout although more is waiting, the connection is ended.
func NewSender(conn net.Conn, timeout time.Duration) *Sender {
	s := &Sender{conn: conn, timeout: timeout, raw: rawConn(conn), records: recordsOf(conn)}
	s.progress.Store(Clock())
	if s.piece = catchUp; s.raw == nil && s.records == nil {
		s.piece = firstPiece
	}
	if r := s.records; r != nil {
		s.raw = rawConn(r.Conn)
		r.keep(s.kickLater)
	}
	if s.records == nil {
		s.holder = sys.HolderOf(conn)
	}
	s.try.init(s)
	sys.Tune(conn)
	s.closes = func() { hostcode.Close(conn) }
	return s
}

// CloseWith sets the function that closes the connection. If closing may wait, it is
// called in its own goroutine. CloseWith must be called before the first Send.
func (s *Sender) CloseWith(f func()) { s.closes = f }

// SetWindow gives a receiver a merge window of its own instead of its group's. It must be
// called before Group.Add.
func (s *Sender) SetWindow(own, groups time.Duration) {
	s.early = own < groups
	if s.window = own; !s.early {
		s.window -= groups // messages have already waited that long
	}
}

// SetPlayer says that the receiver is a player. A publisher waits for players only if no
// other receiver keeps up. SetPlayer must be called before Group.Add.
func (s *Sender) SetPlayer() { s.player = true }

// holds reports whether appended messages wait for the end of the window.
func (s *Sender) holds() bool {
	if s.window <= 0 {
		return false
	}
	if a := s.current.Load(); a != nil && a.log.Ended() {
		return false // no more messages will come
	}
	if s.held.CompareAndSwap(false, true) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.err != nil:
		case s.timer == nil:
			s.timer = time.AfterFunc(s.window, s.release)
		default:
			s.timer.Reset(s.window)
		}
	}
	return true
}

func (s *Sender) release() {
	s.held.Store(false)
	s.Kick()
}

// Send queues control messages, as whole chunks. They are sent before the next media
// message. b is not kept.
func (s *Sender) Send(b []byte) error {
	s.mu.Lock()
	if err := s.err; err != nil {
		s.mu.Unlock()
		return err
	}
	if len(s.control)+len(b) > maxControl && len(s.control) > 0 {
		s.mu.Unlock()
		s.fail(ErrControl)
		return ErrControl
	}
	s.control = append(s.control, b...)
	s.asked.Store(true)
	s.mu.Unlock()
	s.Kick()
	return nil
}

// Attach begins to send a log, from the message with which a new receiver begins now.
// Control messages queued before are sent first. When the log has ended and all of it is
// sent, or when StopAtKeyframe has stopped sending, end is called without locks. end must
// not block. It returns control messages to send, and whether to shut down after them.
func (s *Sender) Attach(l *gop.Log, o gop.Options, end func() (control []byte, shutdown bool)) {
	s.prepare(l, o, end)
	s.Kick()
}

// prepare is Attach without Kick.
func (s *Sender) prepare(l *gop.Log, o gop.Options, end func() (control []byte, shutdown bool)) {
	o.Skipped = &s.skipped
	a := &attachment{log: l, form: formOf(o), end: end, flow: flow.Receiver{Player: s.player}}
	l.Start(&a.cursor, o)
	if s.measure != nil {
		s.measure.begins(Clock())
	}
	s.mu.Lock()
	s.attach = a
	s.asked.Store(true)
	s.current.Store(a)
	s.mu.Unlock()
}

// StopAtKeyframe ends sending the log before its next keyframe, in a stream
// without video before the next message.
func (s *Sender) StopAtKeyframe() {
	s.mu.Lock()
	a := s.attach
	if a == nil {
		a = s.current.Load()
	}
	if a != nil {
		a.cursor.StopAtKeyframe()
	}
	s.mu.Unlock()
	s.Kick()
}

// Next returns the first message of the log that is not sent yet, or 0 if there is no
// log.
func (s *Sender) Next() uint64 {
	if a := s.current.Load(); a != nil {
		return a.cursor.Next()
	}
	return 0
}

// Detach ends sending media after the message that is being sent.
func (s *Sender) Detach() {
	s.Drop()
	s.Kick()
}

// Drop is Detach for a caller that holds locks which end takes. The caller calls Kick
// after it has released them.
func (s *Sender) Drop() {
	s.mu.Lock()
	s.detach, s.attach = true, nil
	s.asked.Store(true)
	s.current.Store(nil)
	s.mu.Unlock()
}

// Shutdown closes the connection for writing after the queued control messages and the
// media message that is being sent. A connection that cannot be half closed is closed.
func (s *Sender) Shutdown() {
	s.mu.Lock()
	s.shutdown = true
	s.asked.Store(true)
	s.mu.Unlock()
	s.Kick()
}

// Close ends the connection immediately. Wait waits until it is closed.
func (s *Sender) Close() { s.fail(ErrClosed) }

// Err returns why sending has ended, or nil if it has not.
func (s *Sender) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// needs returns the first message of the log that s still needs. ok is false if s does not
// send the log.
func (s *Sender) needs(l *gop.Log) (seq uint64, ok bool) {
	a := s.sends(l)
	if a == nil {
		return 0, false
	}
	return a.cursor.Next(), true
}

// Kick makes sure that everything pending is sent: by the caller if that does not block,
// else by a goroutine. The caller must not hold locks that Attach's end takes.
func (s *Sender) Kick() {
	w := newWalk()
	s.kick(w)
	w.put()
}

// kickLater is Kick for callers that hold locks.
func (s *Sender) kickLater() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.wg.Go(s.Kick)
	}
}

func (s *Sender) kick(w *walk) {
	for {
		switch st := s.state.Load(); {
		case st == again || st == parked:
			return
		case st == running:
			if s.state.CompareAndSwap(running, again) {
				return
			}
		case s.raw == nil:
			if !s.pending() {
				return
			}
			if s.state.CompareAndSwap(idle, parked) {
				s.park()
				return
			}
		case s.state.CompareAndSwap(idle, running):
			s.run(w)
			return
		}
	}
}

// run tries to send everything that is pending. The state is running.
func (s *Sender) run(w *walk) {
	for {
		full := false
		for !full && !s.closed.Load() {
			iov, batch := s.next(w, turn)
			if iov == nil {
				break
			}
			n, err := s.try.write(iov, batch, w)
			if err != nil {
				s.fail(err)
				break
			}
			full = s.sent(batch, iov, n, w.now, w)
		}
		if full {
			s.state.Store(parked)
			s.park()
			return
		}
		if s.state.CompareAndSwap(running, idle) {
			return
		}
		s.state.Store(running)
	}
}

// Wait waits, after Close, until no goroutine sends and the connection is closed.
func (s *Sender) Wait() { s.wg.Wait() }

// pending reports whether there may be something to send or to do.
func (s *Sender) pending() bool {
	if s.closed.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked.Load() || s.records != nil && !s.records.empty() {
		return true
	}
	a := s.current.Load()
	return a != nil && (a.cursor.Lag() > 0 || a.log.Ended())
}

// next returns what is to be written to the socket next, nil if there is nothing.
func (s *Sender) next(w *walk, limit int) ([][]byte, *gop.Batch) {
	if s.records != nil {
		p := s.seal(w, limit)
		if p == nil {
			return nil, nil
		}
		return append(w.one[:0], p), nil
	}
	return s.plain(w, limit)
}

// plain returns what is sent next, before encryption: the rest of a message, control
// messages, or a batch of at least one message; nil if there is nothing.
func (s *Sender) plain(w *walk, limit int) ([][]byte, *gop.Batch) {
	for {
		if s.rest != nil {
			return s.rest, nil
		}
		if len(s.out) == 0 && s.asked.Load() {
			s.take()
		}
		if len(s.out) > 0 {
			return append(w.one[:0], s.out), nil
		}
		a := s.active
		if a == nil {
			return nil, nil
		}
		// A Sender without messages to send leaves the batch to the next Sender.
		if a.cursor.Lag() > 0 {
			b := &w.batches[a.form]
			if b.Fill(&a.cursor, limit); b.Len() > 0 {
				return b.IOV(), b
			}
		}
		if !a.cursor.Done() {
			return nil, nil
		}
		control, shutdown := a.end()
		s.active = nil
		s.current.CompareAndSwap(a, nil) // after end: another Sender may continue from a's cursor
		s.mu.Lock()
		s.control = append(s.control, control...)
		s.shutdown = s.shutdown || shutdown
		s.asked.Store(true)
		s.mu.Unlock()
	}
}

// take does what other goroutines have asked for: see asked.
func (s *Sender) take() {
	if !s.takeOver() {
		return
	}
	if s.records != nil {
		s.records.begin(nil) // close_notify
	}
	if err := closeWrite(s.conn); err != nil {
		s.fail(err)
	}
}

// takeOver is take without the shutdown. It reports whether one is due.
func (s *Sender) takeOver() (shutdown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked.Store(false)
	if s.detach {
		s.detach, s.active = false, nil
	}
	if len(s.control) > 0 {
		s.out, s.control = s.control, nil
		s.asked.Store(true) // more may follow
		return false
	}
	if a := s.attach; a != nil {
		s.attach, s.active = nil, a
	}
	if s.shutdown {
		s.shutdown, s.active = false, nil
		s.current.Store(nil) // the log is no longer sent
		return true
	}
	return false
}

// sent is called when the socket has accepted n bytes of iov. It reports whether the
// socket is full.
func (s *Sender) sent(batch *gop.Batch, iov [][]byte, n int, now int64, w *walk) (full bool) {
	total := 0
	for _, p := range iov {
		total += len(p)
	}
	if n > 0 {
		s.progress.Store(now)
	}
	if s.records != nil {
		s.taken += n
	} else {
		s.passed(batch, n, now, w)
	}
	return n < total
}

// fail ends the connection and keeps the first error. The caller has other receivers to
// serve: if closing may wait, as for a TLS close_notify, it runs in its own goroutine.
func (s *Sender) fail(err error) {
	s.mu.Lock()
	plain := sys.Plain(s.conn)
	if s.err == nil {
		s.err = err
		if !plain {
			s.wg.Go(s.closes)
		}
	}
	s.control, s.attach = nil, nil
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.stall != nil {
		s.stalls.Store(nil)
	}
	s.mu.Unlock()
	s.closed.Store(true)
	if plain {
		s.conn.Close()
	}
}

func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}
