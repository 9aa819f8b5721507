package live

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"

	"github.com/bluenviron/mediacommon/v2/pkg/codecs/av1"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h265"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg1audio"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/mpeg4audio"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/opus"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/vp9"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/fmp4"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/mp4/codecs"

	"github.com/rtmp-forward/forward/internal/flv"
)

// videoScale is how many units of a video track's time are a second. A millisecond is a
// whole number of them.
const videoScale = 90_000

// opusScale is that of Opus, whatever its input was (RFC 6716, 1).
const opusScale = 48_000

// track is a track of the MP4 in the making.
type track struct {
	fmp4.InitTrack
	codec  flv.Codec
	config []byte // of its sequence header
	// name is what the codecs parameter says (RFC 6381).
	name string

	lengthSize int    // of the NAL units of H.264 and H.265 as they come, in bytes
	extra      []byte // parameter sets that the sample entry has no room for

	// The next sample. A video frame is held until the next one tells its duration.
	next    uint64 // the time of the next sample of audio
	begun   bool
	held    *fmp4.Sample
	heldAt  uint64
	lasting uint32 // the duration of the last video frame
}

var (
	errUnsupported = errors.New("a codec that MP4 is not made of here")
	errMalformed   = errors.New("malformed header")
	// errNeedsFrame says that the first frame tells what the header does not.
	errNeedsFrame = errors.New("the header tells too little")
)

// newTrack makes a track from a sequence header, or from the first frame of a codec
// without one. config and frame may be nil.
func newTrack(id int, codec flv.Codec, config, frame []byte) (*track, error) {
	t := &track{codec: codec, config: bytes.Clone(config), lengthSize: 4}
	t.ID = id
	var err error
	switch codec {
	case flv.CodecAVC:
		err = t.avc(config)
	case flv.CodecHEVC:
		err = t.hevc(config)
	case flv.CodecAV1:
		err = t.av1(config, frame)
	case flv.CodecVP9:
		err = t.vp9(frame)
	case flv.CodecAAC:
		err = t.aac(config)
	case flv.CodecOpus:
		err = t.opus(config)
	case flv.CodecMP3:
		err = t.mp3(frame)
	default:
		err = fmt.Errorf("%w: %v", errUnsupported, codec)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// avc reads an AVCDecoderConfigurationRecord (ISO 14496-15, 5.3.3.1).
func (t *track) avc(b []byte) error {
	if len(b) < 6 {
		return errMalformed
	}
	t.lengthSize = int(b[4]&3) + 1
	sps, rest, ok := units(b[6:], int(b[5]&31))
	if !ok || len(sps) == 0 || len(rest) == 0 {
		return errMalformed
	}
	pps, _, ok := units(rest[1:], int(rest[0]))
	if !ok || len(pps) == 0 || len(sps[0]) < 4 {
		return errMalformed
	}
	var parsed h264.SPS
	if err := parsed.Unmarshal(sps[0]); err != nil {
		return err
	}
	t.keepExtra(sps[1:], pps[1:])
	t.TimeScale, t.Codec = videoScale, &codecs.H264{SPS: sps[0], PPS: pps[0]}
	t.name = fmt.Sprintf("avc1.%02x%02x%02x", sps[0][1], sps[0][2], sps[0][3])
	return nil
}

// hevc reads an HEVCDecoderConfigurationRecord (ISO 14496-15, 8.3.3.1).
func (t *track) hevc(b []byte) error {
	if len(b) < 23 {
		return errMalformed
	}
	t.lengthSize = int(b[21]&3) + 1
	sets := make(map[h265.NALUType][][]byte)
	rest := b[23:]
	for range b[22] {
		if len(rest) < 3 {
			return errMalformed
		}
		typ, n := h265.NALUType(rest[0]&63), int(binary.BigEndian.Uint16(rest[1:]))
		var found [][]byte
		var ok bool
		if found, rest, ok = units(rest[3:], n); !ok {
			return errMalformed
		}
		sets[typ] = append(sets[typ], found...)
	}
	vps, sps, pps := sets[h265.NALUType_VPS_NUT], sets[h265.NALUType_SPS_NUT], sets[h265.NALUType_PPS_NUT]
	if len(vps) == 0 || len(sps) == 0 || len(pps) == 0 {
		return errMalformed
	}
	var parsed h265.SPS
	if err := parsed.Unmarshal(sps[0]); err != nil {
		return err
	}
	t.keepExtra(vps[1:], sps[1:], pps[1:])
	t.TimeScale, t.Codec = videoScale, &codecs.H265{VPS: vps[0], SPS: sps[0], PPS: pps[0]}
	t.name = hevcName(b)
	return nil
}

// hevcName is the codec's name (ISO 14496-15, annex E.3).
func hevcName(b []byte) string {
	space := [4]string{"", "A", "B", "C"}[b[1]>>6]
	tier := [2]string{"L", "H"}[b[1]>>5&1]
	compatible := bits.Reverse32(binary.BigEndian.Uint32(b[2:]))
	name := fmt.Sprintf("hvc1.%s%d.%x.%s%d", space, b[1]&31, compatible, tier, b[12])
	constraints := b[6:12]
	for len(constraints) > 0 && constraints[len(constraints)-1] == 0 {
		constraints = constraints[:len(constraints)-1]
	}
	for _, c := range constraints {
		name += fmt.Sprintf(".%x", c)
	}
	return name
}

// units reads n pieces that begin with their 16-bit lengths.
func units(b []byte, n int) (out [][]byte, rest []byte, ok bool) {
	for range n {
		if len(b) < 2 {
			return nil, nil, false
		}
		size := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; size == 0 || size > len(b) {
			return nil, nil, false
		}
		out, b = append(out, bytes.Clone(b[:size])), b[size:]
	}
	return out, b, true
}

func (t *track) keepExtra(sets ...[][]byte) {
	for _, s := range sets {
		for _, unit := range s {
			t.extra = binary.BigEndian.AppendUint32(t.extra, uint32(len(unit)))
			t.extra = append(t.extra, unit...)
		}
	}
}

// av1 reads an AV1CodecConfigurationRecord, or else the first keyframe.
func (t *track) av1(config, frame []byte) error {
	header := []byte(nil)
	if len(config) > 4 {
		header = sequenceHeader(config[4:])
	}
	if header == nil {
		if header = sequenceHeader(frame); header == nil {
			return errNeedsFrame
		}
	}
	var s av1.SequenceHeader
	if err := s.Unmarshal(header); err != nil {
		return err
	}
	level, tier := uint8(0), "M"
	if len(s.SeqLevelIdx) > 0 {
		level = s.SeqLevelIdx[0]
	}
	if len(s.SeqTier) > 0 && s.SeqTier[0] {
		tier = "H"
	}
	t.TimeScale, t.Codec = videoScale, &codecs.AV1{SequenceHeader: bytes.Clone(header)}
	t.name = fmt.Sprintf("av01.%d.%02d%s.%02d", s.SeqProfile, level, tier, s.ColorConfig.BitDepth)
	return nil
}

func sequenceHeader(b []byte) []byte {
	var units av1.Bitstream
	if len(b) == 0 || units.Unmarshal(b) != nil {
		return nil
	}
	for _, u := range units {
		if len(u) > 0 && av1.OBUType(u[0]>>3&15) == av1.OBUTypeSequenceHeader {
			return u
		}
	}
	return nil
}

func (t *track) vp9(frame []byte) error {
	if frame == nil {
		return errNeedsFrame
	}
	var h vp9.Header
	if err := h.Unmarshal(frame); err != nil {
		return err
	}
	if h.NonKeyFrame || h.ColorConfig == nil || h.FrameSize == nil {
		return errNeedsFrame
	}
	t.TimeScale = videoScale
	t.Codec = &codecs.VP9{
		Width: h.Width(), Height: h.Height(), Profile: h.Profile, BitDepth: h.ColorConfig.BitDepth,
		ChromaSubsampling: h.ChromaSubsampling(), ColorRange: h.ColorConfig.ColorRange,
	}
	t.name = fmt.Sprintf("vp09.%02d.10.%02d", h.Profile, h.ColorConfig.BitDepth)
	return nil
}

func (t *track) aac(config []byte) error {
	var c mpeg4audio.AudioSpecificConfig
	if err := c.Unmarshal(config); err != nil {
		return err
	}
	if c.SampleRate <= 0 {
		return errMalformed
	}
	t.TimeScale, t.Codec = uint32(c.SampleRate), &codecs.MPEG4Audio{Config: c}
	t.name = fmt.Sprintf("mp4a.40.%d", c.Type)
	return nil
}

// opus reads an ID header (RFC 7845, 5.1), which may be missing.
func (t *track) opus(config []byte) error {
	channels := 2
	if len(config) > 9 {
		channels = int(config[9])
	}
	if channels < 1 || channels > 8 {
		return errMalformed
	}
	t.TimeScale, t.Codec, t.name = opusScale, &codecs.Opus{ChannelCount: channels}, "opus"
	return nil
}

func (t *track) mp3(frame []byte) error {
	if frame == nil {
		return errNeedsFrame
	}
	var h mpeg1audio.FrameHeader
	if err := h.Unmarshal(frame); err != nil {
		return err
	}
	if h.SampleRate <= 0 {
		return errMalformed
	}
	channels := 2
	if h.ChannelMode == mpeg1audio.ChannelModeMono {
		channels = 1
	}
	t.TimeScale = uint32(h.SampleRate)
	t.Codec, t.name = &codecs.MPEG1Audio{SampleRate: h.SampleRate, ChannelCount: channels}, "mp4a.6b"
	return nil
}

// lengths makes the lengths of NAL units 4 bytes long.
func (t *track) lengths(b []byte) ([]byte, error) {
	if t.lengthSize == 4 {
		return b, nil
	}
	var out []byte
	for len(b) > 0 {
		if len(b) < t.lengthSize {
			return nil, errMalformed
		}
		n := 0
		for _, c := range b[:t.lengthSize] {
			n = n<<8 | int(c)
		}
		if b = b[t.lengthSize:]; n > len(b) {
			return nil, errMalformed
		}
		out = binary.BigEndian.AppendUint32(out, uint32(n))
		out, b = append(out, b[:n]...), b[n:]
	}
	return out, nil
}

// payload makes a sample of a frame. key says that it is a keyframe.
func (t *track) payload(frame []byte, key bool) ([]byte, error) {
	switch t.codec {
	case flv.CodecAVC, flv.CodecHEVC:
		b, err := t.lengths(frame)
		if err == nil && key && len(t.extra) > 0 {
			b = append(bytes.Clone(t.extra), b...)
		}
		return b, err
	case flv.CodecAV1:
		// A sample has no temporal delimiter (AV1 in ISOBMFF, 2.4).
		return bytes.TrimPrefix(frame, []byte{0x12, 0}), nil
	}
	return frame, nil
}

// duration is how long a frame of audio is, in units of the track's time.
func (t *track) duration(frame []byte) uint32 {
	switch t.codec {
	case flv.CodecAAC:
		if c := t.Codec.(*codecs.MPEG4Audio); c.Config.FrameLengthFlag {
			return 960
		}
		return 1024
	case flv.CodecOpus:
		return uint32(opus.PacketDuration2(frame))
	case flv.CodecMP3:
		var h mpeg1audio.FrameHeader
		if h.Unmarshal(frame) == nil {
			return uint32(h.SampleCount())
		}
	}
	return 0
}

// fingerprint identifies what the init segment says of a track.
func (t *track) fingerprint() string { return t.name + " " + hex.EncodeToString(t.config) }
