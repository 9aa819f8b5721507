package e2e

import (
	"errors"
	"time"
)

const (
	handshakeTimeout = 5 * time.Second
	readTimeout      = 10 * time.Second
	maxBytes         = 16 << 20
)

// Times and limits that no setting changes, as a client or destination sees them.
const (
	refusalDelay   = 250 * time.Millisecond // before a refusal is answered, at least
	acceptMin      = 5 * time.Millisecond   // between two failures of Accept, and
	acceptMax      = time.Second            // at most
	tellTimeout    = 30 * time.Second       // for a hook that is told of an end,
	tellAfterClose = 5 * time.Second        // and from Close on
	lingerTime     = time.Second            // for a client to read why it is refused
	nextHold       = 2 * time.Second        // for which a next publisher may be without a keyframe
	stalledAfter   = 2 * time.Second        // without progress
	codecsKnown    = 5 * time.Second        // until codecs that have not come are taken not to come
	seam           = 100                    // ms between two publishes, for players
	maxAggregate   = 1024                   // messages in an aggregate
	leastClosing   = 8                      // connections that may be closing beside a limit
	busyGrace      = 200 * time.Millisecond // for a name to become free
	moveEvery      = 10 * time.Second       // between two requests to reconnect that are followed
	hopsProperty   = "forwardHops"          // of connect
)

// What is said of a stream, as Stats has it.
const noKeyframe = "No keyframe came within 5 s: the destination began with video from the middle of a GOP."

// Parts of errors.
var (
	errNoAudio       = errors.New("the stream has no audio, which the platform needs")
	errRedirectNever = errors.New("redirects are not followed")
	errRedirectHost  = errors.New("another host, to which Destination.Redirect does not allow to go")
)
