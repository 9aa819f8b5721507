package ingest

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/sys"
)

func TestEnough(t *testing.T) {
	for _, c := range []struct {
		reads   int
		in      time.Duration
		members int
		want    bool
	}{
		{256, 128 * time.Millisecond, 50, true},
		{256, 129 * time.Millisecond, 50, false},
		{256, 64 * time.Millisecond, 100, true},
		{256, 65 * time.Millisecond, 100, false},
		{256, time.Millisecond, 8, true},
		{256, time.Millisecond, 7, false},
		{256, math.MaxInt64, 8, false}, // never looked at before
		{0, time.Second, 100, false},
	} {
		require.Equal(t, c.want, enough(c.reads, c.in, c.members), "%+v", c)
	}
}

// ways are the ways to look at connections: each one is tried, or a poller reports those that
// have received something.
var ways = map[string]func(net.Conn) net.Conn{
	"tried":  func(c net.Conn) net.Conn { return c },
	"parked": func(c net.Conn) net.Conn { return sys.Own(c.(*net.TCPConn)) },
}

// eachWay runs f for each of the ways.
func eachWay(t *testing.T, f func(t *testing.T, own func(net.Conn) net.Conn)) {
	for name, own := range ways {
		t.Run(name, func(t *testing.T) { f(t, own) })
	}
}

// coalesced returns a Coalescer that looks at any rate, and a connection at which it looks.
func coalesced(t *testing.T, own func(net.Conn) net.Conn) (c *Coalescer, r *Reader, conn, peer net.Conn) {
	c = NewCoalescer()
	t.Cleanup(c.Close)
	c.enough = func(int, time.Duration, int) bool { return true }
	conn, peer = connectTCP(t)
	conn = own(conn)
	t.Cleanup(func() { conn.Close() })
	r = NewReader(conn)
	r.Coalesce(c)
	for range rateEvery {
		_, err := peer.Write([]byte{1})
		require.NoError(t, err)
		r.empty = true // so that it waits
		_, err = io.ReadFull(r, make([]byte, 1))
		require.NoError(t, err)
	}
	require.True(t, r.shard.on.Load())
	require.Equal(t, isParked(conn), r.seat.fd >= 0)
	return c, r, conn, peer
}

func isParked(c net.Conn) bool {
	own, ok := c.(*sys.Conn)
	return ok && own.Parked()
}

// seated waits until r waits to be looked at.
func seated(r *Reader) {
	s := r.shard
	for there := false; !there; runtime.Gosched() {
		s.mu.Lock()
		there = r.seat.waits || r.seat.p != nil
		s.mu.Unlock()
	}
}

func TestCoalesced(t *testing.T) {
	eachWay(t, func(t *testing.T, own func(net.Conn) net.Conn) {
		_, r, conn, peer := coalesced(t, own)
		for _, size := range []int{1, 100, windowDrain, 3 * windowDrain} {
			sent := bytes.Repeat([]byte{byte(size)}, size)
			go func() {
				seated(r)
				peer.Write(sent)
			}()
			r.empty, r.since = true, 0
			got := make([]byte, size)
			_, err := io.ReadFull(r, got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(sent, got))
		}
		if _, ok := conn.(*sys.Conn); ok {
			r.empty, r.since = true, 0
			go func() {
				seated(r)
				peer.Write([]byte{1})
			}()
			_, err := r.Read(make([]byte, 10))
			require.NoError(t, err)
			require.True(t, isParked(conn))
			require.Equal(t, 1, r.low, "its poller hears of the first byte")
		}
	})
}

// All events that end a wait for bytes.
func TestCoalescedEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(c *Coalescer, r *Reader, conn, peer net.Conn)
		want error
	}{
		"shut down": {func(_ *Coalescer, _ *Reader, _, peer net.Conn) { peer.(*net.TCPConn).CloseWrite() }, io.EOF},
		"reset": {func(_ *Coalescer, _ *Reader, _, peer net.Conn) {
			peer.(*net.TCPConn).SetLinger(0)
			peer.Close()
		}, syscall.ECONNRESET},
		"closed":   {func(_ *Coalescer, _ *Reader, conn, _ net.Conn) { conn.Close() }, net.ErrClosed},
		"finished": {func(_ *Coalescer, r *Reader, _, _ net.Conn) { r.Finish() }, ErrFinished},
		"a message when the rate has fallen": {func(c *Coalescer, r *Reader, _, peer net.Conn) {
			s := r.shard
			s.c.mu.Lock()
			close(s.stop) // as run sees it
			s.c.shards, s.c.closed = nil, true
			s.c.mu.Unlock()
			for s.on.Load() {
				runtime.Gosched()
			}
			peer.Write([]byte{1})
		}, nil},
		"a message when the Coalescer is closed": {func(c *Coalescer, _ *Reader, _, peer net.Conn) {
			c.Close()
			peer.Write([]byte{1})
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, own func(net.Conn) net.Conn) {
				co, r, conn, peer := coalesced(t, own)
				go func() {
					seated(r)
					c.end(co, r, conn, peer)
				}()
				r.empty = true
				n, err := r.Read(make([]byte, 10))
				if c.want == nil {
					require.NoError(t, err)
					require.Equal(t, 1, n)
					// The last look may have read the byte. The next wait is not coalesced.
					peer.Write([]byte{2})
					r.empty = true
					n, err = r.Read(make([]byte, 10))
					require.NoError(t, err)
					require.Equal(t, 1, n)
					require.Equal(t, 1, r.low)
					require.False(t, isParked(conn))
					return
				}
				require.ErrorIs(t, err, c.want)
			})
		})
	}
}

// An end that arrives with the last bytes is reported with them, and only once.
func TestCoalescedEndWithTheLast(t *testing.T) {
	eachWay(t, func(t *testing.T, own func(net.Conn) net.Conn) {
		_, r, _, peer := coalesced(t, own)
		_, err := peer.Write(make([]byte, 10))
		require.NoError(t, err)
		require.NoError(t, peer.Close())
		r.empty = true
		_, err = io.ReadFull(r, make([]byte, 10))
		require.NoError(t, err)
		r.empty = true
		_, err = r.Read(make([]byte, 10))
		require.Equal(t, io.EOF, err)
	})
}

// Bytes that arrive while nobody waits are there for the next wait.
func TestCoalescedBeforeTheWait(t *testing.T) {
	_, r, _, peer := coalesced(t, ways["parked"])
	for range 10 {
		_, err := peer.Write([]byte{1})
		require.NoError(t, err)
		for told := false; !told; runtime.Gosched() {
			r.shard.mu.Lock()
			told = r.seat.again
			r.shard.mu.Unlock()
		}
		r.empty = true
		_, err = r.Read(make([]byte, 10))
		require.NoError(t, err)
	}
}

func TestCoalescedDeadline(t *testing.T) {
	eachWay(t, func(t *testing.T, own func(net.Conn) net.Conn) {
		_, r, _, _ := coalesced(t, own)
		r.SetDeadline(time.Now().Add(20 * time.Millisecond))
		r.empty = true
		_, err := r.Read(make([]byte, 10))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

// A writer that must wait takes the connection from the poller. The connection is still read,
// and is parked again when the writer no longer waits.
func TestCoalescedWriterWaits(t *testing.T) {
	_, r, conn, peer := coalesced(t, ways["parked"])
	next := func() {
		t.Helper()
		go func() {
			seated(r)
			peer.Write([]byte{1})
		}()
		r.empty, r.since = true, 0
		_, err := r.Read(make([]byte, 10))
		require.NoError(t, err)
	}
	writes := make(chan error)
	go func() {
		seated(r)
		_, err := conn.Write(make([]byte, 16<<20))
		writes <- err
	}()
	r.SetDeadline(time.Now().Add(time.Minute))
	go func() {
		seated(r)
		for isParked(conn) {
			runtime.Gosched()
		}
		peer.Write([]byte{1})
	}()
	r.empty = true
	_, err := r.Read(make([]byte, 10))
	require.NoError(t, err)
	next()
	go io.CopyN(io.Discard, peer, 16<<20)
	require.NoError(t, <-writes)
	next()
	next()
	require.True(t, isParked(conn))
}

// A Reader that has a window, that reads much, or that is no longer coalesced is read in the
// ordinary way.
func TestNotCoalesced(t *testing.T) {
	for name, leave := range map[string]func(*Reader){
		"a window":       func(r *Reader) { r.SetWindow(time.Millisecond) },
		"much":           func(r *Reader) { r.since = coalesceMuch },
		"not to be":      func(r *Reader) { r.Coalesce(nil) },
		"awaited behind": func(r *Reader) { r.Coalesce(nil); r.Await() },
	} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, own func(net.Conn) net.Conn) {
				_, r, conn, peer := coalesced(t, own)
				s := r.shard
				go peer.Write([]byte{1})
				leave(r)
				before := s.reads.Load()
				r.empty = true
				n, err := r.Read(make([]byte, 10))
				require.NoError(t, err)
				require.Equal(t, 1, n)
				require.Equal(t, before, s.reads.Load())
				require.False(t, isParked(conn))
				if r.shard == nil {
					require.EqualValues(t, 0, s.members.Load())
				}
			})
		})
	}
}

// wakes counts calls of Wake.
type wakes struct{ n int }

func (w *wakes) Wake() { w.n++ }

// Messages that are read by one look are forwarded at its end, others immediately.
func TestLater(t *testing.T) {
	w := new(wakes)
	conn, _ := connectTCP(t)
	r := NewReader(conn)
	r.Later(w)
	require.Equal(t, 1, w.n)
	s := &shard{}
	r.shard = s
	r.Later(w)
	require.Equal(t, 2, w.n)
	s.gathering = true
	r.Later(w)
	require.Equal(t, 2, w.n)
	require.Equal(t, []Waker{w}, s.wakes)
}

// A Coalescer wakes the Wakers that its Readers have left for later, without another call.
func TestLaterInALook(t *testing.T) {
	eachWay(t, func(t *testing.T, own func(net.Conn) net.Conn) {
		_, r, _, peer := coalesced(t, own)
		woken := make(chan bool, 1)
		for range 10 {
			go func() {
				seated(r)
				peer.Write([]byte{1})
			}()
			r.empty = true
			_, err := r.Read(make([]byte, 10))
			require.NoError(t, err)
			r.Later(waker(func() { woken <- true }))
			<-woken
		}
	})
}

// If there is a function for all Wakers of a look, it is called instead.
func TestWakeAll(t *testing.T) {
	c, r, _, peer := coalesced(t, ways["parked"])
	woken := make(chan int, 1)
	c.WakeAll = func(all []Waker) { woken <- len(all) }
	for range 10 {
		go func() {
			seated(r)
			peer.Write([]byte{1})
		}()
		r.empty = true
		_, err := r.Read(make([]byte, 10))
		require.NoError(t, err)
		later := false
		r.Later(waker(func() { later = true }))
		if !later { // as in the look that read it
			require.Equal(t, 1, <-woken)
		}
	}
}

type waker func()

func (w waker) Wake() { w() }

// After a Coalescer and its connections have been closed, in any order, none of their
// descriptors is open.
func TestCoalescedLeavesNothing(t *testing.T) {
	descriptors := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(names)
	}
	for _, first := range []bool{false, true} {
		before := 0
		t.Run("", func(t *testing.T) {
			before = descriptors()
			c, r, conn, _ := coalesced(t, ways["parked"])
			require.True(t, isParked(conn))
			if first {
				c.Close()
				r.Coalesce(nil)
				require.False(t, isParked(conn))
			}
			conn.Close()
			r.Coalesce(nil)
		})
		require.Equal(t, before, descriptors())
	}
}

// The looks at many connections begin and end continually. Each connection gets the bytes that
// were sent to it.
func TestCoalescedMany(t *testing.T) {
	const conns, size = 2*shardSize + 20, 20_000
	c := NewCoalescer()
	var asked atomic.Uint32
	c.enough = func(int, time.Duration, int) bool { return asked.Add(1)%3 != 0 }
	var began atomic.Uint32
	var wg sync.WaitGroup
	for i := range conns {
		conn, peer := connectTCP(t)
		if i%3 > 0 {
			conn = sys.Own(conn.(*net.TCPConn))
		}
		sent := bytes.Repeat([]byte(fmt.Sprintf("%8d", i)), size/8)
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			for left := sent; len(left) > 0; {
				n := min(1+rnd.IntN(400), len(left))
				if _, err := peer.Write(left[:n]); err != nil {
					return
				}
				left = left[n:]
			}
			peer.Close()
		})
		wg.Go(func() {
			defer conn.Close()
			r := NewReader(conn)
			r.Coalesce(c)
			defer r.Coalesce(nil)
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(sent, got) {
				t.Errorf("connection %d: %d bytes, %v", i, len(got), err)
			}
			if s := r.shard; s != nil && s.on.Load() {
				began.Add(1)
			}
		})
	}
	wg.Wait()
	for _, s := range c.shards {
		require.Empty(t, s.parked.seats)
	}
	c.Close()
	require.NotZero(t, asked.Load())
	require.NotZero(t, began.Load())
	for _, s := range c.shards {
		require.Zero(t, s.members.Load())
		require.False(t, s.on.Load())
		require.Empty(t, s.waiting)
	}
}
