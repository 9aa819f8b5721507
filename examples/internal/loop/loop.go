// Package loop plays a clip in a loop as a live stream.
package loop

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/nareix/joy4/av"
)

// maxLate is how late packets may be and still catch up. After a longer delay, for
// example when the machine was suspended, the stream continues from now.
const maxLate = time.Second

// Play writes the packets from open to dst in real time, in a loop, until ctx ends or
// something fails. It returns the cause of ctx or the error. dst gets one header, and
// timestamps that start at zero and never go back: each round starts where the previous
// one has ended.
func Play(ctx context.Context, dst av.Muxer, open func() (av.DemuxCloser, error)) error {
	p := player{ctx: ctx, dst: dst}
	for {
		src, err := open()
		if err != nil {
			return err
		}
		err = p.round(src)
		src.Close()
		if err != nil {
			return err
		}
	}
}

type player struct {
	ctx    context.Context
	dst    av.Muxer
	tracks []track // of the streams, in their order; nil before the first round
	start  time.Time
	offset time.Duration // start time of the round
}

// track is the position in a stream.
type track struct {
	last time.Duration // time of its last packet
	gap  time.Duration // between its last two
}

// round plays the clip once.
func (p *player) round(src av.Demuxer) error {
	streams, err := src.Streams()
	if err != nil {
		return err
	}
	if p.tracks == nil {
		if err := p.dst.WriteHeader(streams); err != nil {
			return err
		}
		p.tracks = make([]track, len(streams))
		p.start = time.Now()
	}
	if len(streams) != len(p.tracks) {
		return errors.New("the clip's streams have changed")
	}
	first, begun := time.Duration(0), false
	for {
		pkt, err := src.ReadPacket()
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return err
		case p.end() <= p.offset:
			return errors.New("the clip has nothing to play")
		default:
			p.offset = p.end()
			return nil
		}
		if !begun {
			first, begun = pkt.Time, true
		}
		t := &p.tracks[pkt.Idx]
		pkt.Time = max(p.offset+pkt.Time-first, t.last)
		t.gap, t.last = pkt.Time-t.last, pkt.Time
		if err := p.wait(pkt.Time); err != nil {
			return err
		}
		if err := p.dst.WritePacket(pkt); err != nil {
			return err
		}
	}
}

// end is the time at which all packets so far have been played.
func (p *player) end() time.Duration {
	var end time.Duration
	for _, t := range p.tracks {
		end = max(end, t.last+t.gap)
	}
	return end
}

// wait waits until a packet is due.
func (p *player) wait(t time.Duration) error {
	late := time.Since(p.start.Add(t))
	if late > maxLate {
		p.start = p.start.Add(late)
	}
	timer := time.NewTimer(-late)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}
