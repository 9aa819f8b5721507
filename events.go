package forward

import (
	"context"
	"encoding/json"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Event is something that has happened to a stream, a destination, a player or a
// backend. Fields that do not belong to its Kind are zero. No field holds a secret:
// Stream and Destination are as in the log. Name returns the name of the stream.
type Event struct {
	// Seq numbers the events of a Server from 1. A reader that missed some gets an
	// EventMissed first.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"` // when it happened
	Kind EventKind `json:"kind"` // which fields are set depends on it

	// Stream and StreamID are how the log shows the stream and Source.ID; Destination
	// and DestinationID are its URL without key and Forwarder.ID.
	Stream        string `json:"stream,omitempty"`
	StreamID      string `json:"stream_id,omitempty"`
	Destination   string `json:"destination,omitempty"`
	DestinationID string `json:"destination_id,omitempty"`

	// ClientID and Addr are those of the publisher or player.
	ClientID string `json:"client_id,omitempty"`
	Addr     string `json:"addr,omitempty"`
	// PublishID is Request.PublishID of the publisher that was accepted last.
	PublishID string `json:"publish_id,omitempty"`

	State  State  `json:"state,omitempty"`  // of EventDestination
	Reason Reason `json:"reason,omitempty"` // of EventUnpublish and EventPublisherLost
	// Err is why a destination changed its state or is tried again, or how the resolver
	// has failed; nil if there is no cause. Cause is its text.
	Err   error  `json:"-"`
	Cause string `json:"cause,omitempty"`
	// Retry is when the destination is tried again, of EventRetry; zero: never.
	Retry time.Time `json:"retry,omitzero"`
	// VideoCodec and AudioCodec are FourCCs, of EventLive and EventCodec.
	VideoCodec string `json:"video_codec,omitempty"`
	AudioCodec string `json:"audio_codec,omitempty"`
	// Count is how many messages were dropped, of EventDropped, or events missed, of
	// EventMissed.
	Count uint64 `json:"count,omitempty"`
	// After is how long a stream was live, of EventUnpublish, or how long after the
	// answer to publish a destination was sent its first video, of EventFirstKeyframe.
	After time.Duration `json:"-"`

	name func() string // see Name; a function is not printed
}

// Name returns the name of the stream, which the log may mask: see Source.Name. It is
// empty for events that are about no stream.
func (e Event) Name() string {
	if e.name == nil {
		return ""
	}
	return e.name()
}

// MarshalJSON writes the fields that are set. After is after_ms, in milliseconds.
func (e Event) MarshalJSON() ([]byte, error) {
	type fields Event
	return json.Marshal(struct {
		fields
		AfterMS int64 `json:"after_ms,omitempty"`
	}{fields(e), e.After.Milliseconds()})
}

// UnmarshalJSON reads what MarshalJSON writes: not Err, and of Stream only what the log
// shows of the name.
func (e *Event) UnmarshalJSON(text []byte) error {
	type fields Event
	all := struct {
		*fields
		AfterMS int64 `json:"after_ms"`
	}{fields: (*fields)(e)}
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	e.After = time.Duration(all.AfterMS) * time.Millisecond
	return nil
}

// EventKind says what has happened.
type EventKind string

// The kinds of Event.
const (
	// EventPublish: a stream was published and accepted.
	EventPublish EventKind = "publish"
	// EventLive: its first audio or video has come.
	EventLive EventKind = "live"
	// EventCodec: a sequence header was replaced by another.
	EventCodec EventKind = "codec"
	// EventPublisherLost: the publisher has gone and the stream waits for another.
	EventPublisherLost EventKind = "publisher_lost"
	// EventPublisher: another publisher has the stream.
	EventPublisher EventKind = "publisher"
	// EventUnpublish: a stream and everything that sent it have ended, for a Reason.
	EventUnpublish EventKind = "unpublish"
	// EventDestination: a destination has another State.
	EventDestination EventKind = "destination"
	// EventFirstKeyframe: a destination was sent its first video.
	EventFirstKeyframe EventKind = "first_keyframe"
	// EventDropped: a destination has missed messages, since the last such event. There
	// is at most one a second, and one when its connection has ended.
	EventDropped EventKind = "dropped"
	// EventRetry: a destination was lost, or not reached, and is tried again.
	EventRetry EventKind = "retry"
	// EventPlay: a player was accepted.
	EventPlay EventKind = "play"
	// EventStop: it has stopped, or left.
	EventStop EventKind = "stop"
	// EventResolverFailing: the resolver has returned an error. Further errors are no
	// events until EventResolverWell.
	EventResolverFailing EventKind = "resolver_failing"
	// EventResolverWell: the resolver has answered again.
	EventResolverWell EventKind = "resolver_well"
	// EventMissed: the reader was too slow and has missed Count events.
	EventMissed EventKind = "missed"
)

// Reason is why a stream ended or lost its publisher.
type Reason string

// The reasons.
const (
	ReasonUnpublish Reason = "unpublish" // the publisher has ended it
	ReasonLost      Reason = "lost"      // the publisher's connection has ended
	ReasonTimeout   Reason = "timeout"   // the publisher has sent no media
	ReasonKicked    Reason = "kicked"    // Source.Close or Shutdown
	ReasonShutdown  Reason = "shutdown"  // Server.Close or Shutdown
)

// eventsKept is how many events a reader may lag before it misses some.
const eventsKept = 1024

// events is a Server's events. They cost nothing while nobody reads them.
type events struct {
	readers atomic.Int32

	mu     sync.Mutex
	kept   []Event // the last ones by their Seq; nil until there is a reader
	last   uint64  // Seq of the last
	wakes  map[chan struct{}]struct{}
	closed bool
}

// emit adds an event, which make makes if anybody reads it. Its caller may hold locks:
// make must not take any.
func (e *events) emit(make func() Event) {
	if e.readers.Load() == 0 {
		return
	}
	ev := make()
	if ev.Time.IsZero() {
		ev.Time = time.Now()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.kept == nil {
		return
	}
	e.last++
	ev.Seq = e.last
	e.kept[ev.Seq%eventsKept] = ev
	e.wakeLocked()
}

// caused returns the event with err as its cause. The text of err may be the host's code:
// the caller holds no locks.
func (e *events) caused(ev Event, err error) Event {
	if err != nil && e.readers.Load() > 0 {
		ev.Err, ev.Cause = err, causeText(err)
	}
	return ev
}

// causeText is the text of err without the destination, which the event names.
func causeText(err error) string {
	if lost, ok := err.(*DestinationError); ok {
		return string(lost.Op) + ": " + lost.Err.Error()
	}
	return err.Error()
}

// wakeLocked wakes the readers that wait. One that does not is woken already.
func (e *events) wakeLocked() {
	for wake := range e.wakes {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// close ends the readers when they have read everything.
func (e *events) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.wakeLocked()
}

// read is Server.Events.
func (e *events) read(ctx context.Context) iter.Seq[Event] {
	ctx = orBackground(ctx)
	wake := make(chan struct{}, 1)
	e.mu.Lock()
	if e.kept == nil {
		e.kept = make([]Event, eventsKept)
	}
	if e.wakes == nil {
		e.wakes = make(map[chan struct{}]struct{})
	}
	e.wakes[wake] = struct{}{}
	at := e.last + 1
	e.mu.Unlock()
	e.readers.Add(1)
	leave := sync.OnceFunc(func() {
		e.mu.Lock()
		delete(e.wakes, wake)
		if len(e.wakes) == 0 {
			e.kept = nil
		}
		e.mu.Unlock()
		e.readers.Add(-1)
	})
	stop := context.AfterFunc(ctx, leave)
	return func(yield func(Event) bool) {
		defer leave()
		defer stop()
		for ctx.Err() == nil {
			ev, ok, over := e.next(&at)
			switch {
			case ok:
				if !yield(ev) {
					return
				}
			case over:
				return
			default:
				select {
				case <-wake:
				case <-ctx.Done():
				}
			}
		}
	}
}

// next is the event that a reader at a place gets next, if there is one; over: there
// will be none.
func (e *events) next(at *uint64) (ev Event, ok, over bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch first := e.last - min(e.last, eventsKept) + 1; {
	case *at > e.last || e.kept == nil:
		return Event{}, false, e.closed || e.kept == nil
	case *at < first:
		ev = Event{Kind: EventMissed, Time: time.Now(), Seq: first - 1, Count: first - *at}
		*at = first
	default:
		ev = e.kept[*at%eventsKept]
		*at++
	}
	return ev, true, false
}

// emit adds an event of a player.
func (p *player) emit(kind EventKind) {
	p.conn.srv.events.emit(func() Event {
		id := hashID(p.key.String())
		shown := p.key
		if !p.named {
			shown.path = p.key.path[:strings.LastIndexByte(p.key.path, '/')+1] + "#" + id[:8]
		}
		return Event{
			Kind: kind, Stream: shown.String(), StreamID: id, name: p.key.String,
			ClientID: p.conn.id, Addr: p.conn.peer,
		}
	})
}
