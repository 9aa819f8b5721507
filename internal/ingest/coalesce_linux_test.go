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
		{256, math.MaxInt64, 8, false}, // never before
		{0, time.Second, 100, false},
	} {
		require.Equal(t, c.want, enough(c.reads, c.in, c.members), "%+v", c)
	}
}

// coalesced returns a Coalescer that looks whatever the rate, and a connection
// that it looks at.
func coalesced(t *testing.T) (c *Coalescer, r *Reader, conn, peer net.Conn) {
	c = NewCoalescer()
	t.Cleanup(c.Close)
	c.enough = func(int, time.Duration, int) bool { return true }
	conn, peer = connectTCP(t)
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
	return c, r, conn, peer
}

// waiting returns what waits until r is looked at.
func waiting(r *Reader) func() {
	s := r.shard
	before := s.reads.Load()
	return func() {
		for s.reads.Load() == before {
			runtime.Gosched()
		}
	}
}

func TestCoalesced(t *testing.T) {
	_, r, _, peer := coalesced(t)
	for _, size := range []int{1, 100, windowDrain, 3 * windowDrain} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		wait := waiting(r)
		go func() {
			wait()
			peer.Write(sent)
		}()
		r.empty, r.since = true, 0
		got := make([]byte, size)
		_, err := io.ReadFull(r, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(sent, got))
	}
}

// What ends a wait for something to read.
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
		"closed": {func(_ *Coalescer, _ *Reader, conn, _ net.Conn) { conn.Close() }, net.ErrClosed},
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
			co, r, conn, peer := coalesced(t)
			wait := waiting(r)
			go func() {
				wait()
				c.end(co, r, conn, peer)
			}()
			r.empty = true
			n, err := r.Read(make([]byte, 10))
			if c.want == nil {
				require.NoError(t, err)
				require.Equal(t, 1, n)
				require.Equal(t, 1, r.low)
				return
			}
			require.ErrorIs(t, err, c.want)
		})
	}
}

func TestCoalescedDeadline(t *testing.T) {
	_, r, _, _ := coalesced(t)
	r.SetDeadline(time.Now().Add(20 * time.Millisecond))
	r.empty = true
	_, err := r.Read(make([]byte, 10))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// Who has a window, reads much or is not to be coalesced any more is read as ever.
func TestNotCoalesced(t *testing.T) {
	for name, leave := range map[string]func(*Reader){
		"a window":       func(r *Reader) { r.SetWindow(time.Millisecond) },
		"much":           func(r *Reader) { r.since = coalesceMuch },
		"not to be":      func(r *Reader) { r.Coalesce(nil) },
		"awaited behind": func(r *Reader) { r.Coalesce(nil); r.Await() },
	} {
		t.Run(name, func(t *testing.T) {
			_, r, _, peer := coalesced(t)
			s := r.shard
			go peer.Write([]byte{1})
			leave(r)
			before := s.reads.Load()
			r.empty = true
			n, err := r.Read(make([]byte, 10))
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.Equal(t, before, s.reads.Load())
			if r.shard == nil {
				require.EqualValues(t, 0, s.members.Load())
			}
		})
	}
}

// Many connections, whose looks begin and end all the time: each gets what was
// sent to it.
func TestCoalescedMany(t *testing.T) {
	const conns, size = 2*shardSize + 20, 20_000
	c := NewCoalescer()
	var asked atomic.Uint32
	c.enough = func(int, time.Duration, int) bool { return asked.Add(1)%3 != 0 }
	var began atomic.Uint32
	var wg sync.WaitGroup
	for i := range conns {
		conn, peer := connectTCP(t)
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
	c.Close()
	require.NotZero(t, asked.Load())
	require.NotZero(t, began.Load())
	for _, s := range c.shards {
		require.Zero(t, s.members.Load())
		require.False(t, s.on.Load())
		require.Empty(t, s.waiting)
	}
}
