package rtmp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// queue sends to a connection from a goroutine of its own, so that send does not wait for
// the peer.
type queue struct {
	ch   chan []byte
	done chan error
}

func newQueue(c io.Writer) *queue {
	q := &queue{ch: make(chan []byte, 1024), done: make(chan error, 1)}
	go func() {
		var err error
		for b := range q.ch {
			if err == nil {
				_, err = c.Write(b)
			}
		}
		q.done <- err
	}()
	return q
}

func (q *queue) send(b []byte) error {
	q.ch <- bytes.Clone(b)
	return nil
}

func (q *queue) close() error {
	close(q.ch)
	return <-q.done
}

// relay forwards the messages of a publishing connection to a playing one.
type relay struct {
	*handler
	messages chan chunk.Message
	playing  chan struct{}
}

func (r *relay) Message(m chunk.Message) error {
	if r.messages != nil {
		m.Payload = bytes.Clone(m.Payload)
		r.messages <- m
	}
	return r.handler.Message(m)
}

func (r *relay) Playing(id uint32) {
	r.handler.Playing(id)
	close(r.playing)
}

// One Client publishes to a Server, and another plays the stream from there.
func TestPublishAndPlay(t *testing.T) {
	type side struct {
		*Server
		*relay
		queue *queue
		end   chan error
	}
	start := func(r *relay) (*side, *Client, *queue, net.Conn) {
		a, b := net.Pipe()
		r.handler = &handler{record: &record{}}
		s := &side{relay: r, queue: newQueue(b), end: make(chan error, 1)}
		s.Server = NewServer(NewConn(b, s.queue.send, 4096, testChunkSize, testLimits), r)
		go func() {
			defer b.Close()
			if err := ServerHandshake(b); err != nil {
				s.end <- err
				return
			}
			s.end <- s.Serve()
		}()
		require.NoError(t, ClientHandshake(a, true))
		q := newQueue(a)
		return s, NewClient(NewConn(a, q.send, 4096, 200, testLimits), Options{App: "live", TcURL: "rtmp://h/live", Key: "c4nary5ecret?a=c4nary5ecret"}), q, a
	}

	publishing, pub, pubQueue, pubConn := start(&relay{messages: make(chan chunk.Message, 10)})
	require.NoError(t, pub.Publish())
	playing, play, playQueue, playConn := start(&relay{playing: make(chan struct{})})
	require.NoError(t, play.Play())
	<-playing.playing

	sent := []chunk.Message{
		{Header: chunk.Header{Type: chunk.TypeData}, Payload: encode("onMetaData", amf.ECMAArray{{Key: "width", Value: 1920}})},
		{Header: chunk.Header{Type: chunk.TypeVideo, Time: 40}, Payload: bytes.Repeat([]byte("video"), 10000)},
		{Header: chunk.Header{Type: chunk.TypeAudio, Time: 1<<24 - 1}, Payload: []byte("audio")},
		{Header: chunk.Header{Type: chunk.TypeVideo, Time: 1<<32 - 1}, Payload: bytes.Repeat([]byte("v"), 1001)},
		{Header: chunk.Header{Type: chunk.TypeAudio, Time: 3}},
	}
	for _, m := range sent {
		m.StreamID = pub.StreamID()
		require.NoError(t, pubQueue.send(chunk.Append(nil, m.Header, m.Payload, 200)))
	}
	require.NoError(t, pubQueue.send(pub.AppendUnpublish(nil)))
	for range sent {
		m := <-publishing.messages
		m.StreamID = 1
		require.NoError(t, playing.queue.send(chunk.Append(nil, m.Header, m.Payload, testChunkSize)))
	}
	require.NoError(t, playing.queue.send(playing.AppendPlayEnd(nil, 1)))

	stop := errors.New("stop")
	var got []chunk.Message
	require.Equal(t, stop, play.Watch(func(m chunk.Message) error {
		if m.Type == chunk.TypeCommand {
			require.Equal(t, "onStatus@1 0 null status:NetStream.Play.UnpublishNotify", describe(m))
			return stop
		}
		m.Payload = bytes.Clone(m.Payload)
		got = append(got, m)
		return nil
	}))
	require.Len(t, got, len(sent))
	for i, m := range got {
		require.Equal(t, sent[i].Type, m.Type)
		require.Equal(t, sent[i].Time, m.Time)
		require.EqualValues(t, 1, m.StreamID)
		require.Equal(t, string(sent[i].Payload), string(m.Payload))
	}

	require.NoError(t, pubQueue.close())
	require.NoError(t, playQueue.close())
	pubConn.Close()
	playConn.Close()
	require.Equal(t, io.EOF, <-publishing.end)
	require.Equal(t, io.EOF, <-playing.end)
	publishing.queue.close()
	playing.queue.close()
	require.Contains(t, publishing.log, "Unpublish 1")
	require.Contains(t, publishing.log, `Publish 1 "c4nary5ecret?a=c4nary5ecret"`)
	require.Equal(t, "StopPlay 1", playing.log[len(playing.log)-1])
	require.Empty(t, publishing.open())
	require.Empty(t, playing.open())
}

// open returns what was accepted and has not been ended.
func (h *handler) open() (all []string) {
	for what, n := range h.active {
		if n != 0 {
			all = append(all, what)
		}
	}
	return all
}

// counter counts the bytes that are sent, and drops them.
type counter struct{ bytes int }

func (c *counter) send(b []byte) error {
	c.bytes += len(b)
	return nil
}

// quiet is a handler that accepts everything, keeps nothing, and checks the order of
// calls.
type quiet struct {
	publishing, playing map[uint32]bool
	connects            int
	broken              string
}

func (q *quiet) expect(ok bool, format string, args ...any) {
	if !ok && q.broken == "" {
		q.broken = fmt.Sprintf(format, args...)
	}
}

func (q *quiet) Connect(*Connect) error {
	q.connects++
	return nil
}

func (q *quiet) Publish(id uint32, name string) error {
	q.expect(q.connects == 1, "publish before connect")
	q.expect(!q.publishing[id] && !q.playing[id], "publish on stream %d, which is in use", id)
	if name == "refuse" {
		return &StatusError{Command: "publish", Code: "NetStream.Publish.BadName"}
	}
	q.publishing[id] = true
	return nil
}

func (q *quiet) Unpublish(id uint32, _ bool) {
	q.expect(q.publishing[id], "Unpublish %d twice or without Publish", id)
	delete(q.publishing, id)
}

func (q *quiet) Message(m chunk.Message) error {
	q.expect(q.publishing[m.StreamID], "message of stream %d, which does not publish", m.StreamID)
	return nil
}

func (q *quiet) Play(id uint32, _ string) error {
	q.expect(q.connects == 1, "play before connect")
	q.expect(!q.publishing[id] && len(q.playing) == 0, "play on stream %d", id)
	q.playing[id] = true
	return nil
}

func (q *quiet) Playing(id uint32)       { q.expect(q.playing[id], "Playing %d", id) }
func (q *quiet) Pause(id uint32, _ bool) { q.expect(q.playing[id], "Pause %d", id) }

func (q *quiet) StopPlay(id uint32) {
	q.expect(q.playing[id], "StopPlay %d twice or without Play", id)
	delete(q.playing, id)
}

const (
	// maxReply limits the bytes sent for each byte received. A SetPeerBandwidth of
	// length zero is one byte, and its answer has 16. A seek has 8, and its status 142.
	maxReply = 20
	// maxGarbage limits all bytes allocated for each byte received or sent. A value of
	// one byte, null, takes 16 bytes in a slice that grows by doubling. An answer is
	// encoded, then cut into chunks.
	maxGarbage = 64
	// fixedMemory is the memory, in bytes, of a connection that has received nothing:
	// the read buffer of 4096 bytes, Conn, Reader, and its streams of about 150 bytes
	// each.
	fixedMemory = 4096 + 16*150 + 4096
)

// heapReader measures the memory in use at each Read of the session. At that time it
// contains all that is kept for the peer, and little garbage.
type heapReader struct {
	t      *testing.T
	parts  [][]byte
	before uint64
	read   int
}

// newHeapReader returns a heapReader that passes in to the session in parts.
func newHeapReader(t *testing.T, in []byte, parts int) *heapReader {
	r := &heapReader{t: t}
	size := max(len(in)/parts, 1)
	for len(in) > 0 {
		n := min(size, len(in))
		r.parts, in = append(r.parts, in[:n]), in[n:]
	}
	r.before = heap()
	return r
}

func (r *heapReader) Read(b []byte) (int, error) {
	// The measurement may include other goroutines of the test binary. The limit's 64
	// KiB allow for them.
	if in := heap(); in > r.before {
		require.LessOrEqual(r.t, in-r.before, maxHeap(r.read), "heap in use after %d bytes", r.read)
	}
	if len(r.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.parts[0])
	r.read += n
	if r.parts[0] = r.parts[0][n:]; len(r.parts[0]) == 0 {
		r.parts = r.parts[1:]
	}
	return n, nil
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// bounded runs a session with in and returns how many bytes it sent. The bytes it
// allocates must be in proportion to in. If they exceed the limit of memory in use, a
// second run measures the memory in use.
func bounded(t *testing.T, in []byte, session func(src io.Reader, send func([]byte) error)) int {
	var sent counter
	// Other goroutines may allocate meanwhile, so the smallest of a few runs counts.
	least := uint64(math.MaxUint64)
	for range 4 {
		sent = counter{}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		session(bytes.NewReader(in), sent.send)
		runtime.ReadMemStats(&after)
		if least = min(least, after.TotalAlloc-before.TotalAlloc); least <= maxHeap(len(in)) {
			return sent.bytes
		}
	}
	require.LessOrEqual(t, least, maxHeap(len(in))+uint64(maxGarbage*(len(in)+sent.bytes)),
		"bytes allocated in all for %d received, %d sent", len(in), sent.bytes)
	session(newHeapReader(t, in, 4), new(counter).send)
	return sent.bytes
}

// maxHeap returns how many bytes may be in use after n bytes were received: 8 for each,
// 64 KiB, and fixedMemory.
func maxHeap(n int) uint64 { return uint64(8*n + 64<<10 + fixedMemory) }

// serverSeeds returns inputs that clients send after their handshake.
func serverSeeds() [][]byte {
	create := command(0, "createStream", 4, nil)
	publish := command(1, "publish", 5, nil, "c4nary5ecret", "live")
	play := command(1, "play", 5, nil, "c4nary5ecret")
	return [][]byte{
		nil,
		connected,
		concat(connected, create, publish, message(chunk.TypeVideo, 1, bytes.Repeat([]byte("v"), 300)), command(0, "FCUnpublish", 6, nil, "c4nary5ecret"), command(0, "deleteStream", 7, nil, 1)),
		concat(connected, play, command(1, "pause", 6, nil, true), command(1, "pause", 7, nil, false), command(1, "seek", 0)),
		concat(connected, publish, publish),
		concat(connected, command(1, "publish", 5, nil, "refuse"), message(chunk.TypeVideo, 1, nil)),
		concat(connected, publish, command(2, "play", 5, nil, "c4nary5ecret"), command(3, "play", 5, nil, "c4nary5ecret")),
		concat(connected, bytes.Repeat(create, 40)),
		concat(connected, publish, bytes.Repeat(command(1, "seek"), 400)),
		concat(connected, publish, message(20, 1, encode("seek")), bytes.Repeat([]byte("\xc3\x02\x00\x04seek"), 400)),
		concat(message(chunk.TypeSetPeerBandwidth, 0, nil), bytes.Repeat([]byte{0xc2}, 2000)),
		concat(message(chunk.TypeUserControl, 0, []byte{0, 6, 0, 0, 0, 0}), bytes.Repeat([]byte{0xc2, 0, 6, 0, 0, 0, 0}, 400)),
		concat(connected, control(chunk.TypeWindowAckSize, 0), publish, message(chunk.TypeVideo, 1, make([]byte, 4000))),
		concat(connected, publish, control(chunk.TypeSetChunkSize, 1<<30), []byte{6, 0, 0, 0, 0x0f, 0xff, 0xff, 9, 1, 0, 0, 0}, make([]byte, 3000)),
		concat([]byte{3, 0, 0, 0, 0, 0xff, 0xff, 20, 0, 0, 0, 0}, make([]byte, 100)),
		message(20, 0, append(encode("connect", 1), bytes.Repeat([]byte{3, 0, 1, 'a'}, 100)...)),
		message(20, 0, append(encode("connect", 1), bytes.Repeat([]byte{5}, 1020)...)),
		bytes.Repeat(message(20, 0, append(encode("connect", 1), bytes.Repeat([]byte{10, 0, 0, 0, 1}, 15)...)), 20),
		concat(control(chunk.TypeSetChunkSize, 1), connected),
		concat(control(chunk.TypeSetChunkSize, 0), connected),
		manyPartial(),
	}
}

// manyPartial begins a message on each of many chunk streams.
func manyPartial() (b []byte) {
	for csid := 4; csid < 24; csid++ {
		b = append(b, rtmptest.FirstChunk(csid, 20, 0, 0xffff, make([]byte, 128))...)
	}
	return b
}

func FuzzServerSession(f *testing.F) {
	for _, in := range serverSeeds() {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		sent := bounded(t, in, func(src io.Reader, send func([]byte) error) {
			h := &quiet{publishing: map[uint32]bool{}, playing: map[uint32]bool{}}
			err := NewServer(NewConn(src, send, 4096, testChunkSize, testLimits), h).Serve()
			require.Error(t, err)
			require.LessOrEqual(t, len(err.Error()), 200)
			require.Empty(t, h.broken)
			require.Empty(t, h.publishing, "not unpublished")
			require.Empty(t, h.playing, "not stopped")
		})
		require.LessOrEqual(t, sent, maxReply*len(in)+1024)
	})
}

func FuzzClientSession(f *testing.F) {
	ping := message(chunk.TypeUserControl, 0, []byte{0, 6, 0, 0, 0, 1})
	for _, play := range []bool{false, true} {
		f.Add(play, []byte(nil))
		f.Add(play, concat(connectOK, ping, createOK, publishOK, playOK, message(chunk.TypeAudio, 1, []byte("a")), command(0, "close", 0, nil)))
		f.Add(play, concat(connectOK, createOK, onStatus(1, "error", "NetStream.Publish.BadName", "c4nary5ecret?token=c4nary5ecret-token is busy")))
		f.Add(play, command(0, "_error", 1, nil, status("error", "c4nary5ecret", "[ AccessManager.Reject ] : ?token=c4nary5ecret-token")))
		f.Add(play, concat(connectOK, command(0, "_error", 2, nil), command(0, "_error", 4, nil, nil)))
		for _, in := range serverSeeds() {
			f.Add(play, in)
			f.Add(play, concat(connectOK, createOK, publishOK, playOK, in))
		}
	}
	f.Fuzz(func(t *testing.T, play bool, in []byte) {
		sent := bounded(t, in, func(src io.Reader, send func([]byte) error) {
			c := NewClient(NewConn(src, send, 4096, testChunkSize, testLimits), Options{App: "live", TcURL: "rtmp://h/live", Key: "c4nary5ecret?token=c4nary5ecret-token"})
			do := c.Publish
			if play {
				do = c.Play
			}
			err := do()
			if err == nil {
				err = c.Watch(nil)
			}
			require.Error(t, err)
			require.LessOrEqual(t, len(err.Error()), 500)
			require.NotContains(t, err.Error(), "c4nary5ecret-token")
			var st *StatusError
			if errors.As(err, &st) && !usualCode(st.Code) {
				require.NotContains(t, err.Error(), "c4nary5ecret")
			}
		})
		require.LessOrEqual(t, sent, maxReply*len(in)+1024)
	})
}
