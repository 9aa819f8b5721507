package forward

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nareix/joy4/av"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/joy"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Publisher publishes a stream from inside the process: a file, a camera, a
// transcoder. It is an av.MuxCloser for what joy4 knows (H.264, AAC, Speex)
// and takes raw FLV tags of any codec. Its methods are safe for concurrent use
// but make sense in the order of the media.
type Publisher struct {
	src    *Source
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu  sync.Mutex
	enc *joy.Encoder
	err error
}

var _ av.MuxCloser = (*Publisher)(nil)

// Publish publishes a stream from inside the process. It goes the way of an
// encoder's publish: hooks and the resolver are asked, the name must be free.
// req needs App and Stream; ServerID, and Vhost and ClientID where they are
// empty, are filled in. Hops are those of a stream that comes from another
// Server. The stream ends with Close, with ctx, or with the Server.
func (s *Server) Publish(ctx context.Context, req PublishRequest) (*Publisher, error) {
	if s.err != nil {
		return nil, s.err
	}
	def(&req.Vhost, DefaultVhost)
	def(&req.ClientID, randomID())
	req.ServerID = s.id
	if err := checkRequest(&req); err != nil {
		return nil, err
	}
	if err := s.checkHops(req.Hops); err != nil {
		return nil, err
	}
	src, err := s.publish(ctx, s.cfg.Load(), &req)
	if err != nil {
		return nil, err
	}
	p := &Publisher{src: src}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	p.enc = joy.NewEncoder(p.write)
	src.setPublisher(p)
	context.AfterFunc(p.ctx, src.end)
	return p, nil
}

// Source is the stream that p publishes.
func (p *Publisher) Source() *Source { return p.src }

// The message types of WriteTag.
const (
	TagAudio = chunk.TypeAudio
	TagVideo = chunk.TypeVideo
	TagData  = chunk.TypeData
)

// WriteTag publishes one message: the body of an FLV tag, of any codec, which
// is copied. typ is TagAudio, TagVideo or TagData, ms the timestamp in
// milliseconds, modulo 2^32. It returns at once unless the times run ahead of
// the clock while destinations that take something are behind; then it waits,
// but never below real time. After the end of the stream it returns the cause.
func (p *Publisher) WriteTag(typ uint8, ms uint32, body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.write(typ, ms, body)
}

func (p *Publisher) write(typ uint8, ms uint32, body []byte) error {
	if p.err == nil && p.ctx.Err() != nil {
		p.err = context.Cause(p.ctx)
	}
	if p.err == nil && p.src.ctx.Err() != nil {
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
	if limit := p.src.cfg.Limits.MediaSize; limit >= 0 && len(body) > limit {
		return fmt.Errorf("%w: tag of %d bytes, at most %d are taken", ErrLimit, len(body), limit)
	}
	h := chunk.Header{Type: typ, Time: ms, Length: len(body)}
	p.src.message(chunk.Message{Header: h, Payload: body}, fanout.Clock())
	p.src.group.WakeWithin(p.src.vhost.MergeWindow)
	p.src.holdBack(p.ctx)
	return nil
}

// WriteHeader publishes metadata and sequence headers of the streams.
func (p *Publisher) WriteHeader(streams []av.CodecData) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enc.WriteHeader(streams)
}

// WritePacket publishes a packet of a stream of WriteHeader. It does not wait
// for the packet's time: pacing is the caller's.
func (p *Publisher) WritePacket(pkt av.Packet) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enc.WritePacket(pkt)
}

// WriteTrailer publishes the end of the sequence. The stream goes on until
// Close.
func (p *Publisher) WriteTrailer() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enc.WriteTrailer()
}

// errPublisherClosed is what is returned for what is written after Close.
var errPublisherClosed = errors.New("forward: publisher closed")

// Close ends the stream. What has been written is sent; Source.Done tells when
// that is done.
func (p *Publisher) Close() error {
	p.kick(errPublisherClosed)
	p.src.end()
	return nil
}

// Format writes the stream's name as in the log, for every verb.
func (p *Publisher) Format(f fmt.State, v rune) { p.src.Format(f, v) }

func (p *Publisher) kick(cause error) { p.cancel(cause) }

// checkRequest checks the names of a request that was not parsed.
func checkRequest(req *PublishRequest) error {
	for _, n := range []struct{ what, name string }{{"Vhost", req.Vhost}, {"App", req.App}, {"Stream", req.Stream}} {
		if err := rtmp.CheckName(n.name); err != nil {
			return fmt.Errorf("forward: %s: %w", n.what, err)
		}
	}
	return nil
}
