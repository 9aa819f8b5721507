package forward

import (
	"maps"
	"net/netip"
	"time"

	"github.com/rtmp-forward/forward/internal/fanout"
)

// ServerStats is a snapshot of a Server. Counters only grow.
type ServerStats struct {
	Connections  int // of clients
	Streams      int // live, or about to be
	Destinations int // of all streams
	// Buffered is how many bytes of Config.MemoryBudget are in use: by all
	// Servers that share it, where it is the process's.
	Buffered int

	// Refused counts the connects, publishes and plays that were refused by
	// a hook, by PublishAuth or by a Resolver (ErrRefused). The answer to
	// each comes 250 ms after the request at the earliest.
	Refused uint64
	// RefusedFrom counts them by address (of IPv6 the first 64 bits), for the
	// 1024 addresses that were refused last.
	RefusedFrom map[netip.Addr]uint64
}

// Stats returns a snapshot.
func (s *Server) Stats() ServerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ServerStats{
		Connections: len(s.conns), Streams: len(s.sources), Destinations: s.pushes, Buffered: s.memory.Load().Used(),
		Refused: s.refusals.total, RefusedFrom: maps.Collect(s.refusals.counts),
	}
}

// ForwarderStats is a snapshot of a Forwarder. Counters only grow.
type ForwarderStats struct {
	State State
	Since time.Time // of the state
	// NextAttempt is when the next attempt begins, in StateWaiting. It is zero
	// if Config.Retry has given up.
	NextAttempt time.Time

	// Connects counts connections tried. An attempt with authentication takes
	// three, one whose server wants the other form of the handshake two.
	Connects uint64
	Accepted uint64 // attempts that were publishing
	Bytes    uint64
	Messages uint64
	// DroppedLate counts messages not sent because the destination was too
	// slow, DroppedNoKeyframe messages that refer to a keyframe that it did not
	// get.
	DroppedLate       uint64
	DroppedNoKeyframe uint64
	// Lag is how many messages are waiting to be sent.
	Lag uint64
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

// Stats returns a snapshot.
func (f *Forwarder) Stats() ForwarderStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, l := f.to.Load(), f.now.link
	st := f.total
	st.State, st.Since, st.LastErr = f.state, f.since, f.lastErr
	st.Warning = t.Endpoint.Warning()
	if err := t.untakenBy(l); err != nil && st.Warning == "" {
		st.Warning = err.Error()
	}
	st.NextAttempt = f.attempt
	for _, r := range f.runs {
		if r.began && r.link != nil {
			st.add(r.link.Out.Stats())
		}
	}
	if l != nil {
		o := l.Out.Stats()
		st.Lag = o.Lag
		if o.Blind && st.Warning == "" {
			st.Warning = noKeyframe
		}
	}
	if f.state.publishes() && f.Ending() {
		st.State = StateDraining
	}
	return st
}

func (st *ForwarderStats) add(o fanout.Stats) {
	st.Bytes += o.Bytes
	st.Messages += o.Messages
	st.DroppedLate += o.Overtaken
	st.DroppedNoKeyframe += o.Waited
}

// SourceStats is a snapshot of a Source. Counters only grow.
type SourceStats struct {
	Since      time.Time
	Bytes      uint64 // received, with their framing
	Messages   uint64
	VideoCodec string // empty while none is known
	AudioCodec string
	// CodecChanges counts how often a sequence header has been replaced by
	// another; see Hooks.OnCodecChange.
	CodecChanges uint64
	// LogMessages and LogBytes are the size of the log that is kept for receivers
	// that lag and for new ones.
	LogMessages int
	LogBytes    int
}

// Stats returns a snapshot.
func (s *Source) Stats() SourceStats {
	st := SourceStats{Since: s.began, Bytes: s.bytes.Load(), Messages: s.messages.Load(), CodecChanges: s.codecChanges.Load()}
	info := s.log.Info()
	if info.Video != 0 {
		st.VideoCodec = info.Video.String()
	}
	if info.Audio != 0 {
		st.AudioCodec = info.Audio.String()
	}
	st.LogMessages, st.LogBytes = s.log.Len()
	return st
}

// noKeyframe is the Warning of a destination that began without one.
const noKeyframe = "No keyframe came within 5 s: the destination began with the video that came."
