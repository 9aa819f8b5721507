package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

const (
	// endedSize is how much each stream of these tests has sent when it ends.
	// endedLimit is how much more memory than before all of them may keep.
	endedSize  = 12 << 20
	endedLimit = 16 << 20
)

// writeEnded writes the headers of a stream and endedSize bytes without a second
// keyframe, so that all of it stays in the log.
func writeEnded(write func(typ uint8, ms uint32, body []byte) error) error {
	header := append([]byte{0x17, 0, 0, 0, 0}, make([]byte, 10_000)...)
	meta := append([]byte("\x02\x00\x0aonMetaData\x03\x00\x01a\x0c\x00\x01\x00\x00"), make([]byte, 1<<16)...)
	if err := errors.Join(write(forward.TagData, 0, append(meta, 0, 0, 9)), write(forward.TagVideo, 0, header)); err != nil {
		return err
	}
	const parts = 100
	body := append(rtmptest.Frame(true, 0), make([]byte, endedSize/parts)...)
	for i := range parts {
		if err := write(forward.TagVideo, uint32(i), body); err != nil {
			return err
		}
		body[0] = 0x27
	}
	return nil
}

// grown waits until memory has grown by no more than limit since before.
func grown(t *testing.T, before, limit int) {
	t.Helper()
	n := 0
	require.Eventually(t, func() bool {
		n = heap() - before
		return n <= limit
	}, 30*time.Second, 50*time.Millisecond, "heap grown by %d bytes", n)
	t.Logf("heap grown by %.1f MiB", float64(n)/(1<<20))
}

// One connection publishes 12 MiB, deletes the stream and publishes under another name,
// again and again.
func TestFault31_OneConnectionPublishesAgainAndAgain(t *testing.T) {
	s := newServer(t, forward.Config{})
	addr := hosttest.ServeLoopback(t, s)
	before := heap()
	nc := rawPublisher(t, addr)
	for i := range 100 {
		nc.publish(fmt.Sprintf("s%d", i))
		require.NoError(t, writeEnded(nc.write))
		nc.remove()
	}
	require.Eventually(t, func() bool { return len(s.Sources()) == 0 }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return s.Stats().Buffered == 0 }, time.Minute, 10*time.Millisecond)
	grown(t, before, endedLimit)
	nc.publish("again")
	require.Eventually(t, func() bool { return len(s.Sources()) == 1 }, 10*time.Second, time.Millisecond)
}

// Players that wait for the next publish keep nothing of the previous one.
func TestFault31_PlayersWaitAfterEndedStreams(t *testing.T) {
	const players = 40
	s := newServer(t, forward.Config{})
	addr := hosttest.ServeLoopback(t, s)
	before := heap()
	for i := range players {
		c := forwardtest.Client{URL: fmt.Sprintf("rtmp://%s/live/s%d", addr, i)}
		pub, err := s.Publish(t.Context(), forward.Request{App: "live", Stream: fmt.Sprintf("s%d", i)})
		require.NoError(t, err)
		player, err := c.Play(t.Context(), &forwardtest.Recorder{Discard: true})
		require.NoError(t, err)
		defer player.Close()
		require.NoError(t, writeEnded(pub.WriteTag))
		require.NoError(t, pub.Close())
	}
	require.Eventually(t, func() bool { return s.Stats().Buffered == 0 }, time.Minute, 10*time.Millisecond)
	grown(t, before, endedLimit)
}

// The host keeps every handle of streams that have ended.
func TestFault31_HostKeepsEveryHandle(t *testing.T) {
	const streams = 40
	d := forwardtest.NewDestination(forwardtest.Script{Recorder: func() *forwardtest.Recorder {
		return &forwardtest.Recorder{Discard: true}
	}})
	defer d.Close()
	s := newServer(t, forward.Config{DrainTimeout: 2 * time.Second})
	defer s.Close()
	before := heap()
	var (
		mu      sync.Mutex
		handles []any
		group   errgroup.Group
	)
	group.SetLimit(4) // most of the time each waits for its receivers
	for i := range streams {
		group.Go(func() error {
			pub, err := s.Publish(context.Background(), forward.Request{App: "live", Stream: fmt.Sprintf("s%d", i)})
			if err != nil {
				return err
			}
			src := pub.Source()
			f, err := src.Forward(forward.Destination{URL: d.URL(fmt.Sprintf("live/s%d", i))})
			if err != nil {
				return err
			}
			unread, begun := src.Subscribe(context.Background()), src.Subscribe(context.Background())
			if err := writeEnded(pub.WriteTag); err != nil {
				return err
			}
			if _, err := begun.Next(); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			handles = append(handles, pub, src, f, unread, begun, src.Demuxer(context.Background()), src.Subscribe(context.Background()))
			return pub.Close()
		})
	}
	require.NoError(t, group.Wait())
	require.Eventually(t, func() bool { return s.Stats().Buffered == 0 }, time.Minute, 10*time.Millisecond)
	grown(t, before, endedLimit)
	for _, h := range handles {
		if sub, ok := h.(*forward.Subscription); ok {
			var err error
			for err == nil {
				_, err = sub.Next()
			}
			if err != io.EOF {
				require.ErrorIs(t, err, forward.ErrLimit)
			}
		}
	}
}

// A Subscription is closed once it has not been read for DrainTimeout after the end,
// not earlier.
func TestSubscriptionAfterTheEnd(t *testing.T) {
	inBubble(t, forward.Config{MergeWindow: -1}, func(b *bubble) {
		p := b.PublishInProcess("s")
		src := p.Source()
		unread, slow := src.Subscribe(b.Ctx), src.Subscribe(b.Ctx)
		for i := range 10 {
			require.NoError(b, p.WriteTag(forward.TagVideo, uint32(i), rtmptest.Frame(i == 0, i)))
		}
		up := src.Subscribe(b.Ctx)
		for range 10 {
			_, err := up.Next()
			require.NoError(b, err)
		}
		p.Close()
		_, err := up.Next()
		require.Equal(b, io.EOF, err)
		for range 10 {
			time.Sleep(4900 * time.Millisecond)
			require.Positive(b, b.Server.Stats().Buffered)
			_, err := slow.Next()
			require.NoError(b, err)
		}
		_, err = slow.Next()
		require.Equal(b, io.EOF, err)
		time.Sleep(time.Second)
		require.Zero(b, b.Server.Stats().Buffered)
		_, err = unread.Next()
		require.ErrorIs(b, err, forward.ErrLimit)
		require.ErrorContains(b, err, "DrainTimeout")

		late := src.Subscribe(b.Ctx)
		_, err = late.Next()
		require.Equal(b, io.EOF, err)
	})
}

// rawConn is a connection that publishes one name after the other.
type rawConn struct {
	t    *testing.T
	nc   net.Conn
	conn *rtmp.Conn
	id   uint32 // message stream id
}

const rawChunks = 60000

func rawPublisher(t *testing.T, addr string) *rawConn {
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, rtmp.ClientHandshake(nc, false))
	c := &rawConn{t: t, nc: nc}
	send := func(p []byte) error {
		_, err := nc.Write(p)
		return err
	}
	c.conn = rtmp.NewConn(nc, send, 4096, rawChunks, rtmptest.NoLimits)
	client := rtmp.NewClient(c.conn, rtmp.Options{App: "live", TcURL: "rtmp://server/live", Key: "first"})
	require.NoError(t, client.Publish())
	c.id = client.StreamID()
	c.remove()
	return c
}

func (c *rawConn) send(p []byte) {
	_, err := c.nc.Write(p)
	require.NoError(c.t, err)
}

// answer waits for a command and returns its arguments.
func (c *rawConn) answer(name string) []any {
	for {
		m, err := c.conn.Next()
		require.NoError(c.t, err)
		if m.Type != chunk.TypeCommand {
			continue
		}
		args, err := amf.DecodeAll(m.Payload, amf.Limits{})
		require.NoError(c.t, err)
		if args[0] == name {
			return args
		}
	}
}

func (c *rawConn) publish(name string) {
	c.send(rtmptest.CommandInChunks(rawChunks, 0, "createStream", 10, nil))
	args := c.answer("_result")
	c.id = uint32(args[len(args)-1].(float64))
	c.send(rtmptest.CommandInChunks(rawChunks, c.id, "publish", 0, nil, name, "live"))
	status, _ := amf.AsObject(c.answer("onStatus")[3])
	code, _ := status.GetString("code")
	require.Equal(c.t, "NetStream.Publish.Start", code)
}

func (c *rawConn) remove() {
	c.send(rtmptest.CommandInChunks(rawChunks, 0, "deleteStream", 0, nil, float64(c.id)))
}

func (c *rawConn) write(typ uint8, ms uint32, body []byte) error {
	_, err := c.nc.Write(chunk.Append(nil, chunk.Header{Type: typ, Time: ms, StreamID: c.id}, body, rawChunks))
	return err
}
