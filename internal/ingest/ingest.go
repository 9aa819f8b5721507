// Package ingest reads a connection as data arrives or, if that saves wake-ups, once per
// merge window (merged read).
//
// A Reader has no goroutine: its owner's waits in Read. A Coalescer has one for up to
// 256 Readers, while it looks at them, and a descriptor of epoll, until its Close. The
// descriptors that this watches are the connections', see sys.Conn: those that are parked
// belong to it alone, and are taken from it before the connection closes them or returns
// them to Go's poller.
package ingest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rtmp-forward/forward/internal/hostcode"
)

// Reader reads a connection. It calls Flush before it waits for more data, so that
// messages that arrived together can be sent together. It is for one goroutine, except
// methods whose comments say otherwise.
type Reader struct {
	// Flush, if not nil, is called when all data that has arrived is read. It may
	// set the window.
	Flush func()

	conn net.Conn
	raw  syscall.RawConn // nil if the connection has no reads that do not block

	window time.Duration
	limit  time.Time // the owner's deadline
	try    attempt
	read   int // bytes since the last Flush

	rest   time.Time   // until when the rest is read after Finish, if raw is nil
	over   int         // bytes read after Finish
	finish atomic.Bool // see Finish
	empty  bool        // the last read took all data

	first [1]byte // buffer of Await
	ahead []byte  // data read by Await or Watch
	err   error   // error of Await or Watch, after ahead

	low       int // low-water mark of the connection
	coalescer *Coalescer
	shard     *shard // of it, while there is no window
	seat      *seat  // in it; nil before the first one
	since     int    // bytes since the last wait
}

// drain is how many bytes are read before Flush is called although more have arrived:
// larger batches cost more than they save.
const drain = 64 << 10

// windowDrain replaces drain with a window. It is twice as large, because windows of some
// hundred milliseconds would end early otherwise. A Sender writes as much at a time.
const windowDrain = 2 * drain

// ErrFinished is returned by Read after everything that had arrived before Finish.
var ErrFinished = errors.New("reading is finished")

const (
	// maxRest bounds the bytes read after Finish: a peer may send all the time.
	maxRest = 4 << 20
	// restTime bounds the time of reading after Finish if reads may block.
	restTime = 5 * time.Millisecond
)

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// NewReader returns a Reader for conn.
func NewReader(conn net.Conn) *Reader {
	r := &Reader{conn: conn, raw: rawConn(conn), low: 1}
	r.try.init()
	return r
}

// SetDeadline sets the time after which Read fails; zero means never.
func (r *Reader) SetDeadline(t time.Time) {
	r.limit = t
	r.setDeadline(t)
}

// setDeadline sets the connection's deadline, unless Finish was called: Finish must end all
// waiting, whether it is called before or after setDeadline.
func (r *Reader) setDeadline(t time.Time) {
	r.conn.SetReadDeadline(t)
	if r.finish.Load() {
		r.conn.SetReadDeadline(past)
	}
}

// Finish makes Read return the data that has arrived, without waiting for more, and
// then ErrFinished. Any goroutine may call it.
func (r *Reader) Finish() {
	r.finish.Store(true)
	r.conn.SetReadDeadline(past)
}

// last does the work of Read after Finish.
func (r *Reader) last(p []byte) (n int, err error) {
	if r.raw != nil {
		n, err = r.try.now(r.raw, p)
	} else {
		if r.rest.IsZero() {
			r.rest = time.Now().Add(restTime)
			r.conn.SetReadDeadline(r.rest)
		}
		n, err = r.conn.Read(p)
	}
	if r.over += n; r.over > maxRest || err == syscall.EAGAIN || errors.Is(err, os.ErrDeadlineExceeded) {
		r.flush()
		return 0, ErrFinished
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	if err != nil {
		r.flush()
	}
	return n, err
}

// Extend postpones the deadline by d, if there is one.
func (r *Reader) Extend(d time.Duration) {
	if !r.limit.IsZero() {
		r.SetDeadline(r.limit.Add(d))
	}
}

// SetWindow lets Read leave arrived bytes in the socket for d, to read more of them in one
// call. It has no effect except for plain TCP on Linux: see Merging.
func (r *Reader) SetWindow(d time.Duration) {
	if r.raw == nil || d == r.window {
		return
	}
	if r.window = d; d > 0 {
		r.leave()
		r.setLow(windowDrain)
	} else {
		r.setLow(1)
		r.setDeadline(r.limit)
	}
}

// setLow makes the connection readable only when n bytes have arrived.
func (r *Reader) setLow(n int) {
	if r.low != n {
		r.low = n
		setLowWater(r.raw, n)
	}
}

// Merging reports whether reads are merged.
func (r *Reader) Merging() bool { return r.window > 0 }

// Await waits until there is data to Read, or Read fails. It needs little stack, because
// many goroutines only wait in it. It ignores the window.
func (r *Reader) Await() {
	if len(r.ahead) > 0 || r.err != nil {
		return
	}
	r.flush()
	n, err := r.conn.Read(r.first[:])
	r.ahead, r.err, r.empty = r.first[:n], err, false
}

// watchSize is the largest number of bytes that Watch reads.
const watchSize = 1 << 10

// Watch calls gone, once, with the reason if the connection ends before stop is called.
// Between the two calls, only Finish may be called. The next Read returns the bytes that
// were read meanwhile. Watch does not notice an end after more than watchSize bytes, or
// that of a connection without deadlines.
func (r *Reader) Watch(gone func(error)) (stop func()) {
	if r.err != nil {
		gone(r.err)
		return func() {}
	}
	if r.conn.SetReadDeadline(time.Time{}) != nil {
		return func() {}
	}
	r.setDeadline(time.Time{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		hostcode.Protect(func() { r.watch(gone) })
	}()
	return func() {
		r.conn.SetReadDeadline(past)
		<-ended
		r.setDeadline(r.limit)
	}
}

func (r *Reader) watch(gone func(error)) {
	buf := make([]byte, watchSize)
	n := copy(buf, r.ahead)
	for n < len(buf) {
		more, err := r.conn.Read(buf[n:])
		n += more
		r.ahead, r.empty = buf[:n], false
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			r.err = err
			gone(err)
		}
		return
	}
}

// Read reads the data that has arrived, and waits only if there is none.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.ahead) > 0 {
		n := copy(p, r.ahead)
		if r.ahead = r.ahead[n:]; len(r.ahead) == 0 {
			r.ahead = nil
		}
		r.read += n
		return n, nil
	}
	if err := r.err; err != nil {
		r.err = nil
		return 0, err
	}
	if r.finish.Load() {
		return r.last(p)
	}
	if r.raw == nil {
		r.flush()
		n, err := r.conn.Read(p)
		if r.finish.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			err = ErrFinished // it has waited, so there is no data left
		}
		return n, err
	}
	if r.read >= drain && (r.window <= 0 || r.read >= windowDrain) {
		r.flush()
	}
	if r.late() { // also for a peer that never stops sending
		r.flush()
		return 0, os.ErrDeadlineExceeded
	}
	n, err := 0, error(syscall.EAGAIN)
	if !r.empty {
		n, err = r.try.now(r.raw, p)
	}
	if err == syscall.EAGAIN {
		r.flush()
		n, err = r.wait(p)
		if r.finish.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			return r.last(p)
		}
	}
	if err != nil {
		return 0, err
	}
	if n == 0 {
		r.flush()
		return 0, io.EOF
	}
	r.read += n
	r.since += n
	r.empty = n < len(p)
	return n, nil
}

// late reports whether the owner's deadline has passed.
func (r *Reader) late() bool { return !r.limit.IsZero() && r.past(time.Now()) }

func (r *Reader) flush() {
	r.read = 0
	if r.Flush != nil {
		r.Flush()
	}
}
