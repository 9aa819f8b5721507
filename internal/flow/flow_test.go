package flow

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	ms     = int64(time.Millisecond)
	second = int64(time.Second)
)

// clocks are where a clock may begin: only differences count.
var clocks = map[string]int64{"at 0": 0, "early": -1 << 60, "late": 1 << 60}

// feed is a publisher's messages of 1000 bytes, each 40 ms of media.
type feed struct {
	Pace
	now  int64
	time uint32
}

func (f *feed) message() {
	f.Note(f.time, 1000, 1200, f.now)
	f.time += 40
}

// play sends media for so long at a speed.
func (f *feed) play(d time.Duration, speed float64) {
	for end := f.now + int64(d); f.now < end; f.now += int64(40 * float64(ms) / speed) {
		f.message()
		f.Fast(f.now)
	}
}

func TestPace_Fast(t *testing.T) {
	for name, row := range map[string]struct {
		send func(f *feed)
		fast bool
	}{
		"live":               {func(f *feed) { f.play(10*time.Second, 1) }, false},
		"slower":             {func(f *feed) { f.play(10*time.Second, 0.5) }, false},
		"nothing":            {func(*feed) {}, false},
		"one":                {func(f *feed) { f.message() }, false},
		"a file":             {func(f *feed) { f.play(time.Second, 50) }, true},
		"twice":              {func(f *feed) { f.play(4*time.Second, 2) }, true},
		"twice for a moment": {func(f *feed) { f.play(time.Second, 1); f.play(time.Second, 2) }, false},
		"a burst of 2 s":     {func(f *feed) { f.play(time.Second, 1); f.play(20*time.Millisecond, 100) }, false},
		"a burst of 4 s":     {func(f *feed) { f.play(time.Second, 1); f.play(40*time.Millisecond, 100) }, true},
		"a constant lead": {func(f *feed) {
			f.play(80*time.Millisecond, 100)
			f.play(3*time.Second, 1)
		}, false},
		"a clock 100 ppm fast for a week": {func(f *feed) {
			f.play(time.Minute, 1)
			f.now += 7 * 24 * 3600 * second
			f.time += uint32(7*24*3600*1000) + 60480
			f.play(time.Minute, 1.0001)
		}, false},
		"after a pause": {func(f *feed) { f.play(time.Second, 50); f.now += 5 * second; f.message(); f.play(time.Second, 1) }, false},
		"times that repeat": {func(f *feed) {
			for range 1000 {
				f.Note(7, 1000, 1200, f.now)
				f.now += ms
			}
		}, false},
		"times go around": {func(f *feed) { f.time = math.MaxUint32 - 5000; f.play(time.Second, 50) }, true},
	} {
		for clock, at := range clocks {
			t.Run(name+", clock "+clock, func(t *testing.T) {
				f := &feed{now: at}
				row.send(f)
				fast := f.Fast(f.now)
				require.Equal(t, row.fast, fast > 0)
				if fast > 0 {
					require.InEpsilon(t, 25*1200, fast, 0.01)
				}
			})
		}
	}
}

// A publisher that waits for its receivers is no faster than they are: that does
// not make it one that is not fast. One that has become live is told by what it
// sends when it does not wait.
func TestPace_FastWhileItWaits(t *testing.T) {
	f := new(feed)
	f.play(time.Second, 50)
	waits := func(d time.Duration, speed float64) {
		for end := f.now + int64(d); f.now < end; {
			f.message()
			wait := time.Duration(float64(40*ms) / speed)
			f.now += int64(wait)
			f.Waited(wait, f.now)
			f.Fast(f.now)
		}
	}
	waits(5*time.Second, 1)
	require.Positive(t, f.Fast(f.now))
	waits(fastFor, 1)
	require.Zero(t, f.Fast(f.now), "see what it does")
	f.play(10*time.Millisecond, 100)
	require.Positive(t, f.Fast(f.now), "it is as fast as ever")
	waits(2*fastFor, 1)
	require.Zero(t, f.Fast(f.now))
	f.play(2*time.Second, 1)
	require.Zero(t, f.Fast(f.now))
	f.play(20*time.Millisecond, 50)
	require.Zero(t, f.Fast(f.now), "a live one now")
}

// Audio and video that count from different times, and tracks that do.
func TestPace_Timelines(t *testing.T) {
	for name, starts := range map[string][]uint32{
		"one":                 {0},
		"close":               {0, 500},
		"audio 3 s ahead":     {0, 3000},
		"audio 1.9 s behind":  {5000, 3100},
		"audio an hour ahead": {0, 3_600_000},
		"half the range":      {0, 1 << 31},
		"four":                {0, 3000, 6000, 1 << 30},
		"around":              {math.MaxUint32 - 1000, 5000},
	} {
		t.Run(name, func(t *testing.T) {
			var p Pace
			for i := range 2500 {
				for _, start := range starts {
					p.Note(start+uint32(40*i), 1000, 1200, int64(i)*ms)
				}
			}
			require.InDelta(t, 2499*40*ms, p.Media(), float64(2000*ms))
			require.Positive(t, p.Fast(2500*ms))
		})
	}
}

// A message that is out of line does not move the media.
func TestPace_MessageOutOfLine(t *testing.T) {
	for _, odd := range []uint32{0, 3_000_000, 1 << 31, math.MaxUint32} {
		f := new(feed)
		f.time = 100_000
		f.play(time.Second, 1)
		before := f.Media()
		f.Note(odd, 1000, 1200, f.now)
		require.Equal(t, before, f.Media())
		f.play(time.Second, 1)
		require.InDelta(t, before+second, f.Media(), float64(80*ms))
	}
}

func TestPace_Rate(t *testing.T) {
	for _, row := range []struct {
		speed, want float64
	}{{1, 25_000}, {50, 25_000}, {0.5, 12_500}} {
		f := new(feed)
		f.play(10*time.Second, row.speed)
		require.InEpsilon(t, row.want, f.Rate(f.now), 0.08, "a receiver can't take more than comes")
	}
	f := new(feed) // times that follow the clock
	for range 2000 {
		f.Note(uint32(f.now/ms), 5000, 5200, f.now)
		f.now += ms
	}
	require.InEpsilon(t, 5_000_000, f.Rate(f.now), 0.01)
}

// A live encoder is delayed once, for debt at most, however long the reason lasts:
// what it sends is read.
func TestPace_NeverStarvesALiveEncoder(t *testing.T) {
	for _, step := range []time.Duration{10 * time.Millisecond, 40 * time.Millisecond, time.Second, 1500 * time.Millisecond} {
		for _, ppm := range []int64{0, 100, -100} {
			var p Pace
			var now, sent, read int64 // sent, read: messages
			longest := time.Duration(0)
			for now < 100*second {
				sent = now*(1_000_000+ppm)/1_000_000/int64(step) + 1
				if read == sent {
					now += ms
					continue
				}
				p.Note(uint32(read*step.Milliseconds()), 1000, 1200, now)
				read++
				if wait := p.Room(now); wait > 0 {
					now += int64(wait)
					p.Waited(wait, now)
				}
				due := (read - 1) * int64(step) * 1_000_000 / (1_000_000 + ppm)
				longest = max(longest, time.Duration(now-due))
			}
			require.LessOrEqual(t, longest, 2*debt+2*time.Millisecond, "%v, %d ppm", step, ppm)
		}
	}
}

// A publisher that is as fast as it is let is read at the speed of its media.
func TestPace_WaitsForRealTime(t *testing.T) {
	for clock, at := range clocks {
		f := &feed{now: at}
		for f.now < at+20*second {
			f.message()
			if wait := f.Room(f.now); wait > 0 {
				f.now += int64(wait)
				f.Waited(wait, f.now)
			}
		}
		require.InDelta(t, 20*second, f.Media(), float64(int64(debt)+40*ms), clock)
	}
}

// Times that follow the clock, however little is read: what lies in between, in
// buffers of the system, delays the media by what it takes to read it, and by no
// more the next time. Waiting goes on.
func TestPace_WaitsForTimesThatFollowTheClock(t *testing.T) {
	const between = 2 << 20
	for _, rate := range []int64{4 << 20, 10 << 20, 200 << 20} { // bytes a second
		var p Pace
		var queue []uint32
		var now, waited int64
		for now < 20*second {
			for len(queue) < between/5000 {
				queue = append(queue, uint32(now/ms))
			}
			p.Note(queue[0], 5000, 5200, now)
			queue = queue[1:]
			wait := min(time.Duration(5000*second/rate), p.Room(now))
			if wait > 0 {
				now += int64(wait)
				waited += int64(wait)
				p.Waited(wait, now)
			}
		}
		require.InEpsilon(t, 20*second, waited, 0.01, "%d MB/s", rate>>20)
	}
}

// Media is read at its speed, too, where the messages are far apart.
func TestPace_FewMessages(t *testing.T) {
	var p Pace
	var now int64
	for i := range 100 {
		p.Note(uint32(200*i), 1000, 1200, now)
		wait := p.Room(now)
		require.LessOrEqual(t, wait, 200*time.Millisecond)
		now += int64(wait)
		p.Waited(wait, now)
	}
	require.InDelta(t, 100*200*ms, now, float64(400*ms))
}

// The media clock of an encoder is 100 ppm fast, for a week.
func TestPace_WeekOfAFastClock(t *testing.T) {
	var p Pace
	const fps = 25
	for i := range int64(7 * 24 * 3600 * fps) {
		now := i * (second / fps)
		now -= now / 10_000
		p.Note(uint32(i*1000/fps), 1000, 1200, now)
		if i%fps == 0 && p.Fast(now) > 0 {
			require.Fail(t, "fast", "after %v", time.Duration(now))
		}
	}
	require.InDelta(t, 7*24*3600*float64(second), p.Media(), 1e9)
}

// One that has not waited for a second has nothing to be paid back.
func TestPace_DebtEnds(t *testing.T) {
	f := new(feed)
	f.play(time.Second, 1)
	f.now += int64(debt)
	f.Waited(debt, f.now)
	require.Zero(t, f.Room(f.now))
	f.now += second / 2
	f.message() // the encoder has left out what was late
	require.Zero(t, f.Room(f.now))
	f.now += second / 2
	require.Equal(t, stretch, f.Room(f.now))
	f.Waited(0, f.now)
	require.Equal(t, stretch, f.Room(f.now))
}

// receivers are those of a stream, with a rate each.
type receivers struct {
	Meter
	now   int64
	all   []*Receiver
	taken []uint64
}

func (r *receivers) add(player bool) int {
	r.all = append(r.all, &Receiver{Player: player})
	r.taken = append(r.taken, uint64(1000*len(r.all))) // what came before does not count
	return len(r.all) - 1
}

// run has them take so many bytes a second for a time.
func (r *receivers) run(d time.Duration, need float64, rates ...float64) {
	for end := r.now + int64(d); r.now < end; r.now += 10 * ms {
		if r.Due(r.now) {
			r.Begin(r.now, need)
			for i, rc := range r.all {
				r.Measure(rc, r.taken[i], false)
			}
			for _, rc := range r.all {
				r.Judge(rc)
			}
			r.End()
		}
		for i, rate := range rates {
			r.taken[i] += uint64(rate / 100)
		}
	}
}

func (r *receivers) counts() (all []bool) {
	for _, rc := range r.all {
		all = append(all, r.Counts(rc))
	}
	return all
}

func TestMeter_WhoCounts(t *testing.T) {
	const player = true
	for name, row := range map[string]struct {
		players []bool
		rates   []float64
		want    []bool
	}{
		"one":                        {[]bool{false}, []float64{1e6}, []bool{true}},
		"as fast as the media":       {[]bool{false, false}, []float64{1e6, 4e6}, []bool{true, true}},
		"a bit slower than it":       {[]bool{false, false}, []float64{0.9e6, 3e6}, []bool{false, true}},
		"a quarter of the fastest":   {[]bool{false, false}, []float64{5e6, 20e6}, []bool{true, true}},
		"less":                       {[]bool{false, false}, []float64{4.9e6, 20e6}, []bool{false, true}},
		"all too slow":               {[]bool{false, false}, []float64{0.5e6, 0.5e6}, []bool{false, false}},
		"a trickle":                  {[]bool{false, false}, []float64{100, 2e6}, []bool{false, true}},
		"players and others":         {[]bool{player, false}, []float64{2e6, 2e6}, []bool{false, true}},
		"players alone":              {[]bool{player, player}, []float64{2e6, 2e6}, []bool{true, true}},
		"players, one slow":          {[]bool{player, player}, []float64{0.2e6, 2e6}, []bool{false, true}},
		"others that do not keep up": {[]bool{player, false}, []float64{2e6, 0}, []bool{true, false}},
		"a player is faster":         {[]bool{player, false}, []float64{50e6, 2e6}, []bool{false, true}},
	} {
		for clock, at := range clocks {
			t.Run(name+", clock "+clock, func(t *testing.T) {
				r := &receivers{now: at}
				for _, p := range row.players {
					r.add(p)
				}
				r.run(5*time.Second, 1e6, row.rates...)
				require.Equal(t, row.want, r.counts())
			})
		}
	}
}

// A receiver that is new has a second until it is measured, and one that keeps up
// has a second until it does not count any more.
func TestMeter_Changes(t *testing.T) {
	r := new(receivers)
	r.add(false)
	r.run(5*time.Second, 1e6, 2e6)
	late := r.add(false)
	require.True(t, r.Counts(r.all[late]), "before it was measured")
	r.run(900*time.Millisecond, 1e6, 2e6, 0)
	require.Equal(t, []bool{true, true}, r.counts())
	r.run(1500*time.Millisecond, 1e6, 2e6, 0)
	require.Equal(t, []bool{true, false}, r.counts())
	r.run(1200*time.Millisecond, 1e6, 2e6, 2e6)
	require.Equal(t, []bool{true, true}, r.counts(), "as soon as it takes enough")
	r.run(2500*time.Millisecond, 1e6, 2e6, 0.5e6)
	require.Equal(t, []bool{true, false}, r.counts())
	// One that stalls for less than a second is waited for.
	r.run(2*time.Second, 1e6, 2e6, 2e6)
	r.run(900*time.Millisecond, 1e6, 2e6, 0)
	require.Equal(t, []bool{true, true}, r.counts())
}

// What a receiver takes of what it has begun with is no rate for others.
func TestMeter_BeginningIsNoMeasure(t *testing.T) {
	var m Meter
	var joins, steady Receiver
	for i := range uint64(30) {
		m.Begin(int64(i)*int64(Every), 1e6)
		m.Measure(&joins, i*50e6/8, true)
		m.Measure(&steady, i*2e6/8, false)
		m.Judge(&joins)
		m.Judge(&steady)
		m.End()
		require.True(t, m.Counts(&steady), i)
		require.True(t, m.Counts(&joins), i)
	}
}

// A publisher that pauses takes no measure.
func TestMeter_Pause(t *testing.T) {
	r := new(receivers)
	r.add(false)
	r.run(3*time.Second, 1e6, 2e6)
	r.now += 100 * second
	r.run(300*time.Millisecond, 0, 0)
	require.Equal(t, []bool{true}, r.counts(), "nothing came")
	r.run(3*time.Second, 1e6, 1e6)
	require.Equal(t, []bool{true}, r.counts())
}

func TestBacklog_Room(t *testing.T) {
	const kB = 1 << 10
	for _, row := range []struct {
		b    Backlog
		fast float64
		want int
	}{
		{Backlog{0, 8192 * kB, 0, 8 * second}, 0, 4096 * kB},
		{Backlog{4097 * kB, 8192 * kB, 7 * second, 8 * second}, 0, -kB},
		{Backlog{0, 8192 * kB, 7 * second, 8 * second}, 0, 4096 * kB}, // waiting would not help
		{Backlog{0, 8192 * kB, 0, 8 * second}, 1e6, 512 * kB},
		{Backlog{0, 8192 * kB, 0, 8 * second}, 50 * kB, 100 * kB},
		{Backlog{0, 400 * kB, 0, 8 * second}, 1e6, 200 * kB},
		{Backlog{0, 8192 * kB, 2*second + 1, 8 * second}, 1e6, 0},
		{Backlog{-4096 * kB, 2048 * kB, 0, 8 * second}, 1e6, 4608 * kB}, // begins
		{Backlog{0, 0, 0, 0}, 0, 0},
		{Backlog{0, math.MaxInt, 0, math.MaxInt64}, 1e6, 512 * kB}, // no limits
	} {
		require.Equal(t, row.want, row.b.Room(row.fast), fmt.Sprintf("%+v", row))
	}
}

func TestNothingAllocates(t *testing.T) {
	f := new(feed)
	r := new(receivers)
	r.add(false)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		f.play(time.Second, 1)
		f.Waited(time.Millisecond, f.now)
		r.run(time.Second, 1e6)
	}))
}

// Times that stand still tell an encoder from a file no more: what is more than any
// encoder sends is read as fast as that, and what an encoder sends is read as it comes.
func TestPace_TimesThatStandStill(t *testing.T) {
	for name, row := range map[string]struct {
		at   func(i int64) uint32
		rate int64 // bytes a second that are sent
		want int64 // that are read
	}{
		"as fast as it is let": {func(int64) uint32 { return 7 }, 100_000_000, standing},
		"backwards":            {func(i int64) uint32 { return uint32(-i) }, 100_000_000, standing},
		"an encoder":           {func(int64) uint32 { return 7 }, 2_500_000, 2_500_000},
		"many bits":            {func(int64) uint32 { return 7 }, 4_900_000, 4_900_000},
	} {
		t.Run(name, func(t *testing.T) {
			const size = 10_000
			var p Pace
			var now, read int64
			longest := time.Duration(0)
			for now < 20*second {
				if sent := now / ms * row.rate / 1000 / size; read >= sent {
					now += ms
					continue
				}
				p.Note(row.at(read), size, size+200, now)
				read++
				if wait := p.Room(now); wait > 0 {
					now += int64(wait)
					p.Waited(wait, now)
				}
				longest = max(longest, time.Duration(now-read*size*second/row.rate))
			}
			require.InEpsilon(t, row.want*20, read*size, 0.06)
			if row.rate < standing {
				require.LessOrEqual(t, longest, mostDebt, "what is sent is delayed")
			}
		})
	}
}
