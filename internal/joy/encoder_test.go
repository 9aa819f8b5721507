package joy

import (
	"errors"
	"testing"
	"time"

	"github.com/nareix/joy4/av"
	"github.com/nareix/joy4/codec"
	"github.com/nareix/joy4/codec/aacparser"
	"github.com/nareix/joy4/codec/h264parser"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/flv"
)

func testStreams(t testing.TB) (avc, aac av.CodecData) {
	h, err := parseAVC(bytesOf(t, avcHeader)[5:])
	require.NoError(t, err)
	a, err := parseAAC(bytesOf(t, aacHeader)[2:])
	require.NoError(t, err)
	return h, a
}

func TestEncoderMetadata(t *testing.T) {
	avc, aac := testStreams(t)
	m := newMuxer()
	require.NoError(t, m.WriteHeader([]av.CodecData{aac, avc}))
	require.Equal(t, []message{audio(t, 0, aacHeader), video(t, 0, avcHeader)}, m.messages[1:])

	d := amf.NewDecoder(m.messages[0].body, amf.Limits{})
	name, err := d.Decode()
	require.NoError(t, err)
	require.Equal(t, "onMetaData", name)
	meta, err := d.Decode()
	require.NoError(t, err)
	require.Equal(t, amf.ECMAArray{
		{Key: "audiocodecid", Value: 10.0}, {Key: "audiosamplerate", Value: 48000.0},
		{Key: "audiosamplesize", Value: 16.0}, {Key: "stereo", Value: false},
		{Key: "width", Value: 320.0}, {Key: "height", Value: 180.0}, {Key: "videocodecid", Value: 7.0},
	}, meta)
}

func TestEncoderPackets(t *testing.T) {
	const ms = time.Millisecond
	avc, aac := testStreams(t)
	speex := codec.NewSpeexCodecData(16000, av.CH_MONO)
	for _, tc := range []struct {
		name  string
		audio av.CodecData
		pkt   av.Packet
		want  message
	}{
		{"keyframe", aac, av.Packet{IsKeyFrame: true, Time: 40 * ms, Data: []byte{9}}, video(t, 40, "170100000009")},
		{"frame before its time", aac, av.Packet{CompositionTime: -2 * ms, Data: []byte{9}}, video(t, 0, "2701fffffe09")},
		{"frame after its time", aac, av.Packet{CompositionTime: 80 * ms, Data: []byte{9}}, video(t, 0, "270100005009")},
		{"largest composition time", aac, av.Packet{CompositionTime: (1<<23 - 1) * ms, Data: []byte{9}}, video(t, 0, "27017fffff09")},
		{
			"presentation time is exact, 166.6 ms", aac,
			av.Packet{Time: 83_300_000, CompositionTime: 83_300_000, Data: []byte{9}}, video(t, 83, "270100005409"),
		},
		{"time wraps", aac, av.Packet{Time: (1<<32 + 7) * ms, Data: []byte{9}}, video(t, 7, "270100000009")},
		{"negative time", aac, av.Packet{Time: -40 * ms, Data: []byte{9}}, video(t, 0, "270100000009")},
		{"AAC", aac, av.Packet{Idx: 1, Time: 21 * ms, Data: []byte{9}}, audio(t, 21, "af0109")},
		{"Speex", speex, av.Packet{Idx: 1, Time: 20 * ms, Data: []byte{9}}, audio(t, 20, "b209")},
		{"stereo Speex", codec.NewSpeexCodecData(16000, av.CH_STEREO), av.Packet{Idx: 1, Data: []byte{9}}, audio(t, 0, "b309")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMuxer()
			require.NoError(t, m.WriteHeader([]av.CodecData{avc, tc.audio}))
			m.messages = nil
			require.NoError(t, m.WritePacket(tc.pkt))
			require.Equal(t, []message{tc.want}, m.messages)
			require.NoError(t, m.WriteTrailer())
			require.Equal(t, video(t, tc.want.ms, "1702000000"), m.messages[1])
		})
	}
}

func TestEncoderLeavesOutAnEmptyPacket(t *testing.T) {
	_, aac := testStreams(t)
	m := newMuxer()
	require.NoError(t, m.WriteHeader([]av.CodecData{aac}))
	m.messages = nil
	require.NoError(t, m.WritePacket(av.Packet{}))
	require.NoError(t, m.WriteTrailer(), "nothing for a stream without video")
	require.Empty(t, m.messages)
}

func TestEncoderHeadersAgainHaveTheTimeOfTheLastPacket(t *testing.T) {
	avc, aac := testStreams(t)
	m := newMuxer()
	require.NoError(t, m.WriteHeader([]av.CodecData{avc}))
	require.NoError(t, m.WritePacket(av.Packet{Time: time.Second, Data: []byte{1}}))
	m.messages = nil
	require.NoError(t, m.WriteHeader([]av.CodecData{aac}))
	require.Len(t, m.messages, 2)
	require.Equal(t, audio(t, 1000, aacHeader), m.messages[1])
	require.Error(t, m.WritePacket(av.Packet{Idx: 1, Data: []byte{1}}))
}

func TestEncoderRefusesStreams(t *testing.T) {
	avc, aac := testStreams(t)
	for _, tc := range []struct {
		name    string
		streams []av.CodecData
		codec   string
	}{
		{"none", nil, ""},
		{"nil", []av.CodecData{nil}, ""},
		{"two of video", []av.CodecData{avc, avc}, ""},
		{"two of audio", []av.CodecData{aac, codec.NewSpeexCodecData(16000, av.CH_MONO)}, ""},
		{"empty H.264", []av.CodecData{h264parser.CodecData{}}, ""},
		{"empty AAC", []av.CodecData{aacparser.CodecData{}}, ""},
		{"type without methods", []av.CodecData{bare(av.H264)}, ""},
		{"audio type without methods", []av.CodecData{bare(av.AAC)}, ""},
		{"Speex without methods", []av.CodecData{bare(av.SPEEX)}, ""},
		{"panicking", []av.CodecData{(*panicking)(nil)}, ""},
		{"A-law", []av.CodecData{avc, codec.NewPCMAlawCodecData()}, "PCM_ALAW"},
		{"unknown", []av.CodecData{bare(av.MakeVideoCodecType(1))}, "unknown"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMuxer()
			err := m.WriteHeader(tc.streams)
			require.Error(t, err)
			require.Empty(t, m.messages)
			var codecErr *CodecError
			require.Equal(t, tc.codec != "", errors.As(err, &codecErr))
			if codecErr != nil {
				require.Equal(t, tc.codec, codecErr.Codec)
			}
		})
	}
}

// bare is a stream with the type of a codec, but without that codec's methods.
type bare av.CodecType

func (b bare) Type() av.CodecType { return av.CodecType(b) }

// panicking is an empty H.264 stream, whose methods panic.
type panicking struct{ h264parser.CodecData }

func (p *panicking) Type() av.CodecType { return av.H264 }

func TestEncoderRefusesPackets(t *testing.T) {
	avc, _ := testStreams(t)
	m := newMuxer()
	require.Error(t, m.WritePacket(av.Packet{Data: []byte{1}}), "before the header")
	require.NoError(t, m.WriteHeader([]av.CodecData{avc}))
	m.messages = nil
	require.Error(t, m.WritePacket(av.Packet{Idx: 1, Data: []byte{1}}))
	require.Error(t, m.WritePacket(av.Packet{Idx: -1, Data: []byte{1}}))
	require.Error(t, m.WritePacket(av.Packet{CompositionTime: 1 << 23 * time.Millisecond, Data: []byte{1}}))
	require.ErrorIs(t, m.WritePacket(av.Packet{Data: make([]byte, maxBody-4)}), flv.ErrTagTooLarge)
	require.Empty(t, m.messages)
	require.NoError(t, m.WritePacket(av.Packet{Data: make([]byte, maxBody-5)}))
	require.Len(t, m.messages[0].body, maxBody)
}

func TestEncoderReturnsTheErrorOfEmit(t *testing.T) {
	avc, _ := testStreams(t)
	gone := errors.New("gone")
	left := 2
	e := NewEncoder(func(uint8, uint32, []byte) error {
		if left--; left < 0 {
			return gone
		}
		return nil
	})
	require.NoError(t, e.WriteHeader([]av.CodecData{avc}))
	require.Equal(t, gone, e.WritePacket(av.Packet{Data: []byte{1}}))
	require.Equal(t, gone, e.WriteTrailer())
	require.Equal(t, gone, e.WriteHeader([]av.CodecData{avc}))
}
