package forward

import (
	"maps"
	"net/netip"
	"time"
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

// SourceStats is a snapshot of a Source. Counters only grow.
type SourceStats struct {
	// Since is when the stream began.
	Since time.Time
	// Bytes and Messages count the audio, video and data messages received; bytes
	// include their framing.
	Bytes    uint64
	Messages uint64
	// VideoCodec and AudioCodec are FourCCs, such as avc1 and mp4a; empty while none
	// is known.
	VideoCodec string
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
const noKeyframe = "No keyframe came within 5 s: the destination began with video from the middle of a GOP."
