package joy

import (
	"errors"
	"fmt"
	"time"

	"github.com/nareix/joy4/av"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/flv"
)

const (
	// maxBody is the maximum size of a message, in bytes (RTMP 1.0, 5.3.1.2.1).
	maxBody = 1<<24 - 1
	// videoHeader is the size of an AVC tag's header with composition time.
	videoHeader = 5
)

// Encoder converts streams and packets to messages. It has the methods of an av.Muxer, and is
// not safe for concurrent use.
type Encoder struct {
	emit    func(typ uint8, ms uint32, body []byte) error
	streams []av.CodecData
	ms      uint32 // of the last message
	body    []byte
}

// NewEncoder returns an Encoder that calls emit with each message: its type (flv.TypeAudio,
// TypeVideo or TypeData), its timestamp in milliseconds modulo 2^32, and its body, which is
// valid until emit returns. The method that calls emit returns its error unchanged.
func NewEncoder(emit func(typ uint8, ms uint32, body []byte) error) *Encoder {
	return &Encoder{emit: emit}
}

// WriteHeader emits onMetaData and the sequence headers of streams: at most one of H.264 and
// one of AAC or Speex. For other streams it returns a *CodecError or another error, and emits
// nothing. It may be called again when the streams change; the headers then have the time of
// the last packet.
func (e *Encoder) WriteHeader(streams []av.CodecData) error {
	meta, tags, err := describe(streams)
	if err != nil {
		return err
	}
	e.streams = append([]av.CodecData(nil), streams...)
	e.body = amf.AppendString(e.body[:0], "onMetaData")
	e.body = amf.AppendECMAArray(e.body, meta)
	if err := e.emit(flv.TypeData, e.ms, e.body); err != nil {
		return err
	}
	for _, t := range tags {
		if err := e.write(t); err != nil {
			return err
		}
	}
	return nil
}

// WritePacket emits a packet of one of WriteHeader's streams. A packet of H.264 contains NAL
// units with their lengths before them, as the sequence header specifies and joy4's demuxers
// return. A packet of AAC is a raw frame without ADTS. Times are rounded to milliseconds. The
// composition time absorbs the rounding, so that the presentation time is the nearest
// millisecond. A negative time becomes 0. WritePacket skips a packet without
// data. It returns an error for a packet of another stream, and for one that can't be a
// message. The Encoder can still be used after it.
func (e *Encoder) WritePacket(pkt av.Packet) error {
	if pkt.Idx < 0 || int(pkt.Idx) >= len(e.streams) {
		return fmt.Errorf("packet of stream %d: there are %d", pkt.Idx, len(e.streams))
	}
	if len(pkt.Data) == 0 {
		return nil
	}
	if len(pkt.Data) > maxBody-videoHeader {
		return fmt.Errorf("packet of %d bytes: %w", len(pkt.Data), flv.ErrTagTooLarge)
	}
	ms := milliseconds(pkt.Time)
	var t tag
	switch s := e.streams[pkt.Idx]; s.Type() {
	case av.H264:
		composition := milliseconds(pkt.Time+pkt.CompositionTime) - ms
		if composition != int64(int32(composition)<<8>>8) {
			return fmt.Errorf("composition time %v: more than 24 bits", pkt.CompositionTime)
		}
		t = avcTag(pkt.IsKeyFrame, coded, int32(composition), pkt.Data)
	case av.AAC:
		t = aacTag(coded, pkt.Data)
	default:
		t = speexTag(s, pkt.Data)
	}
	e.ms = uint32(max(ms, 0))
	return e.write(t)
}

// WriteTrailer emits the end of sequence of the video, if there is one.
func (e *Encoder) WriteTrailer() error {
	for _, s := range e.streams {
		if s.Type() == av.H264 {
			return e.write(avcTag(true, endOfSequence, 0, nil))
		}
	}
	return nil
}

func (e *Encoder) write(t tag) error {
	e.body = append(append(e.body[:0], t.header[:t.size]...), t.data...)
	return e.emit(t.typ, e.ms, e.body)
}

// describe returns the metadata and the sequence headers of streams.
func describe(streams []av.CodecData) (meta amf.ECMAArray, tags []tag, err error) {
	if len(streams) == 0 {
		return nil, nil, errors.New("no streams")
	}
	var audio, video bool
	for _, s := range streams {
		if s == nil {
			return nil, nil, errors.New("nil stream")
		}
		kind := &audio
		if s.Type().IsVideo() {
			kind = &video
		}
		if *kind {
			return nil, nil, errors.New("more than one audio or video stream")
		}
		*kind = true

		var t tag
		// The stream comes from the host, and joy4's methods panic on an empty one.
		err := guard(func() (err error) {
			meta, t, err = describeStream(meta, s)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		if len(t.data) > 0 {
			tags = append(tags, t)
		}
	}
	return meta, tags, nil
}

// describeStream appends a stream's metadata and returns its sequence header. The tag has no
// data if the stream needs no header.
func describeStream(meta amf.ECMAArray, s av.CodecData) (amf.ECMAArray, tag, error) {
	switch s.Type() {
	case av.H264:
		h, ok := s.(avcStream)
		if !ok || len(h.AVCDecoderConfRecordBytes()) == 0 {
			return nil, tag{}, errors.New("stream of H.264 without configuration")
		}
		return append(meta,
			amf.Property{Key: "width", Value: h.Width()},
			amf.Property{Key: "height", Value: h.Height()},
			amf.Property{Key: "videocodecid", Value: h264},
		), avcTag(true, sequenceHeader, 0, h.AVCDecoderConfRecordBytes()), nil
	case av.AAC:
		a, ok := s.(aacStream)
		if !ok || len(a.MPEG4AudioConfigBytes()) == 0 {
			return nil, tag{}, errors.New("stream of AAC without configuration")
		}
		return describeAudio(meta, a, aac), aacTag(sequenceHeader, a.MPEG4AudioConfigBytes()), nil
	case av.SPEEX:
		a, ok := s.(av.AudioCodecData)
		if !ok {
			return nil, tag{}, errors.New("stream of Speex without parameters")
		}
		return describeAudio(meta, a, speex), tag{}, nil
	}
	name := s.Type().String()
	if name == "" {
		name = "unknown"
	}
	return nil, tag{}, &CodecError{Codec: name}
}

func describeAudio(meta amf.ECMAArray, a av.AudioCodecData, id int) amf.ECMAArray {
	return append(meta,
		amf.Property{Key: "audiocodecid", Value: id},
		amf.Property{Key: "audiosamplerate", Value: a.SampleRate()},
		amf.Property{Key: "audiosamplesize", Value: 16},
		amf.Property{Key: "stereo", Value: a.ChannelLayout().Count() >= 2},
	)
}

// Values in the headers of tags (FLV, E.4.2.1 and E.4.3.1).
const (
	h264  = 7  // CodecID
	aac   = 10 // SoundFormat
	speex = 11

	frameKey   = 1 // FrameType
	frameInter = 2

	sequenceHeader = 0 // AVCPacketType and AACPacketType
	coded          = 1
	endOfSequence  = 2

	rate44kHz, size16bit, stereo = 3 << 2, 1 << 1, 1
)

// tag is a message to write.
type tag struct {
	typ    uint8
	size   int // of the header
	header [videoHeader]byte
	data   []byte
}

func avcTag(key bool, packetType uint8, composition int32, data []byte) tag {
	frame := byte(frameInter)
	if key {
		frame = frameKey
	}
	c := uint32(composition)
	return tag{flv.TypeVideo, videoHeader, [videoHeader]byte{frame<<4 | h264, packetType, byte(c >> 16), byte(c >> 8), byte(c)}, data}
}

// aacTag returns a tag of AAC. The bits after the format have fixed values, which say nothing
// about the data.
func aacTag(packetType uint8, data []byte) tag {
	return tag{flv.TypeAudio, 2, [videoHeader]byte{aac<<4 | rate44kHz | size16bit | stereo, packetType}, data}
}

// speexTag returns a tag of Speex, which has one sample rate.
func speexTag(s av.CodecData, data []byte) tag {
	header := byte(speex<<4 | size16bit)
	if a, ok := s.(av.AudioCodecData); ok && a.ChannelLayout().Count() == 2 {
		header |= stereo
	}
	return tag{flv.TypeAudio, 1, [videoHeader]byte{header}, data}
}

func milliseconds(t time.Duration) int64 { return t.Round(time.Millisecond).Milliseconds() }
