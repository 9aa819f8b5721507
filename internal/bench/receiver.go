//go:build linux

package main

import (
	"hash/crc32"
	"syscall"
)

// receiver checks the frames that a player or destination receives.
type receiver struct {
	tally *tally // nil for a publisher

	metadata, videoHeader, audioHeader bool

	// Order and loss are checked from the first video frame on, because a server may
	// send audio while it waits for a keyframe.
	started bool
	stream  uint32
	first   uint64 // number of the first video frame
	next    uint64 // number after the newest frame
	video   uint64 // track number after the newest video frame

	firstVideo firstVideo
	lastSent   int64
	lastAt     int64
	maxAge     int64 // since it was last reset
	maxGap     int64 // between two frames, since it was last reset
	// onVideo is called with the first video frame.
	onVideo func()
}

// firstVideo describes how a receiver's video started.
type firstVideo struct {
	at, sent int64
	key      bool
	headers  bool // metadata and both sequence headers came first
}

// payload receives the next piece of a media message.
func (r *receiver) payload(l *loop, cs *chunkStream, b []byte) {
	need := headSize(cs.typ)
	if cs.got < need {
		n := copy(cs.head[cs.got:need], b)
		b = b[n:]
		if cs.got+uint32(n) < need {
			return
		}
		var m mark
		m.parse(cs.head[need-markSize:])
		if cs.check = m.number%l.crcEvery == 0; cs.check {
			cs.crc = crc32.Update(0, castagnoli, cs.head[:need-4])
		}
	}
	if cs.check && len(b) > 0 {
		cs.crc = crc32.Update(cs.crc, castagnoli, b)
	}
}

// message is called when a media message is complete.
func (r *receiver) message(cs *chunkStream) {
	need := headSize(cs.typ)
	if cs.length < need {
		r.header(cs)
		return
	}
	at := now()
	var m mark
	crc, ok := m.parse(cs.head[need-markSize : need])
	if !ok || m.size != cs.length || cs.check && crc != cs.crc {
		r.tally.corrupt++
		return
	}
	r.frame(&m, cs.typ == typeVideo, cs.head[0] == 0x17, at)
}

func (r *receiver) header(cs *chunkStream) {
	switch {
	case cs.length < 2 || cs.head[1] != 0:
		if cs.length > 0 {
			r.tally.corrupt++
		}
	case cs.typ == typeVideo:
		r.videoHeader = true
	default:
		r.audioHeader = true
	}
}

func (r *receiver) frame(m *mark, video, key bool, at int64) {
	t := r.tally
	t.frames++
	t.arrived(m.sent, at)
	if r.lastAt > 0 {
		r.maxGap = max(r.maxGap, at-r.lastAt)
	}
	r.lastSent, r.lastAt = m.sent, at
	r.maxAge = max(r.maxAge, at-m.sent)
	if !r.started {
		if video {
			r.started, r.stream = true, m.stream
			r.first, r.next, r.video = m.number, m.number+1, m.track+1
			r.firstVideo = firstVideo{at, m.sent, key, r.metadata && r.videoHeader && r.audioHeader}
			if r.onVideo != nil {
				r.onVideo()
			}
		}
		return
	}
	if m.number < r.next {
		t.reordered++
		return
	}
	t.lost += m.number - r.next
	r.next = m.number + 1
	if !video {
		return
	}
	if m.track != r.video {
		t.gaps++
		if !key {
			t.badGaps++
		}
	}
	r.video = m.track + 1
}

// listener is a destination: it accepts publishers on a port of its own.
type listener struct {
	l     *loop
	fd    int
	port  int
	tally *tally
	conns []*conn
}

// listen starts a destination on port, or on any if it is 0.
func (l *loop) listen(port int, t *tally) (*listener, error) {
	fd, port, err := listenSocket(port)
	if err != nil {
		return nil, err
	}
	d := &listener{l: l, fd: fd, port: port, tally: t}
	return d, l.watch(fd, d, readEvents)
}

func (d *listener) ready(uint32) {
	for {
		fd, _, err := syscall.Accept4(d.fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		c := newDestination(d.l, d.tally)
		c.fd = fd
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		d.conns = append(d.conns, c)
		if err := c.watch(readEvents); err != nil {
			c.fail(err)
		}
	}
}

// close stops accepting connections.
func (d *listener) close() { d.l.forget(d.fd) }

func newDestination(l *loop, t *tally) *conn {
	c := &conn{l: l, role: roleDestination, stage: stageHandshake, at: now()}
	c.p.chunkSize = defaultChunkSize
	c.receiver.tally = t
	return c
}
