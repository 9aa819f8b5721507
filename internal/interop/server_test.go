//go:build interop

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// server is a forward.Server on a port of its own.
type server struct {
	*forward.Server
	addr  string
	plays atomic.Int64 // accepted
}

// newServer tells players when their stream ends, so that they leave.
func newServer(t testing.TB, cfg forward.Config) *server {
	t.Helper()
	cfg.EndPlayers = true
	return serve(t, cfg)
}

// serve is newServer, but players wait for the next publish.
func serve(t testing.TB, cfg forward.Config) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{addr: l.Addr().String()}
	var log buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Hooks.OnPlay = func(context.Context, *forward.Request) error {
		s.plays.Add(1)
		return nil
	}
	s.Server = forward.NewServer(cfg)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		require.ErrorIs(t, <-served, forward.ErrServerClosed)
		if t.Failed() {
			t.Logf("log of the server at %s:\n%s", s.addr, log.Bytes())
		}
	})
	return s
}

func (s *server) url(name string) string { return "rtmp://" + s.addr + "/" + name }

// publish publishes a clip from inside the process, in real time, once all its
// destinations are publishing. It calls ready before the first message and at with the
// time of each.
func (s *server) publish(t testing.TB, stream string, c *clip, ready func(), at func(ms uint32)) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := s.Publish(ctx, forward.Request{App: "live", Stream: stream})
	if err != nil {
		return err
	}
	defer p.Close()
	if err := poll("destinations publishing", func() bool { return publishing(p.Source()) }); err != nil {
		return err
	}
	ready()
	began := time.Now()
	for _, m := range c.tags {
		if err := sleepUntil(ctx, began.Add(time.Duration(m.ms)*time.Millisecond)); err != nil {
			return err
		}
		at(m.ms)
		if err := p.WriteTag(m.typ, m.ms, m.body); err != nil {
			return err
		}
	}
	return nil
}

// publishing reports whether all forwarders of src are publishing.
func publishing(src *forward.Source) bool {
	for _, f := range src.Forwarders() {
		if f.Stats().State != forward.StatePublishing {
			return false
		}
	}
	return true
}

// errUnpublished ends a raw player when its publisher has left.
var errUnpublished = errors.New("unpublished")

// playRaw plays with the protocol only and returns each message, until the publisher
// has left. accepted may be nil; otherwise it is closed when the server has accepted.
func playRaw(ctx context.Context, addr, app, stream string, accepted chan<- struct{}) ([]tag, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	nc.SetDeadline(time.Now().Add(patience))
	if err := rtmp.ClientHandshake(nc, false); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	send := func(p []byte) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := nc.Write(p)
		return err
	}
	client := rtmp.NewClient(rtmp.NewConn(nc, send, 64<<10, 4096, wide), rtmp.Options{
		App: app, TcURL: "rtmp://" + addr + "/" + app, Key: stream,
	})
	if err := client.Play(); err != nil {
		return nil, err
	}
	if accepted != nil {
		close(accepted)
	}
	var out []tag
	err = client.Watch(func(m chunk.Message) error {
		switch m.Type {
		case chunk.TypeAudio, chunk.TypeVideo:
			out = append(out, tag{m.Type, m.Time, bytes.Clone(m.Payload)})
		case chunk.TypeData:
			// nginx-rtmp sends a data message of its own first.
			if !bytes.Contains(m.Payload, []byte("RtmpSampleAccess")) {
				out = append(out, tag{m.Type, m.Time, bytes.Clone(m.Payload)})
			}
		case chunk.TypeCommand:
			if bytes.Contains(m.Payload, []byte("NetStream.Play.UnpublishNotify")) {
				return errUnpublished
			}
		}
		return nil
	})
	if errors.Is(err, errUnpublished) {
		err = nil
	}
	return out, err
}

// wide are limits that no test here reaches.
var wide = chunk.Limits{Media: 16 << 20, Command: 1 << 20, Partial: 32 << 20, Streams: 64, TinySize: 1 << 20}

// tap is a TCP relay in front of a destination that records what the forwarder sends.
type tap struct {
	addr  string
	to    string
	conns chan *tapped
}

// tapped is one connection through a tap.
type tapped struct {
	began    time.Time
	firstKey atomic.Int64 // when the first keyframe came after the start, in ns
	mu       sync.Mutex
	messages []tag // after publish
	ended    chan struct{}
}

func newTap(t testing.TB, to string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return newTapOn(t, l, to)
}

// newTapOn is newTap with a listener, for example one of crypto/tls.
func newTapOn(t testing.TB, l net.Listener, to string) *tap {
	t.Helper()
	p := &tap{addr: l.Addr().String(), to: to, conns: make(chan *tapped, 1024)}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.relay(ctx, nc) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	return p
}

// relay forwards a connection until either side ends it.
func (p *tap) relay(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	began := time.Now()
	dst, err := new(net.Dialer).DialContext(ctx, "tcp", p.to)
	if err != nil {
		return
	}
	defer dst.Close()
	// Small buffers, so that a stalled destination is noticed soon.
	if tcp, ok := nc.(*net.TCPConn); ok {
		tcp.SetReadBuffer(64 << 10)
	}
	dst.(*net.TCPConn).SetWriteBuffer(64 << 10)
	c := &tapped{began: began, ended: make(chan struct{})}
	p.conns <- c
	closeBoth := func() {
		nc.Close()
		dst.Close()
	}
	defer context.AfterFunc(ctx, closeBoth)()
	r, w := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(c.ended)
		c.read(r)
		io.Copy(io.Discard, r)
	})
	wg.Go(func() {
		defer closeBoth()
		io.Copy(nc, dst)
	})
	io.Copy(io.MultiWriter(dst, w), nc)
	closeBoth()
	w.Close()
	wg.Wait()
}

// read parses the messages that a client sends.
func (c *tapped) read(r io.Reader) {
	const handshake = 1 + 2*1536
	if _, err := io.CopyN(io.Discard, r, handshake); err != nil {
		return
	}
	in := chunk.NewReader(r, 64<<10, wide)
	for {
		m, err := in.Next()
		if err != nil {
			return
		}
		switch m.Type {
		case chunk.TypeAudio, chunk.TypeVideo, chunk.TypeData:
			t := tag{m.Type, m.Time, bytes.Clone(m.Payload)}
			if isKeyframe(t) {
				c.firstKey.CompareAndSwap(0, int64(time.Since(c.began)))
			}
			c.mu.Lock()
			c.messages = append(c.messages, t)
			c.mu.Unlock()
		}
	}
}

// tags returns the messages sent so far.
func (c *tapped) tags() []tag {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.messages[:len(c.messages):len(c.messages)]
}

// checkPreface checks how a connection to a destination starts: metadata in
// @setDataFrame, the sequence headers, a keyframe.
func checkPreface(tags []tag, headerCount int) error {
	if len(tags) < headerCount+2 {
		return fmt.Errorf("%d messages", len(tags))
	}
	if d := flv.Data(tags[0].body, false); tags[0].typ != flv.TypeData || !d.OnMetaData || !d.Set {
		return errors.New("the first message is not @setDataFrame onMetaData")
	}
	for i, m := range tags[1 : 1+headerCount] {
		if kind(m) != flv.KindSequenceHeader {
			return fmt.Errorf("message %d is a %v, not a sequence header", i+1, kind(m))
		}
	}
	if m := tags[1+headerCount]; !isKeyframe(m) {
		return fmt.Errorf("behind the headers comes a %v, not a keyframe", kind(m))
	}
	return nil
}
