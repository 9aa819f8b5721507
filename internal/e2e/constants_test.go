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

// Times and limits that no setting changes, as clients and destinations see them.
const (
	refusalDelay    = 250 * time.Millisecond // minimum before a refusal is answered
	acceptMin       = 5 * time.Millisecond   // between two failures of Accept, at first
	acceptMax       = time.Second            // and at most
	tellTimeout     = 30 * time.Second       // for a hook that reports an end,
	tellAfterClose  = 5 * time.Second        // and after Close
	lingerTime      = time.Second            // for a client to read the reason of its refusal
	nextHold        = 2 * time.Second        // for a next publisher without a keyframe
	stalledAfter    = 2 * time.Second        // without progress
	codecsKnown     = 5 * time.Second        // until codecs that have not come are assumed absent
	seam            = 100                    // ms between two publishes, for players
	maxAggregate    = 1024                   // messages in an aggregate
	leastClosing    = 8                      // closing connections allowed beside a limit
	busyGrace       = 200 * time.Millisecond // for a name to become free
	moveEvery       = 10 * time.Second       // between two ReconnectRequests that are followed
	hopsProperty    = "forwardHops"          // of connect
	publishProperty = "forwardPublish"       // of connect
)

// Warnings of a stream, as Stats reports them.
const noKeyframe = "No keyframe came within 5 s: the destination began with video from the middle of a GOP."

// Parts of errors.
var (
	errNoAudio       = errors.New("the stream has no audio, which the platform needs")
	errRedirectNever = errors.New("redirects are not followed")
	errRedirectHost  = errors.New("another host, to which Destination.Redirect does not allow to go")
)
