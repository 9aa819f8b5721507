package forward

import (
	"net/netip"
	"slices"
	"time"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/joy"
)

// ServerStats is a snapshot of a Server. Counters only grow; those of streams include
// the streams that have ended.
type ServerStats struct {
	Connections  int // of clients
	Streams      int // live, or about to be
	Destinations int // of all streams
	Players      int // clients that play, or wait for a publisher
	// States counts the destinations by their state. Those of a stream that has ended
	// count until they have got the rest.
	States map[State]int
	// Buffered is how many bytes of Config.MemoryBudget are in use: by all
	// Servers that share it, where it is the process's. MemoryBudget is that budget in
	// bytes; 0 if there is none.
	Buffered     int
	MemoryBudget int

	Publishes uint64 // streams that went live
	Plays     uint64 // plays that were accepted
	// ReceivedBytes and ReceivedMessages count audio, video and data messages of
	// publishers, as SourceStats.Bytes does.
	ReceivedBytes    uint64
	ReceivedMessages uint64
	Sent             Totals // of all streams

	// Latency is the time from the arrival of a message until a receiver's
	// connection has taken it, once for each write. It includes the merge window.
	Latency Durations
	// FirstKeyframe is the time from a destination's answer to publish until the first
	// video was sent.
	FirstKeyframe Durations
	// Calls counts the calls of the host's code by its name in Hooks or Config:
	// "OnPublish", "Resolver" and so on.
	Calls map[string]CallStats

	// Refused counts the connects, publishes and plays that were refused by
	// a hook, by PublishAuth or by a Resolver (ErrRefused). The answer to
	// each comes 250 ms after the request at the earliest.
	Refused uint64
	// RefusedFrom counts them by address (of IPv6 the first 64 bits), for the
	// 1024 addresses that were refused last.
	RefusedFrom map[netip.Addr]uint64
}

// Totals counts what was sent. The counters include destinations and players that have
// left.
type Totals struct {
	// Bytes and Messages count media, to destinations and to players.
	Bytes    uint64
	Messages uint64
	// Connects, Accepted, DroppedLate, DroppedNoKeyframe and Lost are the sums of the
	// same counters in ForwarderStats.
	Connects          uint64
	Accepted          uint64
	DroppedLate       uint64
	DroppedNoKeyframe uint64
	Lost              map[Op]uint64
	// PlayersDroppedLate counts the messages that players did not get because they were
	// too slow, PlayersDroppedNoKeyframe those that needed a keyframe that they did not get.
	PlayersDroppedLate       uint64
	PlayersDroppedNoKeyframe uint64
}

// add adds what a destination has.
func (t *Totals) add(st *ForwarderStats) {
	t.Connects += st.Connects
	t.Accepted += st.Accepted
	t.DroppedLate += st.DroppedLate
	t.DroppedNoKeyframe += st.DroppedNoKeyframe
	t.addLost(st.Lost)
}

func (t *Totals) addLost(lost map[Op]uint64) {
	for op, n := range lost {
		if t.Lost == nil {
			t.Lost = make(map[Op]uint64)
		}
		t.Lost[op] += n
	}
}

// addAll adds the totals of a stream.
func (t *Totals) addAll(o Totals) {
	t.Bytes += o.Bytes
	t.Messages += o.Messages
	t.Connects += o.Connects
	t.Accepted += o.Accepted
	t.DroppedLate += o.DroppedLate
	t.DroppedNoKeyframe += o.DroppedNoKeyframe
	t.PlayersDroppedLate += o.PlayersDroppedLate
	t.PlayersDroppedNoKeyframe += o.PlayersDroppedNoKeyframe
	t.addLost(o.Lost)
}

// CallStats counts the calls of a hook.
type CallStats struct {
	Durations
	Failed uint64 // that returned an error, or panicked
}

// Durations is a histogram.
type Durations struct {
	Count   uint64        // of all durations
	Sum     time.Duration // of all durations
	Buckets []Bucket      // in ascending order
}

// Bucket is a bucket of Durations.
type Bucket struct {
	UpTo  time.Duration // the longest that it counts
	Count uint64        // those of the buckets before it included
}

func durations(h *fanout.Histogram) Durations {
	counts, sum := h.Read()
	d := Durations{Sum: sum, Buckets: make([]Bucket, len(fanout.Bounds))}
	for i, n := range counts {
		d.Count += n
		if i < len(d.Buckets) {
			d.Buckets[i] = Bucket{fanout.Bounds[i], d.Count}
		}
	}
	return d
}

// ended is the counters of streams that have ended.
type ended struct {
	bytes, messages uint64
	sent            Totals
}

// SourceStats is a snapshot of a Source. Counters only grow. Rates are those of the last
// 5 seconds.
type SourceStats struct {
	// Since is when the stream began.
	Since time.Time
	// Bytes and Messages count the audio, video and data messages received; bytes
	// include their framing.
	Bytes    uint64
	Messages uint64
	// Frames and Keyframes count coded pictures, of several video tracks those of the
	// main one.
	Frames    uint64
	Keyframes uint64

	Bitrate     float64 // bits a second
	MessageRate float64 // messages a second
	FrameRate   float64 // frames a second

	// GOP is the media time between the last two keyframes, and GOPFrames how many
	// frames came in it; 0 until there are two.
	GOP       time.Duration
	GOPFrames int

	// VideoCodec and AudioCodec are FourCCs, such as avc1 and mp4a; empty while none
	// is known.
	VideoCodec string
	AudioCodec string
	// CodecChanges counts how often a sequence header has been replaced by
	// another; see Hooks.OnCodecChange.
	CodecChanges uint64
	// Format is what the sequence headers tell, else the metadata.
	Format Format

	Players int    // among the receivers now
	Sent    Totals // to all receivers

	// LogMessages and LogBytes are the size of the log that is kept for receivers
	// that lag and for new ones.
	LogMessages int
	LogBytes    int
}

// Format is what is known of a stream's pictures and sound. What is not known is zero.
type Format struct {
	Width, Height int    // in pixels
	Profile       string // of H.264, such as "High"
	SampleRate    int    // in Hz
	Channels      int    // of sound
}

// Stats returns a snapshot.
func (s *Source) Stats() SourceStats {
	st := SourceStats{
		Since: s.began, Bytes: s.bytes.Load(), Messages: s.messages.Load(), CodecChanges: s.codecs.count.Load(),
		Players: s.group.Players() + int(s.watching.Load()), Sent: s.totals(), Format: s.format(),
	}
	info, pictures := s.log.Info(), s.log.Pictures()
	st.VideoCodec, st.AudioCodec = codecName(info.Video), codecName(info.Audio)
	st.Frames, st.Keyframes, st.GOP, st.GOPFrames = pictures.Frames, pictures.Keyframes, pictures.GOP, pictures.GOPFrames
	st.Bitrate, st.MessageRate, st.FrameRate = s.rate.PerSecond(fanout.Clock(), s.counts())
	st.Bitrate *= 8
	st.LogMessages, st.LogBytes = s.log.Len()
	return st
}

// codecName is a codec's FourCC, empty for none.
func codecName(c flv.Codec) string {
	if c == 0 {
		return ""
	}
	return c.String()
}

// counts are the counters that have rates.
func (s *Source) counts() fanout.Counts {
	return fanout.Counts{Bytes: s.bytes.Load(), Messages: s.messages.Load(), Frames: s.log.Pictures().Frames}
}

// totals is what has been sent.
func (s *Source) totals() Totals {
	var t Totals
	s.mu.Lock()
	t.addAll(s.left)
	forwarders := slices.Clone(s.forwarders)
	s.mu.Unlock()
	for _, f := range forwarders {
		st := f.counters()
		t.add(&st)
	}
	t.Bytes, t.Messages = s.group.Sent()
	t.PlayersDroppedLate, t.PlayersDroppedNoKeyframe = s.missed.Overtaken.Load(), s.missed.Waited.Load()
	return t
}

// addStates counts the destinations by their state.
func (s *Source) addStates(states map[State]int) {
	for _, f := range s.Forwarders() {
		f.mu.Lock()
		states[f.stateLocked()]++
		f.mu.Unlock()
	}
}

// format reads the sequence headers, once while they stay the same.
func (s *Source) format() Format {
	set := s.log.Headers()
	s.mu.Lock()
	defer s.mu.Unlock()
	if set != s.formatOf {
		s.formatOf, s.formatIs = set, formatOf(set)
	}
	return s.formatIs
}

func formatOf(set *gop.HeaderSet) (f Format) {
	set.All(func(typ uint8, payload []byte) {
		if typ == chunk.TypeData {
			f = metadataFormat(payload)
		}
	})
	set.All(func(typ uint8, payload []byte) {
		st, err := joy.ParseStatistics(typ, payload)
		switch {
		case err != nil:
		case st.Width > 0:
			f.Width, f.Height, f.Profile = st.Width, st.Height, st.Profile
		case st.SampleRate > 0:
			f.SampleRate, f.Channels = st.SampleRate, st.Channels
		}
	})
	return f
}

const (
	// maxMetadataNumber bounds what metadata may say of a size or a rate.
	maxMetadataNumber = 1 << 20
	// maxChannels bounds it for channels.
	maxChannels = 255
)

// metadataFormat is what onMetaData says (FLV, E.5).
func metadataFormat(payload []byte) (f Format) {
	values, err := amf.DecodeAll(payload[flv.Data(payload, false).Payload:], amf.Limits{})
	if err != nil || len(values) < 2 {
		return Format{}
	}
	o, ok := amf.AsObject(values[1])
	if !ok {
		return Format{}
	}
	number := func(key string, most float64) int {
		n, _ := o.GetNumber(key)
		if !(n >= 1 && n <= most) {
			return 0
		}
		return int(n)
	}
	f.Width, f.Height = number("width", maxMetadataNumber), number("height", maxMetadataNumber)
	f.SampleRate, f.Channels = number("audiosamplerate", maxMetadataNumber), number("audiochannels", maxChannels)
	if stereo, ok := o.Get("stereo"); ok && f.Channels == 0 {
		f.Channels = 1
		if stereo == true {
			f.Channels = 2
		}
	}
	return f
}

// noKeyframe is the Warning of a destination that began without one.
const noKeyframe = "No keyframe came within 5 s: the destination began with video from the middle of a GOP."

// ForwarderStats is a snapshot of a Forwarder. Counters only grow.
type ForwarderStats struct {
	State State     // what the Forwarder is doing
	Since time.Time // when State began
	// NextAttempt is when the next attempt begins, in StateWaiting. It is zero
	// if Config.Retry has given up.
	NextAttempt time.Time

	// Connects counts attempted connections. An attempt takes three with
	// authentication, and two if the server requires the other form of the
	// handshake.
	Connects uint64
	Accepted uint64 // attempts whose publish was accepted
	Bytes    uint64 // sent
	Messages uint64 // sent
	// DroppedLate counts messages that were not sent because the destination was
	// too slow, DroppedNoKeyframe those that depend on a keyframe that the
	// destination did not get.
	DroppedLate       uint64
	DroppedNoKeyframe uint64
	// Lost counts failed attempts and lost connections, by Op of their error.
	Lost map[Op]uint64

	// Rates of the last 5 seconds; 0 without a connection.
	Bitrate     float64 // bits a second
	MessageRate float64 // messages a second
	FrameRate   float64 // video frames a second

	// Lag is the number of messages that wait to be sent, LagBytes their size,
	// LagMedia the time from the first to the last of them by their timestamps, and
	// LagAge the time since the first of them arrived.
	Lag      uint64
	LagBytes int
	LagMedia time.Duration
	LagAge   time.Duration
	// Unacked is the number of bytes that were sent and not acknowledged by the
	// destination, and RTT the round-trip time (TCP_INFO of Linux); 0 if the system
	// does not report them.
	Unacked int
	RTT     time.Duration
	// FirstKeyframe is the time from the destination's answer to publish until the
	// first video was sent; 0 before that.
	FirstKeyframe time.Duration

	// LastErr is why the last attempt ended, a *DestinationError; nil if none
	// has failed.
	LastErr error
	// Warning is one sentence, without secrets, about something that the
	// destination does not refuse but may not handle: a name that is longer
	// than its kind of server keeps, a codec that it does not list
	// (UnsupportedCodecError), or video that began without a keyframe because
	// none came within 5 s. Empty if there is no warning.
	Warning string
}
