// Package flow decides when a publisher must wait for its receivers. A publisher that is
// faster than its receivers is not read for a while; TCP then slows it down.
//
// The rules:
//
//   - The decision depends on the lag of the receivers that keep up, as a share of their
//     permitted lag. The backlog with which a receiver has begun does not count.
//   - A receiver keeps up if it has received, in the last second, at least as much as the
//     media needs and a quarter of what the fastest receiver has received. The publisher
//     does not wait for a receiver that has not kept up for a second. A new receiver has
//     a second to begin.
//   - Destinations and subscriptions count. Players count only if nothing else keeps up.
//   - A publisher is never read slower than its media plays. The time that it has waited
//     is a debt of at most 200 ms, or more at rates that are too high for an encoder.
//     Media that comes faster than it plays pays the debt back. Media that comes at
//     playing speed pays nothing, however far ahead of the clock it is. If timestamps
//     stand still while media comes, a number of bytes that no encoder exceeds counts as
//     a second.
//   - A publisher whose media comes faster than it plays waits early, when little memory
//     is in use. Any other publisher waits only when a receiver is about to lose messages,
//     so that live streams are not disturbed.
//
// Pace is the publisher's side, Meter and Receiver are the receivers' side. All times
// are nanoseconds of a monotonic clock. Nothing here locks, waits or reads a clock.
package flow

import "time"

const (
	// debt is how much waiting may delay a publisher's media in total. The limit
	// rises in proportion to the media's rate, to mostDebt at a rate of much bytes
	// a second: even if timestamps follow the clock, data in the system's buffers
	// is late by the time that it takes to be read.
	debt     = 200 * time.Millisecond
	mostDebt = time.Second
	much     = 10e6
	// standing is how many bytes count as a second of media if timestamps stand
	// still. They do if they have advanced by less than an eighth of a Window.
	standing = 5e6
	// Longest is the longest time that a publisher waits without interruption.
	Longest = 200 * time.Millisecond
	// stretch is the longest time that a publisher waits before something is read.
	// It is longer, up to Longest, if the messages come less often.
	stretch = 100 * time.Millisecond

	// Window is the time over which rates are measured, Every the interval between
	// two measurements.
	Window = time.Second
	Every  = Window / rounds
	rounds = 8

	// A publisher is fast if its media gains more than lead on the clock within a
	// Window, and continues to do so for leads, or gains more than burst within a
	// Window. A publisher that waits cannot show that it is no longer fast: it
	// stays fast, but for no longer than fastFor.
	lead    = 250 * time.Millisecond
	leads   = 3 * Window / 2
	burst   = 2 * time.Second
	fastFor = 10 * time.Second
	// apart is the largest distance, in milliseconds, between two timestamps of
	// one timeline.
	apart = 2000
	// timelines is how many timelines a stream may have: audio and video, and
	// several tracks, may have different origins.
	timelines = 4

	// share is the part of the fastest receiver's rate that others must reach.
	share = 0.25
	// most is the part of the media's rate that counts as all of it: bytes are
	// counted by whole messages, and measurements may end in the middle of bursts.
	most = 15.0 / 16

	// early is how many bytes a receiver may lag behind a fast publisher. The lag
	// may also be no more than half of the permitted bytes, and no more media than
	// plays in a quarter of the permitted time.
	early = 512 << 10
)

// Pace measures a publisher. Its methods are for one goroutine.
type Pace struct {
	lines   [timelines]line
	next    uint64 // number of messages
	media   int64  // media time so far
	step    int64  // media time added by the last message
	bytes   uint64
	cost    uint64 // bytes that a stream's log counts for all messages
	samples [rounds + 1]sample
	n       int // number of samples so far

	fast  bool
	rate  float64 // result of Fast
	led   int64   // when leads was last true
	leads bool    // media has gained lead on the clock in the last Window
	since int64   // when leads changed

	stands bool  // timestamps stand still
	paid   int64 // media time while they stood still, by bytes

	waited int64 // in total
	owed   int64 // part of waited that media has not paid back
	ahead  int64 // clock minus media and paid, when the debt began
	until  int64 // when the last wait ended
}

// line is a timeline: timestamps at most apart from one to the next.
type line struct {
	used  uint64 // number of the last message on the line, 0 if there is none
	last  uint32
	media int64
}

type sample struct {
	at, media, waited int64
	bytes, cost       uint64
}

// Note counts a message: its timestamp in milliseconds, its bytes, and the bytes that a
// stream's log counts for it.
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
	if d < 0 { // -1<<31 cannot be negated
		return apart + 1
	}
	return d
}

// sample returns the i-th last sample.
func (p *Pace) sample(i int) sample { return p.samples[(p.n-i)%len(p.samples)] }

// last returns what has come within the last Window, or a little more if the publisher
// has paused.
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

// Cost returns the bytes that a stream's log has counted for all messages.
func (p *Pace) Cost() uint64 { return p.cost }

// Media returns the media time so far, in nanoseconds.
func (p *Pace) Media() int64 { return p.media }

// Fast returns the bytes in a second of media, as a log counts them, if media comes
// faster than it plays, else 0.
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
	case now-p.led > int64(fastFor): // measure again without waiting
		p.rate = 0
	}
	return p.rate
}

// Rate returns the rate of the media in bytes per second of playing time, but at most the
// bytes received per second.
func (p *Pace) Rate(now int64) float64 {
	d := p.last(now)
	return float64(d.bytes) / time.Duration(max(d.at, d.media, int64(Every))).Seconds()
}

// Room returns how long the publisher may wait now before something is read.
func (p *Pace) Room(now int64) time.Duration {
	most := time.Duration(min(p.Rate(now)/much, 1) * float64(mostDebt))
	return min(max(most, debt)-time.Duration(p.debt(now)), max(stretch, min(time.Duration(p.step), Longest)))
}

// debt returns what is owed. It is 0 after a Window in which the publisher did not wait.
func (p *Pace) debt(now int64) int64 {
	if p.owed > 0 && now-p.until >= int64(Window) {
		return 0
	}
	return p.owed
}

// Waited counts that the publisher has waited for d until now.
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
	times   [rounds + 1]int64 // when the last rounds began
	n       uint64            // number of rounds so far
	now     int64
	players bool // players count
	judged  judged
}

// judged holds the findings of a round.
type judged struct {
	need    float64 // bytes a second that a receiver needs
	players float64 // rate of the fastest player
	other   float64 // rate of the fastest other receiver
	others  bool    // a receiver other than a player keeps up
}

// fastest points to the rate of the fastest receiver of r's kind.
func (j *judged) fastest(r *Receiver) *float64 {
	if r.Player {
		return &j.players
	}
	return &j.other
}

// Receiver is the state of one receiver for a Meter. The zero value is a new receiver.
type Receiver struct {
	Player bool

	taken [rounds + 1]uint64 // bytes received, by round
	since uint64             // first round
	rate  float64            // bytes a second
	whole bool               // rate is over a whole Window
	good  int64              // when the receiver last kept up
}

// Due reports whether it is time for a round.
func (m *Meter) Due(now int64) bool { return m.n == 0 || now-m.now >= int64(Every) }

// Begin begins a round. need is Pace.Rate. In a round, Measure is called for all
// receivers, then Judge for all of them, then End.
func (m *Meter) Begin(now int64, need float64) {
	m.n++
	m.times[m.n%uint64(len(m.times))] = now
	m.now = now
	m.judged = judged{need: need * most}
}

// Measure counts the bytes that a receiver has received in total. begins says that it is
// still being sent the backlog with which it has begun. Its rate then does not count as
// the fastest of its kind, because others may never reach it.
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

// Judge decides whether a receiver keeps up.
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

// Backlog is how far a receiver lags, not counting the backlog with which it has begun,
// and how far it may lag: in bytes, and in nanoseconds.
type Backlog struct {
	Bytes, MaxBytes int
	Age, MaxAge     int64
}

// Room returns how many more bytes may come before the publisher must wait. fast is the
// result of Pace.Fast. The publisher must wait if the result is not positive.
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
