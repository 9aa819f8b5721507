package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/rtmp-forward/forward"
)

// receiver checks the stream that a slave receives.
type receiver struct {
	*node
	live chan *forward.Source

	mu        sync.Mutex
	codecs    []string
	keyframes int
	first     time.Duration
	last      time.Duration // of the media's timestamps
	err       error
}

// enough is how much media proves that a stream continues: with B-frames, the first few
// frames could belong to the first keyframe alone.
const enough = 500 * time.Millisecond

// received describes the media received. The error says why it cannot be decoded: it
// needs sequence headers of both tracks, a keyframe, and frames after it.
func (r *receiver) received() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch media := r.last - r.first; {
	case r.err != nil:
		return "", r.err
	case len(r.codecs) == 0:
		return "", errors.New("no stream received")
	case len(r.codecs) != 2:
		return "", fmt.Errorf("received %s, expected video and audio", strings.Join(r.codecs, " "))
	case r.keyframes == 0:
		return "", errors.New("no keyframe received")
	case media < enough:
		return "", fmt.Errorf("%v of media received, expected %v at least", media, enough)
	default:
		return fmt.Sprintf("%s %.1f s", strings.Join(r.codecs, " "), media.Seconds()), nil
	}
}

// newReceiver starts a slave.
func newReceiver() (*receiver, error) {
	r := &receiver{live: make(chan *forward.Source, 1)}
	slave, err := serve(forward.Config{Hooks: forward.Hooks{
		OnSource: func(src *forward.Source) {
			select {
			case r.live <- src:
			default: // closed when the reader has ended
			}
		},
	}})
	r.node = slave
	return r, err
}

// watch reads each stream, until ctx ends.
func (r *receiver) watch(ctx context.Context) {
	for {
		var src *forward.Source
		select {
		case src = <-r.live:
		case <-ctx.Done():
			return
		}
		err := r.read(ctx, src)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.mu.Lock()
			r.err = err
			r.mu.Unlock()
			return
		}
	}
}

// read reads a stream to its end.
func (r *receiver) read(ctx context.Context, src *forward.Source) error {
	d := src.Demuxer(ctx)
	defer d.Close()
	streams, err := d.Streams()
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.codecs = nil
	for _, s := range streams {
		r.codecs = append(r.codecs, s.Type().String())
	}
	r.keyframes = 0
	r.mu.Unlock()
	for n := 0; ; n++ {
		pkt, err := d.ReadPacket()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		if n == 0 {
			r.first = pkt.Time
		}
		r.last = pkt.Time
		if pkt.IsKeyFrame {
			r.keyframes++
		}
		r.mu.Unlock()
	}
}
