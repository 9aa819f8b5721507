package fanout

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/gop"
	"github.com/rtmp-forward/forward/internal/leaktest"
	"github.com/rtmp-forward/forward/internal/sys"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m.Run)) }

// chunkSize is large, as in the Server, so that most messages fit into one chunk and some
// need several.
const chunkSize = 6000

// stream appends numbered messages to a log.
type stream struct {
	log    *gop.Log
	framer chunk.Framer
	n      uint32
	now    int64
}

func newStream(bytes int) *stream {
	return &stream{
		log:    gop.New(gop.Limits{Bytes: bytes, Age: 1 << 62}),
		framer: chunk.Framer{Size: chunkSize},
	}
}

// frame appends the next message, of about size bytes. Every 25th is a keyframe.
func (s *stream) frame(size int) {
	body := make([]byte, 9+size)
	body[0], body[1] = 0x27, 1
	if s.n%25 == 0 {
		body[0] = 0x17
	}
	binary.BigEndian.PutUint32(body[5:], s.n)
	for i := 9; i < len(body); i++ {
		body[i] = byte(s.n) + byte(i)
	}
	f := s.framer.Frame(chunk.Header{Type: chunk.TypeVideo, Time: 40 * s.n}, body)
	s.log.Append(f, false, s.now)
	s.n++
	s.now++
}

// received reads the peer's side and checks the messages: they are complete, their numbers
// increase, and gaps end at keyframes.
type received struct {
	frames, gaps, control int
	first, last           uint32
	err                   error
}

func receive(conn net.Conn, pace func()) (r received) {
	rd := chunk.NewReader(conn, 4096, chunk.Limits{Media: 1 << 24, Command: 1 << 16, Partial: 1 << 25, Streams: 8, TinySize: 1 << 20})
	for {
		m, err := rd.Next()
		if err != nil {
			if err != io.EOF {
				r.err = err
			}
			return r
		}
		if pace != nil {
			pace()
		}
		if m.Type != chunk.TypeVideo {
			r.control++
			continue
		}
		n := binary.BigEndian.Uint32(m.Payload[5:])
		for i := 9; i < len(m.Payload); i++ {
			if m.Payload[i] != byte(n)+byte(i) {
				r.err = fmt.Errorf("frame %d is corrupt at byte %d", n, i)
				return r
			}
		}
		key := m.Payload[0] == 0x17
		switch {
		case r.frames == 0:
			r.first = n
			if !key {
				r.err = fmt.Errorf("begins with frame %d, no keyframe", n)
				return r
			}
		case n != r.last+1:
			r.gaps++
			if n <= r.last || !key {
				r.err = fmt.Errorf("frame %d, keyframe %v, comes after %d", n, key, r.last)
				return r
			}
		}
		r.last = n
		r.frames++
	}
}

func setChunkSize() []byte { return chunk.AppendControl(nil, chunk.TypeSetChunkSize, chunkSize) }

var options = gop.Options{Layout: chunk.Layout{StreamID: chunk.MediaStreamID, Size: chunkSize}, Size: chunkSize}

// end shuts a sender down after the last message.
func end() ([]byte, bool) { return nil, true }

func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	b, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// change is applied to each Sender of newSender, which writes in the way of this system. See
// TestOtherWays.
var change = func(*Sender) {}

func newSender(conn net.Conn, timeout time.Duration) *Sender {
	if tcp, ok := conn.(*net.TCPConn); ok { // as in a Server
		conn = sys.Own(tcp)
	}
	s := NewSender(conn, timeout)
	change(s)
	return s
}

// hidden hides the type of a connection, as a wrapper of the host does.
type hidden struct{ net.Conn }

func (h hidden) CloseWrite() error { return h.Conn.(*net.TCPConn).CloseWrite() }

func TestSenderDeliversEverythingInOrder(t *testing.T) {
	for kind, wrap := range map[string]func(a, b net.Conn) (net.Conn, net.Conn){
		"tcp":     func(a, b net.Conn) (net.Conn, net.Conn) { return a, b },
		"wrapped": func(a, b net.Conn) (net.Conn, net.Conn) { return hidden{a}, b },
		"tls": func(a, b net.Conn) (net.Conn, net.Conn) {
			return tlsOver(t, a, b, tls.VersionTLS13)
		},
		"tls wrapped": func(a, b net.Conn) (net.Conn, net.Conn) {
			return tlsOver(t, hidden{a}, b, tls.VersionTLS13)
		},
	} {
		t.Run(kind, func(t *testing.T) { deliversEverything(t, wrap) })
	}
}

func deliversEverything(t *testing.T, wrap func(a, b net.Conn) (net.Conn, net.Conn)) {
	for name, layout := range map[string]chunk.Layout{
		"shared":           {StreamID: chunk.MediaStreamID, Size: chunkSize},
		"other stream id":  {StreamID: 7, Size: chunkSize},
		"other chunk size": {StreamID: chunk.MediaStreamID, Size: 4096},
		"other time":       {StreamID: chunk.MediaStreamID, Size: chunkSize, Offset: 1<<24 - 20000},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStream(1 << 30)
			pool := NewPool()
			defer pool.Close()
			g := NewGroup(s.log, pool)
			a, b := tcpPair(t)
			b.(*net.TCPConn).SetReadBuffer(64 << 10)
			here, there := wrap(a, b)
			snd := newSender(here, time.Minute)
			defer snd.Wait()
			defer snd.Close()
			require.NoError(t, snd.Send(chunk.AppendControl(nil, chunk.TypeSetChunkSize, uint32(layout.Size))))
			o := options
			o.Layout = layout
			s.frame(100)
			g.Add(snd, o, end)
			var got received
			var wg sync.WaitGroup
			wg.Go(func() { got = receive(there, nil) })

			rng := rand.New(rand.NewPCG(1, 2))
			for i := range 2000 {
				s.frame(rng.IntN(20000))
				g.Wake()
				if i%10 == 0 {
					require.NoError(t, snd.Send(chunk.AppendControl(nil, chunk.TypeAck, uint32(i))))
				}
			}
			s.log.End()
			g.End()
			wg.Wait()
			require.NoError(t, got.err)
			require.Equal(t, 2001, got.frames)
			require.Zero(t, got.gaps)
			require.Equal(t, 201, got.control)
		})
	}
}

func TestSlowReceiverGoesOnAtAKeyframe(t *testing.T) {
	s := newStream(400 << 10)
	pool := NewPool()
	defer pool.Close()
	g := NewGroup(s.log, pool)

	gate := make(chan struct{})
	add := func(pace func()) (*Sender, chan received) {
		a, b := tcpPair(t)
		a.(*net.TCPConn).SetWriteBuffer(64 << 10)
		b.(*net.TCPConn).SetReadBuffer(64 << 10)
		snd := newSender(a, time.Minute)
		require.NoError(t, snd.Send(setChunkSize()))
		g.Add(snd, options, end)
		got := make(chan received, 1)
		go func() { got <- receive(b, pace) }()
		return snd, got
	}
	slow, slowGot := add(func() { <-gate })
	fast, fastGot := add(nil)

	for range 1000 {
		s.frame(10000)
		g.Wake()
		// The fast receiver gets time to keep up. The slow one, which does not read, must
		// not delay it.
		for fast.Stats().Lag.Messages > 20 {
			runtime.Gosched()
		}
	}
	require.Positive(t, slow.Stats().Lag.Messages)
	close(gate)
	s.log.End()
	g.End()

	got := <-fastGot
	require.NoError(t, got.err)
	require.Equal(t, 1000, got.frames)
	got = <-slowGot
	require.NoError(t, got.err)
	require.Positive(t, got.gaps)
	for _, snd := range []*Sender{slow, fast} {
		snd.Close()
		snd.Wait()
	}
	require.Positive(t, slow.Stats().Overtaken, "what the ended log has counted stays")
	require.Zero(t, fast.Stats().Overtaken)
}

func TestManyReceivers(t *testing.T) {
	s := newStream(1 << 30)
	pool := NewPool()
	defer pool.Close()
	g := NewGroup(s.log, pool)
	s.frame(100)

	const n = 3*shardSize + 5
	results := make(chan received, n)
	var senders []*Sender
	for range n {
		a, b := tcpPair(t)
		snd := newSender(a, time.Minute)
		senders = append(senders, snd)
		require.NoError(t, snd.Send(setChunkSize()))
		g.Add(snd, options, end)
		go func() { results <- receive(b, nil) }()
	}
	for i := range 200 {
		s.frame(1000)
		g.Wake()
		if i%50 == 10 { // some leave meanwhile
			g.Remove(senders[i])
			senders[i].Detach()
			senders[i].Shutdown()
		}
	}
	s.log.End()
	g.End()
	whole := 0
	for range n {
		got := <-results
		require.NoError(t, got.err)
		require.Zero(t, got.gaps)
		if got.frames == 201 {
			whole++
		}
	}
	require.GreaterOrEqual(t, whole, n-4)
	for _, snd := range senders {
		snd.Close()
		snd.Wait()
	}
}

// If the pool has no room for a shard, the goroutine that wakes it also serves it.
func TestBusyPoolLeavesNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStream(1 << 20)
		pool := NewPool() // its goroutines have not run yet
		pool.started.Store(true)
		for range cap(pool.work) {
			pool.work <- new(shard)
		}
		g := NewGroup(s.log, pool)
		var senders []*Sender
		for range shardSize + 1 {
			snd := newSender(new(void), time.Minute)
			senders = append(senders, snd)
			g.Add(snd, options, end)
		}
		synctest.Wait()
		s.frame(100)
		g.Wake()
		synctest.Wait()
		for i, snd := range senders {
			require.Zero(t, snd.Stats().Lag.Messages, i)
			snd.Close()
			snd.Wait()
		}
	})
}

// void accepts and discards everything.
type void struct{ net.Conn }

func (*void) Write(p []byte) (int, error)      { return len(p), nil }
func (*void) SetWriteDeadline(time.Time) error { return nil }
func (*void) Close() error                     { return nil }

func TestStalledReceiverIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStream(1 << 30)
		pool := NewPool()
		defer pool.Close()
		g := NewGroup(s.log, pool)
		a, b := net.Pipe()
		defer b.Close()
		snd := newSender(a, 10*time.Second)
		g.Add(snd, options, end)
		s.frame(1000)
		g.Wake()

		time.Sleep(10*time.Second - time.Millisecond)
		synctest.Wait()
		require.NoError(t, snd.Err())
		require.Greater(t, snd.Stats().Full, 9*time.Second)
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		require.ErrorIs(t, snd.Err(), ErrStalled)
		snd.Wait()
	})
}

func TestAnswersNobodyReadsEndTheConnection(t *testing.T) {
	a, _ := tcpPair(t)
	a.(*net.TCPConn).SetWriteBuffer(4096)
	snd := newSender(a, time.Minute)
	defer snd.Wait()
	defer snd.Close()
	ping := make([]byte, 1000)
	var err error
	for range 100000 {
		if err = snd.Send(ping); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, ErrControl)
}

func TestSenderAfterClose(t *testing.T) {
	a, _ := tcpPair(t)
	snd := newSender(a, time.Minute)
	snd.Close()
	snd.Wait()
	require.ErrorIs(t, snd.Send([]byte{1}), ErrClosed)
	s := newStream(1 << 20)
	g := NewGroup(s.log, NewPool())
	g.Add(snd, options, end)
	s.frame(10)
	g.Wake()
	require.ErrorIs(t, snd.Err(), ErrClosed)
}

func TestWakeWithinMergesWhatArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStream(1 << 20)
		g := NewGroup(s.log, NewPool())
		a, b := net.Pipe()
		counter := &countWrites{Conn: a}
		snd := newSender(counter, time.Minute)
		g.Add(snd, options, end)
		defer b.Close()
		go io.Copy(io.Discard, b)
		synctest.Wait()
		for range 5 {
			s.frame(100)
			g.WakeWithin(50 * time.Millisecond)
			time.Sleep(9 * time.Millisecond)
		}
		synctest.Wait()
		require.Zero(t, counter.n.Load(), "before the window has ended")
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		require.EqualValues(t, 1, counter.n.Load())
		s.log.End()
		g.End()
		synctest.Wait()
		snd.Wait()
	})
}

func TestOwnWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStream(1 << 20)
		g := NewGroup(s.log, NewPool())
		add := func(window time.Duration) (*Sender, *countWrites) {
			a, b := net.Pipe()
			t.Cleanup(func() { b.Close() })
			go io.Copy(io.Discard, b)
			counter := &countWrites{Conn: a}
			snd := newSender(counter, time.Minute)
			snd.SetWindow(window, 0)
			g.Add(snd, options, end)
			return snd, counter
		}
		held, merged := add(100 * time.Millisecond)
		_, each := add(0)
		synctest.Wait()
		for range 5 {
			s.frame(100)
			g.Wake()
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		require.EqualValues(t, 5, each.n.Load())
		require.Zero(t, merged.n.Load(), "before the window has ended")
		time.Sleep(60 * time.Millisecond)
		synctest.Wait()
		require.EqualValues(t, 1, merged.n.Load())

		// The end does not wait for the window, and a window ends with its sender.
		s.frame(100)
		s.log.End()
		g.End()
		synctest.Wait()
		require.EqualValues(t, 2, merged.n.Load())
		held.Close()
		held.Wait()
	})
}

// Each receiver gets a message when its own window ends, shorter or longer than
// the group's.
func TestOwnWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStream(1 << 20)
		pool := NewPool()
		g := NewGroup(s.log, pool)
		const groups = 50 * time.Millisecond
		windows := []time.Duration{0, 20 * time.Millisecond, groups, 350 * time.Millisecond}
		var senders []*Sender
		for _, window := range windows {
			a, b := net.Pipe()
			defer b.Close()
			go io.Copy(io.Discard, b)
			snd := newSender(a, time.Minute)
			snd.SetWindow(window, groups)
			g.Add(snd, options, end)
			senders = append(senders, snd)
		}
		require.True(t, g.Early())
		sent := func() (n []uint64) {
			for _, snd := range senders {
				n = append(n, snd.Stats().Messages)
			}
			return n
		}
		synctest.Wait()
		began := time.Now()
		for i := range uint64(3) {
			s.frame(100)
			g.WakeWithin(groups)
			want := make([]uint64, len(windows))
			for j, window := range windows {
				time.Sleep(time.Until(began.Add(window)))
				want[j] = i + 1
				for k := j + 1; k < len(want); k++ {
					want[k] = i
				}
				synctest.Wait()
				require.Equal(t, want, sent(), "%v after message %d", window, i)
			}
			began = time.Now()
		}
		s.frame(100)
		s.log.End()
		g.End()
		synctest.Wait()
		require.Equal(t, []uint64{4, 4, 4, 4}, sent(), "the end waits for no window")
		for _, snd := range senders {
			g.Remove(snd)
			snd.Close()
			snd.Wait()
		}
		require.False(t, g.Early())
		pool.Close()
	})
}

type countWrites struct {
	net.Conn
	n atomic.Int32
}

func (c *countWrites) Write(p []byte) (int, error) { c.n.Add(1); return c.Conn.Write(p) }

func TestTapSeesEveryMessage(t *testing.T) {
	s := newStream(1 << 30)
	g := NewGroup(s.log, NewPool())
	s.frame(10)
	tap := g.Tap()
	defer tap.Close()
	go func() {
		for range 500 {
			s.frame(100)
			g.Wake()
		}
		s.log.End()
		g.End()
	}()
	var n uint32
	for {
		err := tap.Next(t.Context(), func(_ uint8, ms uint32, payload []byte) {
			require.Equal(t, n, binary.BigEndian.Uint32(payload[5:]))
			require.Equal(t, 40*n, ms)
			n++
		})
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
	}
	require.EqualValues(t, 501, n)
}

func TestWalkAllocatesNothing(t *testing.T) {
	s := newStream(1 << 20)
	g := NewGroup(s.log, NewPool())
	var senders []*Sender
	for range 8 {
		a, b := tcpPair(t)
		go io.Copy(io.Discard, b)
		snd := newSender(a, time.Minute)
		senders = append(senders, snd)
		g.Add(snd, options, end)
	}
	defer func() {
		for _, snd := range senders {
			snd.Close()
			snd.Wait()
		}
	}()
	s.frame(500)
	g.Wake()
	appendOnly := testing.AllocsPerRun(200, func() { s.frame(500) })
	withSends := testing.AllocsPerRun(200, func() { s.frame(500); g.Wake() })
	// A message is allocated once, and eight receivers allocate nothing. The
	// tolerance is for the slab and the pool of walks, which allocate occasionally.
	require.LessOrEqual(t, withSends, appendOnly+1)
}
