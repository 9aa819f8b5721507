//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// RTMP message types (RTMP 1.0, 5.4 and 7.1).
const (
	typeSetChunkSize = 1
	typeAbort        = 2
	typeUserControl  = 4
	typeWindowAck    = 5
	typeAck          = 3
	typePeerBand     = 6
	typeAudio        = 8
	typeVideo        = 9
	typeDataAMF3     = 15
	typeCommandAMF3  = 17
	typeData         = 18
	typeCommand      = 20
)

const (
	defaultChunkSize = 128
	maxChunkHeader   = 3 + 11 + 4
	maxChunkStreams  = 64
	extendedTime     = 0xffffff
)

var errChunk = errors.New("malformed chunk")

// sink takes the messages of a parser piece by piece, as they arrive.
type sink interface {
	// payload receives the next piece of cs's message; cs.got counts the bytes before
	// it. b is valid only during the call.
	payload(cs *chunkStream, b []byte)
	// message is called when cs's message is complete.
	message(cs *chunkStream) error
}

// chunkStream is the state of one chunk stream and of its current message.
type chunkStream struct {
	id        uint32
	typ       uint8
	extended  bool
	length    uint32
	got       uint32
	timestamp uint32
	delta     uint32
	msgStream uint32

	// Owned by the sink.
	head  [maxHead]byte // a media message's first bytes
	crc   uint32
	check bool
	body  []byte // any other message
}

// parser reads a chunk stream (RTMP 1.0, 5.3), however reads split it. It stores no
// payload, so thousands of receivers can share one read buffer. It allocates only on
// the first use of a chunk stream.
type parser struct {
	chunkSize uint32
	streams   []*chunkStream

	cur  *chunkStream // of the current chunk
	left uint32       // payload bytes of the current chunk still to come
	head [maxChunkHeader]byte
	have int // bytes in head
}

// feed parses b and passes its payload to the sink.
func (p *parser) feed(b []byte, to sink) error {
	for len(b) > 0 {
		if p.left > 0 {
			n := min(int(p.left), len(b))
			if err := p.deliver(b[:n], to); err != nil {
				return err
			}
			b = b[n:]
			continue
		}
		header := b
		if p.have > 0 || len(b) < maxChunkHeader {
			k := copy(p.head[p.have:], b)
			header = p.head[:p.have+k]
		}
		n, err := p.header(header)
		if err != nil {
			return err
		}
		if n == 0 { // incomplete; maxChunkHeader bytes always suffice
			p.have = copy(p.head[:], header)
			return nil
		}
		b = b[n-p.have:]
		p.have = 0
		if p.left == 0 { // an empty message
			if err := p.deliver(nil, to); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *parser) deliver(b []byte, to sink) error {
	cs := p.cur
	if len(b) > 0 {
		to.payload(cs, b)
	}
	p.left -= uint32(len(b))
	cs.got += uint32(len(b))
	if cs.got < cs.length {
		return nil
	}
	err := to.message(cs)
	cs.got = 0
	return err
}

// header reads a chunk header at the start of b and returns its length, or 0
// if b does not hold all of it.
func (p *parser) header(b []byte) (int, error) {
	format, id, n := b[0]>>6, uint32(b[0]&0x3f), 1
	switch {
	case id == 0:
		if len(b) < 2 {
			return 0, nil
		}
		id, n = 64+uint32(b[1]), 2
	case id == 1:
		if len(b) < 3 {
			return 0, nil
		}
		id, n = 64+uint32(b[1])+uint32(b[2])<<8, 3
	}
	cs, err := p.stream(id)
	if err != nil {
		return 0, err
	}
	size := [4]int{11, 7, 3, 0}[format]
	if len(b) < n+size {
		return 0, nil
	}
	h := b[n : n+size]
	n += size
	extended, stamp := cs.extended, uint32(0)
	if format < 3 {
		stamp = be24(h)
		extended = stamp == extendedTime
	}
	if extended {
		if len(b) < n+4 {
			return 0, nil
		}
		stamp = binary.BigEndian.Uint32(b[n:])
		n += 4
	}
	if cs.got > 0 && format < 3 {
		return 0, fmt.Errorf("%w: new message within a message", errChunk)
	}
	cs.extended = extended
	switch format {
	case 0:
		cs.timestamp, cs.delta = stamp, 0
		cs.msgStream = binary.LittleEndian.Uint32(h[7:])
	case 1, 2:
		cs.delta = stamp
	}
	if format < 2 {
		cs.length, cs.typ = be24(h[3:]), h[6]
	}
	if cs.got == 0 && format > 0 {
		cs.timestamp += cs.delta
	}
	p.cur, p.left = cs, min(cs.length-cs.got, p.chunkSize)
	return n, nil
}

func (p *parser) stream(id uint32) (*chunkStream, error) {
	for _, cs := range p.streams {
		if cs.id == id {
			return cs, nil
		}
	}
	if len(p.streams) == maxChunkStreams {
		return nil, fmt.Errorf("%w: too many chunk streams", errChunk)
	}
	cs := &chunkStream{id: id}
	p.streams = append(p.streams, cs)
	return cs, nil
}

func be24(b []byte) uint32 {
	return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2])
}

func appendBE24(dst []byte, v uint32) []byte {
	return append(dst, byte(v>>16), byte(v>>8), byte(v))
}

// appendMessage appends a message in chunks of at most chunkSize, its payload
// being head followed by body. id must be below 64.
func appendMessage(dst []byte, id, typ uint8, timestamp, msgStream uint32, chunkSize int, head, body []byte) []byte {
	field := min(timestamp, extendedTime)
	dst = appendBE24(append(dst, id), field)
	dst = appendBE24(dst, uint32(len(head)+len(body)))
	dst = binary.LittleEndian.AppendUint32(append(dst, typ), msgStream)
	if field == extendedTime {
		dst = binary.BigEndian.AppendUint32(dst, timestamp)
	}
	for left := chunkSize; len(head)+len(body) > 0; left = chunkSize {
		n := min(left, len(head))
		dst, head, left = append(dst, head[:n]...), head[n:], left-n
		n = min(left, len(body))
		dst, body = append(dst, body[:n]...), body[n:]
		if len(head)+len(body) > 0 {
			dst = append(dst, 0xc0|id)
			if field == extendedTime {
				dst = binary.BigEndian.AppendUint32(dst, timestamp)
			}
		}
	}
	return dst
}
