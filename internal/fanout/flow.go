package fanout

import (
	"github.com/rtmp-forward/forward/internal/flow"
	"github.com/rtmp-forward/forward/internal/gop"
)

// Meter measures, every flow.Every, which receivers keep up. need is flow.Pace's Rate.
// Only the goroutine that appends may call it.
func (g *Group) Meter(now int64, need func(now int64) float64) {
	g.metering.Lock()
	defer g.metering.Unlock()
	m := &g.meter
	if !m.Due(now) {
		return
	}
	m.Begin(now, need(now))
	g.metered(func(r *flow.Receiver, taken uint64, begins bool) { m.Measure(r, taken, begins) })
	g.metered(func(r *flow.Receiver, _ uint64, _ bool) { m.Judge(r) })
	m.End()
}

// metered calls f for each receiver of the log, with the bytes that it has received.
func (g *Group) metered(f func(r *flow.Receiver, taken uint64, begins bool)) {
	g.each(func(s *Sender) {
		if a := s.sends(g.log); a != nil {
			f(&a.flow, s.bytes.Load(), a.cursor.Begins())
		}
	})
	for _, t := range *g.taps.Load() {
		f(&t.flow, t.bytes.Load(), t.cursor.Begins())
	}
}

// Room returns how many more bytes may be appended before the publisher must wait for a
// receiver that keeps up: see flow.Backlog. If there is no room, that receiver is sent to
// before its merge window ends. Only the goroutine that appends may call it.
func (g *Group) Room(fast float64) int {
	room, presses := g.room(fast)
	if presses != nil && presses.window > 0 {
		presses.Kick()
	}
	return room
}

func (g *Group) room(fast float64) (room int, presses *Sender) {
	g.metering.Lock()
	defer g.metering.Unlock()
	room = g.log.MaxBytes() / 4 // a receiver may join
	look := func(s *Sender) bool {
		a := s.sends(g.log)
		if a == nil || !g.meter.Counts(&a.flow) {
			return false
		}
		room = min(room, flow.Backlog(a.cursor.Backlog()).Room(fast))
		return room <= 0
	}
	if s := g.presses; s != nil && look(s) {
		return room, s
	}
	g.presses = nil
	g.each(func(s *Sender) {
		if room > 0 && look(s) {
			g.presses = s
		}
	})
	if room <= 0 {
		return room, g.presses
	}
	for _, t := range *g.taps.Load() {
		if g.meter.Counts(&t.flow) {
			room = min(room, flow.Backlog(t.cursor.Backlog()).Room(fast))
		}
	}
	return room, nil
}

// sends returns the attachment with which s sends a log, or nil.
func (s *Sender) sends(l *gop.Log) *attachment {
	a := s.current.Load()
	if a == nil || a.log != l || s.closed.Load() {
		return nil
	}
	return a
}
