package rtmp

import (
	"bytes"
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
	"github.com/rtmp-forward/forward/internal/secretscan"
)

const testKey = secretscan.Canary + "?s_bl=1&a=Ab/c+d="

// client returns a Client whose server has sent all its messages.
func client(r *record, opt Options, in ...[]byte) testClient {
	if opt.App == "" {
		opt.App, opt.TcURL, opt.Key = "live", "rtmp://h/live", testKey
	}
	opt.Step = func(s string) { r.add("step %s", s) }
	return testClient{NewClient(newTestConn(bytes.NewReader(concat(in...)), r), opt)}
}

// testClient is a Client that checks its errors for secrets.
type testClient struct{ *Client }

func (c testClient) Publish() error { return checked(c.Client.Publish()) }

func (c testClient) Play() error { return checked(c.Client.Play()) }

func (c testClient) publishAndWatch() error {
	if err := c.Publish(); err != nil {
		return err
	}
	return checked(c.Watch(nil))
}

// checked returns err after a check for secrets. An AuthRequired is exempt: it contains
// the answer to send.
func checked(err error) error {
	if !errors.As(err, new(*AuthRequired)) {
		secretscan.Check("an error", err)
	}
	return err
}

func status(level, code, description string) amf.Object { return statusInfo(level, code, description) }

func onStatus(streamID uint32, level, code, description string) []byte {
	return command(streamID, "onStatus", 0, nil, status(level, code, description))
}

var (
	connectOK = command(0, "_result", 1, amf.Object{{Key: "fmsVer", Value: "FMS/3,5,7,7009"}}, status("status", "NetConnection.Connect.Success", ""))
	createOK  = command(0, "_result", 4, nil, 1)
	publishOK = onStatus(1, "status", "NetStream.Publish.Start", "")
	playOK    = onStatus(1, "status", "NetStream.Play.Start", "")
)

func TestClientPublishOrder(t *testing.T) {
	const release, fcPublish = "releaseStream@0 2 null " + testKey, "FCPublish@0 3 null " + testKey
	for _, c := range []struct {
		name string
		opt  Options
		want []string
	}{
		{"all", Options{}, []string{release, fcPublish}},
		{"no releaseStream", Options{NoReleaseStream: true}, []string{fcPublish}},
		{"no FCPublish", Options{NoFCPublish: true}, []string{release}},
		{"neither", Options{NoReleaseStream: true, NoFCPublish: true}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &record{}
			cl := client(r, c.opt, connectOK, command(0, "_result", 4, nil, 7), onStatus(7, "status", "NetStream.Publish.Start", ""))
			require.NoError(t, cl.Publish())
			require.EqualValues(t, 7, cl.StreamID())
			want := []string{"step connect", "SetChunkSize 60000", "connect@0 1 object", "step createStream", "WindowAckSize 2500000"}
			want = append(want, c.want...)
			want = append(want, "createStream@0 4 null", "step publish", "publish@7 5 null "+testKey+" live")
			require.Equal(t, want, r.log)

			r.log = nil
			require.NoError(t, r.send(cl.AppendUnpublish(nil)))
			want = []string{"FCUnpublish@0 6 null " + testKey, "deleteStream@0 7 null 7"}
			if c.opt.NoFCPublish {
				want = want[1:]
			}
			require.Equal(t, want, r.log)
		})
	}
}

func TestClientPlayOrder(t *testing.T) {
	r := &record{}
	cl := client(r, Options{}, connectOK, createOK, message(chunk.TypeUserControl, 0, []byte{0, 0, 0, 0, 0, 1}),
		onStatus(1, "status", "NetStream.Play.Reset", ""), playOK)
	require.NoError(t, cl.Play())
	require.Equal(t, []string{"step connect", "SetChunkSize 60000", "connect@0 1 object", "step createStream", "WindowAckSize 2500000",
		"createStream@0 4 null", "step play", "play@1 5 null " + testKey + " -2000"}, r.log)
}

func TestClientConnectBytes(t *testing.T) {
	str := func(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }
	var sent bytes.Buffer
	c := NewClient(NewConn(bytes.NewReader(nil), func(b []byte) error { sent.Write(b); return nil }, 4096, 4096, testLimits), Options{
		App: "live", TcURL: "rtmp://h/live", Key: "k", Properties: amf.Object{{Key: "capsEx", Value: 1}},
	})
	require.ErrorIs(t, c.Publish(), io.EOF)
	p := "\x02" + str("connect") + "\x00\x3f\xf0\x00\x00\x00\x00\x00\x00\x03" +
		str("app") + "\x02" + str("live") + str("type") + "\x02" + str("nonprivate") +
		str("flashVer") + "\x02" + str("FMLE/3.0 (compatible; FMSc/1.0)") +
		str("swfUrl") + "\x02" + str("rtmp://h/live") + str("tcUrl") + "\x02" + str("rtmp://h/live") +
		str("capsEx") + "\x00\x3f\xf0\x00\x00\x00\x00\x00\x00" + "\x00\x00\x09"
	require.Equal(t, "\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x10\x00"+
		"\x03\x00\x00\x00\x00"+str(p)[:2]+"\x14\x00\x00\x00\x00"+p, sent.String())
	require.LessOrEqual(t, len(FlashVer), 31, "nginx-rtmp cuts it")
}

// Answers of servers that differ from the usual ones and are not refusals.
func TestClientTakesTheAnswersOf(t *testing.T) {
	success := status("status", "NetConnection.Connect.Success", "")
	ping := message(chunk.TypeUserControl, 0, []byte{0, 6, 0, 0, 0, 1})
	preface := concat(control(chunk.TypeWindowAckSize, 2500000), message(chunk.TypeSetPeerBandwidth, 0, []byte{0, 0x26, 0x25, 0xa0, 2}),
		message(chunk.TypeUserControl, 0, make([]byte, 6)))
	for name, in := range map[string][]byte{
		"FMS": concat(preface, connectOK, command(0, "onBWDone", 0, nil, 8192), command(0, "_result", 2, nil, nil), command(0, "onFCPublish", 0, nil, status("status", "NetStream.Publish.Start", "")), command(0, "_result", 3, nil, nil), createOK, publishOK),
		"a chunk size of 1": concat(control(chunk.TypeSetChunkSize, 1), chunk.Append(nil, chunk.Header{Type: 20}, encode("_result", 1, nil, success), 1),
			chunk.Append(nil, chunk.Header{Type: 20}, encode("_result", 4, nil, 1), 1), chunk.Append(nil, chunk.Header{Type: 20}, encode("onStatus", 0, nil, status("status", "NetStream.Publish.Start", "")), 1)),
		"Red5, null properties":                  concat(command(0, "_result", 1, nil, success), createOK, publishOK),
		"connect's result without properties":    concat(command(0, "_result", 1), createOK, publishOK),
		"connect's result with transaction id 0": concat(command(0, "_result", 0, nil, success), createOK, publishOK),
		"connect's result without one":           concat(command(0, "_result", nil, success), createOK, publishOK),
		"createStream's with transaction id 0":   concat(connectOK, command(0, "_result", 0, nil, 1), publishOK),
		"results on other streams":               concat(command(1, "_result", 1, nil, success), command(5, "_result", 4, nil, 1), publishOK),
		"onStatus on stream 0":                   concat(connectOK, createOK, onStatus(0, "status", "NetStream.Publish.Start", "")),
		"onStatus with publish's transaction id": concat(connectOK, createOK, command(1, "onStatus", 5, nil, status("status", "NetStream.Publish.Start", ""))),
		"onStatus without null":                  concat(connectOK, createOK, command(1, "onStatus", 0, status("status", "NetStream.Publish.Start", ""))),
		"onStatus in an ECMA array":              concat(connectOK, createOK, command(1, "onStatus", 0, nil, amf.ECMAArray(status("status", "NetStream.Publish.Start", "")))),
		"onStatus as AMF3":                       concat(connectOK, createOK, message(17, 1, append([]byte{0}, encode("onStatus", 0, nil, status("status", "NetStream.Publish.Start", ""))...))),
		"a status before it":                     concat(connectOK, createOK, onStatus(1, "status", "NetStream.Publish.Idle", ""), onStatus(1, "warning", "x", ""), publishOK),
		"releaseStream and FCPublish fail":       concat(connectOK, command(0, "_error", 2, nil, status("error", "NetConnection.Call.Failed", "")), command(0, "_error", 3, nil, status("error", "NetConnection.Call.Failed", "")), createOK, publishOK),
		"they fail late":                         concat(connectOK, createOK, command(0, "_error", 2, nil, status("error", "NetConnection.Call.Failed", "")), command(0, "_error", 3, nil), publishOK),
		"they have numbers":                      concat(connectOK, command(0, "_result", 2, nil, 99), command(0, "_result", 3, nil, 98), createOK, publishOK),
		"createStream's result first of all":     concat(connectOK, createOK, command(0, "_result", 2, nil, nil), command(0, "_result", 3, nil, nil), publishOK),
		"onFCPublish after the start":            concat(connectOK, createOK, publishOK, command(0, "onFCPublish", 0, nil, status("status", "NetStream.Publish.Start", ""))),
		"no result of releaseStream":             concat(connectOK, createOK, publishOK),
		"connect's result twice":                 concat(connectOK, connectOK, createOK, publishOK),
		"pings in between":                       concat(ping, connectOK, ping, createOK, ping, publishOK),
		"AMS, user control 31 and 32":            concat(message(chunk.TypeUserControl, 0, []byte{0, 31, 0, 0, 0, 0}), connectOK, message(chunk.TypeUserControl, 0, []byte{0, 32}), createOK, publishOK),
		"all on chunk stream 5":                  concat(onFive(connectOK), onFive(createOK), onFive(publishOK)),
		"unknown messages":                       concat(message(255, 0, []byte("x")), connectOK, message(16, 0, nil), createOK, message(chunk.TypeData, 1, []byte("x")), message(chunk.TypeVideo, 1, nil), publishOK),
		"unknown commands":                       concat(command(0, "", 0), connectOK, command(0, "_checkbw", 9, nil), createOK, command(0, "onStatus", 0), command(0, "onStatus", 0, nil, "x"), publishOK),
	} {
		t.Run(name, func(t *testing.T) {
			r := &record{}
			c := client(r, Options{}, in)
			require.NoError(t, c.Publish())
			require.EqualValues(t, 1, c.StreamID())
			pongs := 0
			for _, s := range r.log {
				if s == "UserControl 7 1" {
					pongs++
				}
			}
			require.Equal(t, bytes.Count(in, ping), pongs)
		})
	}
}

// onFive moves a message of one chunk to chunk stream 5.
func onFive(b []byte) []byte { return concat([]byte{5}, b[1:]) }

func TestClientStreamIDs(t *testing.T) {
	for _, id := range []float64{0, 1, 2, 65536, math.MaxUint32} {
		r := &record{}
		c := client(r, Options{}, connectOK, command(0, "_result", 4, nil, id), onStatus(uint32(id), "status", "NetStream.Publish.Start", ""))
		require.NoError(t, c.Publish())
		require.EqualValues(t, id, c.StreamID())
		require.Contains(t, r.log, fmt.Sprintf("publish@%.0f 5 null %s live", id, testKey))
	}
	for _, id := range []any{-1, float64(1 << 32), math.Inf(1), math.Inf(-1), math.NaN(), "1", nil, true} {
		err := client(&record{}, Options{}, connectOK, command(0, "_result", 4, nil, id), publishOK).Publish()
		require.ErrorIs(t, err, chunk.ErrProtocol, "%v", id)
	}
	err := client(&record{}, Options{}, connectOK, command(0, "_result", 4), publishOK).Publish()
	require.ErrorIs(t, err, chunk.ErrProtocol)
}

func TestClientRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want StatusError
	}{
		{"connect, _error", command(0, "_error", 1, nil, status("error", "NetConnection.Connect.Rejected", "[ AccessManager.Reject ]")),
			StatusError{"connect", "error", "NetConnection.Connect.Rejected", "[ AccessManager.Reject ]"}},
		{"connect, _error with transaction id 0", command(0, "_error", 0, nil, status("error", "NetConnection.Connect.InvalidApp", "")),
			StatusError{"connect", "error", "NetConnection.Connect.InvalidApp", ""}},
		{"connect, _error without anything", command(0, "_error", 1), StatusError{"connect", "", "_error", ""}},
		{"connect, onStatus", onStatus(0, "error", "NetConnection.Connect.Failed", ""), StatusError{"connect", "error", "NetConnection.Connect.Failed", ""}},
		{"connect, close", command(0, "close", 0, nil), StatusError{"connect", "", "close", ""}},
		{"createStream, _error", concat(connectOK, command(0, "_error", 4, nil, status("error", "NetConnection.Call.Failed", "no more"))),
			StatusError{"createStream", "error", "NetConnection.Call.Failed", "no more"}},
		{"createStream, onStatus", concat(connectOK, onStatus(0, "error", "NetStream.Publish.BadName", "busy")), StatusError{"createStream", "error", "NetStream.Publish.BadName", "busy"}},
		{"createStream, close", concat(connectOK, command(0, "close", 0, nil)), StatusError{"createStream", "", "close", ""}},
		{"publish, onStatus", concat(connectOK, createOK, onStatus(1, "error", "NetStream.Publish.BadName", "busy")), StatusError{"publish", "error", "NetStream.Publish.BadName", "busy"}},
		{"publish, onStatus on stream 0", concat(connectOK, createOK, onStatus(0, "error", "NetStream.Publish.Denied", "")), StatusError{"publish", "error", "NetStream.Publish.Denied", ""}},
		{"publish, onStatus without level", concat(connectOK, createOK, command(1, "onStatus", 0, nil, amf.Object{{Key: "code", Value: "NetStream.Publish.Denied"}})),
			StatusError{"publish", "", "NetStream.Publish.Denied", ""}},
		{"publish, onStatus of another level", concat(connectOK, createOK, onStatus(1, "status", "NetStream.Publish.Rejected", "")), StatusError{"publish", "status", "NetStream.Publish.Rejected", ""}},
		{"publish, _error", concat(connectOK, createOK, command(0, "_error", 5, nil, status("error", "NetStream.Publish.Denied", ""))), StatusError{"publish", "error", "NetStream.Publish.Denied", ""}},
		{"publish, close", concat(connectOK, createOK, command(0, "close", 0, nil)), StatusError{"publish", "", "close", ""}},
		{"words made fit", concat(connectOK, createOK, onStatus(1, "status\r\n"+strings.Repeat("l", 20), strings.Repeat("c", 100)+".Denied", "a\r\nb\xff"+strings.Repeat("d", 300))),
			StatusError{"publish", "status  llllllll…", strings.Repeat("c", 64) + "…", "a  b?" + strings.Repeat("d", 251) + "…"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := client(&record{}, Options{}, c.in, connectOK, createOK, publishOK).Publish()
			var st *StatusError
			require.ErrorAs(t, err, &st)
			require.Equal(t, c.want, *st)
		})
	}
}

func TestClientPlayRefused(t *testing.T) {
	err := client(&record{}, Options{}, connectOK, createOK, onStatus(1, "error", "NetStream.Play.StreamNotFound", "No such stream.")).Play()
	require.Equal(t, &StatusError{"play", "error", "NetStream.Play.StreamNotFound", "No such stream."}, err)
	err = client(&record{}, Options{}, command(0, "_error", 1, nil, nil)).Play()
	require.Equal(t, &StatusError{Command: "connect", Code: "_error"}, err)
	err = client(&record{}, Options{}, connectOK, command(0, "_error", 4, nil, nil)).Play()
	require.Equal(t, &StatusError{Command: "createStream", Code: "_error"}, err)
}

// Servers repeat the request. Its secret parts are masked in the error, wherever they are.
func TestClientRefusedMasksSecrets(t *testing.T) {
	opt := Options{App: "live?backup=c4nary5ecret-app", TcURL: "rtmp://h/live?backup=c4nary5ecret-app", Key: "c4nary5ecret?token=tok/en=&b=1"}
	for _, words := range []string{
		"stream c4nary5ecret?token=tok/en=&b=1 is busy", "c4nary5ecret is busy, c4nary5ecret!", "bad ?token=tok/en=&b=1", "rtmp://h/live?backup=c4nary5ecret-app/c4nary5ecret",
		"bad token tok/en=", "c4nary5ecret-app", strings.Repeat("x", 240) + "c4nary5ecret?token=tok/en=&b=1",
	} {
		for _, in := range [][]byte{
			command(0, "_error", 1, nil, status("error", "NetConnection.Connect.Rejected", words)),
			concat(connectOK, command(0, "_error", 4, nil, status("error", words, "x"))),
			concat(connectOK, createOK, onStatus(1, "error", "NetStream.Publish.BadName", words)),
			concat(connectOK, createOK, command(1, "_error", 5, nil, status(words, "x", "y"))),
		} {
			err := client(&record{}, opt, in).Publish()
			var st *StatusError
			require.ErrorAs(t, err, &st)
			all := fmt.Sprintf("%s %+v", err, *st)
			for _, secret := range []string{secretscan.Canary, "c4nary5", "token=", "tok/en"} {
				require.NotContains(t, all, secret, "%q", words)
			}
		}
		err := client(&record{}, opt, concat(connectOK, createOK, publishOK, onStatus(1, "error", "NetStream.Publish.Rejected", words))).publishAndWatch()
		var st *StatusError
		require.ErrorAs(t, err, &st)
		require.NotContains(t, err.Error(), "c4nary5ecret")
	}
}

// The key may be a word of the code. Callers branch on the code, so it stays.
func TestClientRefusedKeepsTheCode(t *testing.T) {
	opt := Options{App: "live", TcURL: "rtmp://h/live", Key: "Publish"}
	err := client(&record{}, opt, connectOK, createOK, onStatus(1, "error", "NetStream.Publish.BadName", "Publish is busy")).Publish()
	require.Equal(t, &StatusError{"publish", "error", "NetStream.Publish.BadName", "*** is busy"}, err)
}

// A key of a few letters occurs in ordinary words, and is not masked.
func TestClientRefusedStaysReadable(t *testing.T) {
	for key, want := range map[string]string{"s": "s is busy as such", "is": "s is busy as such", "suc": "s is busy as such", "such": "s is busy as ***"} {
		opt := Options{App: "live?a=b", TcURL: "rtmp://h/live?a=b", Key: key, User: "a", Password: "b"}
		err := client(&record{}, opt, connectOK, createOK, onStatus(1, "error", "NetStream.Publish.BadName", "s is busy as such")).Publish()
		require.Equal(t, &StatusError{"publish", "error", "NetStream.Publish.BadName", want}, err)
	}
}

func TestClientWatch(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"end", nil, io.EOF},
		{"reject in mid-stream", onStatus(1, "error", "NetStream.Publish.Rejected", "kicked"), &StatusError{"stream", "error", "NetStream.Publish.Rejected", "kicked"}},
		{"a failure that is none", concat(onStatus(1, "status", "NetStream.Unpublish.Success", ""), command(0, "_error", 2, nil, status("error", "x", ""))), io.EOF},
		{"close", command(0, "close", 0, nil), &StatusError{Command: "stream", Code: "close"}},
		{"ping", message(chunk.TypeUserControl, 0, []byte{0, 6, 0, 0, 0, 1}), io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &record{}
			cl := client(r, Options{}, connectOK, createOK, publishOK, c.in)
			require.Equal(t, c.want, cl.publishAndWatch())
		})
	}

	var got []string
	take := func(m chunk.Message) error { got = append(got, describe(m)); return nil }
	cl := client(&record{}, Options{}, connectOK, createOK, playOK,
		message(chunk.TypeData, 1, encode("onMetaData")), message(chunk.TypeAudio, 1, []byte("a")), message(chunk.TypeVideo, 1, []byte("v")),
		onStatus(1, "status", "NetStream.Play.UnpublishNotify", ""))
	require.NoError(t, cl.Play())
	require.Equal(t, io.EOF, cl.Watch(take))
	require.Equal(t, []string{"onMetaData@1", `message 8@1 "a"`, `message 9@1 "v"`, "onStatus@1 0 null status:NetStream.Play.UnpublishNotify"}, got)

	stop := errors.New("stop")
	cl = client(&record{}, Options{}, connectOK, createOK, playOK, message(chunk.TypeAudio, 1, []byte("a")))
	require.NoError(t, cl.Play())
	require.Equal(t, stop, cl.Watch(func(chunk.Message) error { return stop }))
}

func TestClientHostileServer(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"HTTP", []byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n"), nil},
		{"zeros", make([]byte, 10000), nil},
		{"ones", bytes.Repeat([]byte{255}, 10000), nil},
		{"AMF nested too deep", message(20, 0, append(encode("_result", 1), bytes.Repeat([]byte{3, 0, 1, 'a'}, 10000)...)), amf.ErrTooDeep},
		{"AMF array of 2^32-1", message(20, 0, append(encode("_result", 1), "\x0a\xff\xff\xff\xff\x05"...)), nil},
		{"AMF of 64 KiB nulls", message(20, 0, append(encode("_result", 1), bytes.Repeat([]byte{5}, 60000)...)), amf.ErrLimit},
		{"a command of 16 MiB", []byte{3, 0, 0, 0, 255, 255, 255, 20, 0, 0, 0, 0}, chunk.ErrLimit},
		{"chunk size 0", control(chunk.TypeSetChunkSize, 0), chunk.ErrProtocol},
		{"no name", message(20, 0, encode(nil)), chunk.ErrProtocol},
		{"AMF bomb as AMF3", message(17, 0, append(append([]byte{0}, encode("_result", 1)...), append([]byte{0x11}, bytes.Repeat([]byte{9, 3, 1}, 1000)...)...)), amf.ErrTooDeep},
	} {
		t.Run(c.name, func(t *testing.T) {
			for step, before := range [][]byte{nil, connectOK, concat(connectOK, createOK), concat(connectOK, createOK, publishOK)} {
				err := client(&record{}, Options{}, before, c.in).publishAndWatch()
				require.Error(t, err, step)
				if c.want != nil {
					require.ErrorIs(t, err, c.want, step)
				}
			}
		})
	}
}

func TestClientCutAtEveryByte(t *testing.T) {
	in := concat(connectOK, command(0, "onBWDone", 0, nil), createOK, publishOK)
	for n := range in {
		r := &record{}
		c := NewClient(newTestConn(iotest.OneByteReader(bytes.NewReader(in[:n])), r), Options{App: "live", Key: "k"})
		err := c.Publish()
		require.True(t, isEOF(err), "%d: %v", n, err)
	}
	r := &record{}
	require.NoError(t, NewClient(newTestConn(iotest.OneByteReader(bytes.NewReader(in)), r), Options{App: "live", Key: "k"}).Publish())
}

func TestClientSendingFails(t *testing.T) {
	for n := range 3 {
		s := &failAfter{&record{}, n}
		c := NewClient(NewConn(bytes.NewReader(concat(connectOK, createOK, publishOK)), s.send, 4096, testChunkSize, testLimits), Options{App: "live", Key: "k"})
		require.ErrorIs(t, c.Publish(), io.ErrClosedPipe, n)
	}
}
