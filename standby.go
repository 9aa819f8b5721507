package forward

import (
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/gop"
)

// Standby lets several publishers of one name stay connected. One is on air; the others
// wait, each with its last GOP. If the one on air is lost, stalls or unpublishes, the next
// one continues the stream from its last keyframe: receivers stay connected, and their
// timestamps go on. The publishers that wait are accepted as any other (see Hooks). The
// Resolver is always asked about the first one, so that destinations stay where they are.
// The messages of a publisher that waits go nowhere, and count in Config.MemoryBudget.
type Standby struct {
	// Publishers is how many may wait. One more is refused with ErrStreamBusy.
	Publishers int
	// Stall is how long the publisher on air may send no media before the next one takes
	// its place. It then waits, too. Default 2 s.
	Stall time.Duration
	// Return is how long a publisher with a lower rank than the one on air must have sent
	// media, with no gap longer than Stall, before it gets the stream back, at its next
	// keyframe. Default 0 and negative: it waits until the other one is lost.
	Return time.Duration
	// Rank returns the rank of a publisher. The lowest is preferred, and of equal ranks
	// the earliest. By default a publisher's rank is the number of publishers that the
	// stream had before it. Rank is called as hooks are, after OnPublish has accepted.
	Rank func(req *Request) int
	// SameFormat disconnects a publisher that waits with ErrFormat if its codecs, size or
	// sample rate differ from those of the stream. By default it may come on air, which
	// Hooks.OnCodecChange reports; some platforms end such a broadcast.
	SameFormat bool
}

// withDefaults returns a copy with the defaults, or nil if no publisher may wait.
func (s *Standby) withDefaults() *Standby {
	if s == nil || s.Publishers <= 0 {
		return nil
	}
	c := *s
	def(&c.Stall, 2*time.Second)
	return &c
}

// noVideo is how long a publisher that is not on air may send only audio before it may come
// on air without a keyframe.
const noVideo = 2 * time.Second

// kept is what a publisher has sent that is not on air: the headers, and its messages from
// the last keyframe on. It is guarded by src.inputs.mu.
type kept struct {
	log *gop.Log
	set *gop.HeaderSet

	first  int64 // when the first message came, on fanout.Clock
	last   int64 // when the last one came
	steady int64 // since when there was no gap longer than Standby.Stall
	video  bool  // one of the messages was video
	sound  bool  // only audio has come for noVideo
}

// beginLocked begins to keep the messages of a publisher of src.
func (k *kept) beginLocked(src *Source, now int64) {
	*k = kept{log: gop.New(gop.Limits{Bytes: 1}), first: now, steady: now} // 1: the last message alone
	k.log.Lagging = func(int64) (int, func()) { return 0, nil }
	k.log.SetBudget(src.memory)
}

// addLocked keeps a message of a next publisher of src. An error says why the publisher must
// leave.
func (k *kept) addLocked(src *Source, frame *chunk.Frame, wrap bool, now int64) error {
	if k.log == nil {
		k.beginLocked(src, now)
	}
	standby := src.vhost.Standby
	if standby != nil && k.last > 0 && now-k.last > int64(standby.Stall) {
		k.steady = now
	}
	k.last = now
	media, keyframe, header := gop.Look(frame)
	k.video = k.video || frame.Type == chunk.TypeVideo
	k.sound = !k.video && (k.sound || media && now-k.first > int64(noVideo))
	if !header && !keyframe && !k.sound && k.log.Key() == nil {
		return nil
	}
	switch {
	case keyframe:
		k.log.SetBytes(unlimited(src.cfg.MaxBytes))
	case header:
		frame = frame.Apart()
	}
	k.set = k.log.Append(frame, wrap, now).After
	if k.isReadyLocked() && standby != nil && standby.SameFormat && !sameFormat(src.log, k.log) {
		return ErrFormat
	}
	return nil
}

// isReadyLocked reports whether the publisher may come on air.
func (k *kept) isReadyLocked() bool { return k.log != nil && k.log.Key() != nil || k.sound }

// isSilentLocked reports whether the publisher, which is not on air, has sent something, but
// nothing for limit.
func (k *kept) isSilentLocked(limit time.Duration, now int64) bool {
	return k.last > 0 && now-k.last > int64(limit)
}

// allLocked returns the headers, and the messages from the last keyframe on; without video,
// the last message alone.
func (k *kept) allLocked() (headers []*chunk.Frame, messages []*gop.Message) {
	if k.log == nil {
		return nil, nil
	}
	head := k.log.Head()
	first := k.log.Key()
	if first == nil {
		first = k.log.Get(head - 1)
	}
	if first == nil {
		return k.set.Frames(), nil
	}
	for seq := first.Seq; seq < head; seq++ {
		messages = append(messages, k.log.Get(seq))
	}
	return first.Set.Frames(), messages
}

// dropLocked drops what is kept.
func (k *kept) dropLocked() {
	if k.log != nil {
		k.log.End()
		k.log.Release()
	}
	*k = kept{}
}

// againLocked begins with the headers that the publisher of src, which is on air, has sent.
func (k *kept) againLocked(src *Source, now int64) {
	k.beginLocked(src, now)
	k.last = src.inputs.last.at
	for _, frame := range src.log.Headers().Frames() {
		k.set = k.log.Append(frame, frame.Type == chunk.TypeData, now).After
		k.video = k.video || frame.Type == chunk.TypeVideo
	}
}

// sameFormat reports whether two streams have the same codecs, sizes and sample rates, as
// far as both are known.
func sameFormat(a, b *gop.Log) bool {
	x, y := a.Info(), b.Info()
	f, g := formatOf(a.Headers()), formatOf(b.Headers())
	same := func(a, b int) bool { return a == 0 || b == 0 || a == b }
	return same(int(x.Video), int(y.Video)) && same(int(x.Audio), int(y.Audio)) &&
		same(f.Width, g.Width) && same(f.Height, g.Height) && same(f.SampleRate, g.SampleRate) && same(f.Channels, g.Channels)
}
