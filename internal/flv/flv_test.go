package flv

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// message is a body and its expected classification. Payloads are short stand-ins.
type message struct {
	name string // with the section of the specification
	typ  uint8
	hex  string // spaces are ignored
	tag  Tag
	// tracks are the expected tracks, unless there is exactly one, with the kind, id and
	// codec of tag, whose payload is the last size bytes.
	tracks []Track
	slots  []Slot
}

func (m message) body(t testing.TB) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(m.hex, " ", ""))
	require.NoError(t, err, m.name)
	return b
}

const unknownCodec = Codec('x'<<24 | 'x'<<16 | 'x'<<8 | 'x')

var (
	videoHeader  = []Slot{{Type: TypeVideo}}
	videoConfig  = []Slot{{Type: TypeVideo, Config: true}}
	audioHeader  = []Slot{{Type: TypeAudio}}
	audioConfig  = []Slot{{Type: TypeAudio, Config: true}}
	videoHeader2 = []Slot{{Type: TypeVideo, Track: 2}, {Type: TypeVideo, Track: 1}}
)

// FourCCs in hexadecimal: avc1 61766331, hvc1 68766331, vvc1 76766331,
// av01 61763031, vp08 76703038, vp09 76703039, mp4a 6d703461, Opus 4f707573,
// fLaC 664c6143, ac-3 61632d33, ec-3 65632d33, .mp3 2e6d7033.
var messages = []message{
	// Legacy video: FLV, E.4.3.1 VIDEODATA.
	{name: "empty video", typ: TypeVideo, hex: "", tracks: []Track{}},
	{name: "AVC sequence header", typ: TypeVideo, hex: "17 00 000000 0164001f",
		tag: Tag{SequenceHeader: true, Codec: CodecAVC}, slots: videoHeader},
	{name: "AVC sequence header as inter frame", typ: TypeVideo, hex: "27 00 000000 0164001f",
		tag: Tag{SequenceHeader: true, Codec: CodecAVC}, slots: videoHeader},
	{name: "AVC sequence header without configuration", typ: TypeVideo, hex: "17 00 000000",
		tag: Tag{Codec: CodecAVC}},
	{name: "AVC keyframe", typ: TypeVideo, hex: "17 01 000050 00000001 65",
		tag: Tag{Keyframe: true, Frames: true, Codec: CodecAVC}},
	{name: "AVC keyframe whose first NAL length looks like Annex B", typ: TypeVideo, hex: "17 01 000050 00000100",
		tag: Tag{Keyframe: true, Frames: true, Codec: CodecAVC}},
	{name: "AVC generated keyframe", typ: TypeVideo, hex: "47 01 000000 65",
		tag: Tag{Keyframe: true, Frames: true, Codec: CodecAVC}},
	{name: "AVC inter frame", typ: TypeVideo, hex: "27 01 ffffd8 41",
		tag: Tag{Frames: true, Codec: CodecAVC}},
	{name: "AVC disposable frame", typ: TypeVideo, hex: "37 01 000000 01",
		tag: Tag{Frames: true, Disposable: true, Codec: CodecAVC}},
	{name: "AVC keyframe without data", typ: TypeVideo, hex: "17 01 000000", tag: Tag{Codec: CodecAVC}},
	{name: "AVC end of sequence", typ: TypeVideo, hex: "17 02 000000",
		tag: Tag{End: true, Codec: CodecAVC}},
	{name: "AVC end of sequence without composition time", typ: TypeVideo, hex: "17 02",
		tag: Tag{End: true, Codec: CodecAVC}},
	{name: "AVC unknown packet type", typ: TypeVideo, hex: "17 03 000000 00",
		tag: Tag{Opaque: true, Frames: true, Codec: CodecAVC}},
	{name: "AVC command whose byte looks like a sequence header", typ: TypeVideo, hex: "57 00",
		tag: Tag{Command: true, Codec: CodecAVC}},
	{name: "AVC command whose byte looks like a frame", typ: TypeVideo, hex: "57 01",
		tag: Tag{Command: true, Codec: CodecAVC}},
	{name: "AVC first byte alone", typ: TypeVideo, hex: "17", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Codec: CodecAVC}},
	{name: "HEVC by id 12, sequence header", typ: TypeVideo, hex: "1c 00 000000 01",
		tag: Tag{SequenceHeader: true, Codec: CodecHEVC}, slots: videoHeader},
	{name: "HEVC by id 12, keyframe", typ: TypeVideo, hex: "1c 01 000000 26",
		tag: Tag{Keyframe: true, Frames: true, Codec: CodecHEVC}},
	{name: "AV1 by id 13, keyframe", typ: TypeVideo, hex: "1d 01 000000 0a",
		tag: Tag{Keyframe: true, Frames: true, Codec: CodecAV1}},
	{name: "AVS3 by id 14, sequence header", typ: TypeVideo, hex: "1e 00 000000 01",
		tag: Tag{SequenceHeader: true, Codec: CodecAVS3}, slots: videoHeader},
	{name: "VVC by id 15, inter frame", typ: TypeVideo, hex: "2f 01 000000 01",
		tag: Tag{Frames: true, Codec: CodecVVC}},
	{name: "MPEG-4 by id 9, sequence header", typ: TypeVideo, hex: "19 00 000000 01",
		tag: Tag{SequenceHeader: true, Codec: CodecMPEG4}, slots: videoHeader},
	{name: "H.263 keyframe", typ: TypeVideo, hex: "12 00 00", tag: Tag{Keyframe: true, Frames: true, Codec: CodecH263}},
	{name: "H.263 disposable frame", typ: TypeVideo, hex: "32 00", tag: Tag{Frames: true, Disposable: true, Codec: CodecH263}},
	{name: "VP6 inter frame", typ: TypeVideo, hex: "24 00", tag: Tag{Frames: true, Codec: CodecVP6}},
	{name: "unknown codec id, keyframe", typ: TypeVideo, hex: "1a 00", tag: Tag{Keyframe: true, Frames: true}},
	{name: "reserved frame type", typ: TypeVideo, hex: "67 01 000000 01", tag: Tag{Frames: true, Codec: CodecAVC}},

	// Enhanced RTMP v2, ExVideoTagHeader and ExVideoTagBody.
	{name: "ExVideo SequenceStart avc1", typ: TypeVideo, hex: "90 61766331 01640032",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecAVC}, slots: videoHeader},
	{name: "ExVideo SequenceStart hvc1", typ: TypeVideo, hex: "90 68766331 01",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecHEVC}, slots: videoHeader},
	{name: "ExVideo SequenceStart vvc1", typ: TypeVideo, hex: "90 76766331 ff",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecVVC}, slots: videoHeader},
	{name: "ExVideo SequenceStart av01", typ: TypeVideo, hex: "90 61763031 8100",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecAV1}, slots: videoHeader},
	{name: "ExVideo SequenceStart av01 without configuration", typ: TypeVideo, hex: "90 61763031",
		tag: Tag{Enhanced: true, Codec: CodecAV1}},
	{name: "ExVideo SequenceStart vp08", typ: TypeVideo, hex: "90 76703038 01000000",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecVP8}, slots: videoHeader},
	{name: "ExVideo SequenceStart vp09 as inter frame", typ: TypeVideo, hex: "a0 76703039 01000000",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecVP9}, slots: videoHeader},
	{name: "ExVideo SequenceStart of an unknown FourCC", typ: TypeVideo, hex: "90 78787878",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: unknownCodec}, slots: videoHeader},
	{name: "ExVideo CodedFrames avc1 keyframe", typ: TypeVideo, hex: "91 61766331 000028 65",
		tag: Tag{Keyframe: true, Frames: true, Enhanced: true, Codec: CodecAVC}},
	{name: "ExVideo CodedFrames hvc1 inter frame", typ: TypeVideo, hex: "a1 68766331 ffffd8 02",
		tag: Tag{Frames: true, Enhanced: true, Codec: CodecHEVC}},
	{name: "ExVideo CodedFrames vvc1 generated keyframe", typ: TypeVideo, hex: "c1 76766331 000000 00",
		tag: Tag{Keyframe: true, Frames: true, Enhanced: true, Codec: CodecVVC}},
	{name: "ExVideo CodedFrames avc1, composition time cut off", typ: TypeVideo, hex: "91 61766331 0000",
		tag: Tag{Opaque: true, Frames: true, Enhanced: true, Codec: CodecAVC}},
	{name: "ExVideo CodedFrames avc1 without data", typ: TypeVideo, hex: "91 61766331 000000",
		tag: Tag{Enhanced: true, Codec: CodecAVC}},
	{name: "ExVideo CodedFrames av01 keyframe of a byte", typ: TypeVideo, hex: "91 61763031 12",
		tag: Tag{Keyframe: true, Frames: true, Enhanced: true, Codec: CodecAV1}},
	{name: "ExVideo CodedFrames vp08 keyframe", typ: TypeVideo, hex: "91 76703038 10",
		tag: Tag{Keyframe: true, Frames: true, Enhanced: true, Codec: CodecVP8}},
	{name: "ExVideo CodedFrames vp09 disposable frame", typ: TypeVideo, hex: "b1 76703039 86",
		tag: Tag{Frames: true, Disposable: true, Enhanced: true, Codec: CodecVP9}},
	{name: "ExVideo CodedFrames of an unknown FourCC, keyframe", typ: TypeVideo, hex: "91 78787878 00",
		tag: Tag{Keyframe: true, Frames: true, Enhanced: true, Codec: unknownCodec}},
	{name: "ExVideo CodedFramesX hvc1 keyframe", typ: TypeVideo, hex: "93 68766331 26",
		tag: Tag{Keyframe: true, Frames: true, Enhanced: true, Codec: CodecHEVC}},
	{name: "ExVideo CodedFramesX avc1 inter frame", typ: TypeVideo, hex: "a3 61766331 41",
		tag: Tag{Frames: true, Enhanced: true, Codec: CodecAVC}},
	{name: "ExVideo SequenceEnd", typ: TypeVideo, hex: "92 61766331",
		tag: Tag{End: true, Enhanced: true, Codec: CodecAVC}},
	{name: "ExVideo MPEG2TSSequenceStart", typ: TypeVideo, hex: "95 61763031 8004",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecAV1}, slots: videoHeader},
	{name: "ExVideo reserved packet type 8, keyframe", typ: TypeVideo, hex: "98 61766331 00",
		tag: Tag{Opaque: true, Enhanced: true, Codec: CodecAVC}},
	{name: "ExVideo reserved packet type 15, keyframe", typ: TypeVideo, hex: "9f 61766331",
		tag: Tag{Opaque: true, Enhanced: true, Codec: CodecAVC}},
	{name: "ExVideo reserved packet type 8, inter frame", typ: TypeVideo, hex: "a8 61766331 00",
		tag: Tag{Opaque: true, Frames: true, Enhanced: true, Codec: CodecAVC}},
	{name: "ExVideo FourCC cut off", typ: TypeVideo, hex: "91 617663", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Enhanced: true}},
	{name: "ExVideo command", typ: TypeVideo, hex: "d1 00", tag: Tag{Command: true, Enhanced: true}},
	{name: "ExVideo command that looks like a sequence start", typ: TypeVideo, hex: "d0 01 61766331 00",
		tag: Tag{Command: true, Enhanced: true}},
	{name: "ExVideo command in a multitrack packet", typ: TypeVideo, hex: "d6 01", tag: Tag{Command: true, Enhanced: true}},

	// Enhanced RTMP v2, Metadata Frame: the frame type is ignored.
	{name: "Metadata with frame type 1", typ: TypeVideo, hex: "94 68766331 020009 636f6c6f72496e666f 06",
		tag: Tag{Config: true, Enhanced: true, Codec: CodecHEVC}, slots: videoConfig},
	{name: "Metadata with frame type 5", typ: TypeVideo, hex: "d4 76703039 020009 636f6c6f72496e666f 03 000009",
		tag: Tag{Config: true, Enhanced: true, Codec: CodecVP9}, slots: videoConfig},
	{name: "Metadata of one track with frame type 5", typ: TypeVideo, hex: "d6 04 68766331 03 020009",
		tag:   Tag{Config: true, Enhanced: true, Multitrack: true, Track: 3, Codec: CodecHEVC},
		slots: []Slot{{Type: TypeVideo, Track: 3, Config: true}}},

	// Enhanced RTMP v2, ExVideoTagHeader, AvMultitrackType.
	{name: "OneTrack sequence start", typ: TypeVideo, hex: "96 00 61766331 01 0164",
		tag:    Tag{SequenceHeader: true, Enhanced: true, Multitrack: true, Track: 1, Codec: CodecAVC},
		tracks: []Track{{ID: 1, Kind: KindSequenceHeader, Codec: CodecAVC, Offset: 7, Size: 2}},
		slots:  []Slot{{Type: TypeVideo, Track: 1}}},
	{name: "OneTrack keyframe", typ: TypeVideo, hex: "96 01 61766331 01 000050 65",
		tag:    Tag{Keyframe: true, Frames: true, Enhanced: true, Multitrack: true, Track: 1, Codec: CodecAVC},
		tracks: []Track{{ID: 1, Kind: KindKeyframe, Codec: CodecAVC, PacketType: 1, Offset: 7, Size: 4}}},
	{name: "OneTrack CodedFramesX of track 255", typ: TypeVideo, hex: "a6 03 61766331 ff 41",
		tag: Tag{Frames: true, Enhanced: true, Multitrack: true, Track: 255, Codec: CodecAVC}},
	{name: "OneTrack without a track", typ: TypeVideo, hex: "96 00 61766331", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Enhanced: true, Multitrack: true, Codec: CodecAVC}},
	{name: "ManyTracks sequence start, lowest track last", typ: TypeVideo,
		hex: "96 10 68766331 02 000003 010203 01 000001 01",
		tag: Tag{SequenceHeader: true, Enhanced: true, Multitrack: true, Track: 1, Codec: CodecHEVC},
		tracks: []Track{
			{ID: 2, Kind: KindSequenceHeader, Codec: CodecHEVC, Offset: 10, Size: 3},
			{ID: 1, Kind: KindSequenceHeader, Codec: CodecHEVC, Offset: 17, Size: 1},
		}, slots: videoHeader2},
	{name: "ManyTracks keyframes, the main track's empty", typ: TypeVideo,
		hex: "96 11 61763031 00 000000 01 000001 12",
		tag: Tag{Frames: true, Enhanced: true, Multitrack: true, Codec: CodecAV1},
		tracks: []Track{
			{ID: 0, Kind: KindNone, Codec: CodecAV1, PacketType: 1, Offset: 10, Size: 0},
			{ID: 1, Kind: KindKeyframe, Codec: CodecAV1, PacketType: 1, Offset: 14, Size: 1},
		}},
	{name: "ManyTracks keyframes", typ: TypeVideo, hex: "96 11 61766331 00 000004 00000065 01 000005 0000506565",
		tag: Tag{Keyframe: true, Frames: true, Enhanced: true, Multitrack: true, Codec: CodecAVC},
		tracks: []Track{
			{ID: 0, Kind: KindKeyframe, Codec: CodecAVC, PacketType: 1, Offset: 10, Size: 4},
			{ID: 1, Kind: KindKeyframe, Codec: CodecAVC, PacketType: 1, Offset: 18, Size: 5},
		}},
	{name: "ManyTracks metadata", typ: TypeVideo, hex: "96 14 68766331 00 000001 06 01 000000",
		tag: Tag{Config: true, Enhanced: true, Multitrack: true, Codec: CodecHEVC},
		tracks: []Track{
			{ID: 0, Kind: KindConfig, Codec: CodecHEVC, PacketType: 4, Offset: 10, Size: 1},
			{ID: 1, Kind: KindConfig, Codec: CodecHEVC, PacketType: 4, Offset: 15, Size: 0},
		}, slots: []Slot{{Type: TypeVideo, Config: true}, {Type: TypeVideo, Track: 1, Config: true}}},
	{name: "ManyTracksManyCodecs sequence start", typ: TypeVideo,
		hex: "96 20 61766331 00 000001 01 61763031 01 000000 76703039 02 000002 0100",
		tag: Tag{SequenceHeader: true, Enhanced: true, Multitrack: true, Codec: CodecAVC},
		tracks: []Track{
			{ID: 0, Kind: KindSequenceHeader, Codec: CodecAVC, Offset: 10, Size: 1},
			{ID: 1, Kind: KindNone, Codec: CodecAV1, Offset: 19, Size: 0},
			{ID: 2, Kind: KindSequenceHeader, Codec: CodecVP9, Offset: 27, Size: 2},
		}, slots: []Slot{{Type: TypeVideo}, {Type: TypeVideo, Track: 2}}},
	{name: "ManyTracksManyCodecs MPEG2TSSequenceStart", typ: TypeVideo,
		hex:   "96 25 61763031 03 000001 80",
		tag:   Tag{SequenceHeader: true, Enhanced: true, Multitrack: true, Track: 3, Codec: CodecAV1},
		slots: []Slot{{Type: TypeVideo, Track: 3}}},
	{name: "ManyTracks, a size overruns by one", typ: TypeVideo, hex: "96 10 68766331 01 000001 01 02 000002 01",
		tracks: []Track{},
		tag:    Tag{Opaque: true, Frames: true, Enhanced: true, Multitrack: true, Codec: CodecHEVC}},
	{name: "ManyTracks, largest size", typ: TypeVideo, hex: "96 11 68766331 01 ffffff 00", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Enhanced: true, Multitrack: true, Codec: CodecHEVC}},
	{name: "ManyTracksManyCodecs without a track", typ: TypeVideo, hex: "96 20", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Enhanced: true, Multitrack: true}},
	{name: "reserved multitrack type", typ: TypeVideo, hex: "96 30 61766331 00", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Enhanced: true, Multitrack: true}},
	{name: "multitrack inside multitrack", typ: TypeVideo, hex: "96 06 61766331 00", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Enhanced: true, Multitrack: true}},
	{name: "ModEx inside multitrack", typ: TypeVideo, hex: "96 07 61766331 00", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Enhanced: true, Multitrack: true}},
	{name: "OneTrack, reserved packet type", typ: TypeVideo, hex: "96 09 61766331 01",
		tag: Tag{Opaque: true, Enhanced: true, Multitrack: true, Track: 1, Codec: CodecAVC}},

	// Enhanced RTMP v2, ExVideoTagHeader, VideoPacketModExType.
	{name: "ModEx TimestampOffsetNano, keyframe", typ: TypeVideo, hex: "97 02 07a120 03 68766331 26",
		tag: Tag{Keyframe: true, Frames: true, Enhanced: true, Codec: CodecHEVC}},
	{name: "ModEx of unknown type, sequence start", typ: TypeVideo, hex: "97 00 ff f0 61766331 01",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecAVC}, slots: videoHeader},
	{name: "ModEx twice, then ManyTracks", typ: TypeVideo, hex: "97 02 000001 07 00 aa 56 10 68766331 02 000001 01 01 000001 01",
		tag: Tag{SequenceHeader: true, Enhanced: true, Multitrack: true, Track: 1, Codec: CodecHEVC},
		tracks: []Track{
			{ID: 2, Kind: KindSequenceHeader, Codec: CodecHEVC, Offset: 18, Size: 1},
			{ID: 1, Kind: KindSequenceHeader, Codec: CodecHEVC, Offset: 23, Size: 1},
		}, slots: videoHeader2},
	{name: "ModEx of 255 bytes", typ: TypeVideo, hex: "97 fe " + strings.Repeat("bb", 255) + " 01 61763031 12",
		tag: Tag{Keyframe: true, Frames: true, Enhanced: true, Codec: CodecAV1}},
	{name: "ModEx of 256 bytes in the long form", typ: TypeVideo, hex: "97 ff 00ff " + strings.Repeat("bb", 256) + " 01 61763031 12",
		tag: Tag{Keyframe: true, Frames: true, Enhanced: true, Codec: CodecAV1}},
	{name: "ModEx of 2 bytes in the long form", typ: TypeVideo, hex: "97 ff 0001 bbbb 04 68766331 06",
		tag: Tag{Config: true, Enhanced: true, Codec: CodecHEVC}, slots: videoConfig},
	{name: "ModEx, then a command", typ: TypeVideo, hex: "d7 00 00 01 01", tag: Tag{Command: true, Enhanced: true}},
	{name: "ModEx overruns", typ: TypeVideo, hex: "97 02 000001", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Enhanced: true}},
	{name: "ModEx, long form overruns", typ: TypeVideo, hex: "97 ff ffff 00 01 61763031", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Enhanced: true}},

	// Legacy audio: FLV, E.4.2.1 AUDIODATA.
	{name: "empty audio is silence", typ: TypeAudio, hex: "", tracks: []Track{}},
	{name: "AAC sequence header", typ: TypeAudio, hex: "af 00 1210", tag: Tag{SequenceHeader: true, Codec: CodecAAC}, slots: audioHeader},
	{name: "AAC sequence header without configuration", typ: TypeAudio, hex: "af 00", tag: Tag{Codec: CodecAAC}},
	{name: "AAC frame", typ: TypeAudio, hex: "af 01 21", tag: Tag{Frames: true, Codec: CodecAAC}},
	{name: "AAC frame without data", typ: TypeAudio, hex: "af 01", tag: Tag{Codec: CodecAAC}},
	{name: "AAC unknown packet type", typ: TypeAudio, hex: "af 02 00", tag: Tag{Opaque: true, Frames: true, Codec: CodecAAC}},
	{name: "AAC first byte alone", typ: TypeAudio, hex: "af", tracks: []Track{}, tag: Tag{Opaque: true, Frames: true, Codec: CodecAAC}},
	{name: "MP3", typ: TypeAudio, hex: "2f fffb", tag: Tag{Frames: true, Codec: CodecMP3}},
	{name: "MP3 8 kHz", typ: TypeAudio, hex: "ee ff", tag: Tag{Frames: true, Codec: CodecMP3}},
	{name: "Speex", typ: TypeAudio, hex: "b2 00", tag: Tag{Frames: true, Codec: CodecSpeex}},
	{name: "G.711 A-law whose data looks like a header", typ: TypeAudio, hex: "72 00 00", tag: Tag{Frames: true, Codec: CodecALaw}},
	{name: "reserved sound format", typ: TypeAudio, hex: "d0 00", tag: Tag{Frames: true}},

	// Enhanced RTMP v2, ExAudioTagHeader and ExAudioTagBody.
	{name: "ExAudio SequenceStart mp4a", typ: TypeAudio, hex: "90 6d703461 1210",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecAAC}, slots: audioHeader},
	{name: "ExAudio SequenceStart mp4a without configuration", typ: TypeAudio, hex: "90 6d703461",
		tag: Tag{Enhanced: true, Codec: CodecAAC}},
	{name: "ExAudio SequenceStart Opus", typ: TypeAudio, hex: "90 4f707573 4f70757348656164",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecOpus}, slots: audioHeader},
	{name: "ExAudio SequenceStart Opus, legally empty", typ: TypeAudio, hex: "90 4f707573",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecOpus}, slots: audioHeader},
	{name: "ExAudio SequenceStart fLaC", typ: TypeAudio, hex: "90 664c6143 664c6143",
		tag: Tag{SequenceHeader: true, Enhanced: true, Codec: CodecFLAC}, slots: audioHeader},
	{name: "ExAudio CodedFrames ac-3", typ: TypeAudio, hex: "91 61632d33 0b77", tag: Tag{Frames: true, Enhanced: true, Codec: CodecAC3}},
	{name: "ExAudio CodedFrames ec-3", typ: TypeAudio, hex: "91 65632d33 0b77", tag: Tag{Frames: true, Enhanced: true, Codec: CodecEAC3}},
	{name: "ExAudio CodedFrames .mp3", typ: TypeAudio, hex: "91 2e6d7033 fffb", tag: Tag{Frames: true, Enhanced: true, Codec: CodecMP3}},
	{name: "ExAudio CodedFrames mp4a", typ: TypeAudio, hex: "91 6d703461 21", tag: Tag{Frames: true, Enhanced: true, Codec: CodecAAC}},
	{name: "ExAudio CodedFrames of an unknown FourCC", typ: TypeAudio, hex: "91 78787878 21", tag: Tag{Frames: true, Enhanced: true, Codec: unknownCodec}},
	{name: "ExAudio SequenceEnd", typ: TypeAudio, hex: "92 4f707573", tag: Tag{End: true, Enhanced: true, Codec: CodecOpus}},
	{name: "ExAudio reserved packet type 3", typ: TypeAudio, hex: "93 4f707573 00", tag: Tag{Opaque: true, Frames: true, Enhanced: true, Codec: CodecOpus}},
	{name: "ExAudio reserved packet type 6", typ: TypeAudio, hex: "96 4f707573 00", tag: Tag{Opaque: true, Frames: true, Enhanced: true, Codec: CodecOpus}},
	{name: "ExAudio reserved packet type 8", typ: TypeAudio, hex: "98 4f707573 00", tag: Tag{Opaque: true, Frames: true, Enhanced: true, Codec: CodecOpus}},
	{name: "ExAudio MultichannelConfig, native order", typ: TypeAudio, hex: "94 4f707573 01 06 0000003f",
		tag: Tag{Config: true, Enhanced: true, Codec: CodecOpus}, slots: audioConfig},
	{name: "ExAudio MultichannelConfig, custom order", typ: TypeAudio, hex: "94 6d703461 02 02 0001",
		tag: Tag{Config: true, Enhanced: true, Codec: CodecAAC}, slots: audioConfig},
	{name: "ExAudio OneTrack frame", typ: TypeAudio, hex: "95 01 6d703461 01 21",
		tag: Tag{Frames: true, Enhanced: true, Multitrack: true, Track: 1, Codec: CodecAAC}},
	{name: "ExAudio OneTrack MultichannelConfig", typ: TypeAudio, hex: "95 04 6d703461 01 01 02 00000003",
		tag:   Tag{Config: true, Enhanced: true, Multitrack: true, Track: 1, Codec: CodecAAC},
		slots: []Slot{{Type: TypeAudio, Track: 1, Config: true}}},
	{name: "ExAudio ManyTracks frames", typ: TypeAudio, hex: "95 11 4f707573 00 000001 f8 05 000002 f8b4",
		tag: Tag{Frames: true, Enhanced: true, Multitrack: true, Codec: CodecOpus},
		tracks: []Track{
			{ID: 0, Kind: KindFrame, Codec: CodecOpus, PacketType: 1, Offset: 10, Size: 1},
			{ID: 5, Kind: KindFrame, Codec: CodecOpus, PacketType: 1, Offset: 15, Size: 2},
		}},
	{name: "ExAudio ManyTracksManyCodecs sequence start", typ: TypeAudio,
		hex: "95 20 6d703461 01 000002 1210 4f707573 00 000000",
		tag: Tag{SequenceHeader: true, Enhanced: true, Multitrack: true, Codec: CodecOpus},
		tracks: []Track{
			{ID: 1, Kind: KindSequenceHeader, Codec: CodecAAC, Offset: 10, Size: 2},
			{ID: 0, Kind: KindSequenceHeader, Codec: CodecOpus, Offset: 20, Size: 0},
		}, slots: []Slot{{Type: TypeAudio, Track: 1}, {Type: TypeAudio}}},
	{name: "ExAudio multitrack inside multitrack", typ: TypeAudio, hex: "95 05 4f707573 00", tracks: []Track{},
		tag: Tag{Opaque: true, Frames: true, Enhanced: true, Multitrack: true}},
	{name: "ExAudio ModEx TimestampOffsetNano", typ: TypeAudio, hex: "97 02 0f423f 01 4f707573 f8",
		tag: Tag{Frames: true, Enhanced: true, Codec: CodecOpus}},
	{name: "ExAudio ModEx, then OneTrack", typ: TypeAudio, hex: "97 00 00 15 00 6d703461 02 1210",
		tag:   Tag{SequenceHeader: true, Enhanced: true, Multitrack: true, Track: 2, Codec: CodecAAC},
		slots: []Slot{{Type: TypeAudio, Track: 2}}},
}

func classify(typ uint8, body []byte) Tag {
	if typ == TypeVideo {
		return Video(body)
	}
	return Audio(body)
}

func slots(typ uint8, body []byte) []Slot {
	var s []Slot
	for slot := range Slots(typ, body) {
		s = append(s, slot)
	}
	return s
}

func TestClassify(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			body := m.body(t)
			require.Equal(t, m.tag, classify(m.typ, body))
			require.Equal(t, m.slots, slots(m.typ, body))
			tracks := slices.Collect(Tracks(m.typ, body))
			if m.tracks != nil {
				require.ElementsMatch(t, m.tracks, tracks)
				require.True(t, slices.Equal(m.tracks, tracks))
				return
			}
			require.Len(t, tracks, 1)
			require.Equal(t, m.tag.Track, tracks[0].ID)
			require.Equal(t, m.tag.Codec, tracks[0].Codec)
		})
	}
}

// A prefix of a message is not classified as more than the whole message, and its tracks lie
// within it.
func TestClassifyPrefixes(t *testing.T) {
	for _, m := range messages {
		whole := classify(m.typ, m.body(t))
		for n := range m.body(t) {
			body := slices.Clip(m.body(t)[:n])
			tag := classify(m.typ, body)
			require.LessOrEqual(t, b2i(tag.Keyframe), b2i(whole.Keyframe), "%s[:%d]", m.name, n)
			require.LessOrEqual(t, b2i(tag.SequenceHeader), b2i(whole.SequenceHeader || whole.Opaque || whole.Codec == CodecOpus), "%s[:%d]", m.name, n)
			require.LessOrEqual(t, b2i(tag.Config), b2i(whole.Config), "%s[:%d]", m.name, n)
			require.LessOrEqual(t, b2i(tag.End), b2i(whole.End), "%s[:%d]", m.name, n)
			require.LessOrEqual(t, b2i(tag.Command), b2i(whole.Command), "%s[:%d]", m.name, n)
			checkMessage(t, m.typ, body)
			CompositionTime(body)
		}
	}
}

func TestTracksOfOtherTypes(t *testing.T) {
	for _, typ := range []uint8{0, TypeData, TypeDataAMF3, 22} {
		require.Empty(t, slices.Collect(Tracks(typ, []byte{0x17, 1, 0, 0, 0, 0})))
		require.Empty(t, slots(typ, []byte{0x17, 0, 0, 0, 0, 0}))
	}
}

func TestTracksStopEarly(t *testing.T) {
	body := []byte{0x96, 0x10, 'h', 'v', 'c', '1', 1, 0, 0, 1, 1, 2, 0, 0, 1, 1}
	for track := range Tracks(TypeVideo, body) {
		require.Equal(t, uint8(1), track.ID)
		break
	}
	for slot := range Slots(TypeVideo, body) {
		require.Equal(t, Slot{Type: TypeVideo, Track: 1}, slot)
		break
	}
}

func TestTooManyTracksAreOpaque(t *testing.T) {
	body := []byte{0x96, 0x10, 'v', 'p', '0', '9'}
	for id := range maxTracks {
		body = append(body, byte(id), 0, 0, 0)
	}
	require.Len(t, slots(TypeVideo, body), maxTracks)
	body = append(body, 0, 0, 0, 0)
	require.True(t, Video(body).Opaque)
	require.Empty(t, slots(TypeVideo, body))
}

// Enhanced RTMP v2, ExVideoTagBody; FLV, E.4.3.1.
func TestCompositionTime(t *testing.T) {
	for _, c := range []struct {
		name, hex string
		ms        int32
		ok        bool
	}{
		{"AVC", "2701000050aa", 80, true},
		{"AVC negative", "2701ffffd8aa", -40, true},
		{"AVC least", "2701800000aa", -1 << 23, true},
		{"AVC greatest", "17017fffffaa", 1<<23 - 1, true},
		{"HEVC by id 12", "1c01000001aa", 1, true},
		{"AVC sequence header", "1700000050aa", 0, false},
		{"AVC end", "1702000050", 0, false},
		{"AVC command", "5701000050aa", 0, false},
		{"H.263", "1201000050aa", 0, false},
		{"hvc1 CodedFrames", "a168766331ffffffaa", -1, true},
		{"avc1 CodedFrames behind ModEx", "97020000000161766331000102aa", 258, true},
		{"vvc1 CodedFrames", "a176766331000002aa", 2, true},
		{"hvc1 CodedFramesX", "a368766331ffffffaa", 0, true},
		{"av01 CodedFrames", "a161763031ffffffaa", 0, false},
		{"avc1 OneTrack", "a6016176633101000050aa", 80, true},
		{"avc1 ManyTracks", "a6116176633101000004000028aa", 40, true},
		{"hvc1 Metadata", "9468766331000050aa", 0, false},
		{"empty", "", 0, false},
		{"cut off", "a1687663310000", 0, false},
	} {
		body, err := hex.DecodeString(c.hex)
		require.NoError(t, err)
		ms, ok := CompositionTime(body)
		require.Equal(t, c.ok, ok, c.name)
		require.Equal(t, c.ms, ms, c.name)
	}
}

func TestNames(t *testing.T) {
	for codec, name := range map[Codec]string{
		0: "unknown", CodecAVC: "avc1", CodecHEVC: "hvc1", CodecOpus: "Opus", CodecMP3: ".mp3", CodecAC3: "ac-3",
		CodecSpeex: "speex", CodecNellymoser: "nellymoser", CodecADPCM: "adpcm", 0x6176000a: "0x6176000a", unknownCodec: "xxxx",
	} {
		require.Equal(t, name, codec.String())
	}
	require.Equal(t, "none", KindNone.String())
	require.Equal(t, "unknown", KindUnknown.String())
	require.Equal(t, "invalid", Kind(200).String())
}

func TestNoAllocations(t *testing.T) {
	for _, m := range messages {
		body := m.body(t)
		require.Zero(t, allocs(m.typ, body), m.name)
	}
}

// allocs returns the number of allocations of classifying a body.
func allocs(typ uint8, body []byte) float64 {
	n := 0
	return testing.AllocsPerRun(10, func() {
		tag := classify(typ, body)
		n += int(tag.Track)
		for track := range Tracks(typ, body) {
			n += track.Size
		}
		for slot, codec := range Slots(typ, body) {
			n += int(slot.Track) + int(codec)
		}
		ms, _ := CompositionTime(body)
		n += int(ms)
		n += Data(body, true).Payload
	})
}

// checkMessage checks the properties of any body: the tracks lie within it, one after the
// other, and tag and slots agree with the tracks.
func checkMessage(t *testing.T, typ uint8, body []byte) {
	tag := classify(typ, body)
	var want Tag
	want.Enhanced, want.Multitrack = tag.Enhanced, tag.Multitrack
	want.Disposable = tag.Disposable && tag.Frames
	var wantSlots []Slot
	lowest, end, n := 256, 0, 0
	for track := range Tracks(typ, body) {
		require.GreaterOrEqual(t, track.Offset, max(end, 1))
		require.GreaterOrEqual(t, track.Size, 0)
		end = track.Offset + track.Size
		require.LessOrEqual(t, end, len(body))
		n++
		if int(track.ID) < lowest {
			lowest = int(track.ID)
			want.Track, want.Codec, want.Keyframe = track.ID, track.Codec, track.Kind == KindKeyframe
		}
		reservedKey := typ == TypeVideo && tag.Enhanced && track.PacketType > 7 && (body[0]>>4&7 == 1 || body[0]>>4&7 == 4)
		want.Frames = want.Frames || track.Kind == KindFrame || track.Kind == KindKeyframe || track.Kind == KindUnknown && !reservedKey
		want.SequenceHeader = want.SequenceHeader || track.Kind == KindSequenceHeader
		want.Config = want.Config || track.Kind == KindConfig
		want.End = want.End || track.Kind == KindEnd
		want.Command = want.Command || track.Kind == KindCommand
		want.Opaque = want.Opaque || track.Kind == KindUnknown
		if track.Kind == KindSequenceHeader || track.Kind == KindConfig {
			wantSlots = append(wantSlots, Slot{typ, track.ID, track.Kind == KindConfig})
		}
	}
	require.LessOrEqual(t, n, maxTracks)
	if n == 0 && len(body) > 0 {
		want.Opaque, want.Frames, want.Codec = true, true, tag.Codec
	} else {
		require.Equal(t, len(body), end, "the tracks fill the message")
	}
	require.Equal(t, want, tag)
	require.Equal(t, wantSlots, slots(typ, body))
	require.False(t, typ == TypeAudio && (tag.Keyframe || tag.Command || tag.Disposable))
}

func FuzzClassify(f *testing.F) {
	for _, m := range messages {
		f.Add(m.typ == TypeVideo, m.body(f), []byte{0, 1})
	}
	f.Fuzz(func(t *testing.T, video bool, body, more []byte) {
		typ := TypeAudio
		if video {
			typ = TypeVideo
		}
		before := bytes.Clone(body)
		checkMessage(t, typ, body)
		require.Zero(t, allocs(typ, body))
		require.True(t, bytes.Equal(before, body), "body changed")

		tag := classify(typ, body)
		tracks := slices.Collect(Tracks(typ, body))

		// More payload does not change the classification of a message that ends with
		// its only track.
		open := !tag.Multitrack || parse(typ, body).form == formOneTrack
		if open && len(tracks) == 1 && tracks[0].Kind != KindNone && !tag.Opaque {
			require.Equal(t, tag, classify(typ, append(slices.Clip(body), more...)))
		}

		// A ModEx packet before the others changes nothing (ExVideoTagHeader).
		if tag.Enhanced && len(more) > 0 && len(more) <= 255 {
			ex := append([]byte{body[0]&0xf0 | packetModEx, byte(len(more) - 1)}, more...)
			ex = append(ex, 0xa0|body[0]&0x0f)
			ex = append(ex, body[1:]...)
			require.Equal(t, tag, classify(typ, ex))
			for i := range tracks {
				tracks[i].Offset += len(more) + 2
			}
			require.True(t, slices.Equal(tracks, slices.Collect(Tracks(typ, ex))))
		}
	})
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func BenchmarkVideo(b *testing.B) {
	for _, c := range []struct{ name, hex string }{
		{"AVC", "2701000050aabb"},
		{"hvc1", "a168766331000050aabb"},
		{"OneTrack", "a6016176633101000050aabb"},
		{"ManyTracks", "a61161766331000000050000006565010000050000506565020000050000506565"},
		{"ModEx", "9702000000016876633100005065"},
	} {
		b.Run(c.name, func(b *testing.B) {
			body := message{hex: c.hex}.body(b)
			b.ReportAllocs()
			for b.Loop() {
				Video(body)
			}
		})
	}
}

func BenchmarkAudio(b *testing.B) {
	body := []byte{0xaf, 1, 0x21, 0x10}
	b.ReportAllocs()
	for b.Loop() {
		Audio(body)
	}
}

// The first bytes determine whether a message contains coded media.
func TestCoded(t *testing.T) {
	for _, c := range []struct {
		typ  uint8
		head string
		want bool
	}{
		{TypeVideo, "", false},
		{TypeVideo, "17 00 000000 01 64001f", false},
		{TypeVideo, "17 01 000000 00000004", true},
		{TypeVideo, "27 01 000050", true},
		{TypeVideo, "17 02 000000", false},
		{TypeVideo, "57 00", false}, // a command
		{TypeVideo, "22 0000", true},
		{TypeVideo, "90 68766331 01", false},
		{TypeVideo, "91 68766331 000000", true},
		{TypeVideo, "a2 68766331", false},
		{TypeVideo, "a3 68766331 02", true},
		{TypeVideo, "94 68766331 02", false},
		{TypeVideo, "95 61763031 02", false},
		{TypeVideo, "96 10 61766331 00 000300", false}, // the payload is missing
		{TypeVideo, "96 11 61766331 00 000300", true},
		{TypeVideo, "97 02 000001 00 68766331", false}, // ModEx
		{TypeVideo, "97 02 000001 01 68766331", true},
		{TypeVideo, "9f 68766331", true},
		{TypeAudio, "af 00 1210", false},
		{TypeAudio, "af 01 2110", true},
		{TypeAudio, "2f fffb", true},
		{TypeAudio, "90 4f707573", false},
		{TypeAudio, "91 4f707573 fc", true},
		{TypeAudio, "92 4f707573", false},
		{TypeAudio, "94 4f707573", false},
		{TypeAudio, "95 00 4f707573 01", false},
		{TypeAudio, "95 01 4f707573 01", true},
	} {
		head, err := hex.DecodeString(strings.ReplaceAll(c.head, " ", ""))
		require.NoError(t, err)
		require.Equal(t, c.want, Coded(c.typ, head), "%d: %s", c.typ, c.head)
	}
}
