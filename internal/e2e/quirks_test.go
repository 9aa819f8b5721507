package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// amf3 is a command's body in AMF3.
func amf3(all ...any) string { return "\x00" + string(rtmptest.AMF(all...)) }

// onMetaCodec announces HEVC, by its FourCC as a number, and AAC.
const onMetaCodec = "\x02\x00\x0aonMetaData\x08\x00\x00\x00\x02\x00\x0cvideocodecid\x00\x41\xda\x1d\x98\xcc\x40\x00\x00" +
	"\x00\x0caudiocodecid\x00\x40\x24\x00\x00\x00\x00\x00\x00\x00\x00\x09"

// got is what a destination gets.
func got(typ uint8, time uint32, body string) forwardtest.Message {
	return forwardtest.Message{Type: typ, Timestamp: time, Payload: []byte(body)}
}

// lines formats messages so that differences are readable.
func lines(all []forwardtest.Message) (out []string) {
	for _, m := range all {
		out = append(out, fmt.Sprintf("%d@%d %.100q %x", m.Type, m.Timestamp, m.Payload, sha256.Sum256(m.Payload)))
	}
	return out
}

func TestPublisherQuirks(t *testing.T) {
	const a, v, d = forward.TagAudio, forward.TagVideo, forward.TagData
	long := h264Key + strings.Repeat("x", 300-len(h264Key))
	longer := h264Key + strings.Repeat("x", 4100-len(h264Key))
	type messages = []forwardtest.Message
	for _, c := range []struct {
		name  string
		setup string // before media
		media string
		want  messages
	}{
		{"OBS: everything in its usual order", opening,
			type0(4, 0, len(setDataFrame+onMetaData), 18, 1, setDataFrame+onMetaData) + type0(4, 0, len(h264Header), 9, 1, h264Header) +
				type1(4, 0, len(aacConfig), 8, aacConfig) + type1(4, 0, len(h264Key), 9, h264Key) + type1(4, 21, len(aacData), 8, aacData) +
				type1(4, 12, len(h264Inter), 9, h264Inter) + type2(4, 33, h264Inter) + type3(4, h264Inter),
			messages{got(d, 0, setDataFrame+onMetaData), got(v, 0, h264Header), got(a, 0, aacConfig), got(v, 0, h264Key), got(a, 21, aacData),
				got(v, 33, h264Inter), got(v, 66, h264Inter), got(v, 99, h264Inter)}},
		{"OBS: Enhanced RTMP and a second track that connect says nothing of, footers",
			connectWith("app", "live", "type", "nonprivate", "flashVer", "FMLE/3.0 (compatible; FMSc/1.0)", "swfUrl", "rtmp://h/live", "tcUrl", "rtmp://h/live") + createStream + publishStream,
			messageOf(4, 0, 18, 1, setDataFrame+onMetaCodec) + messageOf(4, 0, 9, 1, h264Header) + messageOf(4, 0, 9, 1, "\x96\x00hvc1\x01\x01\x01") + messageOf(4, 0, 8, 1, "\x95\x00mp4a\x01\x12\x10") +
				messageOf(4, 0, 9, 1, h264Key) + messageOf(4, 0, 9, 1, "\x96\x01hvc1\x01\xff\xff\xd8\x26") + messageOf(4, 0, 8, 1, "\x95\x01mp4a\x01\x21") +
				messageOf(4, 33, 9, 1, "\x17\x02\x00\x00\x00") + messageOf(4, 33, 9, 1, "\x96\x02hvc1\x01"),
			messages{got(d, 0, setDataFrame+onMetaCodec), got(v, 0, h264Header), got(v, 0, "\x96\x00hvc1\x01\x01\x01"), got(a, 0, "\x95\x00mp4a\x01\x12\x10"),
				got(v, 0, h264Key), got(v, 0, "\x96\x01hvc1\x01\xff\xff\xd8\x26"), got(a, 0, "\x95\x01mp4a\x01\x21"), got(v, 33, "\x17\x02\x00\x00\x00"), got(v, 33, "\x96\x02hvc1\x01")}},
		{"OBS: a key that is a query", connectWith("app", "live/s", "type", "nonprivate", "tcUrl", "rtmp://h/live/s") + createStream + call(1, "publish", 5, nil, "?token=1", "live"),
			messageOf(4, 0, 9, 1, h264Key), messages{got(v, 0, h264Key)}},
		{"FFmpeg: port in tcUrl, _checkbw, @setDataFrame before |RtmpSampleAccess and no other name",
			connectWith("app", "live", "type", "nonprivate", "flashVer", "FMLE/3.0 (compatible; Lavf60.16.100)", "tcUrl", "rtmp://h:1935/live") + createStream + call(0, "_checkbw", 5, nil) + publishStream,
			messageOf(4, 0, 18, 1, setDataFrame+onMetaData) + messageOf(6, 0, 9, 1, h264Key) + messageOf(4, 0, 18, 1, setDataFrame+"\x02\x00\x11|RtmpSampleAccess\x01\x00\x01\x00") + messageOf(4, 20, 18, 1, "\x02\x00\x0aonTextData\x05"),
			messages{got(d, 0, setDataFrame+onMetaData), got(v, 0, h264Key), got(d, 0, setDataFrame+"\x02\x00\x11|RtmpSampleAccess\x01\x00\x01\x00"), got(d, 20, "\x02\x00\x0aonTextData\x05")}},
		{"FFmpeg: slist, which leaves the name in the app", connectWith("app", "live?slist=s", "type", "nonprivate", "tcUrl", "rtmp://h:1935/live?slist=s") + createStream + publishStream,
			messageOf(6, 0, 9, 1, h264Key), messages{got(v, 0, h264Key)}},
		{"FMLE: _definst_", connectWith("app", "live/_definst_", "tcUrl", "rtmp://h/live/_definst_") + createStream + publishStream, messageOf(4, 0, 9, 1, h264Key), messages{got(v, 0, h264Key)}},
		{"FMLE: the stream after the app's query", connectWith("app", "live?k=v/s", "tcUrl", "rtmp://h/live?k=v/s") + createStream + call(1, "publish", 5, nil, "", "live"),
			messageOf(4, 0, 9, 1, h264Key), messages{got(v, 0, h264Key)}},
		{"Streamlabs, DJI: metadata of tracks that never come, _checkbw", connecting() + call(0, "_checkbw", 2, nil) + createStream + publishStream,
			messageOf(33, 0, 18, 1, setDataFrame+onMetaCodec) + messageOf(33, 0, 9, 1, h264Key) + messageOf(33, 40, 9, 1, h264Inter),
			messages{got(d, 0, setDataFrame+onMetaCodec), got(v, 0, h264Key), got(v, 40, h264Inter)}},
		{"Larix, cameras: HEVC as id 12", opening,
			messageOf(4, 0, 9, 1, "\x1c\x00\x00\x00\x00\x01\x01") + messageOf(4, 0, 9, 1, "\x2c\x01\x00\x00\x00\x02") + messageOf(4, 40, 9, 1, "\x1c\x01\x00\x00\x28\x26") + messageOf(4, 80, 9, 1, "\x2c\x01\xff\xff\xd8\x02"),
			messages{got(v, 0, "\x1c\x00\x00\x00\x00\x01\x01"), got(v, 40, "\x1c\x01\x00\x00\x28\x26"), got(v, 80, "\x2c\x01\xff\xff\xd8\x02")}},
		{"Neko: tcUrl in quotes, no app", connectWith("tcUrl", "'rtmp://h/live'") + createStream + publishStream, messageOf(4, 0, 9, 1, h264Key), messages{got(v, 0, h264Key)}},
		{"an empty tcUrl", connectWith("app", "live", "tcUrl", "") + createStream + publishStream, messageOf(4, 0, 9, 1, h264Key), messages{got(v, 0, h264Key)}},
		{"tcUrl with the stream and a query, no app, no name", connectWith("tcUrl", "rtmp://h/live/s?token=1") + createStream + call(1, "publish", 5, nil, "", "live"),
			messageOf(4, 0, 9, 1, h264Key), messages{got(v, 0, h264Key)}},
		{"librtmp: a ping with a type 1 header first on chunk stream 2", "\x42\x00\x00\x00\x00\x00\x0a\x04\x00\x03\x00\x00\x00\x00\x00\x00\x0b\xb8" + opening,
			messageOf(4, 0, 9, 1, h264Key), messages{got(v, 0, h264Key)}},
		{"everything in one write, media before the answer to publish", opening + messageOf(4, 0, 9, 1, h264Header) + messageOf(4, 0, 9, 1, h264Key), messageOf(4, 40, 9, 1, h264Inter),
			messages{got(v, 0, h264Header), got(v, 0, h264Key), got(v, 40, h264Inter)}},
		{"GStreamer: type 3 behind type 0 begins a message", opening,
			type0(6, 40, len(h264Key), 9, 1, h264Key) + type3(6, h264Key) + type3(6, h264Key),
			messages{got(v, 40, h264Key), got(v, 80, h264Key), got(v, 120, h264Key)}},
		{"FMLE: type 3 goes on with a message and then begins one", opening,
			messageOf(2, 0, 1, 0, u32(128)) + type0(4, 0, 300, 9, 1, long[:128]) + type3(4, long[128:256]) + type3(4, long[256:]) + type1(4, 40, 300, 9, long[:128]) + type3(4, long[128:256]) + type3(4, long[256:]) +
				type3(4, long[:128]) + type3(4, long[128:256]) + type3(4, long[256:]),
			messages{got(v, 0, long), got(v, 40, long), got(v, 80, long)}},
		{"FFmpeg: a full header again and again", opening,
			messageOf(6, 0, 9, 1, h264Key) + type2(6, 40, h264Key) + messageOf(6, 0, 9, 1, h264Key) + messageOf(4, 23, 8, 1, aacData) + messageOf(6, 40, 9, 1, h264Inter),
			messages{got(v, 0, h264Key), got(v, 40, h264Key), got(v, 0, h264Key), got(a, 23, aacData), got(v, 40, h264Inter)}},
		{"FFmpeg: timecode, audio without payload, sequence end without composition time", opening,
			messageOf(8, 0, 18, 1, "\x00\x00\x00\x2a") + messageOf(4, 0, 8, 1, "\xaf\x00") + messageOf(4, 0, 8, 1, aacConfig) + messageOf(6, 0, 9, 1, h264Key) + messageOf(6, 40, 9, 1, "\x17\x02"),
			messages{got(d, 0, "\x00\x00\x00\x2a"), got(a, 0, "\xaf\x00"), got(a, 0, aacConfig), got(v, 0, h264Key), got(v, 40, "\x17\x02")}},
		{"FFmpeg, older: @setDataFrame before any name", opening,
			messageOf(4, 0, 18, 1, setDataFrame+"\x02\x00\x08onTextMy\x05") + messageOf(4, 0, 18, 1, onMetaData) + messageOf(6, 0, 9, 1, h264Key),
			messages{got(d, 0, setDataFrame+"\x02\x00\x08onTextMy\x05"), got(d, 0, setDataFrame+onMetaData), got(v, 0, h264Key)}},
		{"DJI: chunk stream 33, H.263, empty NAL unit, no tracks in the metadata, headers repeated", opening,
			messageOf(33, 0, 18, 1, onMetaData) + messageOf(33, 0, 9, 1, "\x12\x00\x01") + type1(33, 40, 9, 9, "\x17\x01\x00\x00\x00\x00\x00\x00\x00") +
				type1(33, 0, len(h264Header), 9, h264Header) + type2(33, 0, h264Header),
			messages{got(d, 0, setDataFrame+onMetaData), got(v, 0, "\x12\x00\x01"), got(v, 40, "\x17\x01\x00\x00\x00\x00\x00\x00\x00"), got(v, 40, h264Header), got(v, 40, h264Header)}},
		{"chunk streams of two and three bytes", opening,
			"\x00\xff" + messageOf(0, 0, 9, 1, h264Key)[1:] + "\x01\xff\xff" + messageOf(0, 21, 8, 1, aacData)[1:] + "\x80\xff" + u24(40) + h264Key + "\xc1\xff\xff" + aacData,
			messages{got(v, 0, h264Key), got(a, 21, aacData), got(v, 40, h264Key), got(a, 42, aacData)}},
		{"Blackmagic: AMF3 commands, a chunk size of 0x08000000", "\x02\x00\x00\x00\x00\x00\x04\x01\x00\x00\x00\x00\x08\x00\x00\x00" +
			messageOf(3, 0, 17, 0, amf3("connect", 1, amf.Object{{Key: "app", Value: "live"}, {Key: "objectEncoding", Value: 3}})) +
			messageOf(3, 0, 17, 0, amf3("createStream", 2, nil)) + messageOf(3, 0, 17, 1, amf3("publish", 3, nil, "s", "live")),
			messageOf(4, 0, 15, 1, "\x00"+onMetaData) + messageOf(4, 0, 9, 1, h264Key+long), messages{got(d, 0, setDataFrame+onMetaData), got(v, 0, h264Key+long)}},
		{"Haivision: FCPublish and publish without createStream", connecting() + call(0, "FCPublish", 2, nil, "s") + call(0, "publish", 0, nil, "s"),
			messageOf(4, 0, 9, 0, h264Key), messages{got(v, 0, h264Key)}},
		{"tcurl in small letters, no app, no publish type", setChunkSize + call(0, "connect", 1, amf.Object{{Key: "tcurl", Value: "rtmp://h/live"}}) + createStream + call(1, "publish", 5, nil, "s"),
			messageOf(4, 0, 9, 1, h264Key), messages{got(v, 0, h264Key)}},
		{"the stream in the app, an empty name", setChunkSize + call(0, "connect", 1, amf.Object{{Key: "app", Value: "live/s"}}) + createStream + call(1, "publish", 5, nil, ""),
			messageOf(4, 0, 9, 1, h264Key), messages{got(v, 0, h264Key)}},
		{"control messages on another chunk stream", "\x04" + setChunkSize[1:] + opening[len(setChunkSize):],
			messageOf(4, 0, 9, 1, h264Key+long), messages{got(v, 0, h264Key+long)}},
		{"Abort of a message half sent", opening,
			messageOf(4, 0, 9, 1, h264Key) + type0(6, 10, 5000, 9, 1, strings.Repeat("x", 4096)) + messageOf(2, 0, 2, 0, "\x00\x00\x00\x06") + messageOf(6, 40, 9, 1, h264Inter),
			messages{got(v, 0, h264Key), got(v, 40, h264Inter)}},
		{"messages without a body", opening,
			messageOf(6, 0, 9, 1, h264Key) + type1(6, 20, 0, 9, "") + type1(6, 20, 0, 8, "") + type1(6, 0, 0, 18, "") + type1(6, 10, len(h264Inter), 9, h264Inter) + type3(6, h264Inter),
			messages{got(v, 0, h264Key), got(v, 50, h264Inter), got(v, 60, h264Inter)}},
		{"extended timestamp, repeated in type 3", opening,
			type0(6, 0xffffff, 4100, 9, 1, u32(0x1000000)+longer[:4096]) + type3(6, u32(0x1000000)+"xxxx") + type1(6, 40, len(h264Inter), 9, h264Inter),
			messages{got(v, 0x1000000, longer), got(v, 0x1000028, h264Inter)}},
		{"extended timestamp, not repeated in type 3", opening,
			type0(6, 0xffffff, 4100, 9, 1, u32(0x1000000)+longer[:4096]) + type3(6, "xxxx") + type1(6, 40, len(h264Inter), 9, h264Inter),
			messages{got(v, 0x1000000, longer), got(v, 0x1000028, h264Inter)}},
		{"the last timestamp without extension, and the first with", opening,
			messageOf(6, 0xfffffe, 9, 1, h264Key) + type1(6, 1, len(h264Key), 9, h264Key) + type0(6, 0xffffff, len(h264Key), 9, 1, u32(0xffffff)+h264Key) +
				type1(6, 1, len(h264Key), 9, h264Key),
			messages{got(v, 0xfffffe, h264Key), got(v, 0xffffff, h264Key), got(v, 0xffffff, h264Key), got(v, 0x1000000, h264Key)}},
		{"31 bits", opening,
			type0(6, 0xffffff, len(h264Key), 9, 1, u32(0x7fffffff)+h264Key) + type0(6, 0xffffff, len(h264Key), 9, 1, u32(0x80000000)+h264Key),
			messages{got(v, 0x7fffffff, h264Key), got(v, 0x80000000, h264Key)}},
		{"32 bits", opening,
			type0(6, 0xffffff, len(h264Key), 9, 1, u32(0xffffffff)+h264Key) + type1(6, 41, len(h264Key), 9, h264Key),
			messages{got(v, 0xffffffff, h264Key), got(v, 40, h264Key)}},
		{"a clock that is set back, metadata and a header with the time 0", opening,
			messageOf(4, 900000, 9, 1, h264Header) + messageOf(4, 900000, 9, 1, h264Key) + messageOf(4, 900010, 8, 1, aacData) +
				messageOf(4, 0, 9, 1, h264Header) + messageOf(4, 900040, 9, 1, h264Key) +
				messageOf(4, 20, 9, 1, h264Key) + messageOf(4, 10, 8, 1, aacData) + messageOf(4, 20, 18, 1, onMetaData) + messageOf(4, 60, 9, 1, h264Inter),
			messages{got(v, 900000, h264Header), got(v, 900000, h264Key), got(a, 900010, aacData), got(v, 900000, h264Header), got(v, 900040, h264Key),
				got(v, 900040, h264Key), got(a, 900070, aacData), got(d, 900080, setDataFrame+onMetaData), got(v, 900120, h264Inter)}},
		{"a message far ahead, a header with a clock of its own", opening,
			messageOf(4, 0, 9, 1, h264Header) + messageOf(4, 0, 9, 1, h264Key) + messageOf(4, 10, 8, 1, aacData) + messageOf(4, 40, 9, 1, h264Inter) +
				messageOf(4, 10000000, 9, 1, h264Inter) + messageOf(4, 33, 8, 1, aacData) + messageOf(4, 120, 9, 1, h264Inter) + messageOf(4, 10000000, 9, 1, h264Header) +
				messageOf(4, 160, 9, 1, h264Key) + messageOf(4, 5033, 8, 1, aacData) + messageOf(4, 79, 8, 1, aacData) + messageOf(4, 200, 9, 1, h264Inter),
			messages{got(v, 0, h264Header), got(v, 0, h264Key), got(a, 10, aacData), got(v, 40, h264Inter), got(v, 40, h264Inter), got(a, 33, aacData), got(v, 120, h264Inter),
				got(v, 120, h264Header), got(v, 160, h264Key), got(a, 33, aacData), got(a, 79, aacData), got(v, 200, h264Inter)}},
		{"an aggregate, times from its first", opening,
			messageOf(4, 1000, 22, 1, "\x09"+u24(len(h264Key))+u24(500)+"\x00\x00\x00\x00"+h264Key+u32(uint32(11+len(h264Key)))+
				"\x08"+u24(len(aacData))+u24(521)+"\x00\x00\x00\x00"+aacData+u32(uint32(11+len(aacData)))+
				"\x12"+u24(len(onMetaData))+u24(530)+"\x00\x00\x00\x00"+onMetaData+u32(uint32(11+len(onMetaData)))),
			messages{got(v, 1000, h264Key), got(a, 1021, aacData), got(d, 1030, setDataFrame+onMetaData)}},
		{"GLive: times that stand still; WeChat: audio and video with origins of their own", opening,
			messageOf(6, 5000, 9, 1, h264Key) + messageOf(4, 90000000&0xffffff, 8, 1, aacData) + messageOf(6, 5000, 9, 1, h264Inter) + messageOf(4, 90000000&0xffffff, 8, 1, aacData),
			messages{got(v, 5000, h264Key), got(a, 90000000&0xffffff, aacData), got(v, 5000, h264Inter), got(a, 90000000&0xffffff, aacData)}},
		{"data: first value no string, AMF3, cue points and what nobody knows, in order with the media", opening,
			messageOf(6, 0, 9, 1, h264Key) + messageOf(4, 1, 18, 1, "\x00\x40\x00\x00\x00\x00\x00\x00\x00") + messageOf(4, 2, 18, 1, "\x02\x00\x0aonCuePoint\x05") +
				messageOf(4, 3, 8, 1, aacData) + messageOf(4, 4, 15, 1, "\x00\x02\x00\x0aonTextData\x05") + messageOf(4, 5, 15, 1, "\x00\x02\x00\x03foo\x11\x06\x07bar") + messageOf(6, 40, 9, 1, h264Inter),
			messages{got(v, 0, h264Key), got(d, 1, "\x00\x40\x00\x00\x00\x00\x00\x00\x00"), got(d, 2, "\x02\x00\x0aonCuePoint\x05"), got(a, 3, aacData),
				got(d, 4, "\x02\x00\x0aonTextData\x05"), got(d, 5, "\x02\x00\x03foo\x11\x06\x07bar"), got(v, 40, h264Inter)}},
		{"OBS: Twitch's track of its own for recordings", opening,
			messageOf(4, 0, 18, 1, setDataFrame+"\x02\x00\x17onExpectAdditionalMedia\x05") + messageOf(4, 0, 9, 1, h264Key) + messageOf(4, 21, 18, 1, "\x02\x00\x0fadditionalMedia\x05"),
			messages{got(d, 0, setDataFrame+"\x02\x00\x17onExpectAdditionalMedia\x05"), got(v, 0, h264Key), got(d, 21, "\x02\x00\x0fadditionalMedia\x05")}},
		{"message types and user control events nobody knows", opening,
			messageOf(2, 0, 4, 0, "\x00\x1f\x00\x00\x00\x00") + messageOf(2, 0, 4, 0, "\x00\x20") + messageOf(5, 0, 99, 1, "x") + messageOf(5, 0, 16, 1, "x") + messageOf(6, 0, 9, 1, h264Key),
			messages{got(v, 0, h264Key)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("dest:1935")
				defer dest.Close()
				s := newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial, Resolver: to(forward.Destination{URL: "rtmp://dest/app/key"})})
				defer s.Close()
				nc := encoder(t, s, c.setup)
				require.NotNil(t, s.Source("live/s"), "it publishes")
				player, err := forwardtest.Client{URL: "rtmp://h/live/s", Dial: forwardtest.Direct(s)}.Play(t.Context(), nil)
				require.NoError(t, err)
				synctest.Wait()
				_, err = nc.Write([]byte(c.media))
				require.NoError(t, err)
				synctest.Wait()
				require.Equal(t, lines(c.want), lines(dest.Sessions()[0].Recorder().Messages()))

				// Players get the same without @setDataFrame.
				plain := slices.Clone(c.want)
				for i := range plain {
					if rest, ok := strings.CutPrefix(string(plain[i].Payload), setDataFrame); ok {
						plain[i].Payload = []byte(rest)
					}
				}
				require.Equal(t, lines(plain), lines(player.Recorder().Messages()))
				require.NotNil(t, s.Source("live/s"), "it still publishes")
				player.Close()
			})
		})
	}
}

// However an encoder splits a URL and spells its host, it is the same stream.
func TestPublisherSplitsTheURL(t *testing.T) {
	publishAs := func(name string) string {
		return createStream + call(1, "publish", 5, nil, name, "live")
	}
	for _, c := range []struct{ name, setup string }{
		{"OBS: the path is the app", connectWith("app", "live/inst", "tcUrl", "rtmp://studio.example/live/inst") + publishAs("s")},
		{"OBS: a slash in the key", connectWith("app", "live", "tcUrl", "rtmp://studio.example/live") + publishAs("inst/s")},
		{"FFmpeg: two segments are the app, the host with its port", connectWith("app", "live/inst", "tcUrl", "rtmp://STUDIO.Example:1935/live/inst") + publishAs("s")},
		{"FFmpeg, a player's", connectWith("app", "live", "tcUrl", "rtmp://studio.example:19350/live") + publishAs("inst/s")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t, forward.Config{MergeWindow: -1, Vhosts: map[string]forward.Vhost{"Studio.example": {}}})
				defer s.Close()
				encoder(t, s, c.setup+messageOf(4, 0, 9, 1, h264Key))
				require.NotNil(t, s.Source("//studio.example/live/inst/s"), "it publishes")
				for _, url := range []string{"rtmp://studio.example:1935/live/inst/s", "rtmp://STUDIO.EXAMPLE/live/inst/s"} {
					player, err := forwardtest.Client{URL: url, Dial: forwardtest.Direct(s)}.Play(t.Context(), nil)
					require.NoError(t, err)
					synctest.Wait()
					require.Equal(t, lines([]forwardtest.Message{got(forward.TagVideo, 0, h264Key)}), lines(player.Recorder().Messages()))
					player.Close()
				}
			})
		})
	}
}

// A vhost may be named with the stream only, after connect.
func TestVhostIsDecidedWithTheName(t *testing.T) {
	for _, c := range []struct {
		name, setup string
		published   bool
	}{
		{"in the name", connectWith("app", "live", "tcUrl", "rtmp://1.2.3.4/live") + createStream + call(1, "publish", 5, nil, "x?vhost=studio.example", "live"), true},
		{"in the name, in place of one that is not served", connectWith("app", "live?vhost=other.example", "tcUrl", "rtmp://other.example/live") + createStream + call(1, "publish", 5, nil, "x?vhost=STUDIO.example", "live"), true},
		{"in place of one that is off", connectWith("app", "live", "tcUrl", "rtmp://off.example/live") + createStream + call(1, "publish", 5, nil, "x?vhost=studio.example", "live"), true},
		{"none", connectWith("app", "live", "tcUrl", "rtmp://1.2.3.4/live") + createStream + call(1, "publish", 5, nil, "x", "live"), false},
		{"another one", connectWith("app", "live", "tcUrl", "rtmp://1.2.3.4/live") + createStream + call(1, "publish", 5, nil, "x?vhost=other.example", "live"), false},
		{"one that is off", connectWith("app", "live", "tcUrl", "rtmp://studio.example/live") + createStream + call(1, "publish", 5, nil, "x?vhost=off.example", "live"), false},
		{"another one in the name", connectWith("app", "live", "tcUrl", "rtmp://studio.example/live") + createStream + call(1, "publish", 5, nil, "x?vhost=other.example", "live"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var connected []string
				s := newServer(t, forward.Config{MergeWindow: -1, Vhosts: map[string]forward.Vhost{"studio.example": {}, "off.example": {Disabled: true}}, Hooks: forward.Hooks{
					OnConnect: func(_ context.Context, r *forward.Request) error {
						connected = append(connected, r.Vhost+" "+r.App)
						return nil
					},
				}})
				defer s.Close()
				heard := listener(t, s, c.setup+messageOf(4, 0, 9, 1, h264Key))
				require.Equal(t, c.published, s.Source("//studio.example/live/x") != nil)
				require.Len(t, s.Sources(), map[bool]int{true: 1}[c.published])
				require.Equal(t, !c.published, strings.Contains(heard(), "no such vhost"))
				require.Contains(t, heard(), "NetConnection.Connect.Success")
				want := forward.DefaultVhost
				if strings.Contains(c.setup, "rtmp://studio.example") {
					want = "studio.example"
				}
				require.Equal(t, []string{want + " live"}, connected)
			})
		})
	}
}

// Encoders send a URL of one path segment in several ways that all mean the same
// stream: FFmpeg sends an app and an empty name, before version 5 a name and an empty
// app; OBS without a key does the same as current FFmpeg.
func TestPublisherOfOneSegment(t *testing.T) {
	for _, c := range []struct{ name, setup string }{
		{"FFmpeg", setChunkSize + connectWith("app", "s", "tcUrl", "rtmp://h:1935/s") + createStream + call(1, "publish", 5, nil, "", "live")},
		{"FFmpeg before 5", setChunkSize + connectWith("app", "", "tcUrl", "rtmp://h:1935/") + createStream + publishStream},
		{"OBS, the query as key", setChunkSize + connectWith("app", "s", "tcUrl", "rtmp://h/s") + createStream + call(1, "publish", 5, nil, "?token=1", "live")},
		{"RootEncoder, the query as name", setChunkSize + connectWith("app", "s?", "tcUrl", "rtmp://h:1935/s?") + createStream + call(1, "publish", 5, nil, "user=a&pass="+canary, "live")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("dest:1935")
				defer dest.Close()
				static, err := forward.Static("dest")
				require.NoError(t, err)
				s := newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial, Resolver: static})
				defer s.Close()
				encoder(t, s, c.setup+messageOf(4, 0, 9, 1, h264Key))
				require.NotNil(t, s.Source(rtmp.DefaultApp+"/s"), "it publishes")
				player, err := forwardtest.Client{URL: "rtmp://h/" + rtmp.DefaultApp + "/s", Dial: forwardtest.Direct(s)}.Play(t.Context(), nil)
				require.NoError(t, err)
				defer player.Close()
				synctest.Wait()
				want := lines([]forwardtest.Message{got(forward.TagVideo, 0, h264Key)})
				require.Equal(t, want, lines(player.Recorder().Messages()))
				require.Equal(t, want, lines(dest.Sessions()[0].Recorder().Messages()))
				pushed := fmt.Sprint(spoken(dest.Sessions()[0]))
				require.Contains(t, pushed, `"app":"`+rtmp.DefaultApp+`"`)
				require.Contains(t, pushed, "publish@1 5 <nil> s")
			})
		})
	}
}

// Streamlabs and others send a C2 that does not echo S1. joy4 sends it in one write
// with everything that follows.
func TestPublisherWithoutEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, forward.Config{})
		defer s.Close()
		nc, err := forwardtest.Direct(s)(t.Context(), "tcp", "h:1935")
		require.NoError(t, err)
		defer nc.Close()
		c1 := "\x00\x00\x12\x34\x00\x00\x00\x00" + strings.Repeat("r", 1528)
		c2 := "\xff\xff\xff\xff\x00\x00\x00\x07" + strings.Repeat("\x00", 1528)
		_, err = nc.Write([]byte("\x03" + c1 + c2 + opening + messageOf(4, 0, 9, 1, h264Key)))
		require.NoError(t, err)
		synctest.Wait()
		require.NotNil(t, s.Source("live/s"), "it publishes")
		player, err := forwardtest.Client{URL: "rtmp://h/live/s", Dial: forwardtest.Direct(s)}.Play(t.Context(), nil)
		require.NoError(t, err)
		defer player.Close()
		synctest.Wait()
		require.Equal(t, lines([]forwardtest.Message{got(forward.TagVideo, 0, h264Key)}), lines(player.Recorder().Messages()))
	})
}

// Wirecast waits for an Acknowledgement without having announced a window. FFmpeg reads
// one message for every ten that it writes. So publishers are sent Acknowledgements in
// time, and nothing else.
func TestPublisherIsSentOnlyAcks(t *testing.T) {
	const window = 2500000 // our window, announced in the answer to connect
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, forward.Config{})
		defer s.Close()
		nc, err := forwardtest.Direct(s)(t.Context(), "tcp", "h:1935")
		require.NoError(t, err)
		defer nc.Close()
		require.NoError(t, rtmp.ClientHandshake(nc, false))
		sent := 1 + 2*1536
		write := func(b string) {
			_, err := nc.Write([]byte(b))
			require.NoError(t, err)
			sent += len(b)
			synctest.Wait()
		}
		write(opening)
		answers := make([]byte, 64<<10)
		_, err = nc.Read(answers)
		require.NoError(t, err)

		frame := h264Key + strings.Repeat("x", 4000)
		acked, acks := 0, 0
		for ms := 0; sent < 3*window; ms += 40 {
			write(messageOf(4, ms, 9, 1, frame))
			require.NoError(t, nc.SetReadDeadline(time.Now().Add(40*time.Millisecond)))
			n, err := nc.Read(answers)
			if err != nil {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.Less(t, sent-acked, window, "it waits for an Acknowledgement")
				continue
			}
			got := string(answers[:n])
			require.Len(t, got, 16)
			require.Equal(t, "\x02\x00\x00\x00\x00\x00\x04\x03\x00\x00\x00\x00", got[:12])
			acked = int(binary.BigEndian.Uint32(answers[12:]))
			require.LessOrEqual(t, acked, sent)
			acks++
		}
		require.LessOrEqual(t, acks, 6, "two a window")
		require.NotNil(t, s.Source("live/s"), "it still publishes")
	})
}

// Many servers never send an Acknowledgement, whatever window they are announced.
func TestDestinationThatNeverAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network forwardtest.Network
		l, err := network.Listen("dest:1935")
		require.NoError(t, err)
		silent := &unacking{Listener: l}
		dest := forwardtest.NewDestinationAt(silent)
		defer dest.Close()
		s := newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial, Resolver: to(forward.Destination{URL: "rtmp://dest/app/key"})})
		defer s.Close()
		pub, err := forwardtest.Client{Dial: forwardtest.Direct(s)}.Publish(t.Context())
		require.NoError(t, err)
		defer pub.Close()
		synctest.Wait()
		m := forwardtest.Message{Type: forward.TagVideo, Payload: []byte(h264Key + strings.Repeat("x", 100000))}
		const n = 80 // more than three of our announced windows
		for i := range n {
			m.Timestamp = uint32(i) * 40
			require.NoError(t, pub.WriteMessage(m))
			time.Sleep(40 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Len(t, dest.Sessions(), 1)
		require.Len(t, dest.Sessions()[0].Recorder().Messages(), n)
		require.NotZero(t, silent.acks.Load(), "it would have sent some")
	})
}

// unacking is a listener whose connections drop every Acknowledgement.
type unacking struct {
	net.Listener
	acks atomic.Int64
}

func (l *unacking) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	return &unackingConn{nc, l}, err
}

type unackingConn struct {
	net.Conn
	l *unacking
}

func (c *unackingConn) Write(p []byte) (int, error) {
	if len(p) == 16 && strings.HasPrefix(string(p), "\x02\x00\x00\x00\x00\x00\x04\x03") {
		c.l.acks.Add(1)
		return len(p), nil
	}
	return c.Conn.Write(p)
}
