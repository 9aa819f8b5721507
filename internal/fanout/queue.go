package fanout

import (
	"time"

	"github.com/rtmp-forward/forward/internal/sys"
)

const (
	// lookEvery is how often a Sender that is catching up looks at what its
	// connection holds.
	lookEvery = 500 * time.Millisecond
	// rateOver is over how many looks the peer's rate is taken.
	rateOver = 4
	// leastQueue is the least that a connection is given at a time, however
	// slow the peer is.
	leastQueue = 4 << 10
)

// queue is the bytes that a connection has accepted and its peer has not received. A
// cursor's lag ends at the connection; to a slow peer the bytes in between are seconds
// more. It is kept for a Sender that catches up; others do not need it.
type queue struct {
	looks [32]look // the last ones
	n     int
	limit int // bytes written at a time
	low   int // water mark of the connection
}

// look is how many bytes had been written when.
type look struct {
	at      int64
	written uint64
}

func (q *queue) last(i int) look { return q.looks[(q.n-i)%len(q.looks)] }

func (q *queue) add(l look) {
	q.looks[q.n%len(q.looks)] = l
	q.n++
}

// beginQueue is called where s begins to catch up.
func (s *Sender) beginQueue(q *queue) {
	q.limit, q.low = s.piece, sys.LowWater
	q.add(look{Clock(), s.bytes.Load()})
}

// look, now and then, adjusts what the connection is given at a time to the rate
// at which the peer takes it: no more than for an eighth of the time by which the
// peer may lag, and of the time in which it must make progress. It tells the cursor for how long what is written is under way.
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

// underWay is how long ago the first of the outstanding bytes was written, as far
// back as there are looks.
func (q *queue) underWay(outstanding int) int64 {
	now := q.last(1)
	got := now.written - min(now.written, uint64(outstanding))
	l := now
	for i := 2; l.written > got && i <= min(q.n, len(q.looks)); i++ {
		l = q.last(i)
	}
	return now.at - l.at
}

// endQueue undoes what look has changed.
func (s *Sender) endQueue(q *queue) {
	if q.low != sys.LowWater {
		sys.SetLowWater(s.conn, sys.LowWater)
	}
	if a := s.active; a != nil {
		a.cursor.UnderWay(0)
	}
}
