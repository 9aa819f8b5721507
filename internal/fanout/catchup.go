package fanout

import (
	"errors"
	"os"
	"time"

	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/sys"
)

// park hands the sender, whose state is parked, to a goroutine of its own.
func (s *Sender) park() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		s.state.Store(idle)
		return
	}
	if s.raw == nil {
		s.wg.Go(s.catchUpWith)
	} else {
		s.wg.Go(s.catchUp)
	}
}

// catchUpWith is catchUp with a connection that may be the host's.
func (s *Sender) catchUpWith() {
	err := errGoexit
	defer func() {
		if err != nil {
			s.fail(err)
		}
	}()
	err = hostcode.Protect(s.catchUp)
}

var errGoexit = errors.New("the connection has ended its goroutine")

// catchUp sends until everything is sent, waiting for the socket.
func (s *Sender) catchUp() {
	w := newWalk()
	defer w.put()
	s.blocked.Store(Clock())
	if s.stall != nil {
		s.stall.Reset(s.stallAfter)
		defer func() {
			if !s.closed.Load() { // else it ends as it is
				s.goesOn()
			}
			s.stall.Stop()
		}()
	}
	for {
		var q queue
		s.beginQueue(&q)
		p := progress{sender: s}
		for !s.closed.Load() {
			iov, batch := s.next(w, q.limit)
			if iov == nil {
				break
			}
			if !p.demanded {
				now := Clock()
				p.demand(now, now)
			}
			n, err := s.wait(iov, batch, q.limit, w)
			now := Clock()
			if n > 0 {
				w.now = now
				s.sent(batch, iov, n, now, w)
				w.flush()
				s.goesOn()
				s.look(&q, now)
			}
			if err = p.check(n, err, now); err != nil {
				s.fail(err)
				break
			}
		}
		s.endQueue(&q)
		s.conn.SetWriteDeadline(time.Time{}) // no concern of later attempts
		s.state.Store(idle)
		if !s.pending() || !s.state.CompareAndSwap(idle, parked) {
			return
		}
	}
}

// leastProgress is how many bytes a peer must take within a Sender's timeout,
// however much it is given at a time: a byte now and then is no progress.
const leastProgress = 16 << 10

// progress is that of a peer for which a Sender waits. Bytes count that the peer
// has got, where that is known, or else that the connection has taken.
type progress struct {
	sender   *Sender
	written  int
	last     int64 // when something was written
	demanded bool
	at       int64 // when progress was demanded last
	asked    int   // of written, when it was demanded
	got      int   // of written, what the peer had got then
}

// demand gives the peer the timeout, from a time on, to make progress.
func (p *progress) demand(from, now int64) {
	p.demanded, p.at, p.asked = true, from, p.written
	p.got = p.written - sys.Outstanding(p.sender.conn)
	p.sender.conn.SetWriteDeadline(time.Now().Add(p.sender.timeout - time.Duration(now-from)))
}

// check takes into account that n bytes were written. It returns err, but not that
// a write has taken too long of a peer that makes progress.
func (p *progress) check(n int, err error, now int64) error {
	if p.written += n; n > 0 {
		p.last = now
	}
	took, timeout := p.written-p.asked, int64(p.sender.timeout)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		outstanding := sys.Outstanding(p.sender.conn)
		from := now
		if outstanding == 0 { // or it is unknown
			from = p.last
		}
		if p.written-outstanding-p.got < leastProgress || now-from >= timeout {
			return ErrStalled
		}
		p.demand(from, now)
	case err != nil:
		return err
	case took >= catchUp, took >= leastProgress && now-p.at > timeout/4:
		p.demand(now, now)
	}
	return nil
}
