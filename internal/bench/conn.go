//go:build linux

package main

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// role is what a conn is to the server under test.
type role uint8

const (
	rolePublisher role = iota
	rolePlayer
	roleDestination
	roleFLVPlayer // over HTTP
	// Connections of the limit: chunks without any protocol.
	roleRawPublisher
	roleRawReceiver
)

// stage is how far a connection has been set up.
type stage uint8

const (
	stageConnecting   stage = iota
	stageHandshake          // until the peer's first two packets
	stageHandshakeEnd       // until a client's third packet
	stageCommands           // until publish or play is answered
	stageLive
	stageClosed
)

const (
	handshakeSize = 1536

	// Edge-triggered: each wait then reports only sockets with news.
	readEvents  = syscall.EPOLLIN | epollET
	writeEvents = syscall.EPOLLIN | syscall.EPOLLOUT
	epollET     = 1 << 31
)

// conn is a peer of the server under test: the client of a publisher or
// player, or the server of a destination. It belongs to its loop.
type conn struct {
	l    *loop
	role role
	port int    // name of the app on the server, for a client
	name string // name of the stream, for a client
	fd   int
	tls  *tls.Conn // in place of fd
	at   int64     // when it was dialled or accepted

	asked int64 // when a player asked to play, or a destination answered publish

	stage     stage
	err       error
	handshake []byte
	p         parser
	tags      *tagParser // in place of p, for FLV
	msgStream uint32
	window    uint64 // the peer's acknowledgement window
	received  uint64
	acked     uint64

	out    []byte // bytes the socket has not taken yet, from outAt on
	outAt  int
	events uint32

	// live is called once publish or play is answered.
	live func()
	// writable is called when out is empty and the socket accepts more.
	writable func()
	receiver receiver
}

// dial starts a connection to the server on port of 127.0.0.1.
func (l *loop) dial(port int, r role, name string) (*conn, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = syscall.Connect(fd, loopback(port))
	if err != nil && !errors.Is(err, syscall.EINPROGRESS) {
		syscall.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	c := newClient(l, port, r, name)
	c.fd = fd
	return c, c.watch(writeEvents)
}

func newClient(l *loop, port int, r role, name string) *conn {
	c := &conn{l: l, role: r, port: port, name: name, at: now()}
	c.p.chunkSize = defaultChunkSize
	return c
}

func (c *conn) watch(events uint32) error {
	c.events = events
	return c.l.watch(c.fd, c, events)
}

func (c *conn) ready(events uint32) {
	if events&syscall.EPOLLOUT != 0 {
		if err := c.flush(); err != nil {
			c.fail(err)
			return
		}
	}
	if events&^syscall.EPOLLOUT == 0 {
		return
	}
	c.read()
}

// read reads until the socket is empty.
func (c *conn) read() {
	for c.stage != stageClosed {
		if c.readSome(len(c.l.buf)) < len(c.l.buf) {
			return // the socket is empty: more data causes a new edge
		}
	}
}

// readSome reads up to limit bytes, once.
func (c *conn) readSome(limit int) int {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(c.fd),
			uintptr(unsafe.Pointer(&c.l.buf[0])), uintptr(min(limit, len(c.l.buf))))
		switch {
		case errno == syscall.EAGAIN:
			return 0
		case errno == syscall.EINTR:
			continue
		case errno != 0:
			c.fail(errno)
			return 0
		case n == 0:
			c.fail(io.EOF)
			return 0
		}
		if err := c.feed(c.l.buf[:n]); err != nil {
			c.fail(err)
		}
		return int(n)
	}
}

// throttle limits the rate at which a connection is read.
type throttle struct {
	c    *conn
	rate int // bytes per second
	from int64
	read int
}

const (
	throttleStep   = 5 * time.Millisecond
	throttleBuffer = 128 << 10
)

// shrinkReceiveBuffer gives a slow receiver a small socket buffer, so that its backlog builds up
// in the server and not in the kernel. Call it before connecting.
func shrinkReceiveBuffer(fd int) error {
	return os.NewSyscallError("setsockopt", syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, throttleBuffer))
}

// throttle makes c read at most rate bytes per second from now on.
func (l *loop) throttle(c *conn, rate int) error {
	if err := c.watch(0); err != nil {
		return err
	}
	l.pace(&throttle{c: c, rate: rate, from: now()})
	return nil
}

func (t *throttle) run(at int64) (next int64) {
	if t.c.stage == stageClosed {
		return 1<<63 - 1
	}
	due := int(float64(at-t.from) / 1e9 * float64(t.rate))
	for t.read < due && t.c.stage != stageClosed {
		n := t.c.readSome(due - t.read)
		if n == 0 { // reading time not used by its deadline is lost
			t.from, t.read = at, 0
			break
		}
		t.read += n
	}
	return at + int64(throttleStep)
}

// flush writes pending bytes when the socket becomes writable.
func (c *conn) flush() error {
	if c.stage == stageConnecting {
		if errno, err := syscall.GetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || errno != 0 {
			return fmt.Errorf("connect: %w", errors.Join(err, syscall.Errno(errno)))
		}
		if err := c.open(); err != nil {
			return err
		}
	}
	if c.waiting() {
		n, err := c.send(c.out[c.outAt:])
		if err != nil {
			return err
		}
		if c.outAt += n; c.waiting() {
			return nil
		}
		c.out, c.outAt = c.out[:0], 0
	}
	if c.writable != nil {
		c.writable()
		return nil
	}
	if !c.waiting() && c.events != readEvents {
		return c.watch(readEvents)
	}
	return nil
}

// waiting reports whether bytes of earlier writes are still pending.
func (c *conn) waiting() bool { return c.outAt < len(c.out) }

func (c *conn) open() error {
	if c.tls == nil {
		if err := syscall.SetsockoptInt(c.fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if c.role == roleRawPublisher || c.role == roleRawReceiver {
		c.p.chunkSize, c.msgStream = limitChunkSize, 1
		c.becomeLive()
		return nil
	}
	if c.role == roleFLVPlayer {
		return c.askFLV()
	}
	c.stage = stageHandshake
	c01 := make([]byte, 1+handshakeSize)
	c01[0] = 3
	return c.write(c01)
}

// write sends b and buffers what the socket does not take.
func (c *conn) write(b []byte) error {
	if c.tls != nil {
		_, err := c.tls.Write(b)
		return err
	}
	if !c.waiting() {
		n, err := c.send(b)
		if err != nil || n == len(b) {
			return err
		}
		b = b[n:]
	}
	c.out = append(c.out, b...)
	if c.events != writeEvents {
		return c.watch(writeEvents)
	}
	return nil
}

// send writes as much of b as the socket takes.
func (c *conn) send(b []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(c.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno == syscall.EAGAIN {
		return 0, nil
	}
	if errno != 0 {
		return 0, os.NewSyscallError("write", errno)
	}
	return int(n), nil
}

// feed processes received bytes.
func (c *conn) feed(b []byte) error {
	c.received += uint64(len(b))
	if t := c.receiver.tally; t != nil {
		t.bytes += uint64(len(b))
	}
	if c.tags != nil {
		return c.tags.feed(b, c)
	}
	if c.stage < stageCommands {
		var err error
		if b, err = c.readHandshake(b); err != nil {
			return err
		}
	}
	if err := c.p.feed(b, c); err != nil {
		return err
	}
	if c.window > 0 && c.received-c.acked >= c.window/2 {
		c.acked = c.received
		return c.write(control(typeAck, uint32(c.received)))
	}
	return nil
}

// readHandshake removes the handshake (RTMP 1.0, 5.2) from the start of b.
func (c *conn) readHandshake(b []byte) ([]byte, error) {
	client := c.role != roleDestination
	need := 1 + handshakeSize
	if client {
		need += handshakeSize
	}
	if c.stage == stageHandshakeEnd {
		need = handshakeSize
	}
	n := min(need-len(c.handshake), len(b))
	c.handshake, b = append(c.handshake, b[:n]...), b[n:]
	if len(c.handshake) < need {
		return b, nil
	}
	peer := c.handshake
	c.handshake = nil
	switch {
	case client:
		c.stage = stageCommands
		return b, c.write(append(append([]byte(nil), peer[1:1+handshakeSize]...), c.connect()...))
	case c.stage == stageHandshake:
		c.stage = stageHandshakeEnd
		s012 := make([]byte, 1+handshakeSize, 1+2*handshakeSize)
		s012[0] = 3
		if err := c.write(append(s012, peer[1:]...)); err != nil {
			return nil, err
		}
		return c.readHandshake(b)
	default:
		c.stage = stageCommands
		return b, nil
	}
}

// payload and message implement the parser's sink.

func (c *conn) payload(cs *chunkStream, b []byte) {
	if cs.typ == typeAudio || cs.typ == typeVideo {
		c.receiver.payload(c.l, cs, b)
		return
	}
	cs.body = append(cs.body, b...)
}

func (c *conn) message(cs *chunkStream) error {
	if cs.typ == typeAudio || cs.typ == typeVideo {
		if c.stage == stageCommands {
			c.becomeLive()
		}
		c.receiver.message(cs)
		return nil
	}
	body := cs.body
	cs.body = nil
	switch cs.typ {
	case typeSetChunkSize, typeAbort, typeWindowAck:
		if len(body) < 4 {
			return fmt.Errorf("short control message %d", cs.typ)
		}
		return c.control(cs.typ, binary.BigEndian.Uint32(body))
	case typeUserControl:
		if len(body) == 6 && binary.BigEndian.Uint16(body) == 6 { // ping
			body[1] = 7
			return c.write(appendMessage(nil, 2, typeUserControl, 0, 0, defaultChunkSize, body, nil))
		}
	case typeCommandAMF3:
		if len(body) > 0 {
			return c.command(body[1:])
		}
	case typeCommand:
		return c.command(body)
	case typeData, typeDataAMF3:
		c.receiver.metadata = true
	}
	return nil
}

func (c *conn) control(typ uint8, value uint32) error {
	switch typ {
	case typeSetChunkSize:
		if value == 0 || value > 1<<24 {
			return fmt.Errorf("chunk size %d", value)
		}
		c.p.chunkSize = value
	case typeAbort:
		for _, cs := range c.p.streams {
			if cs.id == value {
				cs.got, cs.body = 0, nil
			}
		}
	case typeWindowAck:
		c.window = uint64(value)
	}
	return nil
}

func (c *conn) command(body []byte) error {
	name, transaction, rest, ok := parseCommand(body)
	if !ok {
		return errors.New("malformed command")
	}
	if c.role == roleDestination {
		return c.serve(name, transaction)
	}
	switch {
	case name == "_error" || name == "onStatus" && strings.Contains(string(rest), "error"):
		return errors.New("refused by the server")
	case name == "_result" && transaction == 1:
		b := appendNull(appendNumber(appendString(nil, "createStream"), 2))
		return c.write(appendMessage(nil, 3, typeCommand, 0, 0, defaultChunkSize, b, nil))
	case name == "_result" && transaction == 2:
		if len(rest) < 10 {
			return errors.New("createStream without a stream id")
		}
		c.msgStream = uint32(parseNumber(rest[len(rest)-9:]))
		return c.request()
	case name == "onStatus" && c.stage == stageCommands &&
		(c.role == rolePlayer || strings.Contains(string(rest), "NetStream.Publish.Start")):
		c.becomeLive()
	}
	return nil
}

func (c *conn) connect() []byte {
	b := appendNumber(appendString(nil, "connect"), 1)
	b = appendObject(b, "app", "live", "type", "nonprivate", "flashVer", "FMLE/3.0 (compatible)",
		"tcUrl", fmt.Sprintf("rtmp://127.0.0.1:%d/live", c.port))
	return appendMessage(nil, 3, typeCommand, 0, 0, defaultChunkSize, b, nil)
}

// request sends the publish or play request.
func (c *conn) request() error {
	c.asked = now()
	verb := "publish"
	if c.role == rolePlayer {
		verb = "play"
	}
	b := appendString(appendNull(appendNumber(appendString(nil, verb), 3)), c.name)
	if c.role == rolePublisher {
		b = appendString(b, "live")
	}
	return c.write(appendMessage(nil, 8, typeCommand, 0, c.msgStream, defaultChunkSize, b, nil))
}

// serve answers a command that the server under test sends to a destination.
func (c *conn) serve(name string, transaction float64) error {
	switch name {
	case "connect":
		out := control(typeWindowAck, 2_500_000)
		out = append(out, appendMessage(nil, 2, typePeerBand, 0, 0, defaultChunkSize, []byte{0, 38, 37, 160, 2}, nil)...)
		b := appendNumber(appendString(nil, "_result"), transaction)
		b = appendObject(b, "fmsVer", "FMS/3,0,1,123", "capabilities", 31.0)
		b = appendObject(b, "level", "status", "code", "NetConnection.Connect.Success")
		return c.write(appendMessage(out, 3, typeCommand, 0, 0, defaultChunkSize, b, nil))
	case "createStream":
		b := appendNumber(appendNull(appendNumber(appendString(nil, "_result"), transaction)), 1)
		return c.write(appendMessage(nil, 3, typeCommand, 0, 0, defaultChunkSize, b, nil))
	case "publish":
		c.asked = now()
		b := appendNull(appendNumber(appendString(nil, "onStatus"), 0))
		b = appendObject(b, "level", "status", "code", "NetStream.Publish.Start")
		err := c.write(appendMessage(nil, 5, typeCommand, 0, 1, defaultChunkSize, b, nil))
		c.becomeLive()
		return err
	}
	return nil
}

func (c *conn) becomeLive() {
	c.stage = stageLive
	if c.live != nil {
		c.live()
	}
}

// fail ends the connection and records why.
func (c *conn) fail(err error) {
	if c.stage == stageClosed {
		return
	}
	c.err = err
	if t := c.receiver.tally; t != nil {
		t.closed++
		if errors.Is(err, errChunk) {
			t.corrupt++
		}
	}
	c.reset()
}

// reset closes the connection with a TCP reset, so that thousands of closed players
// leave no ports in TIME_WAIT.
func (c *conn) reset() {
	if c.stage == stageClosed {
		return
	}
	c.stage = stageClosed
	if c.tls != nil {
		c.tls.Close()
		return
	}
	syscall.SetsockoptLinger(c.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	c.l.forget(c.fd)
}

func control(typ uint8, value uint32) []byte {
	return appendMessage(nil, 2, typ, 0, 0, defaultChunkSize, binary.BigEndian.AppendUint32(nil, value), nil)
}
