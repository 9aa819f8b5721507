package joy

import (
	"errors"
	"fmt"
	"time"

	"github.com/nareix/joy4/av"
	"github.com/nareix/joy4/format/flv/flvio"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/flv"
)

const (
	// maxBody is what a message can hold (RTMP 1.0, 5.3.1.2.1).
	maxBody = 1<<24 - 1
	// videoHeader is the size of an AVC tag's header with composition time.
	videoHeader = 5
)

// Encoder turns what an av.Muxer is given into messages. It has the methods of
// an av.Muxer and is for one goroutine.
type Encoder struct {
	emit    func(typ uint8, ms uint32, body []byte) error
	streams []av.CodecData
	ms      uint32 // of the last message
	body    []byte
}

// NewEncoder returns an Encoder that calls emit with each message: its type
// (flv.TypeAudio, TypeVideo or TypeData), its timestamp in milliseconds modulo
// 2^32, and its body, which is valid until emit returns. An error of emit is
// returned as it is by the method that called it.
func NewEncoder(emit func(typ uint8, ms uint32, body []byte) error) *Encoder {
	return &Encoder{emit: emit}
}

// WriteHeader emits onMetaData and the sequence headers of streams: at most one
// of H.264 and one of AAC or Speex, else a *CodecError or another error, with
// nothing emitted. It may be called again when the streams change; the headers
// then have the time of the last packet.
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
	for _, tag := range tags {
		if err := e.write(tag); err != nil {
			return err
		}
	}
	return nil
}

// WritePacket emits a packet of one of WriteHeader's streams: for H.264, NAL
// units with their lengths before them, as the sequence header says and joy4's
// demuxers give; for AAC, a raw frame without ADTS. Times are rounded to
// milliseconds, so that presentation times are exact; a negative one is 0. A
// packet without data is left out. An error is a packet of no stream, or one
// that has no form as a message; the Encoder remains of use.
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
	tag := audioTag(e.streams[pkt.Idx])
	if e.streams[pkt.Idx].Type() == av.H264 {
		composition := milliseconds(pkt.Time+pkt.CompositionTime) - ms
		if composition != int64(int32(composition)<<8>>8) {
			return fmt.Errorf("composition time %v: more than 24 bits", pkt.CompositionTime)
		}
		tag = videoTag(pkt.IsKeyFrame)
		tag.CompositionTime = int32(composition)
		tag.AVCPacketType = flvio.AVC_NALU
	}
	tag.AACPacketType = flvio.AAC_RAW
	tag.Data = pkt.Data
	e.ms = uint32(max(ms, 0))
	return e.write(tag)
}

// WriteTrailer emits the end of sequence of the video, if there is one.
func (e *Encoder) WriteTrailer() error {
	for _, s := range e.streams {
		if s.Type() == av.H264 {
			tag := videoTag(true)
			tag.AVCPacketType = flvio.AVC_EOS
			return e.write(tag)
		}
	}
	return nil
}

func (e *Encoder) write(tag flvio.Tag) error {
	var header [flvio.MaxTagSubHeaderLength]byte
	n := tag.FillHeader(header[:])
	e.body = append(append(e.body[:0], header[:n]...), tag.Data...)
	return e.emit(tag.Type, e.ms, e.body)
}

// describe returns the metadata and the sequence headers of streams.
func describe(streams []av.CodecData) (meta amf.ECMAArray, tags []flvio.Tag, err error) {
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

		var tag flvio.Tag
		// The stream is the host's: joy4's methods panic on an empty one.
		err := guard(func() (err error) {
			meta, tag, err = describeStream(meta, s)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		if len(tag.Data) > 0 {
			tags = append(tags, tag)
		}
	}
	return meta, tags, nil
}

// describeStream appends a stream's metadata and returns its sequence header,
// without data if it needs none.
func describeStream(meta amf.ECMAArray, s av.CodecData) (amf.ECMAArray, flvio.Tag, error) {
	switch s.Type() {
	case av.H264:
		h, ok := s.(avcStream)
		if !ok || len(h.AVCDecoderConfRecordBytes()) == 0 {
			return nil, flvio.Tag{}, errors.New("stream of H.264 without configuration")
		}
		tag := videoTag(true)
		tag.AVCPacketType, tag.Data = flvio.AVC_SEQHDR, h.AVCDecoderConfRecordBytes()
		return append(meta,
			amf.Property{Key: "width", Value: h.Width()},
			amf.Property{Key: "height", Value: h.Height()},
			amf.Property{Key: "videocodecid", Value: flvio.VIDEO_H264},
		), tag, nil
	case av.AAC:
		a, ok := s.(aacStream)
		if !ok || len(a.MPEG4AudioConfigBytes()) == 0 {
			return nil, flvio.Tag{}, errors.New("stream of AAC without configuration")
		}
		tag := audioTag(s)
		tag.AACPacketType, tag.Data = flvio.AAC_SEQHDR, a.MPEG4AudioConfigBytes()
		return describeAudio(meta, a, flvio.SOUND_AAC), tag, nil
	case av.SPEEX:
		a, ok := s.(av.AudioCodecData)
		if !ok {
			return nil, flvio.Tag{}, errors.New("stream of Speex without parameters")
		}
		return describeAudio(meta, a, flvio.SOUND_SPEEX), flvio.Tag{}, nil
	}
	name := s.Type().String()
	if name == "" {
		name = "unknown"
	}
	return nil, flvio.Tag{}, &CodecError{Codec: name}
}

func describeAudio(meta amf.ECMAArray, a av.AudioCodecData, id int) amf.ECMAArray {
	return append(meta,
		amf.Property{Key: "audiocodecid", Value: id},
		amf.Property{Key: "audiosamplerate", Value: a.SampleRate()},
		amf.Property{Key: "audiosamplesize", Value: 16},
		amf.Property{Key: "stereo", Value: a.ChannelLayout().Count() >= 2},
	)
}

func videoTag(key bool) flvio.Tag {
	tag := flvio.Tag{Type: flvio.TAG_VIDEO, CodecID: flvio.VIDEO_H264, FrameType: flvio.FRAME_INTER}
	if key {
		tag.FrameType = flvio.FRAME_KEY
	}
	return tag
}

// audioTag returns a tag for the stream's codec. The bits beside the format are
// fixed for AAC, whatever it holds, and nearly so for Speex (FLV, E.4.2.1); joy4
// has its own idea of them.
func audioTag(s av.CodecData) flvio.Tag {
	if s.Type() == av.AAC {
		return flvio.Tag{
			Type: flvio.TAG_AUDIO, SoundFormat: flvio.SOUND_AAC, SoundRate: flvio.SOUND_44Khz,
			SoundSize: flvio.SOUND_16BIT, SoundType: flvio.SOUND_STEREO,
		}
	}
	tag := flvio.Tag{Type: flvio.TAG_AUDIO, SoundFormat: flvio.SOUND_SPEEX, SoundSize: flvio.SOUND_16BIT}
	if a, ok := s.(av.AudioCodecData); ok && a.ChannelLayout().Count() == 2 {
		tag.SoundType = flvio.SOUND_STEREO
	}
	return tag
}

func milliseconds(t time.Duration) int64 { return t.Round(time.Millisecond).Milliseconds() }
