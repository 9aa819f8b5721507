package joy

import (
	"testing"

	"github.com/nareix/joy4/codec/aacparser"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/flv"
)

func TestParseStatistics(t *testing.T) {
	avc := Statistics{Codec: flv.CodecAVC, Width: 320, Height: 180, Profile: "High"}
	aac := func(rate, channels int) Statistics {
		return Statistics{Codec: flv.CodecAAC, SampleRate: rate, Channels: channels}
	}
	for _, tc := range []struct {
		name string
		msg  message
		want Statistics
		err  string
	}{
		{name: "AVC", msg: video(t, 0, avcHeader), want: avc},
		{name: "AVC, Enhanced RTMP", msg: video(t, 0, "9061766331"+avcHeader[10:]), want: avc},
		{name: "AAC", msg: audio(t, 0, aacHeader), want: aac(48000, 1)},
		{name: "AAC, Enhanced RTMP", msg: audio(t, 0, "906d703461"+"1190"), want: aac(48000, 2)},
		{name: "AAC, 5.1", msg: audio(t, 0, "af0011b0"), want: aac(48000, 6)},
		{name: "AAC, channels in the stream", msg: audio(t, 0, "af001180"), want: aac(48000, 0)},
		{name: "HE-AAC", msg: audio(t, 0, "af002b11880000"), want: aac(24000, 2)},
		{name: "AAC, explicit rate 37000", msg: audio(t, 0, "af0017804844"+"10"), want: aac(37000, 2)},
		{name: "AAC, reserved rate", msg: audio(t, 0, "af001690"), err: "AAC sequence header: impossible sample rate"},
		{name: "AAC, rate beyond all", msg: audio(t, 0, "af0017ffffff90"), err: "AAC sequence header: impossible sample rate"},
		{name: "AAC, one byte", msg: audio(t, 0, "af0011"), err: "AAC sequence header: "},
		{name: "AVC, cut off", msg: video(t, 0, avcHeader[:40]), err: "AVC sequence header: "},
		{name: "AVC, no SPS", msg: video(t, 0, "1700000000"+"0164000dffe000"), err: "AVC sequence header: no parameter sets"},
		{name: "AVC, lengths of two bytes", msg: video(t, 0, "1700000000"+"0164000dfd"+avcHeader[20:]), err: "AVC sequence header: NAL unit lengths of 2 bytes"},
		{name: "keyframe", msg: video(t, 0, keyframe)},
		{name: "AAC frame", msg: audio(t, 0, aacFrame)},
		{name: "HEVC", msg: video(t, 0, "9068766331"+"01")},
		{name: "empty header", msg: video(t, 0, "1700000000")},
		{name: "data", msg: message{flv.TypeData, 0, []byte{2}}},
		{name: "nothing", msg: video(t, 0, "")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseStatistics(tc.msg.typ, tc.msg.body)
			require.Equal(t, tc.want, got)
			if tc.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tc.err)
			}
		})
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "000003": "0000", "00000301": "000001", "0003": "0003", "000102000003000003": "00010200000000",
		"00000003": "000000", "000000000303": "0000000003",
	} {
		require.Equal(t, bytesOf(t, want), unescape(bytesOf(t, in)), in)
	}
}

func TestProfiles(t *testing.T) {
	for _, tc := range []struct {
		idc, constraints uint8
		want             string
	}{
		{66, 0xc0, "Constrained Baseline"}, {66, 0x80, "Baseline"}, {77, 0, "Main"}, {88, 0, "Extended"},
		{100, 0, "High"}, {110, 0, "High 10"}, {122, 0, "High 4:2:2"}, {244, 0, "High 4:4:4 Predictive"}, {44, 0, "profile 44"},
	} {
		require.Equal(t, tc.want, profile(tc.idc, tc.constraints))
	}
}

func TestHEAACIsNamedAsADTSCan(t *testing.T) {
	c, err := parseAAC(bytesOf(t, "2b11880000"))
	require.NoError(t, err)
	require.EqualValues(t, aacparser.AOT_AAC_LC, c.Config.ObjectType)
	require.Equal(t, bytesOf(t, "2b11880000"), c.MPEG4AudioConfigBytes())
	d, err := c.PacketDuration(nil)
	require.NoError(t, err)
	require.Equal(t, "42.666666ms", d.String())
}

func TestGuardTurnsAPanicIntoAnError(t *testing.T) {
	require.ErrorIs(t, guard(func() error { panic("secret") }), errParser)
	require.NoError(t, guard(func() error { return nil }))
}
