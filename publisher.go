package forward

import (
	"context"
	"fmt"
	"sync"

	"github.com/nareix/joy4/av"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/flow"
	"github.com/rtmp-forward/forward/internal/joy"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Publisher publishes a stream from inside the process: a file, a camera, a transcoder.
// It is an av.MuxCloser for the codecs of joy4 (H.264, AAC, Speex), and publishes FLV
// tags of any codec. Its methods are safe for concurrent use; messages are published in
// the order of the calls.
type Publisher struct {
	shown
	pub    *publication
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu  sync.Mutex
	enc *joy.Encoder
	err error
}

var _ av.MuxCloser = (*Publisher)(nil)

// Source returns the stream that p publishes.
func (p *Publisher) Source() *Source { return p.pub.src }

// The message types of WriteTag.
const (
	TagAudio = chunk.TypeAudio
	TagVideo = chunk.TypeVideo
	TagData  = chunk.TypeData
)

// WriteTag publishes one message: the body of an FLV tag of any codec, which it copies.
// typ is TagAudio, TagVideo or TagData, ms the timestamp in milliseconds, modulo 2^32.
// WriteTag waits up to 200 ms if receivers that otherwise keep up lag far; media written
// in real time is delayed by no more than that in total. After the end of the stream it
// returns the cause: ErrKicked, ErrTakenOver, ErrNoKeyframe, ErrStreamEnded or
// ErrServerClosed. It returns ErrLimit for a body larger than Limits.MediaSize.
func (p *Publisher) WriteTag(typ uint8, ms uint32, body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.write(typ, ms, body)
}

func (p *Publisher) write(typ uint8, ms uint32, body []byte) error {
	if p.err == nil && p.ctx.Err() != nil {
		p.err = context.Cause(p.ctx)
	}
	if p.err == nil && p.pub.src.ctx.Err() != nil {
		p.err = ErrServerClosed
	}
	if p.err != nil {
		return p.err
	}
	switch typ {
	case TagAudio, TagVideo, TagData:
	default:
		return fmt.Errorf("forward: tag type %d, expected %d, %d or %d", typ, TagAudio, TagVideo, TagData)
	}
	if limit := p.pub.src.cfg.Limits.MediaSize; limit >= 0 && len(body) > limit {
		return fmt.Errorf("%w: tag of %d bytes, at most %d are taken", ErrLimit, len(body), limit)
	}
	h := chunk.Header{Type: typ, Time: ms, Length: len(body)}
	now := fanout.Clock()
	p.pub.message(chunk.Message{Header: h, Payload: body}, now)
	p.pub.src.group.WakeWithin(p.pub.src.vhost.MergeWindow)
	if waited := p.pub.pace.holdBack(p.ctx, p.pub.src.group, now, flow.Longest); waited > 0 {
		p.pub.pace.Waited(waited, fanout.Clock())
	}
	return nil
}

// WriteHeader publishes metadata and the sequence headers of the streams. Its errors are
// those of WriteTag.
func (p *Publisher) WriteHeader(streams []av.CodecData) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enc.WriteHeader(streams)
}

// WritePacket publishes a packet of one of the streams of WriteHeader. It does not wait
// for the packet's time: the caller sets the pace. Its errors are those of WriteTag.
func (p *Publisher) WritePacket(pkt av.Packet) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enc.WritePacket(pkt)
}

// WriteTrailer publishes the end of the sequence. The stream continues until Close.
func (p *Publisher) WriteTrailer() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enc.WriteTrailer()
}

// errPublisherClosed is returned for writes after Close.
var errPublisherClosed = fmt.Errorf("publisher closed: %w", ErrStreamEnded)

// Close ends the stream without waiting, and returns nil. Everything written before is
// still sent; Source.Done is closed after that.
func (p *Publisher) Close() error {
	p.kick(errPublisherClosed)
	p.pub.leave(false)
	return nil
}

func (p *Publisher) kick(cause error) { p.cancel(cause) }

// checkRequest checks the names of a request that does not come from the network.
func checkRequest(req *Request) error {
	if err := rtmp.CheckVhost(req.Vhost); err != nil {
		return fmt.Errorf("forward: Vhost: %w", err)
	}
	for _, n := range []struct{ what, name string }{{"App", req.App}, {"Stream", req.Stream}} {
		if err := rtmp.CheckName(n.name); err != nil {
			return fmt.Errorf("forward: %s: %w", n.what, err)
		}
	}
	return nil
}
