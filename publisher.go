package forward

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nareix/joy4/av"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/fanout"
	"github.com/rtmp-forward/forward/internal/flow"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/joy"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Publisher publishes a stream from inside the process: a file, a camera, a
// transcoder. It is an av.MuxCloser for what joy4 knows (H.264, AAC, Speex)
// and takes raw FLV tags of any codec. Its methods are safe for concurrent use
// but make sense in the order of the media.
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

// Publish publishes a stream from inside the process. It goes the way of an
// encoder's publish: hooks and the resolver are asked, the name must be free.
// req needs App and Stream; ServerID, and Vhost and ClientID where they are
// empty, are filled in. Vhost is taken in any case and need not be in
// Config.Vhosts. Hops are those of a stream that comes from another
// Server. The stream ends with Close, with ctx, or with the Server.
func (s *Server) Publish(ctx context.Context, req PublishRequest) (*Publisher, error) {
	if s.err != nil {
		return nil, s.err
	}
	def(&req.ClientID, randomID())
	req.ServerID = s.id
	def(&req.Vhost, DefaultVhost)
	if err := checkRequest(&req); err != nil {
		return nil, err
	}
	cfg := s.cfg.Load()
	req.Vhost = cfg.vhostName(req.Vhost)
	if err := s.checkHops(req.Hops); err != nil {
		return nil, err
	}
	p := new(Publisher)
	p.ctx, p.cancel = context.WithCancelCause(orBackground(ctx))
	pub, err := s.publish(p.ctx, cfg, &req)
	if err != nil {
		p.cancel(err)
		return nil, err
	}
	p.shown, p.pub = pub.src.shown, pub
	p.enc = joy.NewEncoder(p.write)
	pub.begin(p)
	context.AfterFunc(p.ctx, func() { pub.leave(false) })
	return p, nil
}

// Source is the stream that p publishes.
func (p *Publisher) Source() *Source { return p.pub.src }

// The message types of WriteTag.
const (
	TagAudio = chunk.TypeAudio
	TagVideo = chunk.TypeVideo
	TagData  = chunk.TypeData
)

// WriteTag publishes one message: the body of an FLV tag, of any codec, which
// is copied. typ is TagAudio, TagVideo or TagData, ms the timestamp in
// milliseconds, modulo 2^32. It waits, for 200 ms at most, while receivers that
// keep up are far behind; what is written in real time is not delayed by more than
// that in all. After the end of the stream it returns the cause.
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
	if waited := p.pub.holdBack(p.ctx, now, flow.Longest); waited > 0 {
		p.pub.pace.Waited(waited, fanout.Clock())
	}
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
	p.pub.leave(false)
	return nil
}

func (p *Publisher) kick(cause error) { p.cancel(cause) }

// checkRequest checks the names of a request that was not parsed.
func checkRequest(req *PublishRequest) error {
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

// publication is one publisher's publish of a Source.
type publication struct {
	src *Source
	req *PublishRequest
	by  interface{ kick(error) } // guarded by src.turn; nil until begin, and from kick or leave on

	over     error     // why the publisher is replaced; guarded by src.turn
	accepted time.Time // as the next publisher; guarded by src.turn
	late     func()    // stops the timer for its first keyframe; guarded by src.turn

	waiting []held       // headers for its first keyframe; guarded by src.turn
	room    *gop.Account // for them; guarded by src.turn

	hooked atomic.Bool // OnPublish has accepted
	told   atomic.Bool // OnUnpublish has been called

	framer atomic.Pointer[chunk.Framer] // nil when the publish is over

	// Owned by the publisher's goroutine.
	pace   pacing
	heard  int64 // when the last message came, or the publish was accepted
	begun  bool  // media has come
	goesOn bool  // players have seen times before these; until media comes
	first  int64 // when the first message came that had to wait
	video  bool  // some of that was video
}

// held is a message that waits, and whether destinations get it inside
// @setDataFrame.
type held struct {
	frame *chunk.Frame
	wrap  bool
}

// silent returns how long a publisher may send no media, where it has sent none
// for longer.
func (p *publication) silent(now int64) (limit time.Duration, silent bool) {
	limit = p.src.vhost.ReadTimeout
	if !p.begun {
		limit = p.src.vhost.FirstMediaTimeout
	}
	return limit, limit >= 0 && now-p.heard > int64(limit)
}

// idle is for how many milliseconds nothing has come.
func (p *publication) idle() int64 {
	if p.heard == 0 {
		return 0
	}
	return (fanout.Clock() - p.heard) / int64(time.Millisecond)
}

// message takes a message of the publisher, whose goroutine it is called by.
func (p *publication) message(m chunk.Message, now int64) error {
	p.heard = now
	if m.Type == chunk.TypeAggregate {
		return splitAggregate(m, func(h chunk.Header, payload []byte) {
			p.single(chunk.Message{Header: h, Payload: payload}, now)
		})
	}
	p.single(m, now)
	return nil
}

// single takes a message that is no aggregate, and leaves out one that is: they
// do not nest.
func (p *publication) single(m chunk.Message, now int64) {
	switch m.Type {
	case chunk.TypeAudio, chunk.TypeVideo:
		if m.Frame == nil {
			framer := p.framer.Load()
			if framer == nil {
				return
			}
			m.Frame = framer.Frame(m.Header, m.Payload)
		}
		p.goesOn = false
		p.append(m.Frame, false, now)
	case chunk.TypeData:
		p.data(m.Time, m.Payload, false, now)
	case chunk.TypeDataAMF3:
		p.data(m.Time, m.Payload, true, now)
	}
}

// data takes a data message: to players it goes without @setDataFrame, to
// destinations metadata goes with it and all else as it came. @clearDataFrame
// goes to destinations alone. An AMF3 data message is an AMF0 one behind a
// format byte.
func (p *publication) data(ms uint32, body []byte, amf3 bool, now int64) {
	t := flv.Data(body, amf3)
	body = body[t.Head:]
	plain := body[t.Payload-t.Head:]
	if len(plain) == 0 {
		return
	}
	h := chunk.Header{Type: chunk.TypeData, Time: ms}
	framer := p.framer.Load()
	if framer == nil {
		return
	}
	frame := framer.Frame
	if t.OnMetaData {
		frame = framer.Alone // the header set keeps it
	}
	m := frame(h, plain)
	if p.goesOn && t.OnMetaData {
		m = retimed(m, 0) // as when a stream begins: see gop.HeaderSet
	}
	p.append(m, t.Set || t.OnMetaData && !t.Clear, now)
}

// append takes a message. One without a body is of no use to anybody, and some
// servers can't stand it.
func (p *publication) append(frame *chunk.Frame, wrap bool, now int64) {
	if frame.Length == 0 {
		return
	}
	s := p.src
	s.turn.Lock()
	if s.log.Ended() {
		s.turn.Unlock()
		p.pace.onAir = false
		return
	}
	before := s.now
	if before != p {
		if s.next != p || !p.ready(frame, wrap, now) {
			s.turn.Unlock()
			p.pace.onAir = false
			return
		}
		frame = s.turnTo(p, frame, now)
	}
	changed, cost := s.add(frame, wrap, now)
	s.turn.Unlock()
	if changed {
		s.codecChanged()
	}
	s.memory.Shed(now)
	p.pace.onAir = true
	p.pace.Note(frame.Time, frame.Len(), cost, now)
	if before != p {
		if before != nil {
			before.kick(ErrTakenOver)
		}
		s.background(func() { // the host's code: nobody's media waits for it
			s.srv.log.Info("publisher has the stream", "source", s.req.logName(), "addr", logAddr(p.req.RemoteAddr), "takeover", before != nil)
			if before != nil {
				before.tell()
			}
		})
	}
}

// add appends a message to the log. It reports whether a header that was in force
// is not any more. turn is held.
func (s *Source) add(frame *chunk.Frame, wrap bool, now int64) (changed bool, cost int) {
	m := s.log.Append(frame, wrap, now)
	s.messages.Add(1)
	s.bytes.Add(uint64(frame.Len()))
	if frame.Type != chunk.TypeData {
		s.last.note(frame.Time, now)
	}
	return m.Changed, m.Cost()
}

// maxAggregate bounds the messages in an aggregate.
const maxAggregate = 1024

// splitAggregate calls f for each message in an aggregate (RTMP 1.0, 7.1.6).
// Times inside count from that of the first, which is the aggregate's own.
func splitAggregate(m chunk.Message, f func(chunk.Header, []byte)) error {
	var first uint32
	p := m.Payload
	for n := 0; len(p) >= 11; n++ {
		if n == maxAggregate {
			return fmt.Errorf("%w: more than %d messages in an aggregate", chunk.ErrLimit, maxAggregate)
		}
		size := int(p[1])<<16 | int(p[2])<<8 | int(p[3])
		at := uint32(p[4])<<16 | uint32(p[5])<<8 | uint32(p[6]) | uint32(p[7])<<24
		if n == 0 {
			first = at
		}
		if 11+size > len(p) {
			return fmt.Errorf("%w: a message in an aggregate is longer than the aggregate", chunk.ErrProtocol)
		}
		f(chunk.Header{Type: p[0], Time: m.Time + at - first}, p[11:11+size])
		p = p[min(11+size+4, len(p)):] // behind it lies a back pointer
	}
	return nil
}
