package fanout

import (
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/sys"
)

// There are receivers of all kinds: players, destinations, some with layouts of their own,
// slow ones, and more positions in the log than a round has batches. Each gets every message
// in order.
func TestRoundsOfAllKinds(t *testing.T) {
	s := newStream(1 << 30)
	pool := NewPool()
	defer pool.Close()
	g := NewGroup(s.log, pool)
	s.frame(100)
	const n = 2*roundSize + 3
	results := make(chan received, n)
	var senders []*Sender
	for i := range n {
		a, b := tcpPair(t)
		snd := newSender(a, time.Minute)
		senders = append(senders, snd)
		require.NoError(t, snd.Send(setChunkSize()))
		o := options
		o.Push = i%3 == 1
		if i%5 == 1 {
			o.Layout.Offset = 7
		}
		switch i % 7 {
		case 1: // its socket is soon full
			a.(*net.TCPConn).SetWriteBuffer(32 << 10)
			b.(*net.TCPConn).SetReadBuffer(32 << 10)
		case 2: // it is at another position
			snd.SetWindow(time.Duration(i)*time.Microsecond, 0)
		}
		g.Add(snd, o, end)
		go func() { results <- receive(b, nil) }()
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		for range rng.IntN(3) {
			s.frame(rng.IntN(6000))
		}
		if rng.IntN(4) == 0 { // one that has another position than its neighbours
			senders[rng.IntN(n)].Kick()
		}
		g.Wake()
	}
	last := s.n - 1
	s.log.End()
	g.End()
	for range n {
		got := <-results
		require.NoError(t, got.err)
		require.Zero(t, got.gaps)
		require.Equal(t, last, got.last)
	}
	for _, snd := range senders {
		snd.Close()
		snd.Wait()
	}
}

// Connections close while a round writes, and new ones get their descriptors. No byte of one
// stream reaches a receiver of another.
func TestRoundsOfClosingConnections(t *testing.T) {
	const streams, receivers, each = 3, 4, 20
	pool := NewPool()
	defer pool.Close()
	var wakers, all sync.WaitGroup
	done := make(chan struct{})
	for i := range streams {
		s := newStream(1 << 20)
		first := uint32(i) * 1e9 // its messages' first number
		s.n = first
		g := NewGroup(s.log, pool)
		s.frame(100)
		wakers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				s.frame(300)
				g.Wake()
				runtime.Gosched()
			}
		})
		for range receivers {
			all.Go(func() {
				for range each {
					a, b := tcpPair(t)
					snd := newSender(a, time.Minute)
					got := make(chan received)
					go func() { got <- receive(b, nil) }()
					snd.Send(setChunkSize())
					g.Add(snd, options, end)
					for snd.Stats().Messages < 5 {
						runtime.Gosched()
					}
					snd.Close()
					snd.Wait()
					g.Remove(snd)
					r := <-got
					if r.frames < 5 || r.first-first > 1e8 || r.last-first > 1e8 {
						t.Errorf("a receiver of stream %d: %+v", i, r)
					}
					b.Close()
				}
			})
		}
	}
	all.Wait()
	close(done)
	wakers.Wait()
}

// noHold is a connection whose descriptor is being given to another owner.
type noHold struct{}

func (noHold) Hold() *sys.Descriptor { return nil }

// If a round can't send for a sender, the sender itself does. A closed connection fails.
func TestRoundWithoutADescriptor(t *testing.T) {
	s := newStream(1 << 20)
	g := NewGroup(s.log, NewPool())
	a, b := tcpPair(t)
	snd := newSender(a, time.Minute)
	if snd.holder == nil {
		return // this system has no rounds
	}
	got := make(chan received)
	go func() { got <- receive(b, nil) }()
	snd.Send(setChunkSize())
	g.Add(snd, options, end)
	held := snd.holder
	snd.holder = noHold{}
	for range 2 {
		s.frame(100)
		g.Wake()
	}
	snd.holder = held
	s.frame(100)
	g.Wake()
	require.EqualValues(t, 3, snd.Stats().Messages)
	snd.conn.Close()
	s.frame(100)
	g.Wake()
	require.ErrorIs(t, snd.Err(), net.ErrClosed)
	snd.Wait()
	require.Equal(t, 3, (<-got).frames)
}

// waker is a Waker that is not a Group.
type waker func()

func (w waker) Wake() { w() }

// One call sends the messages that several streams have appended.
func TestWakeAll(t *testing.T) {
	pool := NewPool()
	defer pool.Close()
	woken := 0
	all := []interface{ Wake() }{waker(func() { woken++ })}
	var logs []*stream
	var senders []*Sender
	results := make(chan received)
	const streams = roundLoads + 2
	for range streams {
		s := newStream(1 << 20)
		g := NewGroup(s.log, pool)
		logs, all = append(logs, s), append(all, g)
		for range 2 {
			a, b := tcpPair(t)
			snd := newSender(a, time.Minute)
			senders = append(senders, snd)
			require.NoError(t, snd.Send(setChunkSize()))
			g.Add(snd, options, end)
			go func() { results <- receive(b, nil) }()
		}
	}
	all = append(all, all[0])
	for range 10 {
		for _, s := range logs {
			s.frame(200)
		}
		WakeAll(all)
	}
	for _, s := range logs {
		s.log.End()
	}
	WakeAll(all)
	require.Equal(t, 22, woken)
	for range senders {
		got := <-results
		require.NoError(t, got.err)
		require.Equal(t, 10, got.frames)
	}
	for _, snd := range senders {
		snd.Close()
		snd.Wait()
	}
}
