package fanout

import (
	"time"

	"github.com/rtmp-forward/forward/internal/sys"
)

const (
	// lookEvery is how often a Sender that is catching up measures its
	// connection's queue.
	lookEvery = 500 * time.Millisecond
	// rateOver is the number of measurements over which the peer's rate is taken.
	rateOver = 4
	// leastQueue is the smallest number of bytes written at a time, however slow
	// the peer is.
	leastQueue = 4 << 10
)

// queue measures the bytes that a connection has accepted and its peer has not received.
// A cursor's lag does not include them, although for a slow peer they may be seconds of
// media. Only a Sender that is catching up has a queue.
type queue struct {
	looks [32]look // the last measurements
	n     int      // number of measurements
	limit int      // bytes written at a time
	low   int      // low-water mark of the connection
}

// look is a measurement: the bytes written up to a time.
type look struct {
	at      int64
	written uint64
}

func (q *queue) last(i int) look { return q.looks[(q.n-i)%len(q.looks)] }

func (q *queue) add(l look) {
	q.looks[q.n%len(q.looks)] = l
	q.n++
}

// beginQueue is called when s begins to catch up.
func (s *Sender) beginQueue(q *queue) {
	q.limit, q.low = s.piece, sys.LowWater
	q.add(look{Clock(), s.bytes.Load()})
}

// look measures the queue every lookEvery. It adjusts how much is written at a time to the
// peer's rate: at most an eighth of the time by which the peer may lag, and of the time in
// which it must make progress. It also tells the cursor how long the queued bytes have
// been under way.
func (s *Sender) look(q *queue, now int64) {
	if now-q.last(1).at < int64(lookEvery) {
		return
	}
	is, was := look{now, s.bytes.Load()}, q.last(min(q.n, rateOver))
	q.add(is)
	a := s.active
	if a == nil {
		return
	}
	rate := float64(is.written-was.written) / float64(is.at-was.at)
	room := int(min(max(rate*float64(min(a.log.MaxLag(), int64(s.timeout))/8), leastQueue), sys.LowWater))
	q.limit = min(room, catchUp)
	if room != q.low {
		q.low = room
		sys.SetLowWater(s.conn, room)
	}
	a.cursor.UnderWay(q.underWay(sys.Outstanding(s.conn)))
}

// underWay returns how long ago the first outstanding byte was written, as far as the
// measurements go back.
func (q *queue) underWay(outstanding int) int64 {
	now := q.last(1)
	got := now.written - min(now.written, uint64(outstanding))
	l := now
	for i := 2; l.written > got && i <= min(q.n, len(q.looks)); i++ {
		l = q.last(i)
	}
	return now.at - l.at
}

// endQueue undoes the changes of look.
func (s *Sender) endQueue(q *queue) {
	if q.low != sys.LowWater {
		sys.SetLowWater(s.conn, sys.LowWater)
	}
	if a := s.active; a != nil {
		a.cursor.UnderWay(0)
	}
}
