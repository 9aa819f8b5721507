package forward

import (
	"context"
	"errors"
	"io"

	"github.com/nareix/joy4/av"

	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/joy"
)

// Message is one audio, video or data message of a stream.
type Message struct {
	Type      uint8  // TagAudio, TagVideo or TagData
	Timestamp uint32 // milliseconds, modulo 2^32
	Payload   []byte // the body of an FLV tag; the receiver's own
}

// Subscription reads a stream inside the process. It is for one goroutine; but
// Close may be called by any.
type Subscription struct {
	ctx    context.Context
	cancel context.CancelFunc
	tap    *fanout.Tap
	queue  []Message
}

// Subscribe reads the stream from its last keyframe on: metadata and sequence
// headers first, then every message as it comes. Who does not keep up goes on
// at the newest keyframe, as a slow player would. It ends with ctx, with Close
// or with the stream.
func (s *Source) Subscribe(ctx context.Context) *Subscription {
	sub := &Subscription{tap: s.group.Tap()}
	sub.ctx, sub.cancel = context.WithCancel(ctx)
	unhook := context.AfterFunc(s.ctx, sub.cancel)
	context.AfterFunc(sub.ctx, func() {
		unhook()
		sub.tap.Close()
	})
	return sub
}

// Next returns the next message, waiting for it. It returns io.EOF behind the
// last message of a stream that has ended, and the context's error after
// Close.
func (s *Subscription) Next() (Message, error) {
	for len(s.queue) == 0 {
		s.queue = s.queue[:0]
		err := s.tap.Next(s.ctx, func(typ uint8, ms uint32, payload []byte) {
			s.queue = append(s.queue, Message{typ, ms, payload})
		})
		if err != nil {
			s.cancel()
			return Message{}, err
		}
	}
	m := s.queue[0]
	s.queue = s.queue[1:]
	return m, nil
}

// Close ends the subscription.
func (s *Subscription) Close() error {
	s.cancel()
	return nil
}

// Demuxer reads a stream as joy4's packets. Like Subscription it is for one
// goroutine, but for Close.
type Demuxer struct {
	sub   *Subscription
	dec   *joy.Decoder
	queue []av.Packet
	err   error
}

var _ av.DemuxCloser = (*Demuxer)(nil)

// Demuxer reads the stream from its last keyframe on as packets of joy4, which
// knows H.264, AAC and Speex; for other codecs there is Subscribe. It ends with
// ctx, with Close or with the stream.
func (s *Source) Demuxer(ctx context.Context) *Demuxer {
	return &Demuxer{sub: s.Subscribe(ctx), dec: joy.NewDecoder()}
}

// Streams waits until the stream's codecs are known, at most for 2 s of media,
// and returns them, video first.
func (d *Demuxer) Streams() ([]av.CodecData, error) {
	for {
		streams, err := d.dec.Streams()
		if !errors.Is(err, joy.ErrProbing) {
			return streams, err
		}
		if err := d.fill(); err != nil {
			return nil, err
		}
	}
}

// ReadPacket waits for the next packet. It returns io.EOF when the stream has
// ended.
func (d *Demuxer) ReadPacket() (av.Packet, error) {
	for len(d.queue) == 0 {
		if err := d.fill(); err != nil {
			return av.Packet{}, err
		}
	}
	p := d.queue[0]
	d.queue = d.queue[1:]
	return p, nil
}

// fill reads one message.
func (d *Demuxer) fill() error {
	if d.err != nil {
		return d.err
	}
	m, err := d.sub.Next()
	var packets []av.Packet
	switch {
	case err == io.EOF:
		// A stream shorter than the probe ends it.
		d.err = err
		if packets, err = d.dec.Flush(); err != nil {
			d.err = err
		}
	case err != nil:
		d.err = err
	default:
		packets, d.err = d.dec.Write(m.Type, m.Timestamp, m.Payload)
	}
	d.queue = append(d.queue, packets...)
	if len(packets) > 0 {
		return nil
	}
	return d.err
}

// Close ends reading.
func (d *Demuxer) Close() error { return d.sub.Close() }
