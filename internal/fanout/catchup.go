package fanout

import (
	"errors"
	"os"
	"time"

	"github.com/rtmp-forward/forward/internal/hostcode"
	"github.com/rtmp-forward/forward/internal/sys"
)

// park starts a goroutine for the sender, whose state is parked.
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

// catchUpWith is catchUp for a connection that may be the host's code.
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

// catchUp waits for the socket and sends until everything is sent.
func (s *Sender) catchUp() {
	w := newWalk()
	defer w.put()
	s.blocked.Store(Clock())
	if s.stall != nil {
		s.stall.Reset(s.stallAfter)
		defer func() {
			if !s.closed.Load() { // a closed Sender keeps its state
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
		s.conn.SetWriteDeadline(time.Time{}) // must not affect later writes
		s.state.Store(idle)
		if !s.pending() || !s.state.CompareAndSwap(idle, parked) {
			return
		}
	}
}

// leastProgress is how many bytes a peer must take within a Sender's timeout: a byte now
// and then is no progress.
const leastProgress = 16 << 10

// progress tracks whether the peer for which a Sender waits makes progress. It counts the
// bytes that the peer has received if they are known, else those that the connection has
// accepted.
type progress struct {
	sender   *Sender
	written  int
	last     int64 // when something was written
	demanded bool
	at       int64 // when progress was last demanded
	asked    int   // value of written at that time
	got      int   // bytes that the peer had received at that time
}

// demand sets the write deadline: the peer must make progress within the timeout, counted
// from from.
func (p *progress) demand(from, now int64) {
	p.demanded, p.at, p.asked = true, from, p.written
	p.got = p.written - sys.Outstanding(p.sender.conn)
	p.sender.conn.SetWriteDeadline(time.Now().Add(p.sender.timeout - time.Duration(now-from)))
}

// check counts n bytes that were written. It returns err, except a timeout of a write to a
// peer that makes progress.
func (p *progress) check(n int, err error, now int64) error {
	if p.written += n; n > 0 {
		p.last = now
	}
	took, timeout := p.written-p.asked, int64(p.sender.timeout)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		outstanding := sys.Outstanding(p.sender.conn)
		from := now
		if outstanding == 0 { // or unknown
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
