package forward

import (
	"context"
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

// behind reports whether the publisher must wait for a receiver of group now.
func (p *pacing) behind(group *fanout.Group, now int64) bool {
	if !p.onAir {
		return false
	}
	meters := p.looked.cost == 0 || now-p.looked.meter >= int64(flow.Every)
	if meters {
		p.looked.meter = now
		group.Meter(now, p.Rate)
	}
	p.looked.media = p.Media()
	fast := p.Fast(now)
	if !meters && fast == 0 && p.Cost() < p.looked.cost {
		return false
	}
	room := group.Room(fast)
	p.looked.cost = p.Cost() + uint64(max(room, 0))
	return room <= 0
}

// holdBack makes the publisher wait while it must, for at most within. It returns how
// long the publisher has waited. now is when the last message came.
func (p *pacing) holdBack(ctx context.Context, group *fanout.Group, now int64, within time.Duration) (waited time.Duration) {
	p.tight = false
	if !p.behind(group, now) {
		return 0
	}
	began := fanout.Clock()
	within = min(within, p.Room(began))
	group.Wake() // messages may wait for the end of the merge window
	for {
		waited = time.Duration(fanout.Clock() - began)
		if p.tight = p.behind(group, began+int64(waited)); !p.tight || waited >= within || ctx.Err() != nil {
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
