package forward

import (
	"context"
	"math"
	"time"

	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/flow"
)

// pacing is a publication's part of the flow control between publisher and receivers:
// see package flow. It belongs to the publisher's goroutine.
type pacing struct {
	flow.Pace
	onAir  bool // the last message was appended to the stream
	tight  bool // the last wait has ended although its reason persists
	looked struct {
		cost  uint64 // from this cost on a receiver may lag too far; 0 at first
		media int64  // at the last check
		meter int64  // when the receivers were last measured
	}
}

// lookEvery is how much media, in nanoseconds, may come before a publisher checks
// whether it must wait. One read may bring more.
const lookEvery = int64(500 * time.Millisecond)

// due reports whether it is time to check.
func (p *pacing) due() bool { return p.tight || p.Media()-p.looked.media >= lookEvery }

// behind reports whether the publisher must wait for a receiver now.
func (p *publication) behind(now int64) bool {
	pace, group := &p.pace, p.src.group
	if !pace.onAir {
		return false
	}
	meters := pace.looked.cost == 0 || now-pace.looked.meter >= int64(flow.Every)
	if meters {
		pace.looked.meter = now
		group.Meter(now, pace.Rate)
	}
	pace.looked.media = pace.Media()
	fast := pace.Fast(now)
	if !meters && fast == 0 && pace.Cost() < pace.looked.cost {
		return false
	}
	room := group.Room(fast)
	pace.looked.cost = pace.Cost() + uint64(max(room, 0))
	return room <= 0
}

// holdBack makes the publisher wait while it must, for at most within. It returns how
// long the publisher has waited. now is when the last message came.
func (p *publication) holdBack(ctx context.Context, now int64, within time.Duration) (waited time.Duration) {
	p.pace.tight = false
	if !p.behind(now) {
		return 0
	}
	began := fanout.Clock()
	within = min(within, p.pace.Room(began))
	p.src.group.Wake() // messages may wait for the end of the merge window
	for {
		waited = time.Duration(fanout.Clock() - began)
		if p.pace.tight = p.behind(began + int64(waited)); !p.pace.tight || waited >= within || ctx.Err() != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(holdFor, within-waited)):
		}
	}
	return waited
}

// holdFor is how long a publisher waits before it checks again.
const holdFor = time.Millisecond

// holdBack makes the connection wait for the receivers of the stream that was read
// last. The connection is not read meanwhile. That time does not count as silence of its
// publishers, and its other streams limit the wait.
func (c *conn) holdBack(p *publication) {
	within := time.Duration(math.MaxInt64)
	if len(c.pubs) > 1 { // going through a map costs more than the rest
		for _, o := range c.pubs {
			if o != p && c.media-o.heard < int64(flow.Window) {
				within = min(within, o.pace.Room(c.media))
			}
		}
	}
	waited := p.holdBack(c.ctx, c.media, within)
	if waited <= 0 {
		return
	}
	now := fanout.Clock()
	p.pace.Waited(waited, now)
	for _, o := range c.pubs {
		if o != p {
			o.pace.Waited(waited, now)
		}
	}
	c.excuse(waited)
}

// excuse subtracts a time in which the connection was not read from the silence of its
// publishers: see ReadTimeout.
func (c *conn) excuse(d time.Duration) {
	for _, p := range c.pubs {
		p.heard += int64(d)
	}
	c.limit += int64(d)
	c.in.Extend(d)
}
