//go:build linux

package main

import "time"

// publisher publishes one stream, either paced by its frames' timestamps or as fast as
// the server accepts it.
type publisher struct {
	*conn
	stream  stream
	flat    bool
	buf     []byte
	stopped bool
	silent  bool          // buffers its frames instead of sending them
	late    time.Duration // the most a frame was sent after it was due
}

// flatBatch is how many frames a publisher without pacing writes before the loop serves
// the receivers again.
const flatBatch = 8

// publish starts a publisher whose first frame is due delay after publish is
// answered.
func (l *loop) publish(port int, as role, name string, s stream, flat bool, delay time.Duration) (*publisher, error) {
	c, err := l.dial(port, as, name)
	if err != nil {
		return nil, err
	}
	p := &publisher{conn: c, stream: s, flat: flat}
	c.live = func() { p.start(delay) }
	return p, nil
}

func (p *publisher) start(delay time.Duration) {
	var b []byte
	if p.role == rolePublisher {
		b = control(typeSetChunkSize, uint32(p.stream.chunkSize))
	}
	if err := p.write(p.stream.appendHeaders(b, p.msgStream)); err != nil {
		p.fail(err)
		return
	}
	p.stream.start = now() + int64(delay)
	if !p.flat {
		p.l.pace(p)
		return
	}
	p.writable = p.burst
	if err := p.watch(writeEvents); err != nil {
		p.fail(err)
	}
}

// run sends the frames that are due and returns when the next one is. Frames that the
// server does not accept yet are sent later and counted as late.
func (p *publisher) run(at int64) (next int64) {
	const never = 1<<63 - 1
	switch {
	case p.stopped || p.stage != stageLive:
		return never
	case p.silent || p.waiting():
		return at + int64(time.Millisecond)
	}
	b := p.buf[:0]
	for due := p.stream.due(); due <= at; due = p.stream.due() {
		p.late = max(p.late, time.Duration(at-due))
		b = p.stream.appendFrame(b, p.msgStream, at)
		if len(b) > 1<<20 {
			break
		}
	}
	p.buf = b
	if len(b) > 0 {
		if err := p.write(b); err != nil {
			p.fail(err)
			return never
		}
	}
	return p.stream.due()
}

func (p *publisher) burst() {
	for range flatBatch {
		if p.stopped || p.waiting() {
			break
		}
		p.buf = p.stream.appendFrame(p.buf[:0], p.msgStream, now())
		if err := p.write(p.buf); err != nil {
			p.fail(err)
			return
		}
	}
	if p.stopped && !p.waiting() {
		p.writable = nil
	}
}
