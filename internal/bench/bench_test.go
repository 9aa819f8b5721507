//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m.Run)) }

// message is one message that a recorder received.
type message struct {
	id, timestamp uint32
	typ           uint8
	body          string
}

// recorder is a sink that keeps whole messages.
type recorder struct {
	p    *parser
	got  []message
	open map[uint32][]byte
}

func (r *recorder) payload(cs *chunkStream, b []byte) {
	r.open[cs.id] = append(r.open[cs.id], b...)
}

func (r *recorder) message(cs *chunkStream) error {
	body := string(r.open[cs.id])
	delete(r.open, cs.id)
	r.got = append(r.got, message{cs.id, cs.timestamp, cs.typ, body})
	if cs.typ == typeSetChunkSize && len(body) == 4 {
		r.p.chunkSize = max(1, be24([]byte(body[1:])))
	}
	return nil
}

// parse feeds b to a parser in pieces of the given size.
func parse(b []byte, piece int) ([]message, error) {
	p := parser{chunkSize: defaultChunkSize}
	r := recorder{p: &p, open: map[uint32][]byte{}}
	for len(b) > 0 {
		n := min(piece, len(b))
		if err := p.feed(bytes.Clone(b[:n]), &r); err != nil {
			return r.got, err
		}
		b = b[n:]
	}
	return r.got, nil
}

var chunkTests = []struct {
	name string
	in   string
	want []message
}{
	{"type 0", "\x04\x00\x00\x07\x00\x00\x02\x08\x01\x00\x00\x00ab", []message{{4, 7, 8, "ab"}}},
	{"type 1 adds to the time", "\x04\x00\x00\x07\x00\x00\x01\x08\x01\x00\x00\x00a\x44\x00\x00\x03\x00\x00\x02\x09bc",
		[]message{{4, 7, 8, "a"}, {4, 10, 9, "bc"}}},
	{"type 2 keeps length and type", "\x04\x00\x00\x07\x00\x00\x01\x08\x01\x00\x00\x00a\x84\x00\x00\x03b",
		[]message{{4, 7, 8, "a"}, {4, 10, 8, "b"}}},
	{"type 3 repeats the delta", "\x04\x00\x00\x07\x00\x00\x01\x08\x01\x00\x00\x00a\x84\x00\x00\x03b\xc4c",
		[]message{{4, 7, 8, "a"}, {4, 10, 8, "b"}, {4, 13, 8, "c"}}},
	{"extended timestamp in every chunk", "\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x00\x02" +
		"\x06\xff\xff\xff\x00\x00\x03\x09\x01\x00\x00\x00\x01\x00\x00\x00xy\xc6\x01\x00\x00\x00z",
		[]message{{2, 0, 1, "\x00\x00\x00\x02"}, {6, 1 << 24, 9, "xyz"}}},
	{"interleaved messages", "\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x00\x02" +
		"\x06\x00\x00\x01\x00\x00\x03\x09\x01\x00\x00\x00xy\x04\x00\x00\x01\x00\x00\x01\x08\x01\x00\x00\x00a\xc6z",
		[]message{{2, 0, 1, "\x00\x00\x00\x02"}, {4, 1, 8, "a"}, {6, 1, 9, "xyz"}}},
	{"long chunk stream ids", "\x00\x24\x00\x00\x01\x00\x00\x01\x08\x01\x00\x00\x00a\x01\x01\x01\x00\x00\x01\x00\x00\x01\x08\x01\x00\x00\x00b",
		[]message{{100, 1, 8, "a"}, {321, 1, 8, "b"}}},
	{"empty message", "\x04\x00\x00\x07\x00\x00\x00\x08\x01\x00\x00\x00\xc4\xc4", []message{{4, 7, 8, ""}, {4, 7, 8, ""}, {4, 7, 8, ""}}},
}

func TestParserReadsChunksHoweverTheyAreCut(t *testing.T) {
	for _, tt := range chunkTests {
		for piece := 1; piece <= len(tt.in); piece++ {
			got, err := parse([]byte(tt.in), piece)
			require.NoError(t, err, tt.name)
			require.Equal(t, tt.want, got, "%s in pieces of %d", tt.name, piece)
		}
	}
}

func TestParserRefusesNewMessageWithinMessage(t *testing.T) {
	in := appendMessage(nil, 6, typeVideo, 0, 1, defaultChunkSize, make([]byte, 200), nil)
	in = append(in[:12+128], in[:12]...)
	_, err := parse(in, len(in))
	require.ErrorIs(t, err, errChunk)
}

func FuzzParser(f *testing.F) {
	for _, tt := range chunkTests {
		f.Add([]byte(tt.in), 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		whole, err := parse(in, len(in)+1)
		cut, cutErr := parse(in, max(1, piece))
		require.Equal(t, whole, cut)
		require.Equal(t, err, cutErr)
	})
}

func TestAppendMessageExactBytes(t *testing.T) {
	require.Equal(t, "\x06\x00\x00\x05\x00\x00\x05\x09\x01\x00\x00\x00abc\xc6de",
		string(appendMessage(nil, 6, typeVideo, 5, 1, 3, []byte("ab"), []byte("cde"))))
	require.Equal(t, "\x06\xff\xff\xff\x00\x00\x02\x09\x01\x00\x00\x00\x01\x00\x00\x00a\xc6\x01\x00\x00\x00b",
		string(appendMessage(nil, 6, typeVideo, 1<<24, 1, 1, []byte("ab"), nil)))
}

// checked feeds n frames to a receiver, after change has altered them.
func checked(t *testing.T, n int, change func(i int, frame []byte) []byte) *conn {
	t.Helper()
	s := stream{profile: profile500k, chunkSize: 4096}
	c := &conn{l: &loop{crcEvery: 1}, role: roleRawReceiver, stage: stageLive}
	c.p.chunkSize = 4096
	c.receiver.tally = new(tally)
	require.NoError(t, c.p.feed(s.appendHeaders(nil, 1), c))
	for i := range n {
		require.NoError(t, c.p.feed(change(i, s.appendFrame(nil, 1, int64(i))), c))
	}
	return c
}

func TestReceiverCountsWhatIsWrongWithFrames(t *testing.T) {
	// The first frames are V A A V A V.
	const audio, video = 4, 5
	without := func(from, to int) func(int, []byte) []byte {
		return func(i int, f []byte) []byte {
			if i >= from && i < to {
				return nil
			}
			return f
		}
	}
	tests := []struct {
		name   string
		change func(int, []byte) []byte
		want   tally
	}{
		{"nothing", without(0, 0), tally{frames: 200}},
		{"a corrupt byte", func(i int, f []byte) []byte {
			if i == audio {
				f[len(f)-1] ^= 1
			}
			return f
		}, tally{frames: 199, corrupt: 1, lost: 1}},
		{"twice", func(i int, f []byte) []byte {
			if i == video {
				return append(f, f...)
			}
			return f
		}, tally{frames: 201, reordered: 1}},
		{"lost audio", without(audio, audio+1), tally{frames: 199, lost: 1}},
		{"resumes in mid-GOP", without(10, 20), tally{frames: 190, lost: 10, gaps: 1, badGaps: 1}},
		{"the last is lost", without(199, 200), tally{frames: 199}},
	}
	for _, tt := range tests {
		c := checked(t, 200, tt.change)
		require.Equal(t, tt.want, *c.receiver.tally, tt.name)
		require.Equal(t, firstVideo{at: c.receiver.firstVideo.at, key: true, headers: true}, c.receiver.firstVideo, tt.name)
	}
}

func TestReceiverResumingAtKeyframeIsNoBadGap(t *testing.T) {
	keys := 0
	c := checked(t, 200, func(i int, f []byte) []byte {
		if f[12] == 0x17 {
			keys++
		}
		if keys == 1 && i >= 10 {
			return nil
		}
		return f
	})
	require.EqualValues(t, 1, c.receiver.tally.gaps)
	require.Zero(t, c.receiver.tally.badGaps)
}

func TestStreamKeepsItsBitrate(t *testing.T) {
	for _, p := range []profile{profile200k, profile50k, profile500k, profile2M, profile4M, profile8M, profile20M} {
		s := stream{profile: p, chunkSize: 1 << 20}
		bytes := 0
		for s.due() < int64(time.Minute) { // whole GOPs of each
			const header = 12
			bytes += len(s.appendFrame(nil, 1, 0)) - header
		}
		require.InEpsilon(t, p.bitrate*60/8, bytes, 0.03)
	}
}

func TestHistogramQuantiles(t *testing.T) {
	var h histogram
	for i := range 1000 {
		h.add(time.Duration(i) * time.Millisecond)
	}
	require.InEpsilon(t, 500*time.Millisecond, h.quantile(0.5), 0.04)
	require.InEpsilon(t, 990*time.Millisecond, h.quantile(0.99), 0.04)
	require.Equal(t, 999*time.Millisecond, h.max)
	require.Zero(t, new(histogram).quantile(0.99))
}

func TestPhaseTakesFramesByWhenTheyWereSent(t *testing.T) {
	var tl tally
	a := tl.begin(100)
	b := tl.begin(200)
	tl.end(300)
	for _, sent := range []int64{99, 150, 250, 260, 350} {
		tl.arrived(sent, 1000)
	}
	require.EqualValues(t, 1, a.latency.n)
	require.EqualValues(t, 2, b.latency.n)
}

func TestParseServer(t *testing.T) {
	s, err := parseServer("forward-w350-tls")
	require.NoError(t, err)
	require.Equal(t, server{name: "forward-w350-tls", kind: "forward", chunk: 4096, window: 350 * time.Millisecond, tls: true}, s)
	s, err = parseServer("limit")
	require.NoError(t, err)
	require.Equal(t, defaultWindow, s.window)
	for _, name := range []string{"", "nginx", "forward-", "forward-w", "limit-tls", "nginx-rtmp-w5"} {
		_, err := parseServer(name)
		require.Error(t, err, name)
	}
}

// Both ends are this package's own: the destination must accept whatever the publisher
// sends.
func TestPublisherReachesDestination(t *testing.T) {
	l, err := newLoop(t.Context(), 1)
	require.NoError(t, err)
	defer l.close()
	tl := new(tally)
	d, err := l.listen(0, tl)
	require.NoError(t, err)
	publishFrames(t, l, d.port, tl)
	require.Len(t, d.conns, 1)
}

func TestPublisherReachesTLSDestination(t *testing.T) {
	cert, err := newCertificate(t.TempDir())
	require.NoError(t, err)
	l, err := newLoop(t.Context(), 1)
	require.NoError(t, err)
	defer l.close()
	tl := new(tally)
	d, err := l.listenTLS(cert, tl)
	require.NoError(t, err)
	defer d.close()
	publishFrames(t, l, tlsRelay(t, cert, d.port), tl)
}

// A player over TLS gets each frame, and resumes its session when it comes again.
func TestPlayerOverTLS(t *testing.T) {
	cert, err := newCertificate(t.TempDir())
	require.NoError(t, err)
	srv := forward.NewServer(forward.Config{Logger: slog.New(slog.DiscardHandler)})
	var serving sync.WaitGroup
	listen := func(serve func(net.Listener) error) (port int) {
		nl, err := net.Listen("tcp4", "127.0.0.1:0")
		require.NoError(t, err)
		serving.Go(func() { serve(nl) })
		return nl.Addr().(*net.TCPAddr).Port
	}
	plain := listen(srv.Serve)
	secure := listen(func(nl net.Listener) error {
		return srv.ServeTLS(nl, &tls.Config{Certificates: []tls.Certificate{cert.tls}})
	})
	defer serving.Wait()
	defer srv.Close()
	l, err := newLoop(t.Context(), 1)
	require.NoError(t, err)
	defer l.close()
	p, err := l.publish(plain, rolePublisher, "test", stream{profile: profile500k, chunkSize: 4096}, false, 0)
	require.NoError(t, err)
	cfg := cert.client(tls.NewLRUClientSessionCache(1))
	for _, resumes := range []bool{false, true} {
		tl := new(tally)
		c, err := l.dialTLS(secure, rolePlayer, "test", cfg)
		require.NoError(t, err)
		c.receiver.tally = tl
		ok, err := l.until(time.Minute, func() bool { return tl.frames >= 50 || c.stage == stageClosed || p.stage == stageClosed })
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, tally{bytes: tl.bytes, frames: tl.frames}, *tl)
		require.GreaterOrEqual(t, tl.frames, uint64(50))
		require.Equal(t, resumes, c.tls.ConnectionState().DidResume)
		c.reset()
	}
	p.reset()
	l.mu.Unlock()
	l.clients.Wait()
	l.mu.Lock()
}

// publishFrames publishes to port until the destination has 100 frames.
func publishFrames(t *testing.T, l *loop, port int, tl *tally) {
	t.Helper()
	p, err := l.publish(port, rolePublisher, "test", stream{profile: profile8M, chunkSize: 4096}, true, 0)
	require.NoError(t, err)
	ok, err := l.until(time.Minute, func() bool { return tl.frames >= 100 || p.stage == stageClosed })
	require.NoError(t, err)
	require.True(t, ok)
	p.stopped = true
	ok, err = l.until(time.Minute, func() bool { return tl.frames == p.stream.number })
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, tally{bytes: tl.bytes, frames: p.stream.number}, *tl)
	p.reset()
}

// tlsRelay returns a port that relays TLS connections to port.
func tlsRelay(t *testing.T, cert certificate, port int) int {
	nl, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { nl.Close() })
	go func() {
		plain, err := nl.Accept()
		if err != nil {
			return
		}
		defer plain.Close()
		to := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
		secure, err := tls.Dial("tcp4", to.String(), cert.client(nil))
		if err != nil {
			return
		}
		defer secure.Close()
		go io.Copy(plain, secure)
		io.Copy(secure, plain)
	}()
	return nl.Addr().(*net.TCPAddr).Port
}

func TestLoopEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	l, err := newLoop(ctx, 1)
	require.NoError(t, err)
	defer l.close()
	cancel(io.ErrUnexpectedEOF)
	require.ErrorIs(t, l.run(time.Hour), io.ErrUnexpectedEOF)
}

func TestOverPlainComparesTheSameBytes(t *testing.T) {
	plain := []measurement{{cpu: 1, bytes: 100}}
	secure := []measurement{{cpu: 5, bytes: 200, sealing: 2}}
	require.InDelta(t, 1.5, overPlain(secure, plain), 1e-9)
	require.Zero(t, overPlain(plain, plain))
}

func TestPausesSinceEarlier(t *testing.T) {
	before := held{Pauses: []pauses{{3, 0.1}, {1, 8}}}
	n, longest := held{Pauses: []pauses{{5, 0.1}, {1, 0.2}, {1, 8}}}.since(before)
	require.EqualValues(t, 3, n)
	require.Equal(t, 0.2, longest)
}
