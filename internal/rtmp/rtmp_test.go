package rtmp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

var testLimits = chunk.Limits{Media: 1 << 20, Command: 64 << 10, Partial: 2 << 20, Streams: 16, TinySize: 64 << 10}

const testChunkSize = 60000

// record lists what happened, in order: the messages sent, as text, and entries that
// tests add.
type record struct {
	log   []string
	bytes int
	fail  error // the error of sending

	buf bytes.Buffer
	dec *chunk.Reader
}

func (r *record) add(format string, args ...any) { r.log = append(r.log, fmt.Sprintf(format, args...)) }

func (r *record) send(b []byte) error {
	if r.fail != nil {
		return r.fail
	}
	if r.dec == nil {
		r.dec = chunk.NewReader(&r.buf, 4096, testLimits)
	}
	r.bytes += len(b)
	r.buf.Write(b)
	for {
		m, err := r.dec.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			panic("sent what can't be read: " + err.Error())
		}
		r.add("%s", describe(m))
	}
}

// describe returns a message as text.
func describe(m chunk.Message) string {
	p := m.Payload
	switch m.Type {
	case chunk.TypeSetChunkSize:
		return fmt.Sprint("SetChunkSize ", binary.BigEndian.Uint32(p))
	case chunk.TypeAck:
		return fmt.Sprint("Ack ", binary.BigEndian.Uint32(p))
	case chunk.TypeWindowAckSize:
		return fmt.Sprint("WindowAckSize ", binary.BigEndian.Uint32(p))
	case chunk.TypeSetPeerBandwidth:
		return fmt.Sprint("SetPeerBandwidth ", binary.BigEndian.Uint32(p), " ", p[4])
	case chunk.TypeUserControl:
		return fmt.Sprintf("UserControl %d %d", binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:]))
	case chunk.TypeCommand, chunk.TypeData:
		values, err := amf.DecodeAll(p, amf.Limits{})
		if err != nil {
			return "bad AMF: " + err.Error()
		}
		words := []string{fmt.Sprintf("%v@%d", values[0], m.StreamID)}
		for _, v := range values[1:] {
			words = append(words, word(v))
		}
		return strings.Join(words, " ")
	}
	return fmt.Sprintf("message %d@%d %q", m.Type, m.StreamID, p)
}

func word(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case amf.Undefined:
		return "undefined"
	case amf.Object:
		if code := text(v, "code"); code != "" {
			return text(v, "level") + ":" + code
		}
		return "object"
	}
	return fmt.Sprint(v)
}

// command encodes a command in chunks of the default size, encode its body.
var command, encode = rtmptest.Command, rtmptest.AMF

func message(typ uint8, streamID uint32, payload []byte) []byte {
	return chunk.Append(nil, chunk.Header{Type: typ, StreamID: streamID}, payload, chunk.DefaultSize)
}

func control(typ uint8, v uint32) []byte { return chunk.AppendControl(nil, typ, v) }

func newTestConn(src io.Reader, r *record) *Conn {
	return NewConn(src, r.send, 4096, testChunkSize, testLimits)
}

func readAll(c *Conn) (got []string, err error) {
	for {
		m, err := c.Next()
		if err != nil {
			return got, err
		}
		got = append(got, describe(m))
	}
}

func TestConnAnswersControlMessages(t *testing.T) {
	userControl := func(p ...byte) []byte { return message(chunk.TypeUserControl, 0, p) }
	for _, c := range []struct {
		name  string
		in    []byte
		sends []string
	}{
		{"ping", userControl(0, 6, 1, 2, 3, 4), []string{"UserControl 7 16909060"}},
		{"ping with more behind it", userControl(0, 6, 0, 0, 0, 9, 5, 5), []string{"UserControl 7 9"}},
		{"ping without its time", userControl(0, 6, 0, 0, 0), nil},
		{"pong", userControl(0, 7, 0, 0, 0, 1), nil},
		{"buffer length", userControl(0, 3, 0, 0, 0, 1, 0, 0, 0xbb, 0x80), nil},
		{"stream begin", userControl(0, 0, 0, 0, 0, 1), nil},
		{"FMS's 31", userControl(0, 31, 0, 0, 0, 1), nil},
		{"unknown event", userControl(0xff, 0xff, 0, 0, 0, 1), nil},
		{"empty user control", userControl(), nil},
		{"one byte", userControl(0), nil},
		{"ping as librtmp's first chunk, type 1", []byte("\x42\x00\x00\x00\x00\x00\x06\x04\x00\x06\x00\x00\x00\x07"), []string{"UserControl 7 7"}},
		{"peer bandwidth", message(chunk.TypeSetPeerBandwidth, 0, []byte{0, 0, 0, 1, 0}), []string{"WindowAckSize 2500000"}},
		{"peer bandwidth of an odd type", message(chunk.TypeSetPeerBandwidth, 0, []byte{0, 0, 0, 1, 99}), []string{"WindowAckSize 2500000"}},
		{"ack", control(chunk.TypeAck, 1), nil},
		{"short ack", message(chunk.TypeAck, 0, nil), nil},
		{"short window", message(chunk.TypeWindowAckSize, 0, []byte{1}), nil},
		{"abort of nothing", control(chunk.TypeAbort, 77), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &record{}
			got, err := readAll(newTestConn(bytes.NewReader(append(c.in, command(0, "after")...)), r))
			require.Equal(t, io.EOF, err)
			require.Equal(t, []string{"after@0"}, got)
			require.Equal(t, c.sends, r.log)
		})
	}
}

func TestConnReturnsTheErrorOfSending(t *testing.T) {
	for _, in := range [][]byte{
		message(chunk.TypeUserControl, 0, []byte{0, 6, 0, 0, 0, 0}),
		message(chunk.TypeSetPeerBandwidth, 0, make([]byte, 5)),
		append(control(chunk.TypeWindowAckSize, 1), make([]byte, 4096)...),
	} {
		r := &record{fail: io.ErrClosedPipe}
		_, err := readAll(newTestConn(iotest.OneByteReader(bytes.NewReader(in)), r))
		require.ErrorIs(t, err, io.ErrClosedPipe)
	}
}

// pieces returns at most n bytes per Read.
type pieces struct {
	r io.Reader
	n int
}

func (p pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.n)]) }

// A peer that waits for an acknowledgement in the middle of a message gets it there, and
// before it has sent a whole window.
func TestConnAcknowledgesWithinAMessage(t *testing.T) {
	const window, size = 10000, 100000
	in := append(control(chunk.TypeWindowAckSize, window), message(chunk.TypeVideo, 1, make([]byte, size))...)
	r := &record{}
	c := newTestConn(pieces{bytes.NewReader(in), 100}, r)
	c.acked = c.count

	_, err := c.Next()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(r.log), 2*size/window)
	last := 3073
	for _, s := range r.log {
		var n int
		_, err := fmt.Sscanf(s, "Ack %d", &n)
		require.NoError(t, err, s)
		require.Greater(t, n, last)
		require.LessOrEqual(t, n-last, window, "more than a window not acknowledged")
		require.GreaterOrEqual(t, n-last, window/2)
		last = n
	}
	require.LessOrEqual(t, 3073+len(in)-last, window/2)
}

// With too small a window we would answer each acknowledgement of the peer with one of
// ours. With too large a window the peer would get none in time.
func TestConnAckWindows(t *testing.T) {
	for _, c := range []struct {
		window uint32
		piece  int    // bytes per Read
		every  uint64 // bytes between acknowledgements
	}{
		{0, 1, 2048}, {1, 1, 2048}, {500, 1, 2048}, {4095, 1, 2048}, {4096, 1, 2048}, {4097, 1, 2048}, {4098, 1, 2049},
		{4098, 16, 2064}, {10_000, 16, 5008}, {2_499_998, 625, 1_250_000}, {2_500_000, 625, 1_250_000}, {2_500_001, 625, 1_250_000},
		{5_000_000, 625, 1_250_000}, {math.MaxInt32, 625, 1_250_000}, {math.MaxUint32, 625, 1_250_000},
	} {
		t.Run(fmt.Sprint(c.window), func(t *testing.T) {
			r := &record{}
			conn := newTestConn(io.MultiReader(
				bytes.NewReader(control(chunk.TypeWindowAckSize, c.window)),
				pieces{bytes.NewReader(make([]byte, 2*c.every+c.every/2)), c.piece}), r)
			_, own, err := conn.next()
			require.NoError(t, err)
			require.True(t, own)
			require.Empty(t, r.log)

			conn.acked = conn.count
			var want []string
			for next := conn.count + c.every; ; {
				_, err := (*ackReader)(conn).Read(make([]byte, 1000))
				if err == io.EOF {
					break
				}
				require.NoError(t, err)
				if conn.count == next {
					want, next = append(want, fmt.Sprint("Ack ", next)), next+c.every
				}
				require.Len(t, r.log, len(want), "%d bytes", conn.count)
			}
			require.Len(t, want, 2)
			require.Equal(t, want, r.log)
		})
	}
}

func TestConnTakesThePeersWindow(t *testing.T) {
	for w, want := range map[uint32]uint64{0: 4096, 1: 4096, 4096: 4096, 4097: 4097, 2_500_000: 2_500_000, 2_500_001: 2_500_000, math.MaxUint32: 2_500_000} {
		c := newTestConn(bytes.NewReader(append(control(chunk.TypeWindowAckSize, w), command(0, "after")...)), &record{})
		require.EqualValues(t, windowAckSize, c.window)
		_, err := c.Next()
		require.NoError(t, err)
		require.Equal(t, want, c.window, w)
	}
}

func TestConnAckCounterWraps(t *testing.T) {
	r := &record{}
	c := newTestConn(pieces{bytes.NewReader(make([]byte, 64)), 16}, r)
	c.window, c.count, c.acked = 32, math.MaxUint32-15, math.MaxUint32-15
	var b [64]byte
	for range 4 {
		_, err := (*ackReader)(c).Read(b[:])
		require.NoError(t, err)
	}
	require.Equal(t, []string{"Ack 0", "Ack 16", "Ack 32", "Ack 48"}, r.log)
}

func TestParseCommand(t *testing.T) {
	obj := amf.Object{{Key: "app", Value: "live"}}
	for _, c := range []struct {
		name    string
		typ     uint8
		payload []byte
		want    Command
	}{
		{"AMF0", 20, encode("connect", 1, obj, "x"), Command{Name: "connect", Txn: 1, Args: []any{obj, "x"}}},
		{"AMF0, name alone", 20, encode("close"), Command{Name: "close", Args: []any{}}},
		{"AMF0, no transaction id", 20, encode("publish", nil, "key"), Command{Name: "publish", Args: []any{nil, "key"}}},
		{"AMF0, transaction id 0", 20, encode("onStatus", 0, nil), Command{Name: "onStatus", Args: []any{nil}}},
		{"AMF0, fraction", 20, encode("a", 1.5), Command{Name: "a", Txn: 1.5, Args: []any{}}},
		{"AMF3", 17, append([]byte{0}, encode("connect", 1, obj)...), Command{Name: "connect", Txn: 1, Args: []any{obj}}},
		{"AMF3 without format byte", 17, encode("connect", 1, obj), Command{Name: "connect", Txn: 1, Args: []any{obj}}},
		{"AMF3 value", 17, append(append([]byte{0}, encode("a", 1)...), "\x11\x06\x09live"...), Command{Name: "a", Txn: 1, Args: []any{"live"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok, err := parseCommand(chunk.Message{Header: chunk.Header{Type: c.typ, StreamID: 7}, Payload: c.payload})
			require.NoError(t, err)
			require.True(t, ok)
			c.want.StreamID = 7
			if len(got.Args) == 0 {
				got.Args = []any{}
			}
			require.Equal(t, c.want, got)
		})
	}
	for name, payload := range map[string][]byte{
		"nothing":           nil,
		"a number":          encode(1),
		"null":              encode(nil),
		"cut":               encode("connect", 1)[:12],
		"no AMF":            {0xff, 0xff},
		"nested too deep":   append(encode("a", 1), bytes.Repeat([]byte{3, 0, 1, 'a'}, 100)...),
		"too many values":   append(encode("a", 1), bytes.Repeat([]byte{5}, 2000)...),
		"array of 2^32-1":   append(encode("a", 1), "\x0a\xff\xff\xff\xff"...),
		"string of 2^32-1":  append(encode("a", 1), "\x0c\xff\xff\xff\xff"...),
		"AMF0 name of AMF3": {0x11, 0x06},
	} {
		for _, typ := range []uint8{chunk.TypeCommand, chunk.TypeCommandAMF3} {
			_, ok, err := parseCommand(chunk.Message{Header: chunk.Header{Type: typ}, Payload: payload})
			require.True(t, ok, name)
			require.Error(t, err, name)
		}
	}
	_, ok, err := parseCommand(chunk.Message{Header: chunk.Header{Type: chunk.TypeData}, Payload: encode("connect")})
	require.NoError(t, err)
	require.False(t, ok)
}

func TestCommandArguments(t *testing.T) {
	c := &Command{Args: []any{nil, "key", 2.0, true}}
	require.Equal(t, []string{"", "key", "", "", ""}, []string{c.String(0), c.String(1), c.String(2), c.String(3), c.String(4)})
	n, ok := c.Number(2)
	require.True(t, ok)
	require.Equal(t, 2.0, n)
	for _, i := range []int{0, 1, 3, 4} {
		_, ok = c.Number(i)
		require.False(t, ok, i)
	}
}

func TestRefusal(t *testing.T) {
	for _, code := range []string{
		"NetStream.Publish.BadName", "NetStream.Publish.Denied", "NetStream.Publish.Rejected", "NetStream.Play.Failed",
		"NetStream.Play.StreamNotFound", "NetConnection.Connect.Rejected", "NetConnection.Connect.InvalidApp",
		"NetConnection.Connect.AppShutdown",
	} {
		require.True(t, refusal("status", code), code)
		require.True(t, refusal("", code), code)
	}
	require.True(t, refusal("error", "anything"))
	for _, code := range []string{
		"", "NetStream.Publish.Start", "NetStream.Play.Start", "NetStream.Play.Reset", "NetStream.Unpublish.Success",
		"NetStream.Play.UnpublishNotify", "NetConnection.Connect.Success", "NetStream.Publish.Idle",
	} {
		require.False(t, refusal("status", code), code)
		require.False(t, refusal("warning", code), code)
	}
}

func TestStatusError(t *testing.T) {
	for want, e := range map[string]*StatusError{
		"publish refused": {Command: "publish"},
		"publish refused: NetStream.Publish.BadName":      {Command: "publish", Code: "NetStream.Publish.BadName"},
		"publish refused: NetStream.Publish.BadName: why": {Command: "publish", Level: "error", Code: "NetStream.Publish.BadName", Description: "why"},
	} {
		require.EqualError(t, e, want)
		var st *StatusError
		require.True(t, errors.As(fmt.Errorf("wrapped: %w", e), &st))
	}
}

func TestClip(t *testing.T) {
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{
		{"", 4, ""},
		{"abcd", 4, "abcd"},
		{"abcde", 4, "abcd…"},
		{"a\r\nb\x00\x1b", 9, "a  b  "},
		{"a\xffb", 9, "a?b"},
		{"aé", 2, "a?…"},
	} {
		require.Equal(t, c.want, clip(c.in, c.n), "%q", c.in)
	}
}
