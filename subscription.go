package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nareix/joy4/av"

	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/joy"
)

// Message is one audio, video or data message of a stream.
type Message struct {
	Type      uint8  // TagAudio, TagVideo or TagData
	Timestamp uint32 // milliseconds, modulo 2^32
	Payload   []byte // the body of an FLV tag; owned by the receiver
}

// Subscription reads a stream inside the process. One goroutine may use it; Close
// may be called from any.
type Subscription struct {
	ctx    context.Context
	cancel context.CancelFunc
	tap    *fanout.Tap
	queue  []Message

	drain time.Duration // negative: no limit
	read  atomic.Int64  // when Next was called last, on fanout.Clock
	cut   atomic.Bool

	mu   sync.Mutex
	stop func() // stops the timer of expire; nil if there is none
}

func newSubscription(ctx context.Context, s *Source) *Subscription {
	sub := &Subscription{tap: s.group.Tap(), drain: s.cfg.DrainTimeout}
	sub.ctx, sub.cancel = context.WithCancel(orBackground(ctx))
	unhook := context.AfterFunc(s.ctx, sub.cancel)
	unwatch := context.AfterFunc(s.publishing, func() {
		sub.read.Store(fanout.Clock())
		sub.expire()
	})
	context.AfterFunc(sub.ctx, func() {
		unhook()
		unwatch()
		sub.tap.Close()
		sub.mu.Lock()
		defer sub.mu.Unlock()
		if sub.stop != nil {
			sub.stop()
		}
	})
	return sub
}

// expire closes the Subscription if the stream has ended and Next has not been called
// for too long.
func (s *Subscription) expire() {
	if s.drain < 0 {
		return
	}
	left := s.drain - time.Duration(fanout.Clock()-s.read.Load())
	if left <= 0 {
		s.cut.Store(s.tap.Lag() > 0)
		s.cancel()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() == nil {
		s.stop = later(left, s.expire)
	}
}

// errUnread is the error of Next after the Subscription was closed by expire.
var errUnread = fmt.Errorf("%w: the rest of the stream was not read within DrainTimeout of its end", ErrLimit)

// errShed is the error of Next after the rest of the stream was dropped.
var errShed = fmt.Errorf("%w: memory was short, and the rest of a stream that has ended was given up", ErrLimit)

// Next waits for the next message and returns it. After the last message of a stream
// that has ended it returns io.EOF, and after Close the context's error. If the rest of
// an ended stream was not read in time, or was dropped because MemoryBudget is nearly
// used up, it returns an error that wraps ErrLimit.
func (s *Subscription) Next() (Message, error) {
	s.read.Store(fanout.Clock())
	for len(s.queue) == 0 {
		s.queue = s.queue[:0]
		err := s.tap.Next(s.ctx, func(typ uint8, ms uint32, payload []byte) {
			s.queue = append(s.queue, Message{typ, ms, payload})
		})
		switch {
		case s.cut.Load():
			err = errUnread
		case errors.Is(err, fanout.ErrMemory):
			err = errShed
		}
		if err != nil {
			s.cancel()
			return Message{}, err
		}
	}
	m := s.queue[0]
	s.queue[0] = Message{} // releases its payload
	s.queue = s.queue[1:]
	return m, nil
}

// Pending returns how many messages of the stream wait to be read: 0 if Next would wait. A
// few of them may not be for receivers, and be left out. It is for the goroutine that
// calls Next.
func (s *Subscription) Pending() int { return len(s.queue) + int(s.tap.Lag()) }

// Close ends the Subscription. It returns nil.
func (s *Subscription) Close() error {
	s.cancel()
	return nil
}

// demuxer implements Source.Demuxer.
type demuxer struct {
	sub   *Subscription
	dec   *joy.Decoder
	queue []av.Packet
	err   error
}

func (d *demuxer) Streams() ([]av.CodecData, error) {
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

func (d *demuxer) ReadPacket() (av.Packet, error) {
	for len(d.queue) == 0 {
		if err := d.fill(); err != nil {
			return av.Packet{}, err
		}
	}
	p := d.queue[0]
	d.queue[0] = av.Packet{} // releases its data
	d.queue = d.queue[1:]
	return p, nil
}

// fill reads one message.
func (d *demuxer) fill() error {
	if d.err != nil {
		return d.err
	}
	m, err := d.sub.Next()
	var packets []av.Packet
	switch {
	case err == io.EOF:
		// The stream may be shorter than the probe for its codecs.
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

func (d *demuxer) Close() error { return d.sub.Close() }
