// Package ingest reads a connection as data arrives or, where that saves wake-ups, once
// per merge window (merged read).
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

// Reader reads a connection. Before it waits for more it calls Flush: messages that
// arrived together can be sent together. It is for one goroutine, except for methods
// that the connection itself allows.
type Reader struct {
	// Flush, where it is not nil, is called when everything that has
	// arrived is read. It may set the window.
	Flush func()

	conn net.Conn
	raw  syscall.RawConn // nil where reads can't be tried

	window time.Duration
	limit  time.Time // the owner's deadline
	try    attempt
	read   int // bytes since the last Flush

	rest   time.Time   // until when what is left is read, where reads can't be tried
	over   int         // bytes of what is left
	finish atomic.Bool // see Finish
	empty  bool        // the last read took all there was

	first [1]byte // for Await to read
	ahead []byte  // read by Await or Watch
	err   error   // of Await or Watch, after ahead

	low       int // water mark of the connection
	coalescer *Coalescer
	shard     *shard // of it, while there is no window
	since     int    // bytes since the last wait
	// While turn is waited for these are the shard's.
	turn    chan struct{}
	p       []byte
	n       int
	readErr error
}

// drain is how many bytes are read before they are passed on even though more
// have arrived: batches that are larger cost more than they save.
const drain = 64 << 10

// windowDrain is the same for a window: twice as much, or windows of some
// hundred milliseconds would end early. It is what a Sender gives away at once.
const windowDrain = 2 * drain

// ErrFinished is returned by Read after everything that had arrived before Finish.
var ErrFinished = errors.New("reading is finished")

const (
	// maxRest bounds what is read after Finish: a peer may send all the time.
	maxRest = 4 << 20
	// restTime bounds it where reads can't be tried.
	restTime = 5 * time.Millisecond
)

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// NewReader returns a Reader of conn.
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

// setDeadline sets the connection's deadline, unless reading is to be finished: Finish
// ends all waiting, whether it is called before or after.
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

// last is Read after Finish.
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

// Extend moves the time after which Read fails by d, if there is one.
func (r *Reader) Extend(d time.Duration) {
	if !r.limit.IsZero() {
		r.SetDeadline(r.limit.Add(d))
	}
}

// SetWindow lets Read leave arrived bytes in the socket for this long, to read more of
// them in one call. Only plain TCP on Linux does so: see Merging.
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

// setLow has the connection be readable only when n bytes have arrived.
func (r *Reader) setLow(n int) {
	if r.low != n {
		r.low = n
		setLowWater(r.raw, n)
	}
}

// Merging reports whether reads are merged.
func (r *Reader) Merging() bool { return r.window > 0 }

// Await waits until there is something to Read, or Read fails. It needs little
// stack, that of many goroutines which do nothing but wait. Windows are not
// heeded.
func (r *Reader) Await() {
	if len(r.ahead) > 0 || r.err != nil {
		return
	}
	r.flush()
	n, err := r.conn.Read(r.first[:])
	r.ahead, r.err, r.empty = r.first[:n], err, false
}

// watchSize is how much Watch reads at most.
const watchSize = 1 << 10

// Watch calls gone, once, with the reason if the connection ends before stop is called.
// Only Finish may be called between the two. Bytes that have been read until stop
// returns belong to the next Read. An end after more than watchSize bytes is not seen,
// nor that of a connection without deadlines.
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
			err = ErrFinished // it has waited: there is nothing left
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
func (r *Reader) late() bool { return !r.limit.IsZero() && !time.Now().Before(r.limit) }

func (r *Reader) flush() {
	r.read = 0
	if r.Flush != nil {
		r.Flush()
	}
}
