package forward

import (
	"math"
	"time"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/sys"
)

// Limits bounds what peers may ask for. Before a publish or play is accepted the limits
// are small constants: 64 KiB for a message, 16 KiB of unfinished messages before
// connect and 128 KiB after it, 16 chunk streams, 32 commands.
type Limits struct {
	// Connections is how many connections may be open. One that has ended does not
	// count, even while its stream drains. A TLS connection whose peer does not
	// read, or a connection of the host's, may take some seconds to close: closing
	// connections count if there are more of them than an eighth of the limit (at
	// least 8). Default 80 % of the file descriptors that the process may open, or
	// 10000 if the system does not report that number.
	Connections int
	// ConnectionsPerAddress is the same for one address (of IPv6 the first 64
	// bits). Connections without an address are not counted. Default none: a
	// cluster, or a site behind one address, may have many.
	ConnectionsPerAddress int
	// RefusalsPerAddress is how many connects, publishes and plays of an address
	// (as in ServerStats.RefusedFrom) may be refused within a minute of the
	// first. After that, new connections from the address are closed immediately,
	// with one line in the log, until a minute has passed since the last
	// refusal; open ones stay. Connections without an address are not counted.
	// Default none: many clients may share one address.
	RefusalsPerAddress int
	// PendingHandshakes is how many connections may be in their handshake. The
	// oldest is closed if there is one more. Default 1024.
	PendingHandshakes int
	// Streams is how many streams may be live. Default 4096.
	Streams int
	// Destinations limits the destinations of one stream, TotalDestinations
	// those of all streams. Defaults 1024 and 16384.
	Destinations      int
	TotalDestinations int
	// MediaSize limits an audio or video message of an accepted publisher,
	// DataSize a data message or command, in bytes. Defaults 8 MiB and 256 KiB.
	MediaSize int
	DataSize  int
	// PartialSize limits a publisher's unfinished messages, in bytes.
	// Default 16 MiB.
	PartialSize int
	// ChunkStreams is how many chunk streams an accepted publisher or player may
	// use. Default 32.
	ChunkStreams int
}

// setupLimits are the limits of a connection before its publish or play is accepted,
// and of the messages that a destination sends us.
var setupLimits = chunk.Limits{
	Media:    64 << 10,
	Command:  64 << 10,
	Partial:  128 << 10,
	Streams:  16,
	TinySize: 64 << 10,
	Step:     1 << 10,
}

// connectLimits are the limits before connect.
var connectLimits = func() chunk.Limits {
	l := setupLimits
	l.Partial = 16 << 10
	return l
}()

func age(d time.Duration) int64 {
	if d < 0 {
		return math.MaxInt64
	}
	return int64(d)
}

// unlimited replaces a negative limit with a number that is never reached.
func unlimited(v int) int {
	if v < 0 {
		return math.MaxInt32
	}
	return v
}

// defaultMemoryBudget is the budget that the Servers of the process share.
func defaultMemoryBudget() int {
	if limit := sys.MemoryLimit(); limit > 0 {
		return int(min(limit/4, math.MaxInt))
	}
	return 512 << 20
}
