// Package flow decides when a publisher waits for its receivers. A publisher that
// is faster than they are waits by not being read; TCP does the rest.
//
// The rules:
//
//   - The lag of the receivers that keep up decides, as a share of the lag that they
//     may have. The backlog that a receiver has begun with does not count.
//   - A receiver keeps up if it has taken, in the last second, at least what the media
//     needs and a quarter of what the fastest has taken. The publisher does not wait
//     for one that has failed for a second. A new one has a second to begin.
//   - Destinations and subscriptions count, and players where nothing else keeps
//     up.
//   - A publisher is never read slower than its media plays: what it has waited is
//     a debt of 200 ms at most, or more where media is so much that it can't be an
//     encoder's alone, which media pays back that comes faster than it plays. Media
//     of which a second lasts a second pays nothing, however far ahead of the clock
//     it is. Where times stand still while media comes, so much of it counts as a
//     second that no encoder sends more.
//   - A publisher whose media comes faster than it plays waits early, where little
//     memory is in use. Any other one waits where a receiver is about to lose
//     something, so that live streams are left alone.
//
// Pace is the publisher's side, Meter and Receiver that of the receivers. All
// times are nanoseconds of a clock that never goes back. Nothing here locks, waits
// or looks at a clock.
package flow

import "time"

const (
	// debt is by how much waiting may delay a publisher's media in all. From
	// much bytes a second on it is mostDebt, and in between in proportion: where
	// timestamps follow the clock, what lies in the buffers of the system is
	// late by the time that it takes to be read.
	debt     = 200 * time.Millisecond
	mostDebt = time.Second
	much     = 10e6
	// standing is how many bytes count as a second of media where times stand
	// still: where they have moved, over a Window, by less than an eighth of it.
	standing = 5e6
	// Longest is how long a publisher waits at most at a time.
	Longest = 200 * time.Millisecond
	// stretch is how long a publisher waits at most until something is read, but
	// where its messages come less often than that.
	stretch = 100 * time.Millisecond

	// Window is the time over which rates are taken, Every how often they are.
	Window = time.Second
	Every  = Window / rounds
	rounds = 8

	// lead is by how much media must come ahead of the clock within a Window to
	// count as fast, where that goes on for leads; burst is by how much at once.
	// Of a publisher that waits it can't be told that it is not: it stays what
	// it was, fast for no longer than fastFor.
	lead    = 250 * time.Millisecond
	leads   = 3 * Window / 2
	burst   = 2 * time.Second
	fastFor = 10 * time.Second
	// apart is how far, in milliseconds, times may lie from one another and be
	// of one timeline.
	apart = 2000
	// timelines is how many timelines a stream may have: audio and video may
	// count from different times, and so may several tracks.
	timelines = 4

	// share is the part of the fastest receiver's rate that others must reach.
	share = 0.25
	// most is the part of the media's rate that counts as all of it: bytes are
	// counted by the message, and rates end in the middle of bursts.
	most = 15.0 / 16

	// early is how many bytes a receiver may be behind a publisher whose media
	// comes faster than it plays, where that plays for no longer than a quarter
	// of the time by which a receiver may fall behind, and is no more than half
	// of the bytes.
	early = 512 << 10
)

// Pace is what is known of a publisher. Its methods are for one goroutine.
type Pace struct {
	lines   [timelines]line
	next    uint64 // number of messages
	media   int64  // how far the media has come,
	step    int64  // of that, with the last message
	bytes   uint64
	cost    uint64 // what a stream's log counts for them
	samples [rounds + 1]sample
	n       int // of samples, since the beginning

	fast  bool
	rate  float64 // what comes in a second of media, 0 where that is not held against it
	led   int64   // when it was ahead last
	leads bool    // it is ahead of the clock in the last Window,
	since int64   // and has been since then

	stands bool  // times stand still
	paid   int64 // how far media has come while they did, by its bytes

	waited int64 // in all
	owed   int64 // of that, what media has not paid back
	ahead  int64 // what the clock was ahead of media and paid when nothing was owed
	until  int64 // when it waited last, where something is owed
}

// line is a timeline: times that lie within apart of one another.
type line struct {
	used  uint64 // number of the message that was on it last, 0 for none
	last  uint32
	media int64
}

type sample struct {
	at, media, waited int64
	bytes, cost       uint64
}

// Note takes a message into account: its time in milliseconds, its bytes, and what
// a stream's log counts for it.
func (p *Pace) Note(ms uint32, bytes, cost int, now int64) {
	p.bytes += uint64(bytes)
	p.cost += uint64(cost)
	p.next++
	var on, oldest *line
	nearest := int32(apart)
	for i := range p.lines {
		l := &p.lines[i]
		if oldest == nil || l.used < oldest.used {
			oldest = l
		}
		if d := distance(ms, l.last); l.used > 0 && d <= nearest {
			on, nearest = l, d
		}
	}
	if on == nil {
		on = oldest
		on.last, on.media = ms, p.media
	}
	on.media += int64(int32(ms-on.last)) * int64(time.Millisecond)
	on.last, on.used = ms, p.next
	p.step = max(on.media-p.media, 0)
	p.media += p.step
	if p.stands && p.step == 0 {
		p.paid += int64(float64(bytes) / standing * float64(time.Second))
	}
	if p.owed > 0 {
		late := now - p.media - p.paid - p.ahead
		p.owed = min(p.owed, max(late, 0))
	}
	if p.n == 0 || now-p.sample(1).at >= int64(Every) {
		d := p.last(now)
		p.stands = d.at >= int64(Every) && d.media < d.at/8
		p.samples[p.n%len(p.samples)] = sample{now, p.media, p.waited, p.bytes, p.cost}
		p.n++
	}
}

func distance(a, b uint32) int32 {
	d := int32(a - b)
	if d < 0 {
		d = -d
	}
	if d < 0 { // -1<<31 has no other sign
		return apart + 1
	}
	return d
}

// sample is the i-th last one.
func (p *Pace) sample(i int) sample { return p.samples[(p.n-i)%len(p.samples)] }

// last is what has come within the last Window or, of a publisher that pauses, a
// little more.
func (p *Pace) last(now int64) (d sample) {
	if p.n == 0 {
		return d
	}
	i := 1
	for i < min(p.n, len(p.samples)) && now-p.sample(i).at < int64(Window) {
		i++
	}
	from := p.sample(i)
	return sample{now - from.at, p.media - from.media, p.waited - from.waited, p.bytes - from.bytes, p.cost - from.cost}
}

// Cost is what a stream's log has counted for all messages.
func (p *Pace) Cost() uint64 { return p.cost }

// Media is how far the media has come, in nanoseconds.
func (p *Pace) Media() int64 { return p.media }

// Fast is how much comes in a second of media, as a log counts it, where media
// comes faster than it plays. It is 0 where it does not.
func (p *Pace) Fast(now int64) float64 {
	d := p.last(now)
	ahead := d.media - d.at
	if ahead > int64(lead) != p.leads {
		p.leads, p.since = !p.leads, now
	}
	switch {
	case p.leads && (p.fast || ahead > int64(burst) || now-p.since >= int64(leads)):
		p.fast, p.led, p.rate = true, now, float64(d.cost)/time.Duration(d.media).Seconds()
	case !p.leads && d.waited < d.at/8:
		p.fast, p.rate = false, 0
	case now-p.led > int64(fastFor): // see what comes when it does not wait
		p.rate = 0
	}
	return p.rate
}

// Rate is the bitrate of the media in bytes per second: the bytes per second of playing
// time, but at most the bytes received in a second.
func (p *Pace) Rate(now int64) float64 {
	d := p.last(now)
	return float64(d.bytes) / time.Duration(max(d.at, d.media, int64(Every))).Seconds()
}

// Room is how long the publisher may be made to wait now, until something is read.
func (p *Pace) Room(now int64) time.Duration {
	most := time.Duration(min(p.Rate(now)/much, 1) * float64(mostDebt))
	return min(max(most, debt)-time.Duration(p.debt(now)), max(stretch, min(time.Duration(p.step), Longest)))
}

// debt is what is owed. Nothing is after a Window in which the publisher was read
// as fast as it sent.
func (p *Pace) debt(now int64) int64 {
	if p.owed > 0 && now-p.until >= int64(Window) {
		return 0
	}
	return p.owed
}

// Waited takes into account that the publisher has waited until now.
func (p *Pace) Waited(d time.Duration, now int64) {
	if d <= 0 {
		return
	}
	if p.owed = p.debt(now - int64(d)); p.owed == 0 {
		p.ahead = now - int64(d) - p.media - p.paid
	}
	p.owed += int64(d)
	p.waited += int64(d)
	p.until = now
}

// Meter measures the receivers of one stream. Its methods, and those of its
// Receivers, are for one goroutine at a time.
type Meter struct {
	times   [rounds + 1]int64 // of rounds
	n       uint64            // rounds, since the beginning
	now     int64
	players bool // count
	judged  judged
}

// judged is what a round finds.
type judged struct {
	need    float64 // bytes a second
	players float64 // of the fastest player,
	other   float64 // and of the fastest other receiver
	others  bool    // one that is no player keeps up
}

// fastest is the rate of the fastest of r's kind.
func (j *judged) fastest(r *Receiver) *float64 {
	if r.Player {
		return &j.players
	}
	return &j.other
}

// Receiver is what a Meter knows of one receiver. The zero value is a new one.
type Receiver struct {
	Player bool

	taken [rounds + 1]uint64 // by round
	since uint64             // its first round
	rate  float64            // bytes a second
	whole bool               // over a Window
	good  int64              // when it kept up last
}

// Due reports whether it is time for a round.
func (m *Meter) Due(now int64) bool { return m.n == 0 || now-m.now >= int64(Every) }

// Begin begins a round. need is Pace.Rate. In a round, all receivers are measured
// first, then all of them are judged.
func (m *Meter) Begin(now int64, need float64) {
	m.n++
	m.times[m.n%uint64(len(m.times))] = now
	m.now = now
	m.judged = judged{need: need * most}
}

// Measure takes into account how many bytes a receiver has taken in all, kind
// apart. begins: it is still being sent what it has begun with, at a rate that
// others may never reach.
func (m *Meter) Measure(r *Receiver, taken uint64, begins bool) {
	if r.since == 0 {
		r.since, r.good = m.n, m.now
	}
	slots := uint64(len(m.times))
	r.taken[m.n%slots] = taken
	from := m.n
	for from > r.since && from+slots-1 > m.n && m.now-m.times[from%slots] < int64(Window) {
		from--
	}
	elapsed := m.now - m.times[from%slots]
	r.whole = elapsed >= int64(Window)
	r.rate = 0
	if elapsed > 0 {
		r.rate = float64(taken-r.taken[from%slots]) / time.Duration(elapsed).Seconds()
	}
	if r.whole && !begins {
		fastest := m.judged.fastest(r)
		*fastest = max(*fastest, r.rate)
	}
}

// Judge says whether a receiver keeps up.
func (m *Meter) Judge(r *Receiver) {
	if !r.whole || r.rate >= max(m.judged.need, *m.judged.fastest(r)*share) {
		r.good = m.now
	}
	if m.keepsUp(r) && !r.Player {
		m.judged.others = true
	}
}

// End ends a round.
func (m *Meter) End() { m.players = !m.judged.others }

func (m *Meter) keepsUp(r *Receiver) bool {
	return r.since == 0 || m.now-r.good <= int64(Window)
}

// Counts reports whether a publisher waits for a receiver.
func (m *Meter) Counts(r *Receiver) bool {
	return m.keepsUp(r) && (m.players || !r.Player)
}

// Backlog is how far a receiver lags since it has got what it began with, and how far
// it may: in bytes, and in nanoseconds.
type Backlog struct {
	Bytes, MaxBytes int
	Age, MaxAge     int64
}

// Room is how many bytes more may come until a publisher waits, where fast is what
// Pace says of it. It waits where that is none.
func (b Backlog) Room(fast float64) int {
	if fast == 0 {
		return b.MaxBytes/2 - b.Bytes
	}
	age := b.MaxAge / 4
	if b.Age > age {
		return 0
	}
	return min(early, b.MaxBytes/2, int(min(fast*time.Duration(age).Seconds(), early))) - b.Bytes
}
