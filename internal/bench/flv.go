//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	flvHeader = 9
	tagPrefix = 4 + 11 // the size of the tag before, and the header of a tag
)

// tagParser reads an answer with HTTP-FLV, however reads split it. Like parser, it stores
// no payload.
type tagParser struct {
	began bool // the answer's header and FLV's have been read
	start []byte
	head  [tagPrefix]byte
	have  int // bytes in head
	cs    chunkStream
}

var errAnswer = errors.New("not an answer with FLV")

// askFLV asks for a stream over HTTP.
func (c *conn) askFLV() error {
	c.stage, c.asked, c.tags = stageCommands, now(), new(tagParser)
	return c.write(fmt.Appendf(nil, "GET /live/%s.flv HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", c.name))
}

// feed parses b and passes its payload to the sink.
func (p *tagParser) feed(b []byte, to sink) error {
	if !p.began {
		p.start = append(p.start, b...)
		head, rest, ok := bytes.Cut(p.start, []byte("\r\n\r\n"))
		if !ok || len(rest) < flvHeader {
			return nil
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) || !bytes.HasPrefix(rest, []byte("FLV")) {
			return errAnswer
		}
		b, p.start, p.began = rest[flvHeader:], nil, true
	}
	for len(b) > 0 {
		if p.have < tagPrefix {
			n := copy(p.head[p.have:], b)
			p.have += n
			if b = b[n:]; p.have < tagPrefix {
				return nil
			}
			if size := binary.BigEndian.Uint32(p.head[:4]); size != 0 && size != p.cs.length+11 {
				return fmt.Errorf("%w: the size of a tag is wrong", errChunk)
			}
			p.cs.typ, p.cs.length, p.cs.got = p.head[4], be24(p.head[5:8]), 0
		}
		n := min(int(p.cs.length-p.cs.got), len(b))
		to.payload(&p.cs, b[:n])
		b = b[n:]
		if p.cs.got += uint32(n); p.cs.got == p.cs.length {
			p.have = 0
			if err := to.message(&p.cs); err != nil {
				return err
			}
		}
	}
	return nil
}
