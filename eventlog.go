package forward

import "time"

// The log's lines about streams and destinations are made of the same Event that the
// readers of Events get, by attrs, so that they cannot disagree. A line is written by the
// goroutine that has made the event, after its locks: the logger is the host's code, and
// a line is in the log when the method that caused it returns.

// eventLines are the messages of the log's lines; those of destinations are in reports.
var eventLines = map[EventKind]string{
	EventPublish:       "publish",
	EventCodec:         "codec changed",
	EventPublisherLost: "publisher lost",
	EventPublisher:     "publisher has the stream",
	EventUnpublish:     "unpublish",
}

// attrs are the attributes of a line about the event, without those that name a
// destination, which its logger has. States and durations are texts.
func (e *Event) attrs() (args []any) {
	add := func(key, value string) {
		if value != "" {
			args = append(args, key, value)
		}
	}
	add("event", string(e.Kind))
	if e.DestinationID == "" {
		add("source", e.Stream)
	}
	add("publish_id", e.PublishID)
	if e.ClientID != "" {
		args = append(args, "client", e.ClientID, "addr", e.Addr)
	}
	add("state", string(e.State))
	add("reason", string(e.Reason))
	add("video", e.VideoCodec)
	add("audio", e.AudioCodec)
	if e.After > 0 {
		add("after", e.After.Round(time.Millisecond).String())
	}
	if e.Err != nil {
		args = append(args, "err", hidden{e.Err, e.Cause})
	}
	return args
}
