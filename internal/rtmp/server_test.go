package rtmp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/chunk"
)

// handler records the Server's calls, in order with the messages that the Server sends.
type handler struct {
	*record
	refuse map[string]error // by method, or by method and name
	active map[string]int   // accepted and not ended, by "publish" or "play" and stream id
}

func (h *handler) verdict(method, name string) error {
	if err := h.refuse[method+" "+name]; err != nil {
		return err
	}
	return h.refuse[method]
}

func (h *handler) change(what string, streamID uint32, by int) {
	if h.active == nil {
		h.active = make(map[string]int)
	}
	key := fmt.Sprint(what, " ", streamID)
	h.active[key] += by
	if n := h.active[key]; n < 0 || n > 1 {
		panic(fmt.Sprintf("%s is active %d times", key, n))
	}
}

func (h *handler) Connect(c *Connect) error {
	h.add("Connect %q %q %q %d", c.App, c.TcURL, c.FlashVer, len(c.Properties))
	return h.verdict("Connect", c.App)
}

func (h *handler) Publish(id uint32, name string) error {
	h.add("Publish %d %q", id, name)
	if err := h.verdict("Publish", name); err != nil {
		return err
	}
	h.change("publish", id, 1)
	return nil
}

func (h *handler) Unpublish(id uint32, _ bool) {
	h.add("Unpublish %d", id)
	h.change("publish", id, -1)
}

func (h *handler) Message(m chunk.Message) error {
	if h.active[fmt.Sprint("publish ", m.StreamID)] != 1 {
		panic("a message of a stream that does not publish")
	}
	h.add("Message %d@%d %q", m.Type, m.StreamID, m.Payload)
	return h.verdict("Message", "")
}

func (h *handler) Play(id uint32, name string) error {
	h.add("Play %d %q", id, name)
	if err := h.verdict("Play", name); err != nil {
		return err
	}
	h.change("play", id, 1)
	return nil
}

func (h *handler) Playing(id uint32)           { h.add("Playing %d", id) }
func (h *handler) Pause(id uint32, pause bool) { h.add("Pause %d %t", id, pause) }

func (h *handler) StopPlay(id uint32) {
	h.add("StopPlay %d", id)
	h.change("play", id, -1)
}

// serve runs a Server with in, the bytes that a client sends after its handshake.
func serve(h *handler, in ...[]byte) error {
	if h.record == nil {
		h.record = &record{}
	}
	err := NewServer(newTestConn(bytes.NewReader(concat(in...)), h.record), h).Serve()
	for what, n := range h.active {
		if n != 0 {
			panic(what + " was not ended")
		}
	}
	return checked(err)
}

var connected = command(0, "connect", 1, amf.Object{{Key: "app", Value: "live"}, {Key: "tcUrl", Value: "rtmp://h/live"}})

// connectLog is the record of connected.
var connectLog = []string{
	`Connect "live" "rtmp://h/live" "" 2`,
	"WindowAckSize 2500000", "SetPeerBandwidth 2500000 2", "SetChunkSize 60000",
	"_result@0 1 object status:NetConnection.Connect.Success",
}

// The exact bytes of the answer to connect. SetChunkSize precedes the message that is
// longer than 128 bytes, because librtmp does not reassemble it otherwise (SRS #454).
func TestServerConnectAnswer(t *testing.T) {
	str := func(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }
	result := "\x02" + str("_result") + "\x00\x3f\xf0\x00\x00\x00\x00\x00\x00" +
		"\x03" + str("fmsVer") + "\x02" + str("FMS/3,0,1,123") + str("capabilities") + "\x00\x40\x3f\x00\x00\x00\x00\x00\x00" + "\x00\x00\x09" +
		"\x03" + str("level") + "\x02" + str("status") + str("code") + "\x02" + str("NetConnection.Connect.Success") +
		str("description") + "\x02" + str("Connection succeeded.") + str("objectEncoding") + "\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
		str("capsEx") + "\x00\x40\x2c\x00\x00\x00\x00\x00\x00" +
		str("fourCcList") + "\x0a\x00\x00\x00\x01\x02" + str("*") +
		str("videoFourCcInfoMap") + "\x03" + str("*") + "\x00\x40\x10\x00\x00\x00\x00\x00\x00\x00\x00\x09" +
		str("audioFourCcInfoMap") + "\x03" + str("*") + "\x00\x40\x10\x00\x00\x00\x00\x00\x00\x00\x00\x09" +
		"\x00\x00\x09"
	want := "\x02\x00\x00\x00\x00\x00\x04\x05\x00\x00\x00\x00\x00\x26\x25\xa0" +
		"\x02\x00\x00\x00\x00\x00\x05\x06\x00\x00\x00\x00\x00\x26\x25\xa0\x02" +
		"\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\xea\x60" +
		"\x03\x00\x00\x00\x00" + string([]byte{byte(len(result) >> 8), byte(len(result))}) + "\x14\x00\x00\x00\x00" + result

	for name, in := range map[string][]byte{
		"objectEncoding 0":              command(0, "connect", 1, amf.Object{{Key: "objectEncoding", Value: 0}}),
		"objectEncoding 3":              command(0, "connect", 1, amf.Object{{Key: "objectEncoding", Value: 3}}),
		"AMF3 command":                  message(17, 0, append([]byte{0}, encode("connect", 1, amf.Object{{Key: "objectEncoding", Value: 3}})...)),
		"AMF3 command, no format byte":  message(17, 0, encode("connect", 1, amf.Object{})),
		"AMF3 object":                   message(17, 0, append(append([]byte{0}, encode("connect", 1)...), "\x11\x0a\x0b\x01\x07app\x06\x09live\x01"...)),
		"no object":                     command(0, "connect", 1),
		"null":                          command(0, "connect", 1, nil),
		"wrong types":                   command(0, "connect", 1, amf.Object{{Key: "app", Value: 1}, {Key: "tcUrl", Value: nil}, {Key: "flashVer", Value: true}}),
		"a string for an object":        command(0, "connect", 1, "live", "x"),
		"more arguments":                command(0, "connect", 1, amf.Object{}, "user", "password", nil),
		"on a message stream of others": command(5, "connect", 1, amf.Object{}),
	} {
		t.Run(name, func(t *testing.T) {
			var sent bytes.Buffer
			send := func(b []byte) error { sent.Write(b); return nil }
			h := &handler{record: &record{}}
			err := NewServer(NewConn(bytes.NewReader(in), send, 4096, testChunkSize, testLimits), h).Serve()
			require.Equal(t, io.EOF, err)
			require.Equal(t, want, sent.String())
		})
	}
}

func TestServerConnectProperties(t *testing.T) {
	for _, c := range []struct {
		name, want string
		in         []byte
	}{
		{"usual", `Connect "live" "rtmp://h/live" "FMLE/3.0" 4`, command(0, "connect", 1, amf.Object{
			{Key: "app", Value: "live"}, {Key: "type", Value: "nonprivate"}, {Key: "flashVer", Value: "FMLE/3.0"}, {Key: "tcUrl", Value: "rtmp://h/live"}})},
		{"another order and case", `Connect "live" "rtmp://h/live" "F" 3`, command(0, "connect", 7, amf.Object{
			{Key: "tcurl", Value: "rtmp://h/live"}, {Key: "FLASHVER", Value: "F"}, {Key: "App", Value: "live"}})},
		{"ECMA array", `Connect "live" "" "" 1`, command(0, "connect", 1, amf.ECMAArray{{Key: "app", Value: "live"}})},
		{"typed object", `Connect "live" "" "" 1`, command(0, "connect", 1, amf.TypedObject{Name: "c", Object: amf.Object{{Key: "app", Value: "live"}}})},
		{"no tcUrl", `Connect "live" "" "" 1`, command(0, "connect", 1, amf.Object{{Key: "app", Value: "live"}})},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &handler{}
			require.Equal(t, io.EOF, serve(h, c.in))
			require.Equal(t, c.want, h.log[0])
		})
	}
}

func TestServerCommands(t *testing.T) {
	const (
		start      = "onStatus@1 0 null status:NetStream.Publish.Start"
		onFC       = "onFCPublish@0 0 null status:NetStream.Publish.Start"
		onUnFC     = "onFCUnpublish@0 0 null status:NetStream.Unpublish.Success"
		reset      = "onStatus@1 0 null status:NetStream.Play.Reset"
		play       = "onStatus@1 0 null status:NetStream.Play.Start"
		callFailed = "_error@0 9 null error:NetConnection.Call.Failed"
		unpublish  = "onStatus@1 0 null status:NetStream.Unpublish.Success"
		stop       = "onStatus@1 0 null status:NetStream.Play.Stop"
	)
	create := command(0, "createStream", 4, nil)
	publish := func(id uint32, name string) []byte { return command(id, "publish", 5, nil, name, "live") }
	video := func(id uint32, s string) []byte { return message(chunk.TypeVideo, id, []byte(s)) }

	for _, c := range []struct {
		name string
		in   []byte
		want []string // after the answer to connect
	}{
		{"nothing", nil, nil},
		{"OBS", concat(
			command(0, "releaseStream", 2, nil, "c4nary5ecret"), command(0, "FCPublish", 3, nil, "c4nary5ecret"), create, publish(1, "c4nary5ecret"),
			message(chunk.TypeData, 1, []byte("\x02\x00\x01x")), video(1, "v"), message(chunk.TypeAudio, 1, []byte("a")), message(chunk.TypeAggregate, 1, []byte("g")),
			command(0, "FCUnpublish", 6, nil, "c4nary5ecret"), command(0, "deleteStream", 7, nil, 1)),
			[]string{"_result@0 2 null undefined", "_result@0 3 null undefined", onFC, "_result@0 4 null 1",
				`Publish 1 "c4nary5ecret"`, start, `Message 18@1 "\x02\x00\x01x"`, `Message 9@1 "v"`, `Message 8@1 "a"`, `Message 22@1 "g"`,
				"Unpublish 1", unpublish, "_result@0 6 null undefined", onUnFC, "_result@0 7 null undefined"}},
		{"AMF3 commands", concat(
			message(17, 0, append([]byte{0}, encode("createStream", 4, nil)...)),
			message(17, 1, append([]byte{0}, encode("publish", 5, nil, "c4nary5ecret", "live")...)),
			message(chunk.TypeDataAMF3, 1, []byte{0, 5})),
			[]string{"_result@0 4 null 1", `Publish 1 "c4nary5ecret"`, start, `Message 15@1 "\x00\x05"`, "Unpublish 1"}},
		{"ends without unpublishing", concat(create, publish(1, "c4nary5ecret")),
			[]string{"_result@0 4 null 1", `Publish 1 "c4nary5ecret"`, start, "Unpublish 1"}},
		{"closeStream and deleteStream", concat(create, publish(1, "c4nary5ecret"), command(1, "closeStream", 0, nil), command(0, "deleteStream", 0, nil, 1)),
			[]string{"_result@0 4 null 1", `Publish 1 "c4nary5ecret"`, start, "Unpublish 1", unpublish}},
		{"publishes again", concat(create, publish(1, "a"), command(1, "closeStream", 0, nil), publish(1, "b"), video(1, "v")),
			[]string{"_result@0 4 null 1", `Publish 1 "a"`, start, "Unpublish 1", unpublish, `Publish 1 "b"`, start, `Message 9@1 "v"`, "Unpublish 1"}},
		{"a deleted id is not given again", concat(create, command(0, "deleteStream", 0, nil, 1), create),
			[]string{"_result@0 4 null 1", "_result@0 4 null 2"}},
		{"FCPublish and publish without createStream", concat(command(0, "FCPublish", 3, nil, "c4nary5ecret"), publish(0, "c4nary5ecret"), video(0, "v"), create),
			[]string{"_result@0 3 null undefined", onFC, `Publish 0 "c4nary5ecret"`, "onStatus@0 0 null status:NetStream.Publish.Start", `Message 9@0 "v"`, "_result@0 4 null 1", "Unpublish 0"}},
		{"createStream goes round ids in use", concat(publish(1, "a"), publish(3, "b"), create, create, video(1, "v"), video(3, "w"),
			command(0, "deleteStream", 0, nil, 1), command(0, "deleteStream", 0, nil, 3)),
			[]string{`Publish 1 "a"`, start, `Publish 3 "b"`, "onStatus@3 0 null status:NetStream.Publish.Start",
				"_result@0 4 null 2", "_result@0 4 null 4", `Message 9@1 "v"`, `Message 9@3 "w"`, "Unpublish 1", unpublish, "Unpublish 3", "onStatus@3 0 null status:NetStream.Unpublish.Success"}},
		{"createStream goes round great ids", concat(publish(65537, "a"), create, create, command(0, "deleteStream", 0, nil, 65537)),
			[]string{`Publish 65537 "a"`, "onStatus@65537 0 null status:NetStream.Publish.Start", "_result@0 4 null 1", "_result@0 4 null 2", "Unpublish 65537", "onStatus@65537 0 null status:NetStream.Unpublish.Success"}},
		{"the greatest id", concat(publish(math.MaxUint32, "a"), create, command(0, "deleteStream", 0, nil, float64(math.MaxUint32))),
			[]string{`Publish 4294967295 "a"`, "onStatus@4294967295 0 null status:NetStream.Publish.Start", "_result@0 4 null 1", "Unpublish 4294967295", "onStatus@4294967295 0 null status:NetStream.Unpublish.Success"}},
		{"two streams", concat(create, create, publish(1, "a"), publish(2, "b"), video(1, "v"), video(2, "w"), command(0, "FCUnpublish", 0, nil, "a"), video(1, "late"), video(2, "x"), command(0, "deleteStream", 0, nil, 2)),
			[]string{"_result@0 4 null 1", "_result@0 4 null 2", `Publish 1 "a"`, start, `Publish 2 "b"`, "onStatus@2 0 null status:NetStream.Publish.Start",
				`Message 9@1 "v"`, `Message 9@2 "w"`, "Unpublish 1", unpublish, onUnFC, `Message 9@2 "x"`, "Unpublish 2", "onStatus@2 0 null status:NetStream.Unpublish.Success"}},

		{"media before publish and on other streams", concat(video(1, "a"), create, video(1, "b"), video(0, "c"), publish(1, "c4nary5ecret"), video(2, "d"), video(1, "e"), video(1<<24+1, "f")),
			[]string{"_result@0 4 null 1", `Publish 1 "c4nary5ecret"`, start, `Message 9@1 "e"`, "Unpublish 1"}},
		{"media after the end", concat(create, publish(1, "c4nary5ecret"), command(0, "deleteStream", 0, nil, 1), video(1, "late")),
			[]string{"_result@0 4 null 1", `Publish 1 "c4nary5ecret"`, start, "Unpublish 1", unpublish}},
		{"empty media", concat(create, publish(1, "c4nary5ecret"), video(1, ""), message(chunk.TypeAudio, 1, nil)),
			[]string{"_result@0 4 null 1", `Publish 1 "c4nary5ecret"`, start, `Message 9@1 ""`, `Message 8@1 ""`, "Unpublish 1"}},
		{"other message types", concat(create, publish(1, "c4nary5ecret"), message(16, 1, []byte("x")), message(19, 1, nil), message(7, 1, nil), message(255, 1, []byte("x"))),
			[]string{"_result@0 4 null 1", `Publish 1 "c4nary5ecret"`, start, "Unpublish 1"}},

		{"publish types", concat(command(1, "publish", 5, nil, "a"), command(2, "publish", 0, nil, "b", "record"), command(3, "publish", 5, nil, "c", 1), command(4, "publish", 5, nil, "d", "append", 2)),
			[]string{`Publish 1 "a"`, start, `Publish 2 "b"`, "onStatus@2 0 null status:NetStream.Publish.Start", `Publish 3 "c"`, "onStatus@3 0 null status:NetStream.Publish.Start", `Publish 4 "d"`, "onStatus@4 0 null status:NetStream.Publish.Start",
				"Unpublish *"}},
		{"publish without null", command(1, "publish", 5, "c4nary5ecret"), []string{`Publish 1 "c4nary5ecret"`, start, "Unpublish 1"}},
		{"publish without a transaction id", command(1, "publish", nil, "c4nary5ecret"), []string{`Publish 1 "c4nary5ecret"`, start, "Unpublish 1"}},
		{"publish without a name", command(1, "publish", 5, nil), []string{`Publish 1 ""`, start, "Unpublish 1"}},
		{"publish and nothing", command(1, "publish"), []string{`Publish 1 ""`, start, "Unpublish 1"}},
		{"FCUnpublish of no name", concat(command(1, "publish", 5, nil, "c4nary5ecret"), command(0, "FCUnpublish", 0, nil), command(0, "FCUnpublish", 0, nil, 7), command(0, "FCUnpublish", 0, nil, "other"),
			command(0, "FCUnpublish", 0, nil, nil, "c4nary5ecret"), command(0, "FCUnpublish", 0, nil, amf.Undefined{}, "c4nary5ecret")),
			[]string{`Publish 1 "c4nary5ecret"`, start, onUnFC, onUnFC, onUnFC, onUnFC, onUnFC, "Unpublish 1"}},
		{"FCUnpublish without null", concat(publish(1, "c4nary5ecret"), command(0, "FCUnpublish", 0, "c4nary5ecret")), []string{`Publish 1 "c4nary5ecret"`, start, "Unpublish 1", unpublish, onUnFC}},
		{"deleteStream without null", concat(publish(1, "c4nary5ecret"), command(0, "deleteStream", 7, 1), video(1, "late")), []string{`Publish 1 "c4nary5ecret"`, start, "Unpublish 1", unpublish, "_result@0 7 null undefined"}},
		{"deleteStream with the id in another place", concat(publish(1, "c4nary5ecret"), command(0, "deleteStream", 7, nil, nil, 1), command(0, "deleteStream", 7, nil, "x", 1), video(1, "v")),
			[]string{`Publish 1 "c4nary5ecret"`, start, "_result@0 7 null undefined", "_result@0 7 null undefined", `Message 9@1 "v"`, "Unpublish 1"}},
		{"deleteStream of nothing", concat(publish(1, "c4nary5ecret"), command(0, "deleteStream", 0), command(0, "deleteStream", 0, nil), command(1, "deleteStream", 0, nil, "1"),
			command(1, "deleteStream", 0, nil, -1), command(1, "deleteStream", 0, nil, math.NaN()), command(1, "deleteStream", 0, nil, math.Inf(1)), command(1, "deleteStream", 0, nil, 4294967297.0), command(1, "deleteStream", 0, nil, 9)),
			[]string{`Publish 1 "c4nary5ecret"`, start, "Unpublish 1"}},
		{"closeStream of nothing", concat(publish(1, "c4nary5ecret"), command(0, "closeStream", 0, nil), command(9, "closeStream", 0)),
			[]string{`Publish 1 "c4nary5ecret"`, start, "Unpublish 1"}},

		{"player", concat(create, command(0, "getStreamLength", 5, nil, "c4nary5ecret"), command(1, "play", 6, nil, "c4nary5ecret", -2000),
			command(1, "pause", 7, nil, true, 0), command(1, "pause", 8, nil, false, 0), command(1, "pauseRaw", 8, nil, true, 0), command(1, "seek", 8, nil, 1000), command(0, "deleteStream", 9, nil, 1)),
			[]string{"_result@0 4 null 1", "_result@0 5 null 0", `Play 1 "c4nary5ecret"`, "UserControl 0 1", reset, play, "Playing 1",
				"Pause 1 true", "onStatus@1 0 null status:NetStream.Pause.Notify",
				"onStatus@1 0 null status:NetStream.Unpause.Notify", "Pause 1 false",
				"Pause 1 true", "onStatus@1 0 null status:NetStream.Pause.Notify",
				"onStatus@1 0 null error:NetStream.Seek.Failed", "StopPlay 1", stop, "_result@0 9 null undefined"}},
		{"play forms", concat(command(1, "play", 0, nil, "a"), command(1, "closeStream", 0), command(1, "play", "b"), command(1, "closeStream", 0), command(1, "play", 3, nil, "c", "live", -1, true), command(1, "closeStream", 0)),
			[]string{`Play 1 "a"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1", stop, `Play 1 "b"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1", stop, `Play 1 "c"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1", stop}},
		{"player sends media", concat(command(1, "play", 0, nil, "a"), video(1, "v")),
			[]string{`Play 1 "a"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1"}},
		{"pause without null", concat(command(1, "play", 0, nil, "a"), command(1, "pause", 0, true, 0)),
			[]string{`Play 1 "a"`, "UserControl 0 1", reset, play, "Playing 1", "Pause 1 true", "onStatus@1 0 null status:NetStream.Pause.Notify", "StopPlay 1"}},
		{"pause of what does not play", concat(command(1, "pause", 0, nil, true), publish(1, "c4nary5ecret"), command(1, "pause", 0, nil, true, 0)),
			[]string{`Publish 1 "c4nary5ecret"`, start, "Unpublish 1"}},
		{"malformed pause", concat(command(1, "play", 0, nil, "a"), command(1, "pause"), command(1, "pause", 0), command(1, "pause", 0, nil), command(1, "pause", 0, nil, 1), command(1, "pause", 0, nil, "true"),
			command(1, "pause", 0, nil, nil, true), command(1, "pauseRaw", 0, nil, 0, true)),
			[]string{`Play 1 "a"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1"}},
		{"publish and play side by side", concat(publish(1, "a"), command(2, "play", 0, nil, "a")),
			[]string{`Publish 1 "a"`, start, `Play 2 "a"`, "UserControl 0 2", "onStatus@2 0 null status:NetStream.Play.Reset", "onStatus@2 0 null status:NetStream.Play.Start", "Playing 2", "*"}},

		{"_checkbw", command(0, "_checkbw", 5, nil), []string{"_result@0 5 null undefined"}},
		{"no answer to transaction id 0", concat(command(0, "_checkbw", 0, nil), command(0, "releaseStream", 0, nil, "k"), command(0, "createStream", 0, nil), command(0, "getStreamLength", nil, "k")), nil},
		{"FCPublish with transaction id 0", command(0, "FCPublish", 0, nil, "k"), []string{onFC}},
		{"FCPublish without a name", command(0, "FCPublish", 3), []string{"_result@0 3 null undefined", onFC}},
		{"unknown commands", concat(command(0, "onBWDone", 0), command(0, "", 1), command(0, "CONNECT", 1), command(0, "a b", 9, nil), command(0, "_result", 1, nil), command(0, "_error", 2, nil, amf.Object{{Key: "code", Value: "x"}}), command(0, "receiveVideo", 0, nil, true)),
			[]string{"_error@0 1 null error:NetConnection.Call.Failed", "_error@0 1 null error:NetConnection.Call.Failed", callFailed}},
		{"every call is answered", concat(command(0, "FCSubscribe", 2, nil, "a"), command(0, "FCUnsubscribe", 3, nil, "a"), command(0, "FCSubscribe", 0, nil, "a"), command(1, "pause", 9, nil, true), command(0, "receiveAudio", 9, nil, true),
			command(0, "closeStream", 4, nil, 7), command(0, "deleteStream", 5, nil, 7), command(1, "publish", 6, nil, false), command(1, "play", 7, nil, false)),
			[]string{"_result@0 2 null undefined", "onFCSubscribe@0 0 null status:NetStream.Play.Start", "_result@0 3 null undefined", "onFCUnsubscribe@0 0 null status:NetStream.Play.Stop",
				"onFCSubscribe@0 0 null status:NetStream.Play.Start", callFailed, callFailed,
				"_result@0 4 null undefined", "_result@0 5 null undefined", "_result@0 6 null undefined", "_result@0 7 null undefined"}},

		{"closeStream on stream 0, the id as argument", concat(create, publish(1, "a"), command(0, "closeStream", 0, nil, 1), video(1, "late"), publish(1, "a")),
			[]string{"_result@0 4 null 1", `Publish 1 "a"`, start, "Unpublish 1", unpublish, `Publish 1 "a"`, start, "Unpublish 1"}},
		{"closeStream without null", concat(publish(1, "a"), command(0, "closeStream", 0, 1), video(1, "late")),
			[]string{`Publish 1 "a"`, start, "Unpublish 1", unpublish}},
		{"closeStream on a stream that does not exist, the id as argument", concat(publish(1, "a"), publish(0, "b"), command(7, "closeStream", 0, nil, 1), video(1, "late"), command(7, "closeStream", 0, nil, 0)),
			[]string{`Publish 1 "a"`, start, `Publish 0 "b"`, "onStatus@0 0 null status:NetStream.Publish.Start", "Unpublish 1", unpublish, "Unpublish 0", "onStatus@0 0 null status:NetStream.Unpublish.Success"}},
		{"ids are whole numbers", concat(publish(1, "a"), command(0, "closeStream", 0, nil, 1.5), command(0, "deleteStream", 0, nil, 1.5), video(1, "v")),
			[]string{`Publish 1 "a"`, start, `Message 9@1 "v"`, "Unpublish 1"}},
		{"FCUnpublish with another query", concat(publish(1, "a?k=1"), publish(2, "b"), publish(3, "b?k=2"), publish(4, "?k=3"), command(0, "FCUnpublish", 0, nil, "a"), command(0, "FCUnpublish", 0, nil, "b?k=3"), command(0, "FCUnpublish", 0, nil, "?k=4"), command(0, "FCUnpublish", 0, nil)),
			[]string{`Publish 1 "a?k=1"`, start, `Publish 2 "b"`, "onStatus@2 0 null status:NetStream.Publish.Start", `Publish 3 "b?k=2"`, "onStatus@3 0 null status:NetStream.Publish.Start", `Publish 4 "?k=3"`, "onStatus@4 0 null status:NetStream.Publish.Start",
				"Unpublish 1", unpublish, onUnFC,
				"Unpublish 2", "onStatus@2 0 null status:NetStream.Unpublish.Success", "Unpublish 3", "onStatus@3 0 null status:NetStream.Unpublish.Success", onUnFC, onUnFC, onUnFC, "Unpublish 4"}},
		{"FCUnpublish of exactly one of several", concat(publish(1, "a"), publish(2, "a?k=1"), command(0, "FCUnpublish", 0, nil, "a"), video(2, "v")),
			[]string{`Publish 1 "a"`, start, `Publish 2 "a?k=1"`, "onStatus@2 0 null status:NetStream.Publish.Start", "Unpublish 1", unpublish, onUnFC, `Message 9@2 "v"`, "Unpublish 2"}},
		{"closeStream of stream 0", concat(publish(0, "a"), command(0, "closeStream", 0, nil), video(0, "late")),
			[]string{`Publish 0 "a"`, "onStatus@0 0 null status:NetStream.Publish.Start", "Unpublish 0", "onStatus@0 0 null status:NetStream.Unpublish.Success"}},
		{"closeStream of a stream of its own, whatever the argument", concat(publish(1, "a"), publish(2, "b"), command(1, "closeStream", 0, nil, 2), video(2, "v")),
			[]string{`Publish 1 "a"`, start, `Publish 2 "b"`, "onStatus@2 0 null status:NetStream.Publish.Start", "Unpublish 1", unpublish, `Message 9@2 "v"`, "Unpublish 2"}},
		{"deleteStream on the stream itself", concat(publish(1, "a"), command(1, "deleteStream", 0, nil), video(1, "late")),
			[]string{`Publish 1 "a"`, start, "Unpublish 1", unpublish}},
		{"deleteStream on the stream itself, with null", concat(publish(1, "a"), command(1, "deleteStream", 0, nil, nil), video(1, "late"), publish(2, "b"), command(2, "deleteStream", 0, nil, amf.Undefined{})),
			[]string{`Publish 1 "a"`, start, "Unpublish 1", unpublish, `Publish 2 "b"`, "onStatus@2 0 null status:NetStream.Publish.Start", "Unpublish 2", "onStatus@2 0 null status:NetStream.Unpublish.Success"}},
		{"a player closes", concat(command(1, "play", 0, nil, "a"), command(1, "closeStream", 0, nil), command(1, "closeStream", 0, nil)),
			[]string{`Play 1 "a"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1", stop}},
		{"publish(false)", concat(publish(1, "a"), video(1, "v"), command(1, "publish", 0, nil, false), video(1, "late"), command(1, "publish", 0, nil, false), publish(1, "b")),
			[]string{`Publish 1 "a"`, start, `Message 9@1 "v"`, "Unpublish 1", unpublish, `Publish 1 "b"`, start, "Unpublish 1"}},
		{"publish(false) of a player", concat(command(1, "play", 0, nil, "a"), command(1, "publish", 0, nil, false)),
			[]string{`Play 1 "a"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1"}},
		{"publish again, another name", concat(publish(1, "a"), publish(1, "b"), video(1, "v")),
			[]string{`Publish 1 "a"`, start, "Unpublish 1", unpublish, `Publish 1 "b"`, start, `Message 9@1 "v"`, "Unpublish 1"}},
		{"publish again, the same name", concat(publish(1, "a"), video(1, "v"), publish(1, "a"), video(1, "w")),
			[]string{`Publish 1 "a"`, start, `Message 9@1 "v"`, start, `Message 9@1 "w"`, "Unpublish 1"}},
		{"play(false)", concat(command(1, "play", 0, nil, "a"), command(1, "play", 0, nil, false), command(1, "play", 0, nil, false), command(1, "play", 0, nil, "b")),
			[]string{`Play 1 "a"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1", stop, `Play 1 "b"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1"}},
		{"play again", concat(command(1, "play", 0, nil, "a"), command(1, "play", 0, nil, "b", -2, -1, true)),
			[]string{`Play 1 "a"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1", `Play 1 "b"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1"}},
		{"play on a stream that publishes", concat(publish(1, "a"), command(1, "play", 0, nil, "b")),
			[]string{`Publish 1 "a"`, start, "Unpublish 1", unpublish, `Play 1 "b"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1"}},
		{"publish on a stream that plays", concat(command(1, "play", 0, nil, "b"), publish(1, "a")),
			[]string{`Play 1 "b"`, "UserControl 0 1", reset, play, "Playing 1", "StopPlay 1", stop, `Publish 1 "a"`, start, "Unpublish 1"}},
		{"two players", concat(command(1, "play", 0, nil, "a"), command(2, "play", 0, nil, "b"), command(1, "pause", 0, nil, true)),
			[]string{`Play 1 "a"`, "UserControl 0 1", reset, play, "Playing 1", "onStatus@2 0 null error:NetStream.Play.Failed",
				"Pause 1 true", "onStatus@1 0 null status:NetStream.Pause.Notify", "StopPlay 1"}},

		{"8 streams", concat(bytes.Repeat(create, 8), command(0, "createStream", 9, nil), command(0, "deleteStream", 0, nil, 3), create),
			[]string{"_result@0 4 null 1", "_result@0 4 null 2", "_result@0 4 null 3", "_result@0 4 null 4", "_result@0 4 null 5", "_result@0 4 null 6", "_result@0 4 null 7", "_result@0 4 null 8", callFailed, "_result@0 4 null 9"}},
		{"closed streams do not count", concat(bytes.Repeat(create, 8), command(2, "closeStream", 0, nil), command(1, "closeStream", 0, nil), publish(2, "a"), command(0, "createStream", 9, nil), command(0, "createStream", 9, nil)),
			[]string{"_result@0 4 null 1", "_result@0 4 null 2", "_result@0 4 null 3", "_result@0 4 null 4", "_result@0 4 null 5", "_result@0 4 null 6", "_result@0 4 null 7", "_result@0 4 null 8",
				`Publish 2 "a"`, "onStatus@2 0 null status:NetStream.Publish.Start", "_result@0 9 null 9", callFailed, "Unpublish 2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &handler{}
			require.Equal(t, io.EOF, serve(h, connected, c.in))
			n := len(connectLog)
			require.Equal(t, connectLog, h.log[:n])
			got := append([]string(nil), h.log[n:]...)
			// Streams that are still open at the end are ended in any order.
			if i := len(c.want) - 1; i >= 0 && strings.HasSuffix(c.want[i], "*") {
				require.Equal(t, c.want[:i], got[:i])
				return
			}
			if len(got) == 0 {
				got = nil
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestServerRefuses(t *testing.T) {
	bad := &StatusError{Command: "publish", Code: "NetStream.Publish.BadName", Description: "Stream is in use."}
	wrapped := fmt.Errorf("source: %w", bad)
	plain := errors.New("backend is down")
	publish := command(3, "publish", 5, nil, "c4nary5ecret", "live")
	play := command(3, "play", 5, nil, "c4nary5ecret")
	video := message(chunk.TypeVideo, 3, []byte("v"))
	for _, c := range []struct {
		name   string
		method string
		err    error
		in     []byte
		want   []string
	}{
		{"publish", "Publish", bad, concat(publish, video, publish), []string{`Publish 3 "c4nary5ecret"`, "onStatus@3 0 null error:NetStream.Publish.BadName"}},
		{"publish, wrapped", "Publish", wrapped, concat(publish, video), []string{`Publish 3 "c4nary5ecret"`, "onStatus@3 0 null error:NetStream.Publish.BadName"}},
		{"publish, another error", "Publish", plain, concat(publish, video), []string{`Publish 3 "c4nary5ecret"`}},
		{"play", "Play", bad, concat(play, play), []string{`Play 3 "c4nary5ecret"`, "onStatus@3 0 null error:NetStream.Publish.BadName"}},
		{"play, another error", "Play", plain, play, []string{`Play 3 "c4nary5ecret"`}},
		{"message", "Message", plain, concat(publish, video, video), []string{`Publish 3 "c4nary5ecret"`, "onStatus@3 0 null status:NetStream.Publish.Start", `Message 9@3 "v"`, "Unpublish 3"}},
		{"a second publish ends the first", "Publish other", bad, concat(publish, command(4, "publish", 6, nil, "other")),
			[]string{`Publish 3 "c4nary5ecret"`, "onStatus@3 0 null status:NetStream.Publish.Start", `Publish 4 "other"`, "onStatus@4 0 null error:NetStream.Publish.BadName", "Unpublish 3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &handler{refuse: map[string]error{c.method: c.err}}
			require.Equal(t, c.err, serve(h, connected, c.in))
			require.Equal(t, c.want, h.log[len(connectLog):])
		})
	}
}

// A player that plays more channels, one after the other, than a connection may have
// streams. It uses a new stream for each.
func TestServerOfManyChannels(t *testing.T) {
	var in []byte
	for i := range 3 * MaxStreams {
		id := uint32(i + 1)
		in = concat(in, command(0, "createStream", 2, nil), command(id, "play", 0, nil, fmt.Sprint(i)), command(id, "closeStream", 0, nil))
	}
	h := &handler{}
	require.Equal(t, io.EOF, serve(h, connected, in))
	for i := range 3 * MaxStreams {
		require.Contains(t, h.log, fmt.Sprintf("_result@0 2 null %d", i+1))
		require.Contains(t, h.log, fmt.Sprintf("Play %d %q", i+1, fmt.Sprint(i)))
		require.Contains(t, h.log, fmt.Sprintf("onStatus@%d 0 null status:NetStream.Play.Stop", i+1))
	}
}

func TestServerRefusesConnect(t *testing.T) {
	connect := command(0, "connect", 7, amf.Object{{Key: "app", Value: "x"}})
	st := &StatusError{Command: "connect", Code: "NetConnection.Connect.InvalidApp", Description: "No such app."}

	h := &handler{refuse: map[string]error{"Connect": st}}
	require.Equal(t, st, serve(h, connect, command(0, "createStream", 2, nil)))
	require.Equal(t, []string{`Connect "x" "" "" 1`, "WindowAckSize 2500000", "SetPeerBandwidth 2500000 2", "SetChunkSize 60000",
		"_error@0 7 null error:NetConnection.Connect.InvalidApp"}, h.log)

	h = &handler{refuse: map[string]error{"Connect": io.ErrNoProgress}}
	require.Equal(t, io.ErrNoProgress, serve(h, connect))
	require.Len(t, h.log, 1)
}

func TestServerProtocolErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"second connect", concat(connected, connected), chunk.ErrProtocol},
		{"createStream before connect", command(0, "createStream", 1, nil), chunk.ErrProtocol},
		{"publish before connect", command(1, "publish", 1, nil, "secret"), chunk.ErrProtocol},
		{"unknown before connect", command(0, "x", 1, nil), chunk.ErrProtocol},
		{"empty command", concat(connected, message(20, 0, nil)), chunk.ErrProtocol},
		{"command of a number", concat(connected, command(0, 1, "secret")), chunk.ErrProtocol},
		{"AMF bomb", concat(connected, message(20, 0, append(encode("publish", 1), bytes.Repeat([]byte{3, 0, 1, 'a'}, 100)...))), amf.ErrTooDeep},
		{"AMF cut", concat(connected, message(20, 0, encode("publish", 1, nil, "secret")[:30])), amf.ErrMalformed},
		{"message too long", concat(connected, []byte{3, 0, 0, 0, 1, 0, 1, 20, 0, 0, 0, 0}), chunk.ErrLimit},
		{"ends inside", connected[:len(connected)-1], io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := serve(&handler{}, c.in)
			require.ErrorIs(t, err, c.want)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestServerCommandLimit(t *testing.T) {
	other := command(0, "_checkbw", 0, nil)
	for _, accept := range [][]byte{command(1, "publish", 5, nil, "c4nary5ecret"), command(1, "play", 5, nil, "c4nary5ecret")} {
		for before, want := range map[int]error{
			MaxCommands - 3: io.EOF, MaxCommands - 2: io.EOF, MaxCommands - 1: chunk.ErrLimit,
		} {
			err := serve(&handler{}, connected, bytes.Repeat(other, before), accept, bytes.Repeat(other, 100))
			require.ErrorIs(t, err, want, "connect, %d commands, publish or play", before)
		}
	}
	refused := &StatusError{Code: "x"}
	err := serve(&handler{refuse: map[string]error{"Publish": refused}}, connected, command(1, "publish", 5, nil, "c4nary5ecret"))
	require.Equal(t, refused, err)
}

func TestServerStreamLimit(t *testing.T) {
	publish := func(id int) []byte { return command(uint32(id), "publish", 5, nil, "c4nary5ecret") }
	in := connected
	for i := range MaxStreams {
		in = concat(in, publish(100+i))
	}
	h := &handler{}
	require.Equal(t, io.EOF, serve(h, in))

	h = &handler{}
	require.ErrorIs(t, serve(h, in, publish(200)), chunk.ErrLimit)
	require.NotContains(t, h.log, `Publish 200 "c4nary5ecret"`)

	h = &handler{}
	require.ErrorIs(t, serve(h, in, command(200, "play", 5, nil, "c4nary5ecret")), chunk.ErrLimit)

	h = &handler{}
	require.Equal(t, io.EOF, serve(h, in, command(0, "deleteStream", 0, nil, 100), publish(200)))
	require.Contains(t, h.log, `Publish 200 "c4nary5ecret"`)
}

// Wherever a connection ends, each publish and play is ended exactly once. serve and
// handler check it.
func TestServerCutAtEveryByte(t *testing.T) {
	in := concat(connected, command(0, "createStream", 4, nil), command(1, "publish", 5, nil, "a"),
		message(chunk.TypeVideo, 1, bytes.Repeat([]byte("v"), 300)), command(2, "play", 6, nil, "b"), command(0, "FCUnpublish", 7, nil, "a"))
	for n := range in {
		err := serve(&handler{}, in[:n])
		require.True(t, isEOF(err), "%d: %v", n, err)
	}
}

// A server that pauses after each message, including control messages of the connection,
// does the same as one that never pauses, and ends no stream before the end.
func TestServerPauses(t *testing.T) {
	in := [][]byte{
		connected,
		command(0, "createStream", 4, nil),
		message(chunk.TypeUserControl, 0, []byte{0, eventPingRequest, 0, 0, 0, 1}),
		command(1, "play", 5, nil, "a"),
		message(chunk.TypeAck, 0, []byte{0, 0, 0, 1}),
		command(1, "pause", 6, nil, true),
	}
	want := &handler{}
	require.Equal(t, io.EOF, serve(want, in...))

	got := &handler{record: &record{}}
	s := NewServer(newTestConn(bytes.NewReader(concat(in...)), got.record), got)
	for range in {
		require.NoError(t, s.ServeUntil(func() bool { return true }))
	}
	require.Equal(t, 1, got.active["play 1"])
	require.Equal(t, io.EOF, s.ServeUntil(func() bool { return true }))
	require.Equal(t, 0, got.active["play 1"])
	require.Equal(t, want.log, got.log)
}

// failAfter sends n times, and then fails.
type failAfter struct {
	*record
	n int
}

func (f *failAfter) send(b []byte) error {
	if f.n--; f.n < 0 {
		return io.ErrClosedPipe
	}
	return f.record.send(b)
}

func TestServerSendingFails(t *testing.T) {
	in := concat(connected, command(0, "releaseStream", 2, nil, "a"), command(0, "FCPublish", 3, nil, "a"), command(0, "createStream", 4, nil),
		command(1, "publish", 5, nil, "a"), command(2, "play", 6, nil, "b"), command(2, "pause", 7, nil, true), command(2, "pause", 7, nil, false),
		command(2, "seek", 0), command(0, "FCUnpublish", 8, nil, "a"))
	for n := range 9 {
		h := &handler{record: &record{}}
		s := &failAfter{h.record, n}
		err := NewServer(NewConn(bytes.NewReader(in), s.send, 4096, testChunkSize, testLimits), h).Serve()
		require.ErrorIs(t, err, io.ErrClosedPipe, n)
		for what, open := range h.active {
			require.Zero(t, open, "%d: %s", n, what)
		}
	}
}

func TestServerAppends(t *testing.T) {
	r := &record{}
	s := NewServer(newTestConn(nil, r), nil)
	require.NoError(t, r.send(control(chunk.TypeSetChunkSize, testChunkSize)))
	require.NoError(t, r.send(s.AppendPlayBegin(nil, 2)))
	require.NoError(t, r.send(s.AppendPlayEnd(nil, 2)))
	require.NoError(t, r.send(s.AppendKick(nil, 3, "why")))
	require.Equal(t, []string{
		"UserControl 0 2", "onStatus@2 0 null status:NetStream.Play.PublishNotify",
		"UserControl 1 2", "onStatus@2 0 null status:NetStream.Play.UnpublishNotify",
		"onStatus@3 0 null error:NetStream.Publish.Rejected",
	}, r.log[1:])
	require.Equal(t, "xy", string(s.AppendKick([]byte("xy"), 3, "why")[:2]))
}
