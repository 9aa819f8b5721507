// Package fanout writes the bytes of cursors to sockets.
//
// A Sender is the way out of one connection. A goroutine that has something for it,
// usually the one that has appended to the log, takes the Sender, gives the socket
// everything there is in one write that does not block, and releases it. Only if a
// socket is full, a goroutine is started that waits for it; the other sockets are not
// affected. TLS of TLSClient is sealed on the way. Connections without such writes
// (pipes, wrapped ones, other TLS) always have a goroutine of their own while there is
// something to send.
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
	// turn is how many bytes a sender is given at a time while others wait,
	// and at once when it catches up: more spills the cache, less costs
	// writes.
	turn = 128 << 10
	// catchUp is how many bytes are written at a time to a socket that has
	// been full.
	catchUp = 64 << 10
	// firstPiece is the same until the peer's rate is known, for a connection
	// that takes all or nothing of what it is given: two records of TLS.
	firstPiece = 32 << 10
	// maxControl bounds the control messages queued for a peer that does not
	// read them.
	maxControl = 64 << 10
)

var (
	// ErrStalled says that a peer has taken nothing for the write timeout.
	ErrStalled = errors.New("write stalled")
	// ErrControl says that a peer makes us answer and does not read.
	ErrControl = errors.New("answers are not read")
	// ErrMemory says that a peer was cut off to free memory.
	ErrMemory = errors.New("too slow while memory is short")
	// ErrClosed is returned for messages sent after Close.
	ErrClosed = errors.New("sender closed")
)

// The states of a Sender. Only the goroutine that moves it out of idle, or
// inherits it from that one, touches what the state guards.
const (
	idle    = iota
	running // a goroutine is in run
	again   // a goroutine is in run and must look once more
	parked  // a goroutine is in catchUp and looks before it ends
)

// Sender sends to one connection: control messages, and what its cursor has
// before it. All methods are safe for concurrent use.
type Sender struct {
	conn    net.Conn
	raw     syscall.RawConn // nil where writes can't be tried
	records *records        // below TLS, where writes can be tried there
	timeout time.Duration
	piece   int           // bytes written at a time to catch up, at first
	window  time.Duration // of its own, beyond the group's
	early   bool          // does not wait for the group's
	player  bool

	state    atomic.Int32
	closed   atomic.Bool
	stalled  atomic.Bool  // see OnStall
	blocked  atomic.Int64 // when catchUp began
	asked    atomic.Bool  // take has something to take over
	progress atomic.Int64 // when bytes were taken last, nanoseconds on Clock
	bytes    atomic.Uint64
	messages atomic.Uint64
	skipped  gop.Skipped // by all cursors

	wg sync.WaitGroup // goroutines in catchUp

	held atomic.Bool // until timer

	mu       sync.Mutex
	control  []byte
	attach   *attachment // to be started
	detach   bool        // to be ended, before attach
	shutdown bool        // close for writing when all is sent
	timer    *time.Timer
	err      error

	// Guarded by state.
	active *attachment
	rest   [][]byte // of a message sent in part
	out    []byte   // control messages being sent
	sealed []byte   // records being sent
	taken  int      // of sealed
	try    attempt

	// Static after OnStall; stall is nil without it.
	stallAfter time.Duration
	onStall    func()
	stall      *time.Timer
	stalls     *atomic.Pointer[Sender] // stall's; a timer that was stopped may be kept
	measure    *measure                // nil without Measure
	closes     func()                  // what closes conn where that may wait

	current atomic.Pointer[attachment] // active, or what is to become it
	group   atomic.Pointer[Group]      // of the last log
}

// attachment is a log that a Sender sends.
type attachment struct {
	cursor gop.Cursor
	flow   flow.Receiver // guarded by its group's metering
	log    *gop.Log
	push   bool // as in gop.Options
	end    func() (control []byte, shutdown bool)
}

var start = time.Now()

// Clock is the time on a clock that never goes back, in nanoseconds.
func Clock() int64 { return int64(time.Since(start)) }

// NewSender returns a Sender for conn. A peer that takes less than leastProgress
// bytes within timeout, while more is there for it, ends the connection.
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
	s.try.init(s)
	sys.Tune(conn)
	s.closes = func() { hostcode.Close(conn) }
	return s
}

// CloseWith has f close the connection, on a goroutine of its own, where closing may
// wait. It comes before the first Send.
func (s *Sender) CloseWith(f func()) { s.closes = f }

// SetWindow gives a receiver a merge window of its own, instead of its group's.
// It comes before Group.Add.
func (s *Sender) SetWindow(own, groups time.Duration) {
	s.early = own < groups
	if s.window = own; !s.early {
		s.window -= groups // which what comes has waited for already
	}
}

// SetPlayer says that the receiver is a player, for which a publisher waits only
// where no other receiver keeps up. It comes before Group.Add.
func (s *Sender) SetPlayer() { s.player = true }

// holds reports whether appended messages wait for the end of the window.
func (s *Sender) holds() bool {
	if s.window <= 0 {
		return false
	}
	if a := s.current.Load(); a != nil && a.log.Ended() {
		return false // nothing more will come to wait for
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

// Send queues control messages, whole chunks, which go out before the next
// media message. b is not kept.
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

// Attach begins to send a log, from where a new receiver begins now. What was
// queued before goes first. When the log has ended and all of it is sent, or
// what comes before the keyframe of StopAtKeyframe, end is called, without locks
// held: it must not block, and returns what is sent then and whether to shut
// down.
func (s *Sender) Attach(l *gop.Log, o gop.Options, end func() (control []byte, shutdown bool)) {
	s.prepare(l, o, end)
	s.Kick()
}

// prepare is Attach up to Kick.
func (s *Sender) prepare(l *gop.Log, o gop.Options, end func() (control []byte, shutdown bool)) {
	o.Skipped = &s.skipped
	a := &attachment{log: l, push: o.Push, end: end, flow: flow.Receiver{Player: s.player}}
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

// Next is the first message of the log that is not sent yet, 0 where there is
// no log.
func (s *Sender) Next() uint64 {
	if a := s.current.Load(); a != nil {
		return a.cursor.Next()
	}
	return 0
}

// Detach ends sending media, after the message that is being sent.
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

// Shutdown closes the connection for writing when the control messages that are
// queued are sent, and the media message that is being sent. Where the
// connection can't be half closed it is closed.
func (s *Sender) Shutdown() {
	s.mu.Lock()
	s.shutdown = true
	s.asked.Store(true)
	s.mu.Unlock()
	s.Kick()
}

// Close ends the connection immediately. Wait waits until it is closed.
func (s *Sender) Close() { s.fail(ErrClosed) }

// Err is why sending has ended, nil while it has not.
func (s *Sender) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// needs is the first message that s still needs of the log.
func (s *Sender) needs(l *gop.Log) (seq uint64, ok bool) {
	a := s.sends(l)
	if a == nil {
		return 0, false
	}
	return a.cursor.Next(), true
}

// Kick makes sure that what there is to send gets sent: by the caller where
// it does not block, else by a goroutine. It must not be called with locks
// held that Attach's end takes.
func (s *Sender) Kick() {
	w := newWalk()
	s.kick(w)
	w.put()
}

// kickLater is Kick for callers with locks.
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

// run tries to send what there is.
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

// pending reports whether there may be something to do.
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

// next is what the socket is to be given next. nil: nothing.
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

// plain is what is sent next: the rest of a message, control messages, or a batch of at
// least one message; nil if there is nothing.
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
		// A Sender that is up to date leaves the batch to the next.
		if a.cursor.Lag() > 0 {
			b := w.batch(a.push)
			if b.Fill(&a.cursor, limit); b.Len() > 0 {
				return b.IOV(), b
			}
		}
		if !a.cursor.Done() {
			return nil, nil
		}
		control, shutdown := a.end()
		s.active = nil
		s.current.CompareAndSwap(a, nil) // only now: the next Sender continues from this place
		s.mu.Lock()
		s.control = append(s.control, control...)
		s.shutdown = s.shutdown || shutdown
		s.asked.Store(true)
		s.mu.Unlock()
	}
}

// take takes over what others have asked for.
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

// takeOver is take up to the shutdown, if there is to be one.
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
		s.current.Store(nil) // it is not sent any more
		return true
	}
	return false
}

// sent notes that n bytes of iov were taken. It reports whether the socket is
// full.
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

// passed notes that n bytes of plain's are on their way: of batch, where it is not
// nil.
func (s *Sender) passed(batch *gop.Batch, n int, now int64, w *walk) {
	s.bytes.Add(uint64(n))
	switch {
	case s.rest != nil:
		s.rest = dropFirst(s.rest, n)
		w.count(s.group.Load(), n, 0, 0, 0)
	case batch != nil && n > 0:
		late := time.Duration(now - batch.Arrived())
		samples := 1
		if s.active.cursor.Begins() {
			samples = 0 // it was kept to begin with
		}
		var messages, pictures int
		messages, pictures, s.rest = batch.Sent(&s.active.cursor, n)
		s.messages.Add(uint64(messages))
		w.count(s.group.Load(), n, messages, samples, late)
		if m := s.measure; m != nil {
			m.note(s, pictures, now)
		}
	case batch != nil:
	default:
		if s.out = s.out[n:]; len(s.out) == 0 {
			s.out = nil
		}
	}
}

// fail ends the connection. The first error is kept. Its caller has other receivers to
// serve: if closing may wait, as for a TLS close_notify, it is done in a goroutine of
// its own.
func (s *Sender) fail(err error) {
	s.mu.Lock()
	tcp, plain := s.conn.(*net.TCPConn)
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
		tcp.Close()
	}
}

func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}
